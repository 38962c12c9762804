"""One user at a time looks after a state folder."""

import json

import pytest

import watcher.journal.state_owner
from suites.common.errors import ExitCode, UserError
from suites.contract.job_owner import JobOwner
from suites.contract.paths import StatePaths
from watcher.config.settings import Config
from watcher.doctor.login_node import check_state_owner
from watcher.journal.state_owner import claim_state_folder


@pytest.fixture
def paths(tmp_path):
    return StatePaths(tmp_path)


@pytest.fixture
def become(monkeypatch):
    def become(uid, user):
        owner = JobOwner(executor="", uid=uid, user=user, host="login01")
        monkeypatch.setattr(watcher.journal.state_owner, "identify_process_owner", lambda _executor: owner)

    become(1001, "ada")
    return become


def test_the_first_user_owns_the_folder_and_another_one_is_told_in_one_line(paths, become):
    claim_state_folder(paths, shared=False)
    claim_state_folder(paths, shared=False)
    become(1002, "bob")
    with pytest.raises(UserError) as caught:
        claim_state_folder(paths, shared=False)
    assert str(caught.value) == (
        f"{paths.state}: this state folder is looked after by ada (uid 1001), one user at a time; you are bob (uid 1002); "
        "let ada run the watcher, set state: to a folder of yours, or share_state: true in the config"
    )
    assert caught.value.code is ExitCode.CANNOT_WRITE
    assert json.loads(paths.owner_json.read_text())["user"] == "ada"


def test_a_shared_folder_takes_every_user_and_stays_the_first_ones(paths, become):
    claim_state_folder(paths, shared=True)
    become(1002, "bob")
    claim_state_folder(paths, shared=True)
    assert json.loads(paths.owner_json.read_text())["uid"] == 1001


def test_a_name_that_changed_is_still_the_same_user(paths, become):
    claim_state_folder(paths, shared=False)
    become(1001, "ada-lovelace")
    claim_state_folder(paths, shared=False)


def test_the_next_user_takes_a_folder_over_without_owner_json(paths, become):
    claim_state_folder(paths, shared=False)
    paths.owner_json.unlink()
    become(1002, "bob")
    claim_state_folder(paths, shared=False)
    assert json.loads(paths.owner_json.read_text())["user"] == "bob"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"uid": "x", "user": 3}'])
def test_a_damaged_owner_json_keeps_nobody_out(paths, become, content):
    paths.owner_json.write_text(content)
    become(1002, "bob")
    claim_state_folder(paths, shared=False)
    assert paths.owner_json.read_text() == content


@pytest.mark.parametrize(
    "case",
    [
        (1001, "ada", False, 0o755, "ok", "looked after by ada (uid 1001)"),
        (1002, "bob", False, 0o755, "wrong", "this state folder is looked after by ada (uid 1001)"),
        (1002, "bob", True, 0o2775, "ok", "looked after by ada (uid 1001), shared with others"),
        (1002, "bob", True, 0o755, "warning", "looked after by ada (uid 1001), shared with others"),
    ],
)
def test_doctor_says_whose_the_state_folder_is(paths, become, case):
    (uid, user, shared, mode, verdict, words) = case
    claim_state_folder(paths, shared=False)
    paths.state.chmod(mode)
    become(uid, user)
    config = Config(
        source="", scratch=paths.state, results=paths.state, eval_data=paths.state, state=paths.state, share_state=shared
    )
    check = check_state_owner(config)
    assert (check.verdict, check.name) == (verdict, "state folder")
    assert words in check.message
    assert ("umask 002" in check.hint) == (verdict == "warning")

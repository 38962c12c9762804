"""Two people of one group share a data cache: what either makes, the other can use, mend and replace."""

import json
import os
import stat
import traceback

import pytest

from scoring.cli.cache import _remove
from scoring.data.cache import ensure_slice
from scoring.data.tokenizer_cache import resolve_tokenizer
from suites.contract.paths import DataPaths
from suites.definitions.data_cache import read_complete_meta
from suites.definitions.tokenizer_files import read_tokenizer_files, store_tokenizer
from support.models.nanotron_fixtures import BYTE_TOKENIZER

pytestmark = [
    pytest.mark.scoring,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two other people"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # Python 3.12 on, where there are threads
]

ANNA, BERT, GROUP = 23001, 23002, 23003


def as_user(uid, act):
    """Call ``act`` in a process of that user, whose own group is another, with the usual umask."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([GROUP])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.umask(0o022)
            act()
            code = 0
        except BaseException:  # noqa: BLE001  a child of a fork must not go on with the tests
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, f"as {uid}; its traceback is above"


@pytest.fixture
def shared(tmp_path):
    """A cache's folder of the group; tmp_path and what is above it can be passed through."""
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(path.stat().st_mode | 0o755)
    folder = tmp_path / "eval_data"
    folder.mkdir()
    os.chown(folder, ANNA, GROUP)
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": f"text {name}"}) + "\n")
    return DataPaths(folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Read while we may: the others see no part of this user's home."""
    return resolve_tokenizer(str(BYTE_TOKENIZER), DataPaths(tmp_path_factory.mktemp("bytes")))


@pytest.mark.parametrize("mode", [0o2775, 0o0775], ids=["setgid", "group-writable"])
def test_what_either_makes_the_other_can_mend_and_replace(tmp_path, shared, tokenizer, mode):
    shared.eval_data.chmod(mode)
    files = read_tokenizer_files(BYTE_TOKENIZER)

    def make(name, **how):
        definition = {"data_files": [str(tmp_path / f"{name}.jsonl")], "text_field": "text"}
        return ensure_slice("web", definition, tokenizer=tokenizer, data=shared, offline=True, **how)

    def use():
        store_tokenizer(tokenizer.resolved, files, None, "acme/bytes", shared, use_fast=True)

    as_user(ANNA, lambda: (make("a"), use()))
    made = make("a").folder
    assert {path.stat().st_uid for path in made.rglob("*")} == {ANNA}
    for path in shared.eval_data.rglob("*"):
        found = path.stat()
        assert found.st_gid == GROUP, path
        assert found.st_mode & stat.S_IWGRP, path
        assert not path.is_dir() or bool(found.st_mode & stat.S_ISGID) == bool(mode & stat.S_ISGID), path
    as_user(BERT, lambda: (make("b"), make("a", refresh=True), use()))
    (made / "packed_tokens.pt").write_bytes(b"torn")
    (tokens,) = shared.tokenizer(tokenizer.digest).glob("tokenizer.json")
    tokens.unlink()
    as_user(BERT, lambda: (make("a"), use()))
    assert read_complete_meta(made) is not None
    assert sorted(path.name for path in made.parent.iterdir() if path.name.startswith(".")) == []
    assert {path.stat().st_uid for path in made.rglob("*")} == {BERT}
    as_user(ANNA, lambda: _remove(made))
    assert not made.exists()


def test_a_cache_of_one_person_stays_that_persons(tmp_path, shared, tokenizer):
    shared.eval_data.chmod(0o755)
    definition = {"data_files": [str(tmp_path / "a.jsonl")], "text_field": "text"}
    as_user(ANNA, lambda: ensure_slice("web", definition, tokenizer=tokenizer, data=shared, offline=True))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in shared.eval_data.rglob("*")}
    assert modes == {0o755, 0o644}

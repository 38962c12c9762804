"""Averages as evaluations: when they are due, what they are made of, and what keeps their members."""

import os
import shutil
from pathlib import Path

import pytest

from suites.checkpoint.completeness import compute_fingerprint
from suites.contract.averages import compute_average_fingerprint
from suites.contract.scoring_request import read_scoring_request
from support.faults.kill_points import KillPoint, tick_until_settled
from support.models.nanotron_checkpoint import set_times
from support.runs.watched_run import WatchedRun, make_watched_fixture
from watcher.audit.audit import run_audit
from watcher.audit.repair import repair_differences
from watcher.config.settings import AverageSchedule
from watcher.daemon.setup import read_state_id
from watcher.journal.journal import read_journal
from watcher.status.explain import explain_waiting_averages

KEY = "stage1/step_400_avg4"

LAST_FOUR = AverageSchedule(last=4, every=400)


watched = make_watched_fixture(steps=())


def follow(watched, *, steps=(), **rule):
    watched.configure(stage1={"steps": steps, "average": AverageSchedule(**{"last": 4, "every": 400, **rule})})


def get_request(watched, key=KEY):
    (run_id,) = [run_id for name, run_id in watched.executor.runs if name == key] or [
        watched.journal_state.records[key].attempt.run_id
    ]
    return read_scoring_request(watched.config.paths.attempt(run_id).request)


def list_pins(watched):
    """Step -> pinned folder."""
    return {int(Path(folder).name): Path(pin.folder) for folder, pin in watched.journal_state.member_pins.items()}


def delete(watched, step):
    shutil.rmtree(watched.ckpts / "stage1" / str(step))
    watched.touch("stage1")


def test_the_last_four_of_a_step_are_pinned_as_they_appear_and_scored_as_one(watched):
    follow(watched)
    fingerprints = {}
    for step in (100, 150, 200, 300, 400):
        fingerprints[step] = compute_fingerprint(watched.write_checkpoint("stage1", step, train_steps=10**6))
        watched.tick(2, jobs=step != 400)
        if step < 400:  # its own place is kept free
            assert list(list_pins(watched)) == list(fingerprints)[-3:]
        if step == 300:  # rotation: they are gone before the average is due
            delete(watched, 150)
            delete(watched, 100)
    assert list(list_pins(watched)) == [150, 200, 300, 400]
    assert watched.list_states() == {KEY: "queued"}
    request = get_request(watched)
    assert [(member.step, member.weight) for member in request.average] == [(150, 0.25), (200, 0.25), (300, 0.25), (400, 0.25)]
    assert request.average[0].resolve_folder() == list_pins(watched)[150]
    assert request.checkpoint == str(watched.ckpts / "stage1" / "400")
    assert request.fingerprint == compute_average_fingerprint((fingerprints[step], 0.25) for step in (150, 200, 300, 400))
    watched.tick(6)
    assert watched.list_states() == {KEY: "scored"}
    # Three of them may be members of the next average.
    assert list(list_pins(watched)) == [200, 300, 400]
    follow(watched, every=10**6)
    watched.configure(stage1={"steps": ()})
    watched.tick(2)
    assert list_pins(watched) == {}
    assert not [path for path in watched.config.paths.pins.rglob("*") if path.is_file()]


def test_what_is_not_complete_is_waited_for_and_left_out_once_nobody_writes_it(watched):
    follow(watched, last=2)
    for step in (100, 200, 400):
        watched.write_checkpoint("stage1", step)
    broken = watched.write_checkpoint("stage1", 300, age=0)
    next(broken.rglob("*.safetensors")).unlink()
    set_times(broken, watched.clock())
    watched.tick()
    reasons = watched.list_reasons()
    assert reasons["stage1/step_400_avg2"].startswith("average: waiting for checkpoint 300: ")
    assert watched.list_states() == {}
    watched.tick(12)
    (record,) = watched.journal_state.records.values()
    assert [member.step for member in record.average] == [200, 400]
    assert "left out: step 300: " in record.history[0][2]
    assert record.state == "scored"


def test_too_few_checkpoints_make_no_average_and_it_is_said(watched):
    follow(watched)
    for step in (200, 400):
        watched.write_checkpoint("stage1", step)
    watched.tick(2)
    assert watched.list_states() == {}
    reason = "average: needs the last 4 checkpoints, and there are 2 complete checkpoints at or before step 400"
    assert watched.list_reasons()[KEY] == reason
    (said,) = explain_waiting_averages("stage1", 400, watched.list_reasons())
    assert " ".join(said.split()) == f"{KEY} is not made yet; {reason}."


def test_weights_have_a_name_of_their_own_and_a_step_has_its_own_evaluation(watched):
    follow(watched, steps=(400,), last=2, ema=0.5)
    for step in (200, 400):
        watched.write_checkpoint("stage1", step)
    watched.tick(8)
    (average,) = [key for key in watched.list_states() if "avg" in key]
    assert watched.list_states() == {"stage1/step_400": "scored", average: "scored"}
    assert average.startswith("stage1/step_400_avg2_")
    assert [member.weight for member in get_request(watched, average).average] == [1 / 3, 2 / 3]
    # Another rule is another average of the same step.
    follow(watched, steps=(400,), last=2)
    watched.tick(8)
    assert watched.list_states()["stage1/step_400_avg2"] == "scored"


def test_a_requested_average_waits_for_its_members_by_name(watched):
    for step in (200, 400):
        watched.write_checkpoint("stage1", step)
    watched.tick()
    watched.write_request("enqueue", 400, average=(200, 300, 400), weights=(1.0, 1.0, 2.0))
    watched.tick()
    (key,) = watched.list_states()
    assert watched.list_reasons()[key].startswith("step 300: gone before it was seen complete, or never saved")
    assert sorted(list_pins(watched)) == [200, 400]
    watched.write_checkpoint("stage1", 300)
    watched.tick(8)
    assert watched.list_states() == {key: "scored"}
    # The same members again are the same evaluation; equal weights are another one, and the newest three have a plain name.
    watched.write_request("enqueue", 400, average=(200, 300, 400), weights=(2.0, 2.0, 4.0))
    watched.write_request("enqueue", 400, average=(200, 300, 400))
    watched.tick(jobs=False)
    watched.write_request("cancel", 400, name="step_400_avg3")
    watched.tick()
    assert watched.list_states() == {key: "scored", "stage1/step_400_avg3": "cancelled"}
    watched.write_request("retry", 400, name="step_400_avg3")
    watched.tick(8)
    assert watched.list_states() == {key: "scored", "stage1/step_400_avg3": "scored"}


def test_a_member_that_is_rewritten_makes_the_average_anew(watched):
    follow(watched, last=2)
    for step in (200, 400):
        watched.write_checkpoint("stage1", step)
    watched.tick(8)
    key = "stage1/step_400_avg2"
    before = watched.journal_state.records[key]
    watched.write_checkpoint("stage1", 200, seed=1)
    watched.tick()
    assert "step 200 of the average was rewritten" in [reason for _, _, reason in watched.journal_state.records[key].history]
    watched.tick(8)
    after = watched.journal_state.records[key]
    assert after.state == "scored"
    assert after.fingerprint != before.fingerprint
    # A member that is gone leaves the scores alone, also where another one changes.
    delete(watched, 200)
    watched.tick(2)
    assert watched.list_states() == {key: "scored"}
    watched.write_checkpoint("stage1", 400, seed=1)
    watched.tick(2)
    assert watched.list_states() == {key: "scored"}
    assert watched.list_reasons()[key].startswith("scored; step 400 of the average changed, but step 200: ")


def test_a_change_beside_a_deletion_is_said_as_long_as_it_lasts_whatever_else_is_scored_from_it(watched):
    follow(watched, steps=(400,), last=2)
    for step in (200, 400):
        watched.write_checkpoint("stage1", step)
    watched.tick_until(watched.are_all_scored)
    delete(watched, 200)
    watched.write_checkpoint("stage1", 400, seed=1)
    watched.tick_until(watched.are_all_scored)
    watched.tick(2)  # the step itself is scored anew
    assert watched.list_reasons()["stage1/step_400_avg2"].startswith("scored; step 400 of the average changed, but step 200: ")


def test_members_of_two_tokenizers_are_refused_by_name(watched):
    follow(watched, last=2)
    watched.write_checkpoint("stage1", 200, tokenizer="t")
    watched.write_checkpoint("stage1", 400, tokenizer="/models/other")
    watched.tick(3)
    assert watched.list_reasons()["stage1/step_400_avg2"].startswith(
        "step 200 has the tokenizer t, and step 400 /models/other; an average needs one tokenizer and one vocabulary. "
    )


def test_an_audit_judges_an_average_by_all_its_members_and_journals_it_again(watched):
    follow(watched, last=2, ema=0.5)
    for step in (200, 400):
        watched.write_checkpoint("stage1", step)
    watched.tick(8)
    (key,) = watched.list_states()
    before = watched.journal_state.records[key]
    watched.close_daemon()

    def look():
        state_id, now = read_state_id(watched.config.state), watched.clock()
        return run_audit(watched.config, watched.executor, state_id, {}, now=now, alive=False).differences

    assert look() == ()
    # A shard changes behind the mtimes that the watcher looks at.
    shard = next((watched.ckpts / "stage1" / "200").rglob("*.safetensors"))
    times = shard.stat().st_atime_ns, shard.stat().st_mtime_ns
    os.utime(shard)
    (found,) = look()
    assert "the checkpoint was rewritten" in found.observed
    os.utime(shard, ns=times)
    assert look() == ()
    # Without a journal the tier files say what was averaged.
    shutil.rmtree(watched.config.paths.journal)
    watched.configure(stage1={"steps": ()})
    (found,) = [each for each in look() if each.repair == "journal it as scored"]
    list(repair_differences(watched.config, watched.executor, [found], now=watched.clock(), alive=False))
    watched.tick(2)
    after = watched.journal_state.records[key]
    assert (after.state, after.average, after.average_name) == ("scored", before.average, before.average_name)
    assert after.fingerprint == before.fingerprint


@pytest.mark.slow
def test_killed_at_every_effect_an_average_is_scored_once_and_what_nobody_needs_is_released(tmp_path):
    kills = 0
    while True:
        with pytest.MonkeyPatch.context() as monkeypatch:
            watched = WatchedRun(tmp_path / str(kills), monkeypatch, steps=(400,))
            follow(watched, steps=(400,), last=3)
            for step in (200, 300, 400):
                watched.write_checkpoint("stage1", step, train_steps=10**6)
            fuse = KillPoint(monkeypatch, watched.executor, kills)
            killed = tick_until_settled(watched, fuse)
            watched.tick(2)
            assert watched.list_states() == {"stage1/step_400": "scored", "stage1/step_400_avg3": "scored"}, fuse.effect_names
            assert sorted(key for key, _ in watched.executor.runs) == ["stage1/step_400", "stage1/step_400_avg3"]
            assert sorted(list_pins(watched)) == [300, 400]
            assert sorted(path.name for path in watched.config.paths.pins.glob("*/*/*/*")) == ["300", "400"]
            watched.daemon.close()
            assert read_journal(watched.config.paths).warnings == []
        if not killed:
            break
        kills += 1
    assert kills >= 40

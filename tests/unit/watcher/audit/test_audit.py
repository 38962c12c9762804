"""Each way in which the journal, the disk and the queue can disagree: found in one line, and repaired."""

import json
import os
import shutil
from collections import deque

import msgspec
import pytest

from suites.common.atomic_files import write_atomically
from suites.contract.encoding import encode_json
from suites.contract.scoring_request import read_scoring_request
from support.fakes.executor import FakeJob
from support.runs.watched_run import SLICES_SUITE, make_watched_fixture
from watcher.audit import audit as audit_look
from watcher.audit import repair as audit_look_repair
from watcher.core import event_parsing, events
from watcher.core.executor import JobState
from watcher.core.snapshot import format_job_comment
from watcher.daemon.setup import read_state_id
from watcher.journal.journal import Journal

KEY = "stage1/step_100"


watched = make_watched_fixture(steps=(100,), checkpoints=(100,))


@pytest.fixture
def scored(watched):
    watched.tick_until(watched.are_all_scored, max_ticks=6)
    watched.executor.purge()
    watched.close_daemon()
    return watched


def look(watched, *, alive=False):
    result = audit_look.run_audit(
        watched.config, watched.executor, read_state_id(watched.config.state), {}, now=watched.clock(), alive=alive
    )
    return result.differences


def only(watched, **given):
    (finding,) = look(watched, **given)
    assert "\n" not in f"{finding.journal_state}{finding.observed}{finding.repair}"
    return finding


def mend(watched, findings, *, alive=False):
    return list(
        audit_look_repair.repair_differences(watched.config, watched.executor, findings, now=watched.clock(), alive=alive)
    )


def amend(watched):
    """Repair, let a watcher answer, and look again."""
    (line,) = mend(watched, look(watched))
    assert "left as a request, handled when `watcher run` or `watcher once` runs next" in line
    os.utime(watched.config.paths.requests, (watched.clock(), watched.clock()))
    watched.start_daemon()
    watched.tick(jobs=False)
    states = watched.list_states()
    watched.close_daemon()
    return states


def test_where_all_agree_there_is_nothing_to_say_and_nothing_is_written(scored):
    before = {path: path.stat().st_mtime_ns for path in scored.root.rglob("*")}
    assert look(scored) == ()
    assert {path: path.stat().st_mtime_ns for path in scored.root.rglob("*")} == before


def test_valid_results_that_the_journal_does_not_know_are_journaled(scored):
    with_results = scored.config.paths.journal
    shutil.rmtree(with_results)
    shutil.rmtree(scored.config.paths.attempts)
    shutil.rmtree(scored.ckpts / "stage1" / "100")  # so that no tick could judge them
    finding = only(scored)
    assert (finding.key, finding.journal_state, finding.repair) == (KEY, "not known", "journal it as scored")
    assert "valid results of" in finding.observed
    assert amend(scored) == {KEY: "scored"}
    assert look(scored) == ()
    assert len(scored.executor.runs) == 1


def test_results_in_the_schedule_are_left_to_the_next_tick(scored):
    shutil.rmtree(scored.config.paths.journal)
    shutil.rmtree(scored.config.paths.attempts)
    assert only(scored).repair == "none needed: the next tick handles it"
    scored.tick(2)
    assert scored.list_states() == {KEY: "scored"}
    assert look(scored) == ()


@pytest.mark.parametrize("event", ["cancelled", "blocked", "failed"])
def test_valid_results_of_what_the_journal_gave_up_are_journaled(scored, event):
    journal = Journal.open(scored.config.paths)
    given_up = event_parsing.EVENT_TYPES[event](evaluation=KEY, reason="because", retry_at=scored.clock() + 3000)
    journal.append(given_up, t=scored.clock())
    journal.close()
    finding = only(scored)
    assert (finding.journal_state, finding.repair) == (event, "journal it as scored")
    assert amend(scored) == {KEY: "scored"}
    assert look(scored) == ()
    assert scored.executor.calls["submit"] == 1


def spoil(watched, how):
    file = watched.get_evaluation_paths().tier_json("tier3_cf")
    if how == "gone":
        file.unlink()
        return "no tier3_cf"
    document = json.loads(file.read_text())
    if how == "invalid":
        document["tasks"] = {}
    elif how == "torn":
        file.write_text("{")
        return "not JSON"
    elif how == "foreign":
        document = {"acc": 1}
    else:
        for tier in ("tier2_ppl", "tier3_cf"):
            other = json.loads(watched.get_evaluation_paths().tier_json(tier).read_text())
            other["checkpoint"]["fingerprint"] = "0" * 64
            write_atomically(watched.get_evaluation_paths().tier_json(tier), json.dumps(other))
        return "results of another content (000000000000, not "
    write_atomically(file, json.dumps(document))
    return "no finite acc" if how == "invalid" else "written by another program"


@pytest.mark.parametrize("how", ["gone", "invalid", "torn", "foreign", "another fingerprint"])
def test_a_scored_one_whose_results_are_no_good_becomes_lost_and_is_not_scored_again_unasked(scored, how):
    observed = spoil(scored, how)
    finding = only(scored)
    assert (finding.key, finding.journal_state, finding.repair) == (KEY, "scored", "journal it as lost")
    assert observed in finding.observed
    assert amend(scored)[KEY] == "lost"
    assert scored.executor.calls["submit"] == 1


def test_lost_results_that_are_back_are_found(scored):
    kept = scored.get_evaluation_paths().tier_json("tier3_cf").read_bytes()
    spoil(scored, "gone")
    assert amend(scored) == {KEY: "lost"}
    assert look(scored) == ()
    write_atomically(scored.get_evaluation_paths().tier_json("tier3_cf"), kept)
    assert only(scored).repair == "journal it as scored"
    assert amend(scored) == {KEY: "scored"}


def test_a_checkpoint_whose_shards_changed_behind_its_marks_is_scored_anew(scored):
    folder = scored.ckpts / "stage1" / "100"
    shard = next(folder.rglob("*.safetensors"))
    os.utime(shard, (scored.clock() - 299, scored.clock() - 299))
    assert only(scored).repair == "score it again"
    assert amend(scored) == {KEY: "queued"}


def test_a_job_that_the_journal_believes_to_run_and_nobody_knows_is_told(watched):
    watched.executor.endings[KEY] = deque(["hang"])
    watched.tick(3)
    assert watched.list_states() == {KEY: "running"}
    assert look(watched) == ()
    watched.executor.jobs.clear()
    assert look(watched, alive=True) == ()  # a watcher that runs is given two polls to see it
    finding = only(watched)
    assert finding.journal_state == "running, job 101"
    assert finding.observed.startswith("queue: no job eval-stage1-100-")
    assert finding.repair == "none needed: the next tick handles it"


def test_an_end_that_no_watcher_saw_is_told(watched):
    watched.tick(2)
    watched.executor.advance_jobs()
    watched.executor.advance_jobs()
    finding = only(watched)
    assert "its run ended with 0, valid results of" in finding.observed
    assert finding.repair.startswith("none needed")


def orphan(watched, name="eval-stage1-100-0badcafe", state=JobState.RUNNING, *, like=None):
    place = watched.config.paths.attempt(name)
    place.folder.mkdir(parents=True)
    if like is not None:
        request = read_scoring_request(watched.config.paths.attempt(like).request)
        write_atomically(place.request, encode_json(msgspec.structs.replace(request, run_id=name)))
    comment = format_job_comment(read_state_id(watched.config.state))
    watched.executor.jobs[name] = FakeJob(
        job_id="900", name=name, comment=comment, request=place.request, submitted=watched.clock(), state=state
    )
    return watched.executor.jobs[name]


def test_a_job_of_ours_for_what_is_scored_already_is_cancelled_while_no_watcher_runs(scored):
    job = orphan(scored, like=scored.run_ids()[0])
    findings = look(scored)
    assert [(finding.key, finding.repair) for finding in findings] == [(KEY, "cancel it")]
    assert "job 900" in findings[0].observed
    assert mend(scored, findings) == [f"{KEY}: job 900 cancelled"]
    assert job.state is JobState.CANCELLED
    assert not scored.config.paths.lock.exists()


def test_what_a_running_watcher_would_cancel_or_adopt_is_left_to_it(scored):
    orphan(scored, state=JobState.HELD, like=scored.run_ids()[0])
    assert only(scored).repair == "none needed: the next tick cancels it"
    journal = Journal.open(scored.config.paths)
    journal.append(events.Pending(evaluation=KEY, reason="asked"), t=scored.clock())
    journal.close()
    shutil.rmtree(scored.get_evaluation_paths().folder)
    scored.executor.jobs["eval-stage1-100-0badcafe"].state = JobState.RUNNING
    assert only(scored).repair == "none needed: the next tick adopts it"


def test_nothing_is_removed_behind_a_running_watchers_back(scored, monkeypatch):
    monkeypatch.undo()  # two watchers, and the first is alive
    (scored.config.paths.requests / ".x.json.host.1.00000000").touch()
    os.utime(scored.config.paths.requests / ".x.json.host.1.00000000", (0, 0))
    write_atomically(scored.config.paths.lock, json.dumps({"host": "another", "pid": 1, "start": 1}))
    findings = look(scored)
    (line,) = mend(scored, findings)
    assert "1 to remove or cancel, not done" in line
    assert "a watcher already runs here: pid 1 on another" in line
    assert look(scored) == findings


def test_attempts_that_the_journal_never_mentioned(scored):
    place = scored.config.paths.attempt("eval-stage1-100-11111111")
    place.folder.mkdir()
    os.utime(place.folder, (scored.clock(), scored.clock()))
    assert look(scored) == ()  # it may be in the making
    scored.clock.at += 4000
    os.utime(place.folder, (scored.clock() - 4000, scored.clock() - 4000))
    assert only(scored).repair == "remove it"
    mend(scored, look(scored))
    assert not place.folder.exists()
    shutil.copytree(scored.config.paths.attempt(scored.run_ids()[0]).folder, place.folder)
    finding = only(scored)
    assert (finding.journal_state, finding.repair) == ("no such attempt", "add it to the journal and keep it")
    assert "ended with 0" in finding.observed
    amend(scored)
    assert look(scored) == ()
    assert place.claim.exists()


def part(watched, name, fingerprint):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = watched.get_evaluation_paths().parts
    folder.mkdir(exist_ok=True)
    meta = {"part": json.dumps({"schema": 1, "fingerprint": fingerprint})}
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(meta), folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


@pytest.mark.scoring
def test_parts_of_contents_that_are_gone_and_leases_of_the_dead_are_removed(scored):
    fingerprint = json.loads(scored.get_evaluation_paths().tier_json("tier2_ppl").read_text())["checkpoint"]["fingerprint"]
    kept, old = part(scored, "web.1", fingerprint), part(scored, "web.2", "f" * 64)
    lease, fresh = old.with_name("web.3.lease"), old.with_name("web.4.lease")
    for path, age in ((lease, 700), (fresh, 10)):
        path.write_text("x")
        os.utime(path, (scored.clock() - age, scored.clock() - age))
    findings = look(scored)
    assert {finding.path_to_remove for finding in findings} == {old, lease}
    mend(scored, findings)
    assert sorted(path.name for path in old.parent.iterdir()) == [kept.name, fresh.name]
    assert look(scored) == ()


def test_without_a_queue_jobs_are_not_compared_and_that_is_said(scored):
    scored.executor.unreachable = "Unable to contact slurm controller"
    result = audit_look.run_audit(scored.config, scored.executor, "none", {}, now=scored.clock(), alive=False)
    assert result.differences == ()
    assert "Unable to contact slurm controller" in result.queue_error


def test_an_amendment_that_comes_too_late_does_nothing(scored):
    spoil(scored, "gone")
    mend(scored, look(scored))
    journal = Journal.open(scored.config.paths)
    journal.append(events.Pending(evaluation=KEY, reason="somebody asked meanwhile"), t=scored.clock() + 1)
    journal.close()
    os.utime(scored.config.paths.requests, (scored.clock(), scored.clock()))
    scored.start_daemon()
    scored.tick(jobs=False)
    assert scored.list_states() == {KEY: "queued"}
    (outcome,) = scored.journal_state.closed_requests.values()
    assert outcome == f"{KEY}: the journal changed meanwhile; skipped"


def test_results_of_another_program_are_shown_and_left_alone(scored):
    other = scored.get_evaluation_paths("stage1/step_777").tier_json("tier2_ppl")
    other.parent.mkdir()
    other.write_text("{}")
    finding = only(scored)
    assert (finding.key, finding.repair) == ("stage1/step_777", "none: find out who wrote them")
    assert mend(scored, look(scored)) == []


def test_pins_that_no_evaluation_owns_are_removed(scored):
    pin = scored.config.paths.pins / "stage1" / "step_100" / "0123456789ab" / "100"
    (pin / "model").mkdir(parents=True)
    finding = only(scored)
    assert (finding.repair, finding.path_to_remove) == ("remove it", pin)
    mend(scored, look(scored))
    assert not pin.exists()
    assert look(scored) == ()


def test_results_by_the_suites_of_before_do_not_end_what_is_owed_by_todays(scored):
    (scored.root / "slices.yaml").write_text(SLICES_SUITE % 2000)
    journal = Journal.open(scored.config.paths)
    failed = events.Failed(evaluation=KEY, reason="because", retry_at=scored.clock() + 3000)
    journal.append(failed, t=scored.clock())
    journal.close()
    assert look(scored) == ()

import json
import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suites.common.atomic_files import write_json_atomically
from suites.common.formatting import strip_control_characters
from suites.contract.paths import StatePaths
from support.runs.watched_run import WatchedRun
from watcher.config.settings import Config, Stage
from watcher.core.actions import Skip
from watcher.core.evaluation import Attempt, EvaluationRecord, EvaluationState
from watcher.core.executor import Job, JobState
from watcher.core.result_paths import get_evaluation_paths
from watcher.core.snapshot import QueueSnapshot
from watcher.journal.lock import make_lock_owner
from watcher.observe import results as evidence
from watcher.status.document import MAX_SKIPS_SHOWN, DaemonFacts, build_status, compute_latencies, publish_status
from watcher.status.health import check_liveness
from watcher.status.job_progress import read_job_progress
from watcher.status.table import TEXT_WIDTH, measure_width
from watcher.status.text import MAX_SCORED_SHOWN, render_status, render_status_body

NOW = 1_700_000_000.0
DAEMON = DaemonFacts(
    host="login1", pid=42, epoch=3, started_at=NOW - 1000, version="0.1.0", poll_seconds=60.0, slurm_calls={"squeue": 7}
)
HOSTILE = "\x1b[2J\x1b]0;owned\x07bad\nnews\r\t\u202etxet \x9b31m\x00"


def config(**changes):
    stages = {
        "stage1": Stage(name="stage1", checkpoints=Path("/s/ckpts/stage1"), results=Path("/r"), steps=(100, 200, 300)),
        "stage2": Stage(name="stage2", checkpoints=Path("/s/ckpts/stage2"), results=Path("/r"), every=50),
    }
    paths = {"scratch": Path("/s"), "results": Path("/r"), "eval_data": Path("/r/e"), "state": Path("/r/.w")}
    return Config(source="/s/watcher.yaml", stages=stages, **(paths | changes))


def record(step, state=EvaluationState.SCORED, stage="stage1", source=None, **changes):
    given_fields = {"directory": f"step_{step}", "origin": "schedule", "checkpoint": f"/s/{step}", "since": NOW - 60}
    return EvaluationRecord(stage=stage, source=source or stage, step=step, state=state, **(given_fields | changes))


def built(*records, skips=(), queue=None, **more):
    return build_status(
        records={each.key: each for each in records}, skips=skips, queue=queue, config=config(), now=NOW, daemon=DAEMON, **more
    )


def test_the_document_says_who_looks_and_when():
    document = built()
    assert {key: document[key] for key in ("schema", "heartbeat", "poll", "host", "pid", "epoch", "version", "slurm_calls")} == {
        "schema": 1,
        "heartbeat": NOW,
        "poll": 60.0,
        "host": "login1",
        "pid": 42,
        "epoch": 3,
        "version": "0.1.0",
        "slurm_calls": {"squeue": 7},
    }


def test_every_evaluation_is_in_its_stage_in_order_of_steps():
    attempt = Attempt(run_id="eval-x", number=2, fingerprint="f", suites={}, intended=NOW, job_id="77", started=NOW - 5)
    running = record(200, EvaluationState.RUNNING, attempt=attempt, fingerprint="f", failures={"oom": 1}, reason="job 77")
    document = built(running, record(100), record(300, stage="stage2", source="stage1", state=EvaluationState.WAITING))
    first, second = document["stages"]["stage1"]["evaluations"]
    assert (first["evaluation"], second["evaluation"]) == ("stage1/step_100", "stage1/step_200")
    assert (second["state"], second["reason"], second["fingerprint"], second["failures"]) == (
        "running",
        "job 77",
        "f",
        {"oom": 1},
    )
    assert (second["attempt"]["job_id"], second["attempt"]["number"], second["attempt"]["started"]) == ("77", 2, NOW - 5)
    assert document["stages"]["stage2"]["evaluations"][0]["source"] == "stage1"
    assert document["counts"] == {"running": 1, "scored": 1, "waiting": 1}
    assert document["stages"]["stage1"]["counts"] == {"scored": 1, "running": 1}


def test_a_folder_that_is_not_there_is_told_from_an_empty_one():
    document = built(skips=[Skip("/s/ckpts/stage2", "no such folder yet")])
    assert document["stages"]["stage1"]["exists"] is True
    assert (document["stages"]["stage2"]["exists"], document["stages"]["stage2"]["error"]) == (False, "no such folder yet")


def test_the_next_scheduled_step_follows_the_newest_that_was_seen():
    assert built()["stages"]["stage1"]["next"] == 100
    assert built(record(100, times={"complete": NOW}))["stages"]["stage1"]["next"] == 200
    assert built(record(100, stage="stage2", times={"complete": NOW}))["stages"]["stage2"]["next"] == 150


def test_a_stage_that_left_the_config_keeps_its_evaluations():
    document = built(record(5, stage="gone"))
    assert document["stages"]["gone"]["configured"] is False
    assert "gone: no longer in the config" in render_status(document, NOW)


def test_an_unreachable_queue_is_unknown_and_not_empty_and_said_since_when():
    seen = QueueSnapshot(at=NOW, jobs=None, error="Unable to contact slurm controller")
    document = built(queue=seen, queue_error_since=NOW - 600)
    assert document["queue"] == {"at": NOW, "jobs": None, "error": seen.error, "since": NOW - 600}
    assert "10 min ago: Unable to contact slurm controller" in " ".join(render_status(document, NOW).split())
    job = Job(job_id="1", name="eval", state=JobState.RUNNING, raw_state="RUNNING")
    assert built(queue=QueueSnapshot(at=NOW, jobs={"eval": job}))["queue"] == {"at": NOW, "jobs": 1, "error": "", "since": None}


def test_latencies_are_the_nearest_rank_of_what_was_measured():
    records = [record(step, times={"complete": 0.0, "scored": float(step), "started": 1.0}) for step in range(1, 101)]
    assert compute_latencies(records) == {
        "complete_to_started": {"p50": 1.0, "p95": 1.0, "n": 100},
        "complete_to_scored": {"p50": 50.0, "p95": 95.0, "n": 100},
        "started_to_scored": {"p50": 49.0, "p95": 94.0, "n": 100},
    }
    assert compute_latencies([record(1, times={"complete": 9.0, "detected": 3.0})])["complete_to_detected"]["p50"] == 0.0
    assert compute_latencies([]) == {}


def test_scores_are_shown_and_what_is_no_number_is_not():
    document = built(record(100, extra={"scores": {"ppl": 12.3456, "primary": 0.5, "x": float("nan"), "y": "z", "ok": True}}))
    assert document["stages"]["stage1"]["evaluations"][0]["scores"] == {"ppl": 12.3456, "primary": 0.5}
    assert "12.35   0.5000" in render_status(document, NOW)
    assert built(record(100, extra={"scores": "torn"}))["stages"]["stage1"]["evaluations"][0]["scores"] == {}


def test_many_skips_are_counted_and_the_first_shown():
    document = built(skips=[Skip(f"stage1/step_{step}", "not in the schedule") for step in range(10_000)])
    assert (len(document["skipped"]), document["skipped_count"]) == (MAX_SKIPS_SHOWN, 10_000)


def test_both_files_are_published_whole(tmp_path):
    document = built(record(100))
    publish_status(document, StatePaths(tmp_path))
    assert json.loads((tmp_path / "status.json").read_text()) == document
    assert (tmp_path / "status.txt").read_text() == render_status(document, NOW)
    assert {path.name for path in tmp_path.iterdir()} == {"status.json", "status.txt"}


def test_a_name_that_is_no_utf8_does_not_stop_the_status(tmp_path):
    publish_status(
        built(record(100, state=EvaluationState.BLOCKED, reason=os.fsdecode(b"/s/\xff: unreadable"))), StatePaths(tmp_path)
    )
    row = json.loads((tmp_path / "status.json").read_text())["stages"]["stage1"]["evaluations"][0]
    assert os.fsencode(row["reason"]) == b"/s/\xff: unreadable"
    assert "/s/?: unreadable" in (tmp_path / "status.txt").read_text()


def looks_harmless(text):
    return all(character.isprintable() or character == "\n" for character in text)


def test_hostile_text_reaches_no_terminal():
    bad = record(100, EvaluationState.BLOCKED, reason=HOSTILE, checkpoint=HOSTILE, directory="step_100")
    worse = record(200, EvaluationState.RUNNING, directory=HOSTILE, source=HOSTILE)
    document = built(bad, worse, skips=[Skip(HOSTILE, HOSTILE)], queue=QueueSnapshot(at=NOW, jobs=None, error=HOSTILE))
    text = render_status({**document, "warnings": [HOSTILE], "host": HOSTILE, "config": HOSTILE}, NOW)
    assert looks_harmless(text)
    assert "bad news" in text


@given(st.text())
def test_cleaned_text_is_one_printable_line(text):
    assert looks_harmless(strip_control_characters(text))
    assert "\n" not in strip_control_characters(text)


attempts = st.builds(
    Attempt,
    run_id=st.just("r"),
    number=st.integers(1, 99),
    fingerprint=st.just("f"),
    suites=st.just({}),
    intended=st.just(NOW),
    job_id=st.text(max_size=40),
)
rows = st.builds(
    record,
    st.integers(0, 10**12),
    st.sampled_from(list(EvaluationState)),
    source=st.sampled_from(["stage1", "a" * 60, "各階段"]),
    reason=st.text(max_size=400),
    attempt=st.none() | attempts,
    retry_at=st.none() | st.just(NOW + 90),
)


@given(st.lists(rows, max_size=8), st.text(max_size=300) | st.text("階é a", max_size=300))
def test_nothing_is_wider_than_the_screen(records, words):
    document = {**built(*records, skips=[Skip(words, words)]), "warnings": [words], "host": words}
    assert max(map(measure_width, render_status(document, NOW).splitlines())) <= TEXT_WIDTH


def test_a_bridge_shows_whose_checkpoint_it_is_and_a_given_name_is_shown():
    own = record(200, stage="stage2", source="stage1", directory="step_200_from_stage1")
    named = record(300, stage="stage2", directory="best")
    text = render_status(built(own, named), NOW)
    assert "\n   200  stage1  scored" in text
    assert "\n   300  best    scored" in text


def test_a_long_reason_goes_on_below_its_row():
    reason = "sbatch: error: " + "the partition is not there and " * 12
    lines = render_status_body(built(record(100, EvaluationState.BLOCKED, reason=reason)), NOW)
    at = next(index for index, line in enumerate(lines) if "blocked" in line and "100" in line)
    assert lines[at + 1].startswith("      sbatch: error: the partition")
    assert lines[at + 2].startswith("      ")


def test_only_the_newest_of_many_scored_ones_are_shown():
    text = render_status(built(*(record(step) for step in range(1, 101))), NOW)
    assert f"{100 - MAX_SCORED_SHOWN} older evaluations scored" in text
    assert "\n   100  scored" in text
    assert "\n    80  scored" not in text


def test_when_it_is_tried_again_is_said():
    text = render_status(built(record(100, EvaluationState.FAILED, reason="out of memory", retry_at=NOW + 300)), NOW)
    assert "out of memory; retry in 5 min" in text


def test_what_is_not_looked_after_is_listed():
    text = render_status(built(skips=[Skip("/s/ckpts/stage9", "looks like a stage, but the config has no such stage")]), NOW)
    assert "Not scheduled:\n  /s/ckpts/stage9: looks like a stage, but the config has no such stage\n" in text


def left(tmp_path, *, heartbeat=NOW, mtime=None, **changes):
    paths = StatePaths(tmp_path)
    publish_status({**built(), "heartbeat": heartbeat, **changes}, paths)
    os.utime(paths.status_json, (0, heartbeat if mtime is None else mtime))
    return paths


@pytest.mark.parametrize(
    ("now", "mtime", "verdict", "code"),
    [
        (NOW + 1, NOW, "alive", 0),
        (NOW + 179, NOW, "alive", 0),
        (NOW + 180, NOW, "stale", 3),
        (NOW + 10**7, NOW, "stale", 3),
        (NOW - 30, NOW - 30, "alive", 0),  # a clock that runs a little behind
        (NOW + 10, NOW - 500, "stale", 3),  # the daemon's clock runs ahead: its file is old all the same
        (NOW + 500, NOW + 499, "stale", 3),  # touched or copied: its heartbeat is old all the same
    ],
)
def test_a_dead_daemon_s_last_word_does_not_count_as_life(tmp_path, now, mtime, verdict, code):
    health = check_liveness(left(tmp_path, mtime=mtime), now)
    assert (health.verdict, health.exit_code) == (verdict, code)
    first = {"alive": "Running on login1 (pid 42)", "stale": "Not running: last poll on login1"}
    assert health.summary.startswith(first[verdict])


def test_a_stale_status_says_since_when(tmp_path):
    assert ", 2 h ago; start it with `watcher run`" in check_liveness(left(tmp_path), NOW + 7200).summary


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "stale"),
        ({"start": 1}, "stale"),  # another process has its pid
        ({"boot": "an earlier one", "pid": os.getpid()}, "stale"),
        ({"pid": os.getpid(), "start": None}, "alive"),
        ({"host": "another"}, "alive"),  # its processes cannot be seen here
        ({"machine": "another"}, "alive"),
    ],
)
def test_a_process_that_is_gone_is_seen_on_its_own_host(tmp_path, changes, verdict):
    gone = subprocess.Popen(["true"])
    gone.wait()
    owner = msgspec.structs.replace(make_lock_owner(), **{"pid": gone.pid, **changes})
    paths = left(tmp_path, pid=owner.pid)
    paths.lock.write_bytes(msgspec.json.encode(owner))
    health = check_liveness(paths, NOW + 1)
    assert health.verdict == verdict
    assert ("ended without a stop request; last poll 1 s ago" in health.summary) == (verdict == "stale")
    paths = left(tmp_path, pid=owner.pid + 1)  # the lock of another watcher says nothing of this one
    assert check_liveness(paths, NOW + 1).verdict == "alive"


def test_clocks_that_differ_are_told(tmp_path):
    assert (
        "the clocks of the watcher and the file server differ by 1 h"
        in check_liveness(left(tmp_path, heartbeat=NOW, mtime=NOW - 3600), NOW).summary
    )


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"heartbeat": "x", "poll": 1}', '{"heartbeat": null}', "\xff"])
def test_what_is_no_status_is_absent(tmp_path, content):
    if content is not None:
        (tmp_path / "status.json").write_text(content)
    health = check_liveness(StatePaths(tmp_path), NOW)
    assert (health.verdict, health.exit_code, health.document) == ("absent", 4, None)
    assert str(tmp_path / "status.json") in health.summary


def test_a_newer_watcher_s_status_can_be_read(tmp_path):
    paths = left(tmp_path)
    document = json.loads(paths.status_json.read_text())
    document["schema"], document["news"] = 9, {"a": 1}
    document["stages"]["stage1"]["news"] = 1
    paths.status_json.write_text(json.dumps(document))
    os.utime(paths.status_json, (NOW, NOW))
    health = check_liveness(paths, NOW + 1)
    assert health.verdict == "alive"
    assert render_status_body(health.document, NOW)


def test_the_record_of_every_state_has_a_row():
    states = [record(step, state) for step, state in enumerate(EvaluationState)]
    text = render_status(built(*states), NOW)
    assert all(f" {state.value} " in text or f" {state.value}\n" in text for state in EvaluationState)
    assert msgspec.json.encode(built(*states))


def test_each_leg_from_complete_to_scored_is_on_the_screen():
    times = {"complete": 0.0, "detected": 61.0, "submitted": 62.0, "started": 90.0, "scored": 700.0}
    text = " ".join(render_status(built(*(record(step, times=times) for step in range(1, 26))), NOW).split())
    assert "Time from complete checkpoint to scores: median 11 min, p95 11 min (n=25)" in text
    assert "Each phase (median, p95): detected 61 s, 61 s; submitted 1 s, 1 s; started 28 s, 28 s; scored 10 min, 10 min" in text


SAID = {"schema": 1, "run_id": "eval-x", "at": NOW - 60, "parts_done": 3, "parts": 14, "tokens_per_s": 41000.4, "mfu": 0.519}


def at_work(state=EvaluationState.RUNNING, run_id="eval-x"):
    attempt = Attempt(run_id=run_id, number=1, fingerprint="f", suites={}, intended=NOW, job_id="77", started=NOW - 5)
    return record(200, state, attempt=attempt, fingerprint="f", reason="job 77")


def test_a_running_job_says_how_far_it_is_and_how_long_it_takes(tmp_path):
    here = config(results=tmp_path)
    here = msgspec.structs.replace(here, stages={})
    get_evaluation_paths(here, at_work()).folder.mkdir(parents=True)
    write_json_atomically(
        get_evaluation_paths(here, at_work()).progress_json, SAID | {"seconds_left": 780, "note": "other fields", "part": "c4"}
    )
    found = read_job_progress(here, [at_work()])
    document = built(at_work(), progress=found)
    assert document["stages"]["stage1"]["evaluations"][0]["progress"]["parts_done"] == 3
    text = " ".join(" ".join(render_status_body(document, NOW)).split())
    assert "3 of 14 parts, 41,000 tokens/s (MFU 52 %), 12 min left" in text


def test_nothing_is_read_of_what_does_not_run_or_of_another_attempt(tmp_path):
    here = msgspec.structs.replace(config(results=tmp_path), stages={})
    assert read_job_progress(here, [at_work()]) == {}
    file = get_evaluation_paths(here, at_work()).progress_json
    file.parent.mkdir(parents=True)
    write_json_atomically(file, SAID | {"mfu": None, "seconds_left": None})
    assert read_job_progress(here, [at_work(EvaluationState.SCORED)]) == read_job_progress(here, [at_work(run_id="eval-y")]) == {}
    assert set(read_job_progress(here, [at_work()])["stage1/step_200"]) == {"at", "parts_done", "parts", "tokens_per_s"}
    file.write_text("{torn")
    assert read_job_progress(here, [at_work()]) == {}
    file.write_text('["not", "a", "progress"]')
    assert read_job_progress(here, [at_work()]) == {}


def test_instruction_scores_are_shown_where_there_are_some(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100,))
    (watched.root / "chat.yaml").write_text(
        "tier: tier4_sft_native\nprompts:\n  hello: {category: strict_json, messages: [{role: user, content: Say hello.}]}\n"
    )
    watched.configure(stage1={"steps": (100,), "suites": tuple(str(watched.root / f"{n}.yaml") for n in ("tasks", "chat"))})
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(watched.are_all_scored)
    document = json.loads(watched.config.paths.status_json.read_text())
    (row,) = document["stages"]["stage1"]["evaluations"]
    assert row["scores"]["instruction_match_rate"] == 1.0
    lines = watched.config.paths.status_text.read_text().splitlines()
    (heads,) = [line for line in lines if line.split()[:2] == ["step", "state"]]
    (shown,) = [line for line in lines if line.split()[:2] == ["100", "scored"]]
    assert "match" in heads.split()
    assert shown.split()[-1] == "1.0000"


def test_scores_of_a_tier_that_was_not_asked_for_again_are_still_shown(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100,))
    watched.write_checkpoint("stage1", 100)
    monkeypatch.setattr(
        evidence, "_read_headline_scores", lambda document: {"ppl" if document["tier"] == "tier2_ppl" else "primary": 2.0}
    )
    watched.tick_until(watched.are_all_scored)
    (watched.root / "tasks.yaml").write_text((watched.root / "tasks.yaml").read_text().replace("ours", "others"))
    watched.tick_until(lambda: len(watched.run_ids()) == 2 and watched.are_all_scored())
    (record,) = watched.journal_state.records.values()
    assert record.extra["scores"] == {"ppl": 2.0, "primary": 2.0}
    monkeypatch.setattr(evidence, "_read_headline_scores", lambda _path: {"primary": 3.0})
    watched.write_checkpoint("stage1", 100, seed=1)
    watched.tick_until(lambda: len(watched.run_ids()) == 3 and watched.are_all_scored())
    (record,) = watched.journal_state.records.values()
    assert record.extra["scores"] == {"primary": 3.0}, "those of another content are gone"


@pytest.mark.parametrize(("seconds_left", "age", "said"), [(780, 0, ", 13 min left"), (3, 5, ""), (0, 0, ""), (None, 0, "")])
def test_an_estimate_that_ran_out_is_not_shown(seconds_left, age, said):
    progress = {"at": NOW - age, "parts_done": 2, "parts": 3} | ({} if seconds_left is None else {"seconds_left": seconds_left})
    lines = render_status_body(built(at_work(), progress={"stage1/step_200": progress}), NOW)
    (line,) = [line for line in lines if "2 of 3 parts" in line]
    assert line.endswith(f"2 of 3 parts{said}")

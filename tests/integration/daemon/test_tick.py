"""The whole tick, from a checkpoint on disk to valid results, with an executor in memory."""

import json
import shutil
from collections import deque
from pathlib import Path

from suites.contract.scoring_request import read_scoring_request
from support.fakes.executor import FakeJob
from support.runs.watched_run import SLICES_SUITE, WatchedRun, make_watched_fixture
from watcher.core.executor import JobState
from watcher.simulate.jobs import publish_scores
from watcher.status.document import compute_latencies
from watcher.status.explain import explain_evaluation

watched = make_watched_fixture()


def test_a_complete_checkpoint_is_submitted_once_and_scored(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick()
    assert watched.list_states() == {"stage1/step_100": "queued", "stage1/step_200": "waiting"}
    watched.tick_until(lambda: watched.list_states()["stage1/step_100"] == "scored", max_ticks=5)
    assert watched.executor.runs == [("stage1/step_100", watched.run_ids()[0])]
    assert watched.list_reasons()["stage1/step_200"] == "waiting for checkpoint"
    status = json.loads(watched.config.paths.status_json.read_text())
    assert status["counts"] == {"scored": 1, "waiting": 1}


def test_the_request_says_everything_that_the_job_needs(watched):
    folder = watched.write_checkpoint("stage1", 100)
    watched.tick()
    attempt = watched.config.paths.attempt(watched.run_ids()[0])
    request = read_scoring_request(attempt.request)
    assert (request.evaluation, request.source_stage, request.step) == ("stage1/step_100", "stage1", 100)
    assert (request.checkpoint, request.tokenizer, request.seq_len) == (str(folder), "byte-level", 64)
    assert [suite.tier for suite in request.suites] == ["tier2_ppl", "tier3_cf"]
    expected = attempt.expected_files.read_text().splitlines()
    assert expected == [str(request.paths.tier_json(tier)) for tier in ("tier2_ppl", "tier3_cf")]


def test_steps_and_folders_without_a_schedule_are_told(watched):
    watched.write_checkpoint("stage1", 150)
    (watched.ckpts / "stage9").mkdir()
    watched.tick()
    assert watched.list_reasons()["stage1/step_150"] == "not in the schedule"
    assert watched.list_reasons()[str(watched.ckpts / "stage9")] == "looks like a stage, but the config has no such stage"
    assert not watched.executor.jobs


def test_a_bridge_gets_the_last_step_of_its_source_and_waits_for_seq_len(watched):
    watched.configure(stage1={"steps": (100,)}, stage2={"steps": (300,), "bridge": watched.make_bridge("stage1")})
    watched.write_checkpoint("stage1", 100)
    watched.tick(3)
    assert watched.list_states() == {"stage1/step_100": "scored", "stage2/step_300": "waiting", "stage2/step_100": "waiting"}
    assert watched.list_reasons()["stage2/step_100"].startswith("seq_len unknown until stage2 has a checkpoint")
    watched.write_checkpoint("stage2", 300, seq_len=32, tokenizer="other")
    watched.tick(8)
    assert watched.are_all_scored()
    requests = [read_scoring_request(watched.config.paths.attempt(run_id).request) for run_id in watched.run_ids()]
    bridge = next(request for request in requests if request.evaluation == "stage2/step_100")
    assert (bridge.source_stage, bridge.seq_len, bridge.tokenizer) == ("stage1", 32, "other")


def test_a_bridge_whose_step_the_stage_could_produce_is_named_after_its_source(watched):
    watched.configure(stage1={"steps": (100,)}, stage2={"steps": (100, 200), "bridge": watched.make_bridge("stage1")})
    watched.tick()
    assert set(watched.list_states()) == {
        "stage1/step_100",
        "stage1/step_200",  # of the config before; no longer in the schedule
        "stage2/step_100",
        "stage2/step_200",
        "stage2/step_100_from_stage1",
    } - {"stage1/step_200"}


def test_where_a_stage_started_from_another_checkpoint_than_its_bridge_it_is_said(watched):
    watched.configure(
        stage1={"steps": (100,)},
        stage2={"steps": (300,), "bridge": watched.make_bridge("stage1"), "seq_len": 64, "tokenizer": "t"},
    )
    watched.write_checkpoint("stage1", 90)
    watched.write_checkpoint("stage2", 300, started_from=str(watched.ckpts / "stage1" / "90"))
    watched.tick()
    assert (
        watched.list_reasons()["stage2/step_100"]
        == "stage2 started from step 90 according to its config.yaml, but its bridge is step 100"
    )


def test_final_is_the_last_step_that_training_says(watched):
    watched.configure(stage1={"steps": (), "every": 50, "start": 50, "to": 60, "final": True})
    watched.write_checkpoint("stage1", 50, train_steps=77)
    watched.write_checkpoint("stage1", 70, train_steps=77)
    watched.tick(4)
    assert watched.list_states() == {"stage1/step_50": "scored"}
    watched.write_checkpoint("stage1", 77, train_steps=77)
    watched.tick(4)
    assert watched.list_states() == {"stage1/step_50": "scored", "stage1/step_77": "scored"}


def test_results_of_another_program_block_until_a_person_says_so(watched):
    watched.write_checkpoint("stage1", 100)
    tier2 = watched.get_evaluation_paths().tier_json("tier2_ppl")
    tier2.parent.mkdir(parents=True)
    tier2.write_text('{"ppl": 12.5}')
    watched.tick(2)
    assert watched.list_states()["stage1/step_100"] == "blocked"
    assert "results of another program" in watched.list_reasons()["stage1/step_100"]
    assert tier2.read_text() == '{"ppl": 12.5}'
    watched.write_request("retry", 100, force=True)
    watched.tick(4)
    assert watched.list_states()["stage1/step_100"] == "scored"
    assert (watched.get_evaluation_paths().superseded_folder("foreign") / "tier2_ppl.json").read_text() == '{"ppl": 12.5}'


def test_a_suite_that_changed_is_owed_alone(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick(4)
    (watched.root / "slices.yaml").write_text(SLICES_SUITE % 2000)
    watched.tick(12)
    assert watched.list_states()["stage1/step_100"] == "scored"
    assert len(watched.executor.runs) == 2
    request = read_scoring_request(watched.config.paths.attempt(watched.executor.runs[1][1]).request)
    assert [suite.tier for suite in request.suites] == ["tier2_ppl"]


def test_a_broken_suite_stops_its_own_stage_only(watched):
    watched.configure(stage2={"steps": (300,), "suites": (str(watched.root / "none.yaml"),)})
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage2", 300)
    watched.tick(4)
    assert watched.list_states()["stage1/step_100"] == "scored"
    assert watched.list_states()["stage2/step_300"] == "waiting"
    assert "none.yaml" in watched.list_reasons()["stage2/step_300"]


def test_valid_results_found_on_disk_are_believed(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick(4)
    watched.close_daemon()
    shutil.rmtree(watched.config.paths.state)
    watched.tick(2)
    assert watched.list_states()["stage1/step_100"] == "scored"
    assert len(watched.executor.runs) == 1


def test_a_held_job_that_the_journal_does_not_know_is_cancelled(watched):
    watched.start_daemon()
    comment = watched.daemon.tick_runner._job_comment
    watched.executor.jobs["eval-stage1-100-deadbeef"] = FakeJob(
        job_id="7", name="eval-stage1-100-deadbeef", comment=comment, request=Path("none"), submitted=0.0
    )
    watched.executor.jobs["mine"] = FakeJob(job_id="8", name="mine", comment="", request=Path("none"), submitted=0.0)
    watched.tick()
    assert watched.executor.jobs["eval-stage1-100-deadbeef"].state is JobState.CANCELLED
    assert watched.executor.jobs["mine"].state is JobState.HELD


def test_cancel_and_retry(watched):
    watched.executor.endings["stage1/step_100"] = deque(["hang", 0])
    watched.write_checkpoint("stage1", 100)
    watched.tick(2)
    watched.write_request("cancel", 100, by="me")
    watched.tick(3)
    assert watched.list_states()["stage1/step_100"] == "cancelled"
    assert not watched.executor.live()
    assert not list(watched.config.paths.requests.glob("*.json"))
    watched.write_request("retry", 100)
    watched.tick(4)
    assert watched.list_states()["stage1/step_100"] == "scored"


def test_enqueue_of_a_step_outside_the_schedule_and_of_a_folder_elsewhere(watched):
    watched.write_checkpoint("stage1", 150)
    elsewhere = watched.write_checkpoint("elsewhere", 7)
    watched.tick()
    watched.write_request("enqueue", 150)
    watched.write_request("enqueue", 7, checkpoint=str(elsewhere), name="soup")
    watched.tick(8)
    assert watched.list_states()["stage1/step_150"] == "scored"
    assert watched.list_states()["stage1/soup"] == "scored"
    assert sorted(watched.journal_state.closed_requests.values()) == ["stage1 150: will be scored", "stage1 7: will be scored"]


def test_several_at_once_keep_to_the_limit_and_go_in_order(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100, 200, 300), holds=False)
    for step, age in ((200, 900), (300, 300), (100, 500)):
        watched.write_checkpoint("stage1", step, age=age, train_steps=300)
    watched.tick()
    assert sorted(watched.list_states().values()) == ["queued", "ready", "ready"]
    assert watched.list_reasons()["stage1/step_100"] == "ready; limits.max_running (1) is reached, 1 in flight"
    watched.tick_until(watched.are_all_scored, max_ticks=12)
    assert [evaluation for evaluation, _ in watched.executor.runs] == [f"stage1/step_{step}" for step in (300, 200, 100)]
    watched.daemon.close()


def test_results_of_a_publishing_job_without_news_from_the_queue(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick(2)
    watched.executor.unreachable = "Socket timed out"
    watched.executor.advance_jobs()
    watched.tick()
    assert watched.list_states()["stage1/step_100"] == "scored", "exit record and valid results come before the queue"


def test_published_results_alone_are_not_believed_while_the_queue_is_silent(watched):
    watched.write_checkpoint("stage1", 100)
    watched.executor.endings["stage1/step_100"] = deque(["hang"])
    watched.tick(2)
    publish_scores(read_scoring_request(watched.config.paths.attempt(watched.run_ids()[0]).request))
    watched.executor.unreachable = "Socket timed out"
    watched.tick(2)
    assert watched.list_states()["stage1/step_100"] == "running"
    status = json.loads(watched.config.paths.status_json.read_text())
    assert status["queue"]["error"] == "Socket timed out"


def test_another_bridge_that_a_person_names_is_scored_whatever_the_config_says(watched):
    bridge = {"bridge": watched.make_bridge("stage1"), "seq_len": 64, "tokenizer": "t"}
    watched.configure(stage1={"steps": (100,)}, stage2={"steps": (300,), **bridge})
    watched.write_checkpoint("stage1", 90)
    watched.tick()
    watched.write_request("enqueue", 90, stage="stage2", bridge=True)
    watched.tick(6)
    assert watched.list_states()["stage2/step_90"] == "scored"
    assert watched.journal_state.records["stage2/step_90"].source == "stage1"


def test_requests_that_cannot_be_read_or_understood_harm_nobody(watched):
    watched.write_checkpoint("stage1", 100)
    watched.start_daemon()
    (watched.config.paths.requests / "torn.json").write_text("{")
    watched.write_request("enqueue", 5, stage="stage7")
    watched.write_request("retry", 999)
    watched.tick(4)
    assert watched.list_states()["stage1/step_100"] == "scored"
    assert sorted(watched.journal_state.closed_requests.values()) == [
        "no stage stage7; the request is ignored",
        "stage1 999: unknown evaluation",
    ]
    assert [path.name for path in watched.config.paths.requests.iterdir()] == ["torn.json"]


def test_several_suites_of_one_tier_are_one_file_and_one_score(watched):
    second = watched.root / "more.yaml"
    second.write_text(SLICES_SUITE.replace("web:", "code:") % 1000)
    suites = (str(watched.root / "slices.yaml"), str(second), str(watched.root / "tasks.yaml"))
    watched.configure(stage1={"steps": (100,), "suites": suites})
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(watched.are_all_scored, max_ticks=6)
    watched.tick(3)
    assert watched.are_all_scored()
    (run_id,) = watched.run_ids()
    expected = watched.config.paths.attempt(run_id).expected_files.read_text().splitlines()
    assert [Path(path).name for path in expected] == ["tier2_ppl.json", "tier3_cf.json"]
    document = json.loads(watched.get_evaluation_paths().tier_json("tier2_ppl").read_text())
    assert list(document["slices"]) == ["web", "code"]


def test_a_copy_that_kept_its_times_waits_since_it_appeared_and_it_is_said(watched):
    watched.write_checkpoint("stage1", 100, age=90_000.0)  # before this watcher: nobody can tell when it came
    watched.tick()
    looked_at = watched.clock()
    watched.write_checkpoint("stage1", 200, age=80_000.0)
    written_at = watched.clock() - 80_000.0
    watched.tick()
    before, copied = (watched.journal_state.records[f"stage1/step_{step}"] for step in (100, 200))
    assert (before.times["complete"], "written" in before.times) == (looked_at - 60.0 - 90_000.0, False)
    assert copied.times["written"] == written_at
    assert looked_at - 60.0 <= copied.times["complete"] <= looked_at
    assert copied.times["detected"] - copied.times["complete"] <= 120.0
    text = " ".join(explain_evaluation(copied, watched.clock()).split())
    assert "the checkpoint appeared; its newest file is dated" in text
    assert "as in a copy that kept its times" in text
    latency = compute_latencies([copied])["complete_to_detected"]["p50"]
    assert latency <= 120.0
    # A rename a moment after the last write, as trainers do it, is no copy.
    watched.configure(stage1={"steps": (100, 200, 300)})
    watched.write_checkpoint("stage1", 300, age=90.0)
    watched.tick()
    renamed = watched.journal_state.records["stage1/step_300"]
    assert "written" not in renamed.times

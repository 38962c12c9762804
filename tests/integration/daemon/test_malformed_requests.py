"""Requests as nobody should write them, and names that are given twice: told, and nothing hangs or is scored in silence."""

import os
import subprocess
import sys

import pytest

from support.runs.watched_run import WatchedRun
from watcher.core.request_types import Amendment


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = WatchedRun(tmp_path / "run", monkeypatch)
    made.start_daemon()
    yield made
    made.close_daemon()


def test_a_pipe_among_the_requests_is_told_and_not_waited_for(watched):
    pipe = watched.config.paths.requests / "pipe.json"
    os.mkfifo(pipe)
    watched.write_checkpoint("stage1", 100)
    watched.tick(4)
    assert watched.list_states()["stage1/step_100"] == "scored"
    assert any(str(pipe) in note for note in watched.daemon.tick_runner.warnings)


@pytest.mark.parametrize("name", ["../../../evil", "/evil", "..", "", 7])
def test_an_amendment_that_names_a_folder_outside_the_results_is_told_and_not_done(watched, name):
    event = {"event": "created", "stage": "stage1", "source": "stage1", "step": 5, "directory": name, "origin": "request"}
    amendment = Amendment(key="stage1/x", state=None, events=({**event, "checkpoint": "/c"},))
    watched.write_request("amend", stage="", request_id="a1", amendments=(amendment,))
    watched.tick(2)
    assert "stage1/x" not in watched.journal_state.records
    assert any("is no name of a folder of results; remove it" in note for note in watched.daemon.tick_runner.warnings)


def test_a_name_that_another_step_has_is_refused_and_said(watched):
    for step in (100, 300, 400):
        watched.write_checkpoint("stage1", step)
    watched.write_request("enqueue", 300, request_id="a1", name="mine")
    watched.tick(4)
    watched.write_request("enqueue", 400, request_id="a2", name="mine", force=True)
    watched.tick(4)
    record = watched.journal_state.records["stage1/mine"]
    assert (record.step, record.state, len(watched.executor.runs)) == (300, "scored", 2)
    assert "skipped: the name belongs to step 300" in watched.journal_state.closed_requests["a2"]


def test_a_checkpoint_elsewhere_never_takes_the_folder_of_the_stages_own_step(watched):
    elsewhere = watched.write_checkpoint("other run", 300)
    watched.write_checkpoint("stage1", 100)
    watched.write_request("enqueue", 300, request_id="a1", checkpoint=str(elsewhere))
    watched.tick(6)
    assert watched.journal_state.records["stage1/step_300_from_other_run"].state == "scored"
    own = watched.write_checkpoint("stage1", 300, seed=1)
    watched.write_request("enqueue", 300, request_id="a2")
    watched.tick(6)
    record = watched.journal_state.records["stage1/step_300"]
    assert (record.state, record.checkpoint) == ("scored", str(own))


def test_a_reason_that_is_no_utf8_stops_nobody(watched):
    broken = watched.write_checkpoint("stage1", 200)
    odd = broken / os.fsdecode(b"model/model/\xff\xfe")
    odd.mkdir()
    (odd / "model_weight.safetensors").write_bytes(b"surplus")
    os.utime(odd / "model_weight.safetensors", (watched.clock() - 400, watched.clock() - 400))
    watched.write_checkpoint("stage1", 100)
    watched.tick(4)
    assert watched.list_states() == {"stage1/step_100": "scored", "stage1/step_200": "blocked"}
    assert "??/model_weight.safetensors" in watched.list_reasons()["stage1/step_200"]


def test_a_defect_about_one_evaluation_stops_no_other(watched, monkeypatch):
    for step in (100, 200):
        watched.write_checkpoint("stage1", step)
    submit = watched.executor.submit

    def broken(submission):
        if "-100-" in submission.name:
            raise KeyError(submission.name)
        return submit(submission)

    monkeypatch.setattr(watched.executor, "submit", broken)
    watched.tick(6)
    assert watched.list_states()["stage1/step_200"] == "scored"
    assert any(what == "defect" and facts["evaluation"] == "stage1/step_100" for what, facts in watched.log_events)


def test_a_checkpoint_whose_path_is_no_utf8_is_one_line(tmp_path):
    folder = tmp_path / os.fsdecode(b"odd\xff") / "99"
    folder.mkdir(parents=True)
    config = tmp_path / "watcher.yaml"
    config.write_text("results: results\nstages:\n  stage1: {checkpoints: ckpts, steps: [1], suites: [stage1_ppl_slices]}\n")
    command = [
        sys.executable,
        "-c",
        "from watcher.cli.app import main; main(prog_name='watcher')",
        "enqueue",
        "stage1",
        "--checkpoint",
    ]
    done = subprocess.run([*command, folder, "--config", config], capture_output=True, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"not UTF-8" in done.stderr

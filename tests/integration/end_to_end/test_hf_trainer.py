"""The watcher beside transformers' real Trainer: it looks after every file-system event, while the save stands still."""

import json
import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

from suites.checkpoint.completeness import Completeness, inspect_checkpoint
from suites.checkpoint.contents import CheckpointKind
from suites.checkpoint.layout import CheckpointLayout, list_steps
from suites.contract.scoring_request import read_scoring_request
from support.datasets.pypi import fetch_pypi_package
from support.models import hf_trainer
from support.models.small_llama import write_bpe_tokenizer
from support.runs.scoring_jobs import REPOSITORY_ROOT
from support.runs.watched_run import make_watched_fixture

pytestmark = [pytest.mark.scoring, pytest.mark.slow]

LAYOUT = CheckpointLayout("checkpoint-{step}", CheckpointKind.HF)

watched = make_watched_fixture()


class EveryEvent(FileSystemEventHandler):
    """Puts every change of a file or folder into a queue."""

    def __init__(self):
        self.events = queue.Queue()

    def on_any_event(self, event):
        if event.event_type not in {"opened", "closed_no_write"}:
            self.events.put(event)


def start_program(program, arguments, output_file):
    """A program with what the Trainer needs."""
    packages = [fetch_pypi_package(*package) for package in (("accelerate", "1.15.0"), ("psutil", "7.1.3"), ("trl", "0.24.0"))]
    path = os.pathsep.join(map(str, [REPOSITORY_ROOT, REPOSITORY_ROOT / "tests", *packages]))
    with output_file.open("wb") as output:
        command = [sys.executable, program, *map(str, arguments)]
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=output, stderr=output)


def look(watched):
    """One tick at the real time: the files have real mtimes."""
    watched.clock.at = time.time() + 0.01
    watched.tick(seconds=0)


def watch_while_it_trains(watched, trainer, events):
    """Ticks after every event, with the Trainer stopped meanwhile; returns the number of ticks."""
    ticks = 0
    while trainer.poll() is None:
        try:
            events.get(timeout=0.2)
        except queue.Empty:
            look(watched)
            continue
        trainer.send_signal(signal.SIGSTOP)
        try:
            while not events.empty():
                events.get_nowait()
            look(watched)
            ticks += 1
        finally:
            trainer.send_signal(signal.SIGCONT)
    return ticks


@pytest.mark.parametrize(("limit", "max_shard_size"), [(0, "20KB"), (0, "1GB"), (2, "20KB"), (2, "1GB"), (2, "40KB")])
def test_each_save_is_scored_once_it_is_whole_and_never_before(watched, tmp_path, limit, max_shard_size):
    folder, log = watched.ckpts / "stage1", tmp_path / "saves.jsonl"
    folder.mkdir()
    watched.config = msgspec.structs.replace(watched.config, settle=0.0)
    watched.configure(stage1={"steps": hf_trainer.STEPS, "layout": LAYOUT, "tokenizer": "byte-level"})
    look(watched)
    handler, observer = EveryEvent(), Observer()
    observer.schedule(handler, str(folder), recursive=True)
    observer.start()
    trainer = start_program(hf_trainer.__file__, [folder, limit, max_shard_size, log], tmp_path / "trainer.log")
    try:
        ticks = watch_while_it_trains(watched, trainer, handler.events)
    finally:
        trainer.kill()
        observer.stop()
        observer.join()
    assert trainer.wait() == 0, (tmp_path / "trainer.log").read_text()
    for _ in range(30):
        look(watched)
    saved = dict(map(json.loads, log.read_text().splitlines()))
    assert set(saved) == set(hf_trainer.STEPS)
    assert ticks >= 2 * len(saved), "it looked while something was saved"
    # Every request is for a whole save: the one that the Trainer had finished.
    requests = [read_scoring_request(watched.config.paths.attempt(run_id).request) for run_id in watched.run_ids()]
    for request in requests:
        assert request.fingerprint == saved[request.step]
        assert Path(request.checkpoint).name == f"checkpoint-{request.step}"
    states, reasons = watched.list_states(), watched.list_reasons()
    for step in hf_trainer.STEPS:
        key = f"stage1/step_{step}"
        attempts = [request for request in requests if request.step == step]
        is_rotated = not (folder / f"checkpoint-{step}").exists()
        assert is_rotated == (limit == 2 and step <= hf_trainer.STEPS[-3])
        if not is_rotated or states[key] == "scored":
            assert (states[key], len(attempts)) == ("scored", 1), (key, reasons.get(key))
            continue
        assert states[key] in {"waiting", "blocked"}
        assert "deleted before it was scored" in reasons[key], reasons[key]


def test_a_run_of_trl_says_its_tokens_and_has_its_tokenizer(tmp_path):
    write_bpe_tokenizer(tmp_path / "tokenizer")
    program = str(Path(hf_trainer.__file__).with_name("trl_trainer.py"))
    trainer = start_program(program, [tmp_path / "ckpts", tmp_path / "tokenizer"], tmp_path / "trainer.log")
    assert trainer.wait() == 0, (tmp_path / "trainer.log").read_text()
    folders = list_steps(tmp_path / "ckpts", LAYOUT).steps
    assert list(folders) == [2, 4]
    found = [inspect_checkpoint(folder, now=time.time(), settle_seconds=0, step=step) for step, folder in folders.items()]
    assert [inspection.kind for inspection in found] == [Completeness.COMPLETE] * 2, found
    assert [inspection.tokenizer for inspection in found] == [str(folder) for folder in folders.values()]
    assert {(inspection.train_steps, inspection.seq_len) for inspection in found} == {(4, 128)}
    logged = json.loads((folders[4] / "trainer_state.json").read_text())["log_history"]
    assert [inspection.tokens_seen for inspection in found] == [int(entry["num_tokens"]) for entry in logged[:2]]
    assert 0 < found[0].tokens_seen < found[1].tokens_seen

"""A file server that does not answer: its folder is named, everything else goes on, and it is read once it answers."""

import json
import os
import threading

import pytest

from support.models.nanotron_checkpoint import set_times
from support.runs.watched_run import make_watched_fixture
from watcher.core import bounded_reads
from watcher.observe import stage_plans

watched = make_watched_fixture(steps=(100,), checkpoints=(100,))


class HangingFolder:
    """Every call about a path below ``folder`` waits until ``answers`` is set, as on a dead mount."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.answers = str(folder), threading.Event()
        for name in ("open", "stat", "scandir", "listdir", "lstat"):
            monkeypatch.setattr(os, name, self.hold(getattr(os, name)))

    def hold(self, real):
        def call(path=".", *arguments, **options):
            if not isinstance(path, int) and f"{os.fspath(path)}/".startswith(f"{self.folder}/"):
                self.answers.wait(120)
            return real(path, *arguments, **options)

        return call


@pytest.fixture
def hang(monkeypatch):
    monkeypatch.setattr(bounded_reads, "TICK_SECONDS", (0.2, 0.2))
    monkeypatch.setattr(bounded_reads, "MIN_READ_SECONDS", 0.2)
    made = []

    def make(folder):
        made.append(HangingFolder(folder, monkeypatch))
        return made[-1]

    yield make
    for hanging in made:
        hanging.answers.set()


def read_stage(watched, name):
    return json.loads(watched.config.paths.status_json.read_text())["stages"][name]


def tick_until(watched, is_reached):
    for _ in range(50):
        watched.tick()
        if is_reached():
            return
    raise AssertionError(watched.list_reasons())


def test_a_stage_whose_folder_hangs_stops_no_other_and_is_named_since_when(watched, hang):
    watched.configure(stage2={"steps": (100, 200)})
    for step in (100, 200):
        watched.write_checkpoint("stage2", step)
    hanging = hang(watched.ckpts / "stage2")
    tick_until(watched, lambda: watched.list_states()["stage1/step_100"] == "scored")
    said = f"{watched.ckpts / 'stage2'}: cannot list: no answer since "
    first = read_stage(watched, "stage2")["error"]
    assert first.startswith(said)
    assert first.endswith("a file server that hangs?")
    watched.tick(5)
    assert read_stage(watched, "stage2")["error"] == first, "it says since when"
    assert watched.list_reasons()["stage2/step_100"] == first
    assert first in " ".join(watched.config.paths.status_text.read_text().split())
    hanging.answers.set()
    tick_until(watched, watched.are_all_scored)
    assert read_stage(watched, "stage2")["error"] == ""
    assert len(watched.run_ids()) == 3


@pytest.mark.parametrize("is_known", [False, True])
def test_suites_whose_data_hang_are_named_and_what_was_read_before_counts(watched, hang, monkeypatch, is_known):
    monkeypatch.setattr(stage_plans, "DATA_READ_SECONDS", 0.2)
    data, own = watched.root / "data", watched.root / "own.yaml"
    data.mkdir()
    (data / "text.jsonl").write_text('{"text": "a"}\n')
    set_times(data, watched.clock() - 9000)
    own.write_text(f"tier: tier2_ppl\nslices: {{ours: {{data_files: ['{data}/text.jsonl'], target_tokens: 9}}}}\n")
    watched.configure(stage2={"steps": (100,), "suites": (str(own),)})
    if is_known:
        watched.tick(2)
    hanging = hang(data)
    watched.write_checkpoint("stage2", 100)
    tick_until(watched, lambda: watched.list_states()["stage1/step_100"] == "scored")
    status = json.loads(watched.config.paths.status_json.read_text())
    assert any("stages.stage2: suites and local data: no answer since " in warning for warning in status["warnings"])
    if is_known:
        tick_until(watched, watched.are_all_scored)
    else:
        assert "no answer since" in watched.list_reasons()["stage2/step_100"]
    hanging.answers.set()
    tick_until(watched, watched.are_all_scored)
    watched.tick()
    assert json.loads(watched.config.paths.status_json.read_text())["warnings"] == []


@pytest.mark.parametrize("is_scored", [False, True])
def test_a_stage_that_hangs_later_keeps_its_states_and_pending_jobs_end(watched, hang, is_scored):
    watched.write_checkpoint("stage1", 200)
    watched.configure(stage1={"steps": (100, 200)})
    watched.tick(2 if not is_scored else 6)
    before = watched.list_states()
    assert set(before.values()) == ({"scored"} if is_scored else {"queued", "running"} & set(before.values()))
    hanging = hang(watched.ckpts / "stage1")
    watched.tick(70)
    assert watched.are_all_scored(), watched.list_reasons()
    hanging.answers.set()
    watched.tick(3)
    assert watched.are_all_scored()
    assert len(watched.run_ids()) == 2


def test_a_step_that_leads_to_a_dead_mount_harms_no_other_step(watched, hang):
    watched.configure(stage1={"steps": (100, 200, 300)})
    for step in (200, 300):
        watched.write_checkpoint("stage1", step)
    hanging = hang(watched.ckpts / "stage1" / "200")
    tick_until(watched, lambda: list(watched.list_states().values()).count("scored") == 2)
    assert watched.list_states()["stage1/step_200"] == "waiting"
    folder = watched.ckpts / "stage1" / "200"
    assert watched.list_reasons()["stage1/step_200"].startswith(f"waiting for checkpoint: {folder}: no answer since ")
    hanging.answers.set()
    tick_until(watched, watched.are_all_scored)

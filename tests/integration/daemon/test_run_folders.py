"""An ablation sweep: run folders appear one after the other while the daemon runs, and each becomes a stage."""

import json
import os
import shutil

import msgspec
import pytest

from suites.checkpoint.layout import CheckpointLayout
from support.models.nanotron_checkpoint import set_times, write_tiny_checkpoint
from support.runs.watched_run import WatchedRun
from watcher.config.run_folders import add_run_stages, read_run_names

RUNS = ("lr1e-4", "lr3e-4", "lr1e-3", "warmup 500", "wd0.1", "no-rope")
STAGES = ("lr1e-4", "lr3e-4", "lr1e-3", "warmup_500", "wd0.1", "no-rope")


class Sweep(WatchedRun):
    """A watched run whose config has one glob of runs, beside stage1."""

    def __init__(self, root, monkeypatch):
        super().__init__(root, monkeypatch, steps=(100,))
        template = msgspec.structs.replace(
            self.make_stage("sweep", every=100, layout=CheckpointLayout("step_{step}")),
            checkpoints=self.root / "ablations" / "*" / "ckpts",
            bridge=self.make_bridge("stage1"),
        )
        self.config = msgspec.structs.replace(self.config, runs={"sweep": template})

    def get_run_folder(self, run):
        return self.root / "ablations" / run / "ckpts"

    def write_run_step(self, run, step):
        folder = write_tiny_checkpoint(self.get_run_folder(run) / f"step_{step}", step)
        set_times(folder, self.clock() - 300)
        return folder

    def close_daemon(self):
        super().close_daemon()
        # What a command or the next daemon loads.
        self.config = add_run_stages(self.config, read_run_names(self.config.paths.runs_json))

    def read_status(self):
        return json.loads(self.config.paths.status_json.read_text())


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    made = Sweep(tmp_path, monkeypatch)
    yield made
    made.close_daemon()


def test_six_runs_that_come_one_after_the_other_are_six_stages(sweep):
    sweep.write_checkpoint("stage1", 100)
    sweep.tick(2)
    assert sweep.list_reasons()[str(sweep.root / "ablations/*/ckpts")] == "no run folder matches yet"
    for number, run in enumerate(RUNS, start=1):
        sweep.get_run_folder(run).mkdir(parents=True)
        sweep.tick(1)
        assert set(sweep.read_status()["stages"]) == {"stage1", *STAGES[:number]}, "a stage from its first poll on"
        sweep.write_run_step(run, 100)
        sweep.write_run_step(run, 150)
        sweep.tick(1)
    sweep.tick_until(sweep.are_all_scored)
    scored = {"stage1/step_100", *(f"{stage}/step_100" for stage in STAGES), *(f"{s}/step_100_from_stage1" for s in STAGES)}
    assert set(sweep.list_states()) == scored
    for stage in STAGES:
        assert (sweep.config.results / stage / "by_checkpoint" / "step_100" / "tier2_ppl.json").is_file()
    assert len(sweep.executor.runs) == len(set(sweep.executor.runs)) == len(scored)
    assert not sweep.read_status()["warnings"]


def test_a_run_whose_folder_goes_keeps_its_stage_over_a_restart(sweep):
    sweep.write_checkpoint("stage1", 100)
    sweep.write_run_step("gone", 100)
    sweep.tick_until(lambda: len(sweep.list_states()) == 3 and sweep.are_all_scored())
    shutil.rmtree(sweep.root / "ablations" / "gone")
    sweep.tick(2)
    sweep.close_daemon()
    sweep.write_run_step("new", 100)
    sweep.tick_until(lambda: len(sweep.list_states()) == 5 and sweep.are_all_scored())
    assert set(sweep.read_status()["stages"]) == {"stage1", "gone", "new"}
    assert sweep.list_reasons()[str(sweep.get_run_folder("gone"))] == "does not exist yet"


def test_a_collision_is_in_the_status_and_everything_else_goes_on(sweep):
    sweep.write_checkpoint("stage1", 100)
    for run in ("a b", "a_b", "stage1"):
        sweep.write_run_step(run, 100)
    sweep.tick_until(lambda: len(sweep.list_states()) == 3 and sweep.are_all_scored())
    assert set(sweep.list_states()) == {"stage1/step_100", "a_b/step_100", "a_b/step_100_from_stage1"}
    warnings = sweep.read_status()["warnings"]
    for run in ("a b", "stage1"):
        assert any(warning.startswith(f"{sweep.get_run_folder(run)}: is not scored: its stage") for warning in warnings)


def test_a_folder_of_runs_that_cannot_be_listed_is_said_and_known_runs_go_on(sweep):
    sweep.write_checkpoint("stage1", 100)
    sweep.write_run_step("a", 100)
    sweep.tick(1)
    real = (sweep.root / "ablations").rename(sweep.root / "moved")
    (sweep.root / "ablations").symlink_to(sweep.root / "ablations")
    sweep.tick(1)
    assert sweep.list_reasons()[str(sweep.root / "ablations")].startswith("runs in it are unknown: cannot list (")
    (sweep.root / "ablations").unlink()
    real.rename(sweep.root / "ablations")
    sweep.tick_until(sweep.are_all_scored)
    assert str(sweep.root / "ablations") not in sweep.list_reasons()


def test_a_run_folder_whose_name_is_not_utf8_is_said_and_the_others_go_on(sweep):
    sweep.write_run_step("good", 100)
    (sweep.root / "ablations" / os.fsdecode(b"\xff") / "ckpts").mkdir(parents=True)
    sweep.tick(6)
    assert sweep.list_states()["good/step_100"] == "scored"
    assert any("its name is not UTF-8; rename the folder" in reason for reason in sweep.list_reasons().values())

"""Ten checkpoints in each of four layouts, and six run folders that come one after the other, for a daemon on any executor."""

import json
import time
from pathlib import Path

from suites.checkpoint.layout import CheckpointLayout
from support.models.nanotron_checkpoint import set_times, write_tiny_checkpoint
from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.runs.two_stages import TwoStagesRun

LAYOUTS = {"plain": "{step}", "stepped": "step_{step}", "iterations": "iter_{step:07d}", "trainer": "checkpoint-{step}"}
STEPS = tuple(range(100, 1100, 100))
RUNS = {"lr1e-4": "lr1e-4", "lr 3e-4": "lr_3e-4", "wd0.1": "wd0.1", "no-rope": "no-rope", "seed=2": "seed_2", "long": "long"}
"""Folder of a run -> its stage."""

EXPECTED = {f"{stage}/step_{step}" for stage in LAYOUTS for step in STEPS} | {f"{stage}/step_100" for stage in RUNS.values()}


def describe_stages(root: Path) -> dict:
    """``stages`` of the config."""
    common = {
        "every": 100,
        "suites": [str(root / "slices.yaml"), str(root / "tasks.yaml")],
        "tokenizer": str(BYTE_TOKENIZER),
        "seq_len": 64,
    }
    stages = {
        stage: {"checkpoints": str(root / "ckpts" / stage), "layout": {"name": name}, **common} for stage, name in LAYOUTS.items()
    }
    return stages | {"sweep": {"runs": str(root / "ablations" / "*" / "ckpts"), "layout": {"name": "step_{step}"}, **common}}


def write_step(folder: Path, step: int) -> None:
    """A checkpoint that was finished a while ago appears."""
    set_times(write_tiny_checkpoint(folder, step), time.time() - 300)


def write_everything(run: TwoStagesRun) -> None:
    """The checkpoints of all layouts, then one run folder after the other, each when the one before is a stage."""
    for stage, name in LAYOUTS.items():
        for step in STEPS:
            write_step(run.root / "ckpts" / stage / CheckpointLayout(name).format_name(step), step)
    for folder, stage in RUNS.items():
        write_step(run.root / "ablations" / folder / "ckpts" / "step_100", 100)
        run.wait_for_states(lambda states, stage=stage: f"{stage}/step_100" in states, seconds=120)


def check_everything(run: TwoStagesRun) -> None:
    """Each evaluation is scored, by one run, into the folder named after its step; the status has nothing to say."""
    run.wait_for_states(lambda states: set(states) >= EXPECTED and set(states.values()) == {"scored"}, seconds=400)
    assert set(run.read_states()) == EXPECTED
    assert run.count_runs() == dict.fromkeys(EXPECTED, 1)
    for evaluation in EXPECTED:
        assert run.read_tier_file(evaluation, "tier2_ppl.json")["step"] == int(evaluation.rpartition("_")[2])
    status = json.loads((run.state / "status.json").read_text())
    assert (status["counts"], status["warnings"]) == ({"scored": len(EXPECTED)}, [])
    assert set(status["stages"]) == {*LAYOUTS, *RUNS.values()}

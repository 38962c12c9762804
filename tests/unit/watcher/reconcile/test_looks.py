"""When the levels of a stage's comparisons are fixed, and that nothing changes them afterwards."""

import json
import math
from pathlib import Path

import msgspec
import pytest

from suites.contract.looks import STAGE_LEVEL
from watcher.config.settings import Bridge, Config, Stage
from watcher.core import events, stage_events
from watcher.core.event_parsing import EVENT_TYPES
from watcher.core.snapshot import StageFolder
from watcher.journal.replay import JournalState, replay
from watcher.reconcile.baselines import build_comparison_requests
from watcher.reconcile.looks import make_look_events, plan_looks


def make_stage(**settings):
    return Stage(name="s", checkpoints=Path("/c/s"), results=Path("/r"), **settings)


@pytest.mark.parametrize(
    ("settings", "final_step", "planned", "included", "excluded", "reason"),
    [
        ({"steps": (10, 20, 30)}, None, 3, (10, 30), (0, 15, 40), "3 looks: the schedule's steps"),
        ({"every": 10}, 250, 25, (10, 250), (5, 260), "25 looks: every 10 from 10 up to 250, and 0 listed"),
        (
            {"every": 10, "start": 100},
            195,
            10,
            (100, 190),
            (90, 195),
            "10 looks: every 10 from 100 up to 195, and 0 listed",
        ),
        ({"every": 10, "to": 50}, 250, 5, (50,), (60,), "5 looks: every 10 from 10 up to 50, and 0 listed"),
        ({"every": 10, "to": 50}, None, 5, (50,), (60,), "5 looks: every 10 from 10 up to 50, and 0 listed"),
        ({"every": 10, "final": True}, 44, 5, (40, 44), (50,), "5 looks: every 10 from 10 up to 44, and 1 listed"),
        ({"every": 10, "steps": (5, 20)}, 40, 5, (5, 20), (6,), "5 looks: every 10 from 10 up to 40, and 2 listed"),
        ({"every": 10}, None, 100, (10, 1000), (1010,), "100 looks: every 10 from 10; its end is unknown, so 100 are assumed"),
        ({"final": True}, None, 0, (), (10,), "0 looks: the schedule's steps"),
        ({"every": 10}, 5, 0, (), (10,), "0 looks: every 10 from 10 up to 5, and 0 listed"),
        ({}, 100, 0, (), (100,), "0 looks: the schedule's steps"),
    ],
)
def test_the_number_of_looks_is_the_schedules(settings, final_step, planned, included, excluded, reason):  # noqa: PLR0917
    plan, said = plan_looks(make_stage(**settings), final_step)
    assert plan.planned_count == planned
    assert all(plan.includes(step) for step in included)
    assert not any(plan.includes(step) for step in excluded)
    assert said == reason


class Run:
    """A stage with a bridge, whose events go through the journal's own reading."""

    def __init__(self, **settings):
        self.state, self.t = JournalState(), 0.0
        self.configure(**settings)

    def configure(self, **settings):
        self.stage = make_stage(bridge=Bridge(source="b"), **settings)
        where = {"source": "test", "scratch": Path("/s"), "results": Path("/r"), "eval_data": Path("/d"), "state": Path("/w")}
        self.config = Config(**where, stages={"s": self.stage})

    def journal(self, event):
        self.t += 1
        name = event.name
        document = json.loads(msgspec.json.encode(event)) | {"schema": 1, "epoch": 1, "seq": int(self.t), "t": self.t}
        assert EVENT_TYPES[name]
        replay(self.state, document)
        assert self.state.warnings == []

    def score(self, step, *, source="s", **more):
        key = f"s/{more.get('directory', f'step_{step}')}"
        fields = {"stage": "s", "source": source, "step": step, "directory": f"step_{step}", "checkpoint": f"/c/{step}"} | more
        self.journal(events.Created(evaluation=key, origin="bridge" if source == "b" else "schedule", **fields))
        self.journal(events.Scored(evaluation=key, fingerprint="f", suites={}))

    def fix(self, final_step=None):
        fixed = make_look_events({"s": StageFolder(steps={}, final_step=final_step)}, self.state, self.config)
        for event in fixed:
            self.journal(event)
        return [event.name for event in fixed]

    def levels(self):
        return {key: record.level for key, record in self.state.records.items() if record.level is not None}


def test_nothing_is_fixed_before_there_is_anything_to_compare_and_nothing_twice():
    run = Run(steps=(10, 20))
    assert run.fix() == []
    run.score(10)
    assert run.fix() == []
    assert build_comparison_requests(run.config, run.state) == {}
    run.score(20)
    assert [request.level for request in build_comparison_requests(run.config, run.state).values()] == [None]
    assert run.fix() == ["looks_planned", "level_fixed"]
    assert run.fix() == []
    assert run.levels() == {"s/step_20": 0.02}
    run.score(99, source="b", directory="step_99_from_b")  # the bridge: now the first step has something to be compared with
    assert run.fix() == ["level_fixed"]
    assert run.levels() == {"s/step_20": 0.02, "s/step_10": 0.02}
    assert {key: request.level for key, request in build_comparison_requests(run.config, run.state).items()} == run.levels()


def test_a_schedule_that_grows_changes_no_level_and_its_new_steps_share_the_reserve():
    run = Run(every=10)
    for step in (10, 20, 30):
        run.score(step)
    run.fix(final_step=40)
    before = run.levels()
    assert set(before.values()) == {0.01}
    run.configure(every=5, steps=(11,))
    for step in (15, 40, 11, 60):
        run.score(step)
    run.score(40, directory="again", custom_directory=True)
    run.score(99, source="b", directory="step_99_from_b")
    run.fix(final_step=400)
    after = run.levels()
    assert {key: after[key] for key in before} == before
    assert after["s/step_40"] == 0.01  # it was planned
    added = [after[f"s/{name}"] for name in ("step_11", "step_15", "again", "step_60")]
    assert added == pytest.approx([0.01 / 2, 0.01 / 6, 0.01 / 12, 0.01 / 20])
    assert math.fsum(after.values()) <= STAGE_LEVEL
    assert [event.name for event in make_look_events({"s": StageFolder(steps={})}, run.state, run.config)] == []


def test_a_second_event_for_one_evaluation_or_stage_changes_nothing():
    run = Run(steps=(10, 20))
    run.score(10)
    run.score(20)
    run.fix()
    plan = run.state.look_plans["s"]
    run.journal(stage_events.LevelFixed(evaluation="s/step_20", level=0.001, order=7))
    run.journal(stage_events.LooksPlanned(stage="s", plan=msgspec.structs.replace(plan, planned_count=9)))
    assert run.levels() == {"s/step_20": 0.02}
    assert run.state.look_plans["s"] == plan


def test_without_a_schedule_all_looks_share_the_series():
    run = Run()
    for step in (10, 20, 30):
        run.score(step)
    assert run.fix() == ["looks_planned", "level_fixed", "level_fixed"]
    assert run.levels() == pytest.approx({"s/step_20": 0.05 / 2, "s/step_30": 0.05 / 6})


def test_where_nothing_is_compared_nothing_is_fixed():
    run = Run(steps=(10, 20))
    run.score(10)
    run.score(20)
    run.config = msgspec.structs.replace(run.config, report=msgspec.structs.replace(run.config.report, compare=False))
    assert run.fix() == []


@pytest.mark.parametrize("level", [0, -0.1, 0.06, "0.01", None])
def test_a_level_that_is_none_is_left_out_of_the_journal(level):
    run = Run(steps=(10, 20))
    run.score(10)
    event = {"event": "level_fixed", "evaluation": "s/step_10", "level": level, "schema": 1, "epoch": 1, "seq": 9, "t": 9.0}
    replay(run.state, event)
    assert run.levels() == {}
    assert len(run.state.warnings) == 1

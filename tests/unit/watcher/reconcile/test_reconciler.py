"""Decisions as tables: which evaluations there are, what they are called, and what a failure is worth."""

import ast
from pathlib import Path

import pytest

import watcher
from suites.contract.exit_record import ExitRecord
from suites.contract.scoring_request import TierRequirement
from suites.contract.tier_files import TierVerdict
from watcher.attempts import retry_policy as policy
from watcher.config.settings import Bridge, Config, LimitSettings, RetrySettings, Stage
from watcher.core.actions import Skip
from watcher.core.evaluation import Attempt, EvaluationRecord, EvaluationState
from watcher.core.executor import Job, JobState
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import AttemptFiles, EvaluationResults, QueueSnapshot, Snapshot, StageFolder, StageRequirements
from watcher.journal.replay import JournalState
from watcher.reconcile.reconciler import reconcile
from watcher.reconcile.schedule import ScheduledEvaluation, choose_directory, resolve_bridge_step, scheduled_evaluations

CKPTS = Path("/s/ckpts")
ENDING = ReasonKind.CONFIRMING_END


def stage(name, **settings):
    if isinstance(settings.get("bridge"), str):
        settings["bridge"] = Bridge(source=settings["bridge"])
    return Stage(name=name, checkpoints=CKPTS / name, results=Path("/s/results"), **settings)


def config(*stages, **settings):
    named = {each.name: each for each in stages}
    return Config(
        source="test",
        scratch=Path("/s"),
        results=Path("/s/r"),
        eval_data=Path("/s/d"),
        state=Path("/s/w"),
        stages=named,
        **settings,
    )


def seen(name, *steps, **more):
    return StageFolder(steps={step: f"{CKPTS}/{name}/{step}" for step in steps}, **more)


def names(conf, listings):
    found, unknown = scheduled_evaluations(conf, listings)
    return {(want.stage, want.source, want.step) for want in found}, unknown


@pytest.mark.parametrize(
    ("settings", "here", "expected"),
    [
        ({"steps": (10, 20)}, seen("s"), {10, 20}),
        ({"steps": (10,)}, seen("s", 10, 15), {10}),
        ({"every": 10}, seen("s", 5, 10, 15, 20), {10, 20}),
        ({"every": 10, "start": 5, "to": 25}, seen("s", 5, 10, 15, 25, 35), {5, 15, 25}),
        ({"every": 10, "steps": (7,)}, seen("s", 10), {7, 10}),
        ({"final": True}, seen("s", 10, 33, final_step=33), {33}),
        ({"final": True}, seen("s", 10, 20, final_step=33), set()),
        ({"every": 10, "final": True}, StageFolder(steps=None, error="EIO"), set()),
        ({"steps": (0,)}, seen("s", 0), {0}),
    ],
)
def test_schedules(settings, here, expected):
    found, _ = names(config(stage("s", **settings)), {"s": here})
    assert found == {("s", "s", step) for step in expected}


BRIDGES = [
    # source's schedule, bridge's own settings, what was seen of the source, of the stage, expected step
    ({"steps": (10, 50)}, {}, seen("a"), seen("b"), 50),
    ({"steps": (10, 50)}, {"step": 40}, seen("a"), seen("b"), 40),
    ({"steps": (10, 50)}, {"checkpoint": "/elsewhere/48"}, seen("a"), seen("b"), 48),
    ({"every": 10, "to": 45}, {}, seen("a"), seen("b"), 40),
    ({"every": 10}, {}, seen("a", 10, final_step=77), seen("b"), 77),
    ({"every": 10}, {}, seen("a", 10), seen("b"), None),
    ({"final": True}, {}, seen("a", final_step=77), seen("b", 1, started_from=f"{CKPTS}/a/70"), 70),
    ({"final": True}, {}, seen("a", final_step=77), seen("b", 1, started_from="/other/model"), 77),
    ({"final": True}, {}, seen("a", final_step=77), seen("b", 1, started_from=f"/elsewhere/{CKPTS.name}/a/step_0070"), 70),
    # final: where training ended, whatever was scheduled; what the next stage started from is a fact, train_steps is a plan
    ({"steps": (10, 50)}, {"step": "final"}, seen("a"), seen("b"), None),
    ({"steps": (10, 50)}, {"step": "final"}, seen("a", 10, final_step=77), seen("b"), 77),
    ({"steps": (10, 50)}, {"step": "final"}, seen("a", 10, final_step=77), seen("b", 1, started_from=f"{CKPTS}/a/66"), 66),
    ({"steps": (10, 50)}, {"step": "final", "checkpoint": "/elsewhere/step_48"}, seen("a", final_step=77), seen("b"), 48),
    ({"steps": (10, 50)}, {"step": "final", "checkpoint": "/elsewhere/merged"}, seen("a", final_step=77), seen("b"), 77),
    ({"steps": (10, 50)}, {"step": 40, "checkpoint": "/elsewhere/48"}, seen("a", final_step=77), seen("b"), 40),
]


@pytest.mark.parametrize(("source", "bridge", "of_source", "of_stage", "expected"), BRIDGES)
def test_bridges_score_the_sources_last_step(source, bridge, of_source, of_stage, expected):
    later = stage("b", steps=(1,), bridge=Bridge(source="a", **bridge))
    conf = config(stage("a", **source), later)
    step, why = resolve_bridge_step(later, conf, {"a": of_source, "b": of_stage})
    assert step == expected
    assert bool(why) == (expected is None)


def test_a_disabled_bridge_is_not_wanted():
    conf = config(stage("a", steps=(5,)), stage("b", bridge=Bridge(source="a", enabled=False)))
    assert names(conf, {})[0] == {("a", "a", 5)}


def test_a_bridge_into_a_stage_that_is_not_in_the_config_says_what_is_missing():
    found, unknown = names(config(stage("b", bridge="a")), {})
    assert not found
    assert unknown == {"b": "stages.a is not in the config; set bridge.step"}


@pytest.mark.parametrize(
    ("schedule", "source", "taken", "name", "expected"),
    [
        ({"steps": (5,)}, "b", set(), None, "step_5"),
        ({"steps": (6,)}, "a", set(), None, "step_5"),
        ({"steps": (5,)}, "a", set(), None, "step_5_from_a"),
        ({"every": 5}, "a", set(), None, "step_5_from_a"),
        ({"steps": (6,)}, "a", {"b/step_5"}, None, "step_5_from_a"),
        ({"steps": (5,)}, "b", {"b/step_5"}, None, "step_5_from_b"),
        ({"steps": (5,)}, "a", {"b/step_5_from_a"}, None, "step_5_from_a_2"),
        ({"steps": (6,)}, "a", {"b/step_5"}, "soup", "soup"),
        ({"steps": (6,)}, "x/y z", {"b/step_5"}, None, "step_5_from_x_y_z"),
    ],
)
def test_directories(schedule, source, taken, name, expected):
    want = ScheduledEvaluation(stage="b", source=source, step=5, origin="schedule", checkpoint="/c")
    assert choose_directory(want, stage("b", **schedule), taken, name) == expected


ATTEMPT = Attempt(
    run_id="eval-s-5-0",
    number=1,
    fingerprint="f",
    suites={"tier2_ppl": "d"},
    intended=100.0,
    job_id="7",
    submit_time=100.0,
    released=True,
)


def record(state=EvaluationState.QUEUED, **more):
    base = {"stage": "s", "source": "s", "step": 5, "directory": "step_5", "origin": "schedule", "checkpoint": f"{CKPTS}/s/5"}
    return EvaluationRecord(**base, state=state, since=more.pop("since", 100.0), attempt=more.pop("attempt", ATTEMPT), **more)


def exit_record(code, **more):
    return ExitRecord(run_id="eval-s-5-0", owner="slurm:7", host="n1", restart=0, start=1.0, end=2.0, code=code, **more)


@pytest.mark.parametrize(
    ("code", "failures", "event", "retry"),
    [
        (65, {}, "blocked", None),
        (66, {}, "waiting", 900.0),
        (69, {}, "blocked", None),
        (73, {}, "blocked", None),
        (75, {}, "waiting", 60.0),
        (75, {"temporary": 4}, "waiting", 960.0),
        (75, {"temporary": 99}, "waiting", 3600.0),
        (76, {}, "pending", None),
        (70, {}, "failed", 60.0),
        (70, {"exit": 1}, "failed", 120.0),
        (70, {"exit": 2}, "blocked", None),
        (70, {"timeout": 2}, "failed", 60.0),
        (2, {}, "failed", 60.0),
        (137, {}, "failed", 60.0),
        (0, {}, "failed", 60.0),
    ],
)
def test_exit_codes(code, failures, event, retry):
    note = policy.decide_after_exit(record(failures=failures), exit_record(code), "", policy.RetryRules(RetrySettings()), 1000.0)
    assert note.name == event
    assert note.retry_at == (None if retry is None else 1000.0 + retry)
    assert note.reason


@pytest.mark.parametrize(
    ("state", "event", "free"),
    [
        (JobState.CANCELLED, "cancelled", True),
        (JobState.COMPLETED, "failed", False),
        (JobState.FAILED, "failed", False),
        (JobState.TIMEOUT, "failed", False),
        (JobState.OUT_OF_MEMORY, "failed", False),
        (JobState.NODE_FAIL, "waiting", True),
        (JobState.PREEMPTED, "waiting", True),
    ],
)
def test_states_without_an_exit_record(state, event, free):
    job = Job(job_id="7", name="eval-s-5-0", state=state, raw_state=state.name)
    for failures in ({}, {state.value: 50, "exit": 50, "no_results": 50}):
        note = policy.decide_after_job_state(
            record(failures=failures), job, AttemptFiles(), "", policy.RetryRules(RetrySettings()), now=1000.0
        )
        assert note.name == (event if free or not failures else "blocked")


def world(*, now=1000.0, jobs=None, queue_at=None, results=None, **more):
    queue = QueueSnapshot(
        at=now if queue_at is None else queue_at, jobs={job.name: job for job in jobs or ()}, accounting_checked=True
    )
    plans = {"s": StageRequirements(tiers={"tier2_ppl": TierRequirement("d", ("web",))}, tokenizer="t", seq_len=64)}
    base = {"stages": {"s": seen("s", 5)}, "requirements": plans, "queue": queue, "results": results or {}}
    return Snapshot(now=now, server_now=now, **{**base, **more})


def decided(record_, world_, **settings):
    ledger = JournalState(records={record_.key: record_})
    return reconcile(world_, ledger, config(stage("s", steps=(5,)), **settings), "watcher:x")


def job(state, **more):
    return Job(job_id="7", name="eval-s-5-0", state=state, raw_state=state.name, **{"comment": "watcher:x", **more})


VALID = {"s/step_5": EvaluationResults(verdicts={"tier2_ppl": TierVerdict("valid")})}
MISSING = {"s/step_5": EvaluationResults(verdicts={"tier2_ppl": TierVerdict("missing", "no such file")})}


@pytest.mark.parametrize(
    ("record_", "jobs", "results", "expected"),
    [
        (record(), [job(JobState.PENDING, reason="Priority")], MISSING, "pending: job 7: Priority"),
        (record(), [job(JobState.RUNNING)], MISSING, "started"),
        (record(EvaluationState.RUNNING), [job(JobState.PENDING, restarts=1)], MISSING, "requeued"),
        (record(EvaluationState.RUNNING), [job(JobState.RUNNING, restarts=1)], MISSING, "started"),
        (record(EvaluationState.RUNNING), [job(JobState.COMPLETING)], VALID, "completing: job 7"),
        (record(EvaluationState.RUNNING), [job(JobState.RUNNING)], VALID, "running: job 7"),
        (record(EvaluationState.RUNNING), [job(JobState.UNKNOWN)], MISSING, "running: job 7 is UNKNOWN"),
        (record(EvaluationState.RUNNING), [job(JobState.COMPLETED)], VALID, "scored"),
        (record(EvaluationState.RUNNING), [job(JobState.FAILED)], VALID, "scored"),
        (record(EvaluationState.RUNNING), [job(JobState.COMPLETED)], MISSING, "confirming_end"),
        (record(EvaluationState.RUNNING), [job(JobState.CANCELLED)], MISSING, "cancelled"),
        (record(EvaluationState.RUNNING), [job(JobState.NODE_FAIL)], MISSING, "confirming_end"),
        (record(EvaluationState.RUNNING), [], VALID, "scored"),
        (record(EvaluationState.RUNNING), [], MISSING, "confirming_end"),
        (record(EvaluationState.RUNNING, reason="gone", reason_kind=ENDING, since=500.0), [], MISSING, "AbandonAttempt"),
        (record(EvaluationState.RUNNING, reason="gone", reason_kind=ENDING, since=900.0), [], MISSING, "gone"),
        (record(EvaluationState.QUEUED), [job(JobState.HELD)], MISSING, "held: job 7 was released, then held by someone"),
    ],
)
def test_in_flight(record_, jobs, results, expected):
    decision = decided(record_, world(jobs=jobs, results=results))
    said = [getattr(action, "name", type(action).__name__) for action in decision.actions]
    assert [*said, *(skip.reason for skip in decision.skips)] == [expected]


def test_an_answer_from_before_the_submission_says_nothing_about_it():
    decision = decided(record(), world(jobs=[], queue_at=100.0, results=MISSING))
    assert decision.actions == ()


def test_what_is_no_longer_in_the_schedule_is_left_alone():
    ledger = JournalState(records={"s/step_5": record(EvaluationState.READY, attempt=None)})
    decision = reconcile(world(), ledger, config(stage("s", steps=())), "watcher:x")
    assert decision.actions == ()
    assert Skip("s/step_5", "no longer in the schedule") in decision.skips


def test_the_limits_are_told_by_name():
    ledger = JournalState(records={f"s/step_{n}": record() for n in range(3)})
    from watcher.core.actions import SubmitEvaluation  # noqa: PLC0415
    from watcher.reconcile.reconciler import select_submissions  # noqa: PLC0415  the smallest place that limits show in

    candidate = SubmitEvaluation(key="s/step_0", request=None, mtimes=None)
    for limits, left, why in (
        (LimitSettings(max_running=3), None, "ready; limits.max_running (3) is reached, 3 in flight"),
        (LimitSettings(max_running=2), None, "ready; limits.max_running (2) is reached, 3 in flight"),
        (LimitSettings(max_queued=2), None, "ready; limits.max_queued (2) is reached"),
        (LimitSettings(), 0, "ready; limits.slurm_calls_per_minute is used up for this minute"),
    ):
        found = select_submissions([candidate], world(submissions_left=left), config(stage("s"), limits=limits), ledger)
        assert found == [Skip("s/step_0", why)]
    # What is submitted now counts: a preview never has it in flight.
    free = JournalState(records={f"s/step_{n}": record(EvaluationState.READY, attempt=None) for n in range(3)})
    candidates = [SubmitEvaluation(key=key, request=None, mtimes=None) for key in free.records]
    found = select_submissions(candidates, world(), config(stage("s"), limits=LimitSettings(max_running=2)), free)
    assert found == [*candidates[:2], Skip("s/step_2", "ready; limits.max_running (2) is reached, 2 in flight")]


WATCHER = Path(watcher.__file__).parent
PURE = [
    *(
        path.relative_to(WATCHER).as_posix()
        for room in ("attempts", "averages", "reconcile")
        for path in sorted((WATCHER / room).glob("*.py"))
    ),
    *(f"core/{name}.py" for name in ("evaluation", "snapshot", "actions", "reasons", "resources", "result_paths")),
    "journal/replay.py",
    "journal/state_changes.py",
    *(f"status/{name}.py" for name in ("document", "text", "explain")),
]


@pytest.mark.parametrize("module", PURE)
def test_deciding_touches_neither_clock_nor_disk(module):
    tree = ast.parse((WATCHER / module).read_text())
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    impure = {"open", "time.time", "time.monotonic", "datetime.now", "print"}
    assert not calls & impure
    methods = {call.rpartition(".")[2] for call in calls}
    assert not methods & {"read_text", "read_bytes", "exists", "is_file", "is_dir", "stat", "iterdir", "glob", "unlink", "mkdir"}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not imported & {"os", "random", "subprocess", "socket"}

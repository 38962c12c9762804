import os
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suites.common.errors import UserError
from suites.contract.paths import StatePaths
from support.models.nanotron_checkpoint import write_tiny_checkpoint
from support.runs.watcher_commands import make_config_folder_fixture, publish_daemon_status, run_watcher
from watcher.config.loader import load_config
from watcher.core import events
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.core.request_types import Request
from watcher.journal import request_files
from watcher.journal.journal import Journal
from watcher.journal.request_files import read_requests, write_request

CONFIG = """
results: results
executor: local
stages:
  stage1: {checkpoints: ckpts/stage1, steps: [100, 200], suites: [demo_stage1_ppl]}
  stage2: {checkpoints: ckpts/stage2, steps: [100], suites: [demo_stage2_ppl], bridge: {from: stage1}}
  stage3: {checkpoints: ckpts/stage3, every: 10, suites: [demo_stage2_ppl]}
  stage4: {checkpoints: ckpts/stage4, every: 10, suites: [demo_stage2_ppl], bridge: {from: stage3, step: final}}
"""


config_folder = make_config_folder_fixture(CONFIG)


def read_pending():
    requests, unreadable = read_requests(load_config(None, {}).paths)
    assert not unreadable
    return requests


def record(step, state, stage="stage1"):
    return EvaluationRecord(
        stage=stage, source=stage, step=step, directory=f"step_{step}", origin="schedule", checkpoint="/c", state=state, since=0.0
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("enqueue", "stage1", "150"), {"kind": "enqueue", "stage": "stage1", "steps": (150,), "force": False, "bridge": False}),
        (("enqueue", "stage1", "100:300:100", "7"), {"steps": (7, 100, 200, 300)}),
        (
            ("enqueue", "stage2", "5", "--from", "stage1", "--name", "mine", "--force"),
            {"source": "stage1", "name": "mine", "force": True},
        ),
        (("enqueue", "stage1", "9", "--average", "9,7"), {"steps": (9,), "average": (7, 9), "weights": ()}),
        (
            ("enqueue", "stage1", "9", "--average", "9,7", "--weights", "3,1"),
            {"average": (7, 9), "weights": (1.0, 3.0)},
        ),
        (("cancel", "stage1", "9", "--name", "step_9_avg2"), {"name": "step_9_avg2"}),
        (("enqueue", "stage2", "--bridge"), {"source": "stage1", "steps": (200,), "bridge": True}),
        (("enqueue", "stage2", "150", "--bridge"), {"source": "stage1", "steps": (150,), "bridge": True}),
        (("enqueue", "stage1", "5", "--bridge", "--from", "stage2"), {"source": "stage2", "steps": (5,), "bridge": True}),
        (("retry", "stage1", "100", "200"), {"kind": "retry", "steps": (100, 200), "force": False}),
        (("retry", "stage2", "200", "--from", "stage1", "--force"), {"kind": "retry", "source": "stage1", "force": True}),
        (("cancel", "stage1", "100"), {"kind": "cancel", "steps": (100,)}),
        (("cancel", "stage1", "100", "--name", "mine"), {"kind": "cancel", "name": "mine"}),
    ],
)
@pytest.mark.usefixtures("config_folder")
def test_what_is_asked_is_left_for_the_watcher(arguments, expected):
    before = time.time()
    run_watcher(*arguments)
    (ask,) = read_pending()
    assert {key: getattr(ask, key) for key in expected} == expected
    assert before - 1 <= ask.at <= time.time() + 1
    assert "@" in ask.by


def test_a_checkpoint_elsewhere_is_asked_for_by_its_folder(config_folder):
    (config_folder / "old/4000").mkdir(parents=True)
    (config_folder / "old/best").mkdir()
    run_watcher("enqueue", "stage1", "--checkpoint", "old/4000", "--name", "old_run")
    run_watcher("enqueue", "stage1", "30", "--checkpoint", "old/best")
    run_watcher("enqueue", "stage2", "--bridge", "--checkpoint", "old/4000")
    first, second, third = read_pending()
    assert (first.checkpoint, first.steps, first.name) == (f"{config_folder}/old/4000", (4000,), "old_run")
    assert (second.checkpoint, second.steps) == (f"{config_folder}/old/best", (30,))
    assert (third.checkpoint, third.steps, third.source, third.bridge) == (f"{config_folder}/old/4000", (4000,), "stage1", True)


def test_a_bridge_from_where_its_source_ended_is_asked_for_by_what_the_folders_say(config_folder):
    said = run_watcher("enqueue", "stage4", "--bridge", exit_code=2).stderr
    assert said.startswith("stages.stage4: the step of its bridge is not known: the last step of stage3 is unknown yet; give it")
    write_tiny_checkpoint(config_folder / "ckpts/stage3/50", 50, train_steps=70)
    run_watcher("enqueue", "stage4", "--bridge")
    write_tiny_checkpoint(config_folder / "ckpts/stage4/10", 10, started_from="/lustre/ckpts/stage3/65")
    run_watcher("enqueue", "stage4", "--bridge")
    assert [(request.source, request.steps) for request in read_pending()] == [("stage3", (70,)), ("stage3", (65,))]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("enqueue", "stge1", "1"), "STAGE: no stage 'stge1' in {config_folder}/watcher.yaml; did you mean 'stage1'?"),
        (
            ("enqueue", "stage1", "1", "--from", "stag2"),
            "--from: no stage 'stag2' in {config_folder}/watcher.yaml; did you mean 'stage2'?",
        ),
        (("enqueue", "stage1"), "enqueue stage1: no step given; give at least one STEP, --bridge or --checkpoint DIR"),
        (("retry", "stage1"), "retry stage1: no step given; give at least one STEP"),
        (("enqueue", "stage1", "x"), "STEP: 'x' is not a step; write 2000, or a range FIRST:LAST:EVERY, as 1000:50000:1000"),
        (("enqueue", "stage1", "1:2"), "STEP: '1:2' is not a step; write 2000, or a range"),
        (("enqueue", "stage1", "²"), "STEP: '²' is not a step; "),
        (("enqueue", "stage1", "-5"), "STEP: '-5' is not a step; write 2000, or a range FIRST:LAST:EVERY"),
        (("enqueue", "stage1", "1", "-10:5:1", "--force"), "STEP: '-10:5:1' is not a step; "),
        (("cancel", "stage1", "-5"), "STEP: '-5' is not a step; "),
        (("why", "stage1", "-5"), "STEP: '-5' is not a step; "),
        (("enqueue", "stage1", "../../x"), "STEP: '../../x' is not a step; "),
        (("enqueue", "../stage1", "1"), "STAGE: no stage '../stage1' in {config_folder}/watcher.yaml"),
        (("enqueue", "stage1", "9:1:1"), "STEP: '9:1:1' holds no step; write FIRST:LAST:EVERY with FIRST <= LAST"),
        (("enqueue", "stage1", "1:9:0"), "STEP: '1:9:0' holds no step; "),
        (("enqueue", "stage1", "0:9999999:1"), "STEP: '0:9999999:1' holds more than 10000 steps; ask for fewer at a time"),
        (("enqueue", "stage1", "1", "--name", "a/b"), "--name: 'a/b' cannot be the name of a folder; use up to 100 letters"),
        (("enqueue", "stage1", "1", "--name", "step_7"), "--name: 'step_7' is like the names that the watcher gives"),
        (("enqueue", "stage1", "1", "2", "--name", "x"), "--name: one name for 2 steps; use it with one STEP"),
        (
            ("enqueue", "stage1", "--checkpoint", "none"),
            "{config_folder}/none: no such folder; give --checkpoint the folder of one step",
        ),
        (("enqueue", "stage1", "--checkpoint", "."), "{config_folder}: the folder's name is not a step; give its STEP"),
        (("enqueue", "stage1", "1", "2", "--checkpoint", "."), "{config_folder}: one checkpoint for 2 steps; give its STEP"),
        (
            ("enqueue", "stage1", "--bridge"),
            "stages.stage1: has no bridge; write bridge: {{from: STAGE, step: N}}, or use --from",
        ),
        (
            ("enqueue", "stage1", "5", "--bridge"),
            "stages.stage1: has no bridge in the config; name the checkpoint's stage with --from",
        ),
        (("enqueue", "stage1", "9", "--average", "7,x"), "--average: 'x' is not a step; write 34000,36000,38000,40000"),
        (("enqueue", "stage1", "9", "--average", "9"), "--average: names 1 different steps; name 2 to 100 different steps"),
        (("enqueue", "stage1", "9", "--average", "9,9"), "--average: names a step twice; "),
        (("enqueue", "stage1", "9", "--average", "7,8"), "--average: STEP is not the last one of --average; give STEP 8"),
        (("enqueue", "stage1", "9", "--average", "7,9", "--bridge"), "--bridge: an average is of a stage's own steps; remove it"),
        (("enqueue", "stage1", "9", "--average", "7,9", "--weights", "1"), "--weights: '1' does not fit --average; give 2"),
        (("enqueue", "stage1", "9", "--average", "7,9", "--weights", "1,0"), "--weights: '1,0' does not fit --average; give 2"),
        (("enqueue", "stage1", "9", "--average", "7,9", "--weights", "1e-300,1e300"), "--weights: gives a checkpoint 0 of"),
        (("enqueue", "stage1", "9", "--average", "7,9", "--weights", "1e308,1e308"), "--weights: holds weights whose sum is"),
        (("enqueue", "stage1", "9", "--average", "7,9", "--weights", "1,2e9"), "--weights: gives a checkpoint 5e-10 of"),
        (("enqueue", "stage1", "9", "--average", "7,9", "--weights", "a,b"), "--weights: 'a,b' is not a list of numbers; write"),
        (("enqueue", "stage1", "9", "--weights", "1,1"), "--weights: weights of no average; name the steps with --average"),
        (
            ("enqueue", "stage1", "9", "--average", "7,9", "--name", "step_9_avg2"),
            "--name: 'step_9_avg2' is like the names that the watcher gives",
        ),
        (("why", "stage1", "1:3:1"), "STEP: 3 steps given; give one step"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_2(config_folder, arguments, complaint):
    result = run_watcher(*arguments, exit_code=2)
    assert result.stderr.startswith(complaint.format(config_folder=config_folder))
    assert result.stderr.count("\n") == 1
    assert read_pending() == []


@pytest.mark.usefixtures("config_folder")
def test_the_command_says_when_it_is_taken_up():
    later = "No watcher is running. The request waits until you run `watcher run` or `watcher once`."
    assert later in run_watcher("enqueue", "stage1", "150").output
    publish_daemon_status(age=600)
    assert later in run_watcher("enqueue", "stage1", "150").output
    publish_daemon_status()
    assert run_watcher("enqueue", "stage1", "200").output == (
        "enqueue stage1: step 200\n  200: will be scored once its checkpoint exists\n"
        "The watcher on login1 reads the request within 60 s.\n"
    )
    said = run_watcher("enqueue", "stage1", "10:90:10").output
    assert "steps 10, 20, 30, 40, 50, 60, 70, 80, 90\n" in said
    assert "steps 10, 20, 30, 40, 50, 60, 70, 80 and 2 more" in run_watcher("enqueue", "stage1", "10:100:10").output


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (180.0, "The next run of `watcher once` on login1 reads the request, which ran every 3 min."),
        (None, "The next run of `watcher once` on login1 reads the request."),
    ],
)
@pytest.mark.usefixtures("config_folder")
def test_a_timer_s_next_run_reads_the_request(interval, said):
    publish_daemon_status(mode="once", interval_seconds=interval)
    assert run_watcher("enqueue", "stage1", "150").output.endswith(f"{said}\n")


@pytest.mark.parametrize(
    ("arguments", "left", "exit_code", "said"),
    [
        (("retry", "stage1", "900"), (), 2, "retry stage1: not done: 900: unknown evaluation; `watcher status` lists"),
        (("retry", "stage1", "100"), (), 2, "not done: 100: already scored; use --force to score it again; "),
        (("retry", "stage1", "100", "300", "900"), (300,), 2, "not done: 100: already scored; use --force"),
        (("retry", "stage1", "100", "--force"), (100,), 0, ""),
        (("retry", "stage1", "200"), (), 0, ""),
        (("retry", "stage1", "300"), (300,), 0, ""),
        (("cancel", "stage1", "100"), (), 2, "not done: 100: already scored; "),
        (("cancel", "stage1", "900"), (), 2, "not done: 900: unknown evaluation; "),
        (("cancel", "stage1", "400"), (), 0, ""),
        (("cancel", "stage1", "200", "400"), (200,), 0, ""),
        (("enqueue", "stage1", "100"), (), 0, ""),
        (("enqueue", "stage1", "100", "200", "900"), (900,), 0, ""),
        (("enqueue", "stage1", "100", "--bridge", "--from", "stage1"), (100,), 0, ""),
    ],
)
@pytest.mark.usefixtures("config_folder")
def test_a_script_can_tell_what_is_not_done(arguments, left, exit_code, said):
    states = {100: "SCORED", 200: "RUNNING", 300: "BLOCKED", 400: "CANCELLED"}
    publish_daemon_status(*(record(step, EvaluationState[state]) for step, state in states.items()))
    result = run_watcher(*arguments, exit_code=exit_code)
    assert said in result.stderr
    assert [request.steps for request in read_pending()] == ([left] if left else [])
    assert ("Nothing to do: no request is left." in result.output) == (not left)


@pytest.mark.usefixtures("config_folder")
def test_a_request_after_one_that_is_not_read_yet_is_left_to_the_watcher():
    publish_daemon_status(record(200, EvaluationState.RUNNING))
    run_watcher("enqueue", "stage1", "900")
    run_watcher("cancel", "stage1", "200")
    assert "unless a request before this one changes that" in run_watcher("cancel", "stage1", "900").output
    run_watcher("retry", "stage1", "200")
    assert [(request.kind, request.steps) for request in read_pending()] == [
        ("enqueue", (900,)),
        ("cancel", (200,)),
        ("cancel", (900,)),
        ("retry", (200,)),
    ]


@pytest.mark.parametrize("age", [0.0, 600.0])
@pytest.mark.usefixtures("config_folder")
def test_the_status_says_which_requests_wait(age):
    publish_daemon_status(age=age)
    assert "not read yet" not in run_watcher("status", exit_code=3 if age else 0).output
    run_watcher("enqueue", "stage1", "10:90:10")
    run_watcher("enqueue", "stage2", "150")
    said = run_watcher("status", exit_code=3 if age else 0).output
    assert "2 requests are not read yet: enqueue stage1 (9 steps), enqueue stage2 (1 step)\n" in said


@pytest.mark.usefixtures("config_folder")
def test_what_is_scored_already_is_said():
    publish_daemon_status(record(100, EvaluationState.SCORED), record(200, EvaluationState.BLOCKED))
    assert "\n  100: already scored; use --force to score it again\n" in run_watcher("enqueue", "stage1", "100", "200").output
    assert "already scored" not in run_watcher("enqueue", "stage1", "100", "--force").output


def test_a_state_folder_that_cannot_be_made_is_one_line(config_folder):
    (config_folder / "results").mkdir()
    (config_folder / "results/.watcher").touch()
    assert "the request cannot be left there (" in run_watcher("enqueue", "stage1", "1", exit_code=73).stderr


def test_requests_keep_their_order_and_never_collide():
    ids = [request_files.make_request_id(1_700_000_000.0 + number / 100) for number in range(50)]
    assert ids == sorted(ids)
    assert len({request_files.make_request_id(1.0) for _ in range(100)}) == 100


def test_a_user_without_a_name_can_ask_too(monkeypatch):
    def nameless():
        raise KeyError

    monkeypatch.setattr(request_files.getpass, "getuser", nameless)
    assert request_files.get_user_at_host().startswith("somebody@")


@given(st.integers(0, 10**6), st.integers(0, 1000), st.integers(1, 100))
def test_a_range_holds_both_ends_when_it_reaches_the_last(first, more, every):
    steps = request_files.parse_steps((f"{first}:{first + more * every}:{every}",))
    assert steps == tuple(range(first, first + more * every + 1, every))


@given(st.lists(st.text(alphabet="0123456789:x ", max_size=8), max_size=3))
def test_any_words_are_steps_or_a_problem(arguments):
    try:
        steps = request_files.parse_steps(tuple(arguments))
    except UserError as problem:
        assert problem.location == "STEP"  # noqa: PT017  either outcome is fine, a crash is not
    else:
        assert list(steps) == sorted(set(steps))


def journaled():
    paths = load_config(None, {}).paths
    paths.journal.mkdir(parents=True)
    journal = Journal.open(paths)
    fields = {
        "stage": "stage1",
        "source": "stage1",
        "step": 100,
        "directory": "step_100",
        "origin": "schedule",
        "checkpoint": "/c/100",
    }
    created = events.Created(evaluation="stage1/step_100", reason="in the schedule", **fields)
    journal.append(created, t=1_700_000_000.0)
    other = fields | {"source": "stage2", "directory": "step_100_from_stage2", "origin": "request"}
    created = events.Created(evaluation="stage1/step_100_from_stage2", reason="asked for", **other)
    journal.append(created, t=1_700_000_000.0)


@pytest.mark.usefixtures("config_folder")
def test_why_tells_what_the_journal_knows():
    journaled()
    both = run_watcher("why", "stage1", "100").output
    assert "stage1/step_100 (step 100) is in the schedule; its checkpoint is /c/100." in both
    assert "stage1/step_100_from_stage2" in both
    one = run_watcher("why", "stage1", "100", "--from", "stage2").output
    assert "a checkpoint of stage2" in one
    assert "by the schedule" not in one
    assert "No watcher is running, so nothing happens until" in one
    publish_daemon_status()
    assert "No watcher is running" not in run_watcher("why", "stage1", "100").output


def test_why_explains_what_is_not_known(config_folder):
    assert "It is in the schedule; the next tick" in " ".join(run_watcher("why", "stage1", "100").output.split())
    run_watcher("enqueue", "stage1", "150")
    assert "A request for it is pending; the next tick handles it" in " ".join(run_watcher("why", "stage1", "150").output.split())
    assert os.listdir(config_folder / "results/.watcher") == ["requests"]  # noqa: PTH208  names only


def test_an_ask_survives_its_journey(config_folder):
    ask = Request(
        id="1-a", at=1.5, kind="enqueue", stage="stage1", steps=(1, 2), source="s", checkpoint="/c", name="n", bridge=True
    )
    request_files.write_request(ask, load_config(None, {}).paths)
    assert read_pending() == [ask]
    assert msgspec.json.decode((config_folder / "results/.watcher/requests/1-a.json").read_bytes())["schema"] == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("enqueue", "stage1", "100:500:100"),
            ["100: already scored; use --force to score it again", "200: already queued"],
        ),
        (("enqueue", "stage1", "300"), ["300: will be retried (was blocked)"]),
        (
            ("enqueue", "stage1", "400", "500"),
            [
                "400: will be scored; its checkpoint is on disk and is checked first",
                "500: will be scored once its checkpoint exists",
            ],
        ),
        (("enqueue", "stage1", "100", "--force"), ["100: will be scored again; current results move to superseded/"]),
        (
            ("retry", "stage1", "300", "999"),
            ["300: will be retried (was blocked)", "999: unknown evaluation"],
        ),
        (
            ("cancel", "stage1", "100", "200", "300"),
            ["100: already scored", "200: will be cancelled, with its job"],
        ),
        (("cancel", "stage1", "300"), ["300: will be cancelled"]),
        (
            ("enqueue", "stage2", "100", "--bridge"),
            ["100: becomes the baseline; will be scored once its checkpoint exists"],
        ),
        (
            ("enqueue", "stage3", "10:200:10"),
            ["10, 20, 30, 40, 50, 60, 70, 80 and 12 more: will be scored once its checkpoint exists"],
        ),
    ],
)
def test_what_will_happen_is_said_for_each_step(arguments, expected, config_folder):
    (config_folder / "ckpts" / "stage1" / "400").mkdir(parents=True)
    publish_daemon_status(
        record(100, EvaluationState.SCORED), record(200, EvaluationState.QUEUED), record(300, EvaluationState.BLOCKED)
    )
    is_refused = "unknown" in str(expected) or arguments[:3] == ("cancel", "stage1", "100")
    lines = run_watcher(*arguments, exit_code=2 if is_refused else 0).stdout.splitlines()
    assert [line for line in lines if line.strip() in expected] == [f"  {line}" for line in expected]
    assert lines[-1] == "The watcher on login1 reads the request within 60 s."


@pytest.mark.parametrize("weights", [(1e-300, 1e300), (1e308, 1e308), (1.0, 2e9), (1.0, 0.0), (1.0,)])
def test_a_request_file_whose_weights_vanish_is_answered_and_not_taken(tmp_path, weights):
    paths = StatePaths(tmp_path)
    for number, relative in enumerate((weights, (1.0, 1.0))):
        write_request(
            Request(id=f"r{number}", at=number, kind="enqueue", stage="s", steps=(9,), average=(7, 9), weights=relative), paths
        )
    requests, errors = read_requests(paths)
    assert [request.id for request in requests] == ["r1"]
    (error,) = errors
    assert "r0.json: its weights " in error
    assert "do not fit its average" in error
    assert error.endswith("remove it and ask again")

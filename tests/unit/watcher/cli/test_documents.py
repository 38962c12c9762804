"""What commands print with --json, each against the schema of its document."""

import json
import subprocess
import time
from typing import Any, Literal

import msgspec
import pytest
from click.shell_completion import BashComplete

from support.runs.watcher_commands import make_config_folder_fixture, publish_daemon_status, run_watcher
from watcher.cli.app import main
from watcher.config.loader import load_config
from watcher.core import events, stage_events
from watcher.core.evaluation import EvaluationRecord, EvaluationState, describe_renewal
from watcher.core.stage_events import Pause
from watcher.journal.journal import Journal
from watcher.journal.request_files import read_requests

CONFIG = """
results: results
executor: local
stages:
  stage1: {checkpoints: "ckpts/a${x:-$${y}}", steps: [100, 200], suites: [slices.yaml], tokenizer: ./tokenizer, seq_len: 64}
"""
SUITE = "tier: tier2_ppl\nslices:\n  web: {data_files: [/data/web.jsonl], target_tokens: 9}\n"

config_folder = make_config_folder_fixture(CONFIG)


class Document(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    schema: Literal[1]


class Check(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    verdict: Literal["ok", "warning", "wrong"]
    name: str
    message: str
    hint: str


class Doctor(Document):
    checks: list[Check]
    counts: dict[Literal["ok", "warning", "wrong"], int]
    seconds: float


class Difference(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    evaluation: str
    journal: str
    observed: str
    repair: str
    left_to_watcher: bool


class Audit(Document):
    differences: list[Difference]
    warnings: list[str]
    queue_error: str | None
    repaired: list[str]


class Change(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    at: float
    state: str
    reason: str


class Attempt(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    number: int
    run_id: str
    job_id: str | None
    restarts: int
    owner: str


class Usage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    gpu_hours: float
    run_hours: float
    wait_hours: float
    attempts: int
    other_gpu_hours: float
    other_attempts: int
    at_least: bool


class EndedAttempt(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    number: int
    run_id: str
    job_id: str | None
    scored: bool
    usage: dict[str, Any] | None


class Explanation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    evaluation: str
    stage: str
    step: int
    source: str
    origin: str
    average: Any
    checkpoint: str
    state: EvaluationState
    since: float
    reason_kind: str
    reason: str
    hint: str
    detail: str
    timeline: list[Change]
    attempt: Attempt | None
    failures: dict[str, int]
    times: dict[str, float]
    usage: Usage
    attempts: list[EndedAttempt]
    retry_at: float | None
    next: str


class Why(Document):
    evaluations: list[Explanation]
    unknown: str | None
    health: Literal["alive", "stopped", "stale", "absent"]
    summary: str


class ResolvedConfig(Document):
    source: str
    config: dict[str, Any]
    made_stages: dict[str, list[str]]
    problems: dict[str, str]


class Outcome(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    steps: list[int]
    effect: Literal["changes", "none", "refused"]
    text: str


class RequestAnswer(Document):
    request: str | None
    kind: Literal["enqueue", "retry", "cancel"]
    stage: str
    outcomes: list[Outcome]
    next: str | None


class PauseAnswer(Document):
    request: str | None
    kind: Literal["pause", "resume"]
    stage: str | None
    effect: str
    next: str | None


class Row(msgspec.Struct, kw_only=True):
    """Beside what status.json may gain."""

    stage: str
    evaluation: str
    step: int
    source: str
    state: EvaluationState
    since: float
    reason: str
    scores: dict[str, float]
    attempt: dict[str, Any] | None


class Listing(Document):
    evaluations: list[Row]
    health: str
    heartbeat: float | None


def read_document(document_type, *arguments, exit_code=0):
    return msgspec.convert(json.loads(run_watcher(*arguments, "--json", exit_code=exit_code).stdout), document_type)


def record(step, state, **fields):
    given = {"stage": "stage1", "source": "stage1", "directory": f"step_{step}", "origin": "schedule", "checkpoint": "/c"}
    return EvaluationRecord(step=step, state=EvaluationState(state), since=time.time() - step, **(given | fields))


@pytest.fixture
def journaled(config_folder):
    """One evaluation in the journal, and the status of three."""
    (config_folder / "slices.yaml").write_text(SUITE)
    journal = Journal.open(load_config(None, {}).paths)
    created = {"stage": "stage1", "source": "stage1", "step": 100, "directory": "step_100", "origin": "schedule"}
    journal.append(events.Created(evaluation="stage1/step_100", checkpoint="/c/100", reason="due", **created), t=time.time() - 60)
    journal.close()
    publish_daemon_status(record(100, "pending"), record(200, "scored", extra={"scores": {"ppl": 12.5}}), record(300, "blocked"))
    return config_folder


@pytest.mark.usefixtures("journaled")
def test_why_of_what_is_known_and_of_what_is_not():
    (known,) = read_document(Why, "why", "stage1", "100").evaluations
    assert (known.evaluation, known.state, known.timeline[0].reason) == ("stage1/step_100", "pending", "due")
    unknown = read_document(Why, "why", "stage1", "150")
    assert (unknown.evaluations, "does not know stage1 step 150" in unknown.unknown) == ([], True)


def test_audit_and_doctor(journaled):
    folder = journaled / "results/stage1/by_checkpoint/step_900"
    folder.mkdir(parents=True)
    (folder / "tier2_ppl.json").write_text("{}")
    (difference,) = read_document(Audit, "audit", exit_code=1).differences
    assert (difference.evaluation, difference.journal, difference.left_to_watcher) == ("stage1/step_900", "not known", False)
    document = read_document(Doctor, "doctor", exit_code=1)
    assert len(document.checks) == sum(document.counts.values())
    assert document.checks[0].name == "config"


@pytest.mark.usefixtures("journaled")
def test_config_has_no_escapes_of_yaml():
    document = read_document(ResolvedConfig, "config")
    assert document.config["stages"]["stage1"]["checkpoints"].endswith("/ckpts/a${y}")
    assert "ckpts/a$${y}" in run_watcher("config").output


@pytest.mark.usefixtures("journaled")
@pytest.mark.parametrize(
    ("arguments", "exit_code", "effects"),
    [
        (("enqueue", "stage1", "100", "700"), 0, ["changes", "changes"]),
        (("enqueue", "stage1", "200"), 0, ["none"]),
        (("retry", "stage1", "300"), 0, ["changes"]),
        (("retry", "stage1", "300", "--force"), 0, ["changes"]),
        (("cancel", "stage1", "100", "200"), 2, ["changes", "refused"]),
    ],
)
def test_requests(arguments, exit_code, effects):
    answer = read_document(RequestAnswer, *arguments, exit_code=exit_code)
    assert answer.kind == arguments[0]
    assert [outcome.effect for outcome in answer.outcomes] == effects
    assert (answer.request is None) == ("changes" not in effects) == (answer.next is None)


@pytest.mark.usefixtures("journaled")
def test_pause_and_resume():
    idle = read_document(PauseAnswer, "resume", "stage1")
    assert (idle.request, idle.effect, idle.next) == (None, "stage1 is not paused", None)
    begun = read_document(PauseAnswer, "pause", "stage1", "--reason", "full disk")
    assert begun.effect == "stage1: nothing new is submitted; jobs that run or wait in the queue go on"
    # A request that nobody read yet may have paused it.
    assert read_document(PauseAnswer, "resume").request is not None
    requests, _ = read_requests(load_config(None, {}).paths)
    assert [(request.kind, request.stage, request.reason) for request in requests] == [
        ("pause", "stage1", "full disk"),
        ("resume", "", ""),
    ]
    assert "2 requests are not read yet: pause stage1, resume every stage" in run_watcher("status").output
    assert "no stage 'stage2'" in run_watcher("pause", "stage2", exit_code=2).stderr


@pytest.mark.usefixtures("config_folder")
def test_without_a_pause_there_is_nothing_to_resume_and_a_journaled_one_needs_no_status():
    for _ in range(2):
        assert run_watcher("resume").stdout == "resume: nothing is paused\nNothing to do: no request is left.\n"
    assert read_requests(load_config(None, {}).paths)[0] == []
    Journal.open(load_config(None, {}).paths).append(stage_events.Paused(stage="", by="ada", reason=""), t=1.0)
    assert "resume every stage: submissions go on" in run_watcher("resume").stdout


@pytest.mark.parametrize("state", EvaluationState)
def test_only_what_was_tried_or_given_up_is_retried(state):
    is_waiting = state in {"pending", "waiting", "ready"}
    said = describe_renewal(state)
    assert said == (f"will be scored; it is {state} already" if is_waiting else f"will be retried (was {state})")


@pytest.mark.usefixtures("config_folder")
def test_a_stage_is_not_resumed_alone_while_every_stage_is_paused():
    publish_daemon_status(pauses={"": Pause(since=time.time() - 60, by="ada@login1")})
    assert (
        "every stage is paused, not this one alone; run `watcher resume`" in run_watcher("resume", "stage1", exit_code=2).stderr
    )
    status = " ".join(run_watcher("status").output.split())
    assert "(60 s) by ada@login1. Nothing new is submitted until `watcher resume`; jobs go on" in status


@pytest.mark.usefixtures("journaled")
@pytest.mark.parametrize(
    ("filters", "steps"),
    [
        ((), [100, 200, 300]),
        (("stage1", "--state", "scored", "--state", "blocked"), [200, 300]),
        (("--step", "200:300:100"), [200, 300]),
        (("--from", "stage2"), []),
        (("--newest", "2"), [100, 200]),
    ],
)
def test_list(filters, steps):
    assert [row.step for row in read_document(Listing, "list", *filters).evaluations] == steps
    lines = run_watcher("list", *filters).stdout.splitlines()
    assert [int(line.split()[0].rpartition("_")[2]) for line in lines[1:]] == steps


@pytest.mark.usefixtures("config_folder")
def test_list_without_a_watcher_is_empty_and_an_unknown_stage_is_refused():
    assert read_document(Listing, "list").evaluations == []
    assert run_watcher("list").output.startswith("No watcher has run here: ")
    assert "no stage 'stage2'" in run_watcher("list", "stage2", exit_code=2).stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(shell):
    script = run_watcher("completion", shell).stdout
    assert "_WATCHER_COMPLETE" in script
    if shell == "bash":
        subprocess.run(["/bin/bash", "-n"], input=script, text=True, check=True)


@pytest.mark.usefixtures("config_folder")
def test_a_shell_completes_commands_and_stages(monkeypatch):
    complete = BashComplete(main, {}, "watcher", "_WATCHER_COMPLETE")
    assert [item.value for item in complete.get_completions([], "lo")] == ["logs"]
    assert [item.value for item in complete.get_completions(["why"], "st")] == ["stage1"]
    monkeypatch.setenv("WATCHER_CONFIG", "/nowhere.yaml")
    assert complete.get_completions(["why"], "st") == []

from pathlib import Path

import pytest

from suites.common.formatting import format_local_time
from watcher.config.settings import Config, Stage
from watcher.core.evaluation import Attempt, EvaluationRecord, EvaluationState
from watcher.status.explain import explain_evaluation, explain_unknown_step, list_changes
from watcher.status.table import TEXT_WIDTH

NOW = 1_700_000_000.0
STAGE = Stage(name="stage2", checkpoints=Path("/c/stage2"), results=Path("/r"), steps=(100, 200), every=1000, to=5000, final=True)
OTHER = Stage(name="stage1", checkpoints=Path("/c/stage1"), results=Path("/r"), steps=(100,))
CONFIG = Config(
    source="w",
    scratch=Path("/"),
    results=Path("/r"),
    eval_data=Path("/e"),
    state=Path("/s"),
    stages={"stage1": OTHER, "stage2": STAGE},
)


def record(state, **changes):
    fields = {
        "stage": "stage2",
        "source": "stage2",
        "step": 100,
        "directory": "step_100",
        "origin": "schedule",
        "checkpoint": "/c/stage2/100",
        "since": NOW - 120,
    }
    return EvaluationRecord(state=state, **(fields | changes))


def flat(text):
    return " ".join(text.split())


def test_the_story_of_a_failure():
    attempt = Attempt(run_id="eval-stage2-100-abc", number=2, fingerprint="f", suites={}, intended=NOW, job_id="77", restarts=1)
    text = explain_evaluation(
        record(
            EvaluationState.FAILED,
            reason="out of memory on node7.",
            attempt=attempt,
            failures={"out_of_memory": 2},
            retry_at=NOW + 300,
            history=(
                (NOW - 900, "pending", "in the schedule"),
                (NOW - 600, "queued", "job 77"),
                (NOW - 120, "failed", "out of memory on node7."),
            ),
        ),
        NOW,
    )
    day = format_local_time(NOW).partition(" ")[0]
    clocks = [format_local_time(NOW - ago).partition(" ")[2] for ago in (900, 600, 120)]
    assert text.splitlines() == [
        "stage2/step_100 (step 100) is in the schedule; its checkpoint is /c/stage2/100.",
        "",
        day,
        f"  {clocks[0]}               pending    in the schedule",
        f"  {clocks[1]}  +5 min       queued     job 77",
        f"  {clocks[2]}  +8 min       failed     out of memory on node7. (2 min ago)",
        "",
        "The newest attempt is number 2, eval-stage2-100-abc (job 77, 1 restart).",
        "Consecutive failures: out_of_memory 2.",
        f"The watcher retries in 5 min, at {format_local_time(NOW + 300)}.",
    ]
    assert max(map(len, text.splitlines())) <= TEXT_WIDTH


@pytest.mark.parametrize("state", list(EvaluationState))
def test_every_state_says_what_happens_next(state):
    text = explain_evaluation(record(state, reason="because"), NOW)
    assert f" {state.value} because (2 min ago)" in flat(text)
    assert text.rstrip().endswith((".", "?"))
    assert "{" not in text


def test_a_bridge_names_its_source_in_what_to_do():
    text = flat(explain_evaluation(record(EvaluationState.BLOCKED, source="stage1", origin="bridge"), NOW))
    assert "(step 100, a checkpoint of stage1) is the stage's bridge" in text
    assert "`watcher retry stage2 100 --from stage1`" in text


def test_a_long_history_is_shortened():
    history = tuple((NOW - 100 + number, "waiting", f"reason {number}") for number in range(30))
    text = explain_evaluation(record(EvaluationState.WAITING, history=history), NOW)
    assert "(18 earlier changes: see --all)" in text
    assert "reason 17\n" not in text
    assert "reason 18\n" in text
    whole = explain_evaluation(record(EvaluationState.WAITING, history=history), NOW, all_changes=True)
    assert "earlier change" not in whole
    assert [f"reason {number}" in whole for number in range(30)] == [True] * 30


def test_the_timeline_names_each_day_once_and_the_checkpoint_s_own_time():
    history = (
        (NOW - 200_000, "pending", "in the schedule"),
        (NOW - 600, "ready", "x" * 30 + " y" * 40),
        (NOW - 590, "queued", ""),
    )
    changes = record(EvaluationState.QUEUED, history=history, times={"complete": NOW - 700.0})
    lines = explain_evaluation(changes, NOW).splitlines()
    days = [line for line in lines if line and line[0].isdigit()]
    assert days == sorted({format_local_time(at).partition(" ")[0] for at in (NOW - 200_000, NOW - 700, NOW - 590)})
    assert [line[24:].split()[0] for line in lines if "  +" in line] == ["complete", "ready", "queued"]
    assert [change.state for change in list_changes(changes)] == ["pending", "complete", "ready", "queued"]
    assert max(map(len, lines)) <= TEXT_WIDTH


def test_what_is_scored_again_is_not_said_to_have_waited_for_its_checkpoint():
    times = {"complete": NOW - 5000, "detected": NOW - 4990, "again": NOW - 300, "submitted": NOW - 290, "scored": NOW - 200}
    text = flat(explain_evaluation(record(EvaluationState.SCORED, times=times), NOW))
    assert (
        f"The checkpoint was complete at {format_local_time(NOW - 5000)}; seen complete after 10 s. It was scored once before; "
        f"the last round: submitted at {format_local_time(NOW - 290)}, scored at {format_local_time(NOW - 200)}."
    ) in text
    assert "scored after" not in text
    del times["submitted"], times["scored"]
    assert "the last round: not submitted yet." in flat(explain_evaluation(record(EvaluationState.READY, times=times), NOW))


@pytest.mark.parametrize(("step", "source", "needed"), [(100, None, False), (6000, None, True), (100, "stage1", True)])
def test_what_starts_by_itself_needs_no_command(step, source, needed):
    text = explain_unknown_step(STAGE, step, source, CONFIG, skips={}, is_requested=False)
    assert ("watcher enqueue" in text) == needed


def test_hostile_reasons_reach_no_terminal():
    text = explain_evaluation(
        record(EvaluationState.BLOCKED, reason="\x1b[2Jx\ny", history=((NOW, "pending\x07", "\x9b"), (NOW, "b", ""))), NOW
    )
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize(
    ("step", "source", "asked", "skips", "said"),
    [
        (100, None, False, {}, "It is in the schedule; the next tick"),
        (3000, None, False, {}, "It is in the schedule"),
        (6000, None, False, {}, "not in the schedule of stage2 (100, 200; every 1000 from 1000 to 5000; the final step)"),
        (150, None, False, {"/c/stage2/150": "not complete"}, "Last tick: not complete."),
        (150, None, False, {"stage2/step_150": "not wanted"}, "Last tick: not wanted."),
        (150, "stage1", False, {}, "path is /c/stage1/150. Run `watcher enqueue stage2 150 --from stage1` to score it once."),
        (150, None, True, {}, "A request for it is pending; the next tick handles it. Its checkpoint path is /c/stage2/150."),
    ],
)
def test_what_is_not_known_is_explained(step, source, asked, skips, said):
    assert said in flat(explain_unknown_step(STAGE, step, source, CONFIG, skips=skips, is_requested=asked))


def test_when_each_thing_happened_and_when_the_next_one_will():
    times = {"complete": NOW - 500, "detected": NOW - 440, "submitted": NOW - 438}
    text = flat(explain_evaluation(record(EvaluationState.QUEUED, times=times), NOW, poll_seconds=60.0))
    assert (
        f"The checkpoint was complete at {format_local_time(NOW - 500)}; seen complete after 60 s, submitted after 62 s." in text
    )
    assert text.endswith("The job waits in the queue. The watcher checks it within 60 s.")
    assert flat(explain_evaluation(record(EvaluationState.QUEUED), NOW)).endswith("The watcher checks it when it next runs.")


def test_the_level_of_its_comparisons_is_said_once_it_is_fixed():
    assert "level" not in flat(explain_evaluation(record(EvaluationState.SCORED), NOW))
    text = flat(explain_evaluation(record(EvaluationState.SCORED, level=0.0016), NOW))
    assert "a false better or worse at a level of 0.16 % against each baseline, its part of the stage's 5 %." in text

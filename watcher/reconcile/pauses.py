"""What a pause holds, and how one begins and ends. Pure."""

from collections.abc import Iterable

from watcher.core import stage_events
from watcher.core.actions import Action, CloseRequest, Skip, SubmitEvaluation, SubmitPrefill
from watcher.core.request_types import Request
from watcher.journal.replay import JournalState


def skip_paused(items: Iterable[Action | Skip], journal_state: JournalState) -> list[Action | Skip]:
    """The items, with a skip in place of each submission of a paused stage."""
    outcomes: list[Action | Skip] = []
    for item in items:
        # A submission in flight is completed: whoever pauses wants no half-made job.
        if not isinstance(item, SubmitEvaluation | SubmitPrefill):
            outcomes.append(item)
            continue
        stage = item.key.partition("/")[0]
        pause = journal_state.find_pause(stage)
        command = "watcher resume" if "" in journal_state.pauses else f"watcher resume {stage}"
        outcomes.append(item if pause is None else Skip(item.key, f"ready; {pause}. Run {command}"))
    return outcomes


def answer_pause(request: Request, journal_state: JournalState, *, is_known: bool) -> list[Action]:
    """Pause or resume a stage, or every stage."""
    what = request.stage or "every stage"
    if request.kind == "pause":
        if request.stage and not is_known:
            return [CloseRequest(id=request.id, key=request.stage, reason=f"no stage {request.stage}; the request is ignored")]
        paused = stage_events.Paused(stage=request.stage, by=request.by, reason=request.reason)
        return [paused, CloseRequest(id=request.id, key=request.stage, reason=f"{what} is paused")]
    if not (request.stage in journal_state.pauses or (not request.stage and journal_state.pauses)):
        return [CloseRequest(id=request.id, key=request.stage, reason=f"{what} is not paused")]
    resumed = stage_events.Resumed(stage=request.stage, by=request.by)
    return [resumed, CloseRequest(id=request.id, key=request.stage, reason=f"{what} is resumed")]

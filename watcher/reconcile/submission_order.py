"""Which submissions are made where limits allow only some. Pure.

Bridges and final steps come first, since comparisons wait for them. The others follow by the time at which their checkpoint
was complete, oldest first, then by step.
"""

import math
from collections.abc import Mapping

from watcher.attempts.budget import Budget, BudgetLine
from watcher.attempts.journal_events import wait_or_skip
from watcher.config.settings import Config
from watcher.core.actions import Action, Skip, SubmitEvaluation
from watcher.core.evaluation import IN_FLIGHT_STATES, EvaluationRecord
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import Snapshot, StageFolder
from watcher.journal.replay import JournalState
from watcher.reconcile.schedule import is_final_step


def select_submissions(
    candidates: list[SubmitEvaluation], snapshot: Snapshot, config: Config, journal_state: JournalState
) -> list[Action | Skip]:
    """As many submissions as limits allow, the most urgent first."""
    if not candidates:
        return []
    # Without the queue a lost job looks like none, so nothing new is submitted.
    if snapshot.jobs is None:
        return [Skip(candidate.key, f"ready; the queue {snapshot.queue_problem}") for candidate in candidates]
    in_flight_count = sum(record.state in IN_FLIGHT_STATES for record in journal_state.records.values())
    limits = [(config.limits.max_queued - in_flight_count, f"ready; limits.max_queued ({config.limits.max_queued}) is reached")]
    max_running = config.limits.max_running if config.limits.max_running is not None else snapshot.max_running
    if max_running is not None:
        # Those that are submitted now are in flight when anybody reads this.
        soon_count = max(in_flight_count, min(max_running, in_flight_count + len(candidates)))
        limits.append(
            (max_running - in_flight_count, f"ready; limits.max_running ({max_running}) is reached, {soon_count} in flight")
        )
    if snapshot.submit_limit:
        # A limit that Slurm named comes first: it explains more than our own numbers.
        limits.insert(0, (0, snapshot.submit_limit))
    if snapshot.submissions_left is not None:
        limits.append((snapshot.submissions_left, "ready; limits.slurm_calls_per_minute is used up for this minute"))
    available, reason = min(limits, key=lambda limit: limit[0])  # the first of two equal ones
    # Comparisons wait for bridges and final steps, so those go first.
    ranked = sorted(
        candidates, key=lambda candidate: _make_priority_key(journal_state.records[candidate.key], config, snapshot.stages)
    )
    budget = Budget(config, journal_state.records.values(), snapshot.now)
    outcomes: list[Action | Skip] = []
    for candidate in ranked:
        if available <= 0:
            outcomes.append(Skip(candidate.key, reason))
            continue
        record = journal_state.records[candidate.key]
        line = budget.hold(record)
        if line is not None:  # what is held takes no place of another stage's
            outcomes.append(_wait_for_budget(record, line, budget.estimate_next(record)))
            continue
        available -= 1
        outcomes.append(candidate)
    return outcomes


def _wait_for_budget(record: EvaluationRecord, line: BudgetLine, cost: float) -> Action | Skip:
    # The numbers change with every job, so the journaled reason has none of them.
    reason = f"{line.name} ({line.limit / 3600:g} GPU hours) has no room for another job"
    figures = f"{line.used / 3600:.4g} used, {line.reserved / 3600:.4g} reserved, and the job may take {cost / 3600:.4g}"
    hint = f"Raise it, or run watcher enqueue {record.arguments} --force"
    return wait_or_skip(record, f"{reason}; {hint}", f"{reason}: {figures}. {hint}", kind=ReasonKind.BUDGET)


def _make_priority_key(
    record: EvaluationRecord, config: Config, stage_folders: Mapping[str, StageFolder]
) -> tuple[bool, float, str, int]:
    stage = config.stages[record.stage]
    is_own_last = not record.average and is_final_step(stage, stage_folders.get(stage.name), record.step)
    is_first = record.source != record.stage or is_own_last
    return not is_first, record.times.get("complete", math.inf), record.stage, record.step

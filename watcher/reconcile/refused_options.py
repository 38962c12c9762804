"""Options that sbatch refuses in words that no table knows. Pure.

An unknown answer is no refusal: its job is searched first. Where three submissions with equal options got equal answers and
made no job, these options are blocked, and not the evaluations. One is tried an hour; any submission that succeeds ends it.
"""

from collections.abc import Mapping, Sequence

from watcher.config.settings import Config
from watcher.core.actions import Action, Alert, Skip, SubmitEvaluation
from watcher.core.evaluation import SETTLED_STATES, EvaluationRecord, EvaluationState, RefusedOptions
from watcher.core.resources import get_submit_options
from watcher.core.snapshot import Snapshot
from watcher.journal.replay import JournalState

REFUSALS_TO_BLOCK = 3
"""Equal answers without a job after which options are blocked."""

PROBE_SECONDS = 3600.0
"""Seconds between two tries of blocked options."""


class RefusedOptionsGate:
    """Decides for each candidate of one tick whether its options may be tried."""

    def __init__(self, snapshot: Snapshot, config: Config, journal_state: JournalState) -> None:
        self._now, self._config, self._refused = snapshot.now, config, journal_state.refused_options
        # A job may still appear: until that is known, equal options would only meet the same answer.
        self._unclear = {
            record.refusal.options: f"sbatch answered {record.key} with: {record.refusal.words}; its job is searched first"
            for record in journal_state.iter_all_records()
            if record.state is EvaluationState.SUBMITTING and record.refusal is not None
        }

    def describe_hold(self, record: EvaluationRecord) -> str:
        """Why the record's options are not tried now; empty where they are, which uses up the try."""
        options = get_submit_options(self._config, record)
        if options.key in self._unclear:
            return self._unclear[options.key]
        refused = self._refused.get(options.key)
        if refused is None:
            return ""
        is_blocked = refused.count >= REFUSALS_TO_BLOCK
        if is_blocked and 0 <= self._now - refused.last < PROBE_SECONDS:
            return f"options blocked: {describe_refusal(refused)}"
        # One try at a time: its answer decides about the others.
        self._unclear[options.key] = f"sbatch answered with: {refused.refusal.words}; one submission tries again first"
        return ""

    def hold_submissions(
        self, submissions: Sequence[Action | Skip], records: Mapping[str, EvaluationRecord]
    ) -> list[Action | Skip]:
        """These submissions, the most urgent first, with a skip for each that is held."""
        holds = {item.key: self.describe_hold(records[item.key]) for item in submissions if isinstance(item, SubmitEvaluation)}
        return [
            Skip(item.key, holds[item.key]) if isinstance(item, SubmitEvaluation) and holds[item.key] else item
            for item in submissions
        ]


def describe_refusal(refused: RefusedOptions) -> str:
    """What is refused, in the site's words, and how it ends."""
    return (
        f"sbatch refused {refused.refusal.described_options or 'the options'} {refused.count} times in a row: "
        f"{refused.refusal.words}. Change slurm: in the config; one submission tries again each hour"
    )


def skip_refused_options(journal_state: JournalState, config: Config) -> list[Skip]:
    """One warning for each set of blocked options that today's config still asks for."""
    return [Skip("slurm", describe_refusal(refused), needs_attention=True) for refused in _list_blocked(journal_state, config)]


def make_refusal_alerts(journal_state: JournalState, config: Config) -> list[Alert]:
    """News of blocked options."""
    return [
        Alert(
            id=f"refused {refused.refusal.options} {refused.since:.3f}",
            event="blocked",
            message=describe_refusal(refused),
        )
        for refused in _list_blocked(journal_state, config)
    ]


def _list_blocked(journal_state: JournalState, config: Config) -> list[RefusedOptions]:
    if not journal_state.refused_options:
        return []
    # After a change of the config the refusal says nothing about its options.
    wanted = {
        get_submit_options(config, record).key
        for record in journal_state.iter_all_records()
        if record.state not in SETTLED_STATES
    }
    return [
        refused for key, refused in journal_state.refused_options.items() if refused.count >= REFUSALS_TO_BLOCK and key in wanted
    ]

"""``watcher once``: one tick without the loop, for cron."""

import time
from collections.abc import Mapping

import msgspec

from suites.common.errors import ExitCode, UserError
from watcher.config.settings import Config
from watcher.core.actions import Skip
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.daemon import log_setup as logs
from watcher.daemon.daemon import open_daemon
from watcher.daemon.dry_run import preview_tick
from watcher.daemon.setup import make_executor, read_state_id
from watcher.journal.journal import DryJournal, JournalSuperseded, read_journal


class TickReport(msgspec.Struct, frozen=True):
    """What one tick did, or would do."""

    actions: list[dict[str, str]]
    """{"action", "evaluation", "reason"} each."""
    skipped: list[dict[str, str]]
    """{"evaluation", "reason"} each."""
    warnings: tuple[str, ...] = ()
    """Of a dry run; those of a real tick are in the status."""


def run_once(config: Config, *, dry_run: bool, environ: Mapping[str, str]) -> TickReport:
    """One tick under the lock; a dry run writes nothing.

    Raises UserError where a watcher runs already, or the state folder cannot be used.
    """
    # A dry run takes no lock, so it also works beside a running watcher.
    if dry_run:
        journal = DryJournal(read_journal(config.paths))
        preview = preview_tick(
            config, journal, make_executor(config, environ), read_state_id(config.paths.state), clock=time.time, environ=environ
        )
        report = _build_tick_report(preview.actions, preview.skips, journal.state.records)
        return msgspec.structs.replace(report, warnings=preview.warnings)
    daemon = open_daemon(config, environ, console=False, mode="once")
    try:
        performed_actions = []
        is_successful = True
        while is_successful:  # one tick, whatever number of slices it takes
            is_successful = daemon.tick() and daemon.tick_runner.is_unfinished
            performed_actions += daemon.tick_runner.performed_actions
        # No later tick of this process would start the comparisons.
        daemon.finish_reports()
        return _build_tick_report(performed_actions, daemon.tick_runner.skips, daemon.journal.state.records)
    except JournalSuperseded as error:
        raise UserError(
            str(error), location=config.paths.state, hint="run watcher status to see which watcher runs", code=ExitCode.TEMPORARY
        ) from error
    finally:
        daemon.close()
        logs.stop_daemon_log()


def _build_tick_report(
    actions: list[dict[str, str]], skips: tuple[Skip, ...], records: Mapping[str, EvaluationRecord]
) -> TickReport:
    skipped = {skip.evaluation: skip.reason for skip in skips}
    scored = {key: "scored already" for key, record in records.items() if record.state is EvaluationState.SCORED}
    handled_keys = {action["evaluation"] for action in actions}
    # Every evaluation appears once: with its action, its skip, or as scored.
    reasons = {**{key: reason_text for key, reason_text in scored.items() if key not in handled_keys}, **skipped}
    return TickReport(actions, [{"evaluation": evaluation, "reason": reason} for evaluation, reason in reasons.items()])

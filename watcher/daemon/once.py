"""One tick: a full substitute for the daemon from cron, since everything that matters between two ticks is on disk."""

import time
from collections.abc import Mapping

import msgspec

from suites.common.errors import Exit, Problem
from watcher.config.settings import Config
from watcher.core.actions import Skip
from watcher.core.evaluation import Record, State
from watcher.daemon import log_setup as logs
from watcher.daemon.daemon import open_daemon
from watcher.daemon.dry_run import rehearse
from watcher.daemon.setup import known_id, make_executor
from watcher.journal.journal import DryJournal, Superseded, read


class Report(msgspec.Struct, frozen=True):
    """What one tick did, or would do."""

    actions: list[dict[str, str]]
    """{"action", "evaluation", "reason"} each."""
    skipped: list[dict[str, str]]
    """{"evaluation", "reason"} each."""


def once(config: Config, *, dry_run: bool, environ: Mapping[str, str]) -> Report:
    """One tick, under the same lock; a dry run only says what it would do, and writes nothing.

    Raises Problem where a watcher runs already, or the state folder cannot be used.
    """
    if dry_run:
        journal = DryJournal(read(config.paths))
        told, skips = rehearse(
            config, journal, make_executor(config, environ), known_id(config.paths.state), clock=time.time, environ=environ
        )
        return _report(told, skips, journal.ledger.records)
    daemon = open_daemon(config, environ, console=False, mode="once")
    try:
        daemon.tick()
        daemon.wrap_up()
        return _report(daemon.ticker.told, daemon.ticker.skips, daemon.journal.ledger.records)
    except Superseded as error:
        raise Problem(str(error), where=config.paths.state, todo="see which watcher runs", code=Exit.TEMPORARY) from error
    finally:
        daemon.close()
        logs.stop()


def _report(told: list[dict[str, str]], skips: tuple[Skip, ...], records: Mapping[str, Record]) -> Report:
    skipped = {skip.evaluation: skip.reason for skip in skips}
    scored = {key: "scored already" for key, record in records.items() if record.state is State.SCORED}
    done = {action["evaluation"] for action in told}
    listed = {**{key: why for key, why in scored.items() if key not in done}, **skipped}
    return Report(told, [{"evaluation": evaluation, "reason": reason} for evaluation, reason in listed.items()])

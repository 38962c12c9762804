"""The running watcher: lock, journal, executor, and one tick after the other.

Everything that matters between two ticks is on disk. Nothing here imports torch, numpy, pyarrow, datasets or transformers.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from suites.common.errors import UserError
from watcher import __version__
from watcher.config.run_folders import update_run_stages
from watcher.config.settings import Config
from watcher.core.clock import Clock, LogFn, touch_clock
from watcher.core.events import Opened
from watcher.core.executor import Executor
from watcher.daemon import log_setup as logs
from watcher.daemon.heartbeat import Heartbeat
from watcher.daemon.notify import Notifier
from watcher.daemon.report_scheduler import make_report_scheduler
from watcher.daemon.setup import ensure_state_id, make_executor
from watcher.daemon.tick import TickRunner
from watcher.journal.journal import Journal, JournalSuperseded
from watcher.journal.lock import DaemonLock
from watcher.journal.state_owner import claim_state_folder, make_unusable_error
from watcher.observe.local_data import MAX_BYTES_PER_TICK
from watcher.status.health import check_liveness, make_downtime_alerts

FIXED_KEYS = ("state", "scratch", "executor")
"""Keys that only a restart changes: journal, lock, paths and jobs in flight belong to them."""


class Daemon:
    """The running watcher, from taking the lock to releasing it."""

    def __init__(
        self,
        config: Config,
        *,
        environ: Mapping[str, str],
        log: LogFn,
        clock: Clock = time.time,
        server_clock: Callable[[Path], float] = touch_clock,
        executor: Executor | None = None,
        mode: str = "run",
    ) -> None:
        """Take the lock and open the journal.

        ``server_clock``: the file server's clock; ``executor``: instead of the config's.
        """
        self.config = config
        self.log, self._clock, self._server_clock, self._environ = log, clock, server_clock, environ
        # once finishes before it reports
        self._data_bytes_per_tick = MAX_BYTES_PER_TICK if mode == "run" else math.inf
        self._journal_warnings: list[str] = []
        self._config_error = ""
        self._config_stamp = _read_stamp(config.source)
        config.paths.state.mkdir(parents=True, exist_ok=True)
        server_now = server_clock(config.paths.clock_file)
        self.lock = DaemonLock.acquire(config.paths, lease_seconds=10 * config.poll, server_now=server_now)
        try:
            # Read before the first status of this watcher replaces the last one.
            previous_health = check_liveness(config.paths, clock())
            self.heartbeat = Heartbeat(self.lock.owner, mode=mode, paths=config.paths, clock=clock)
            config.paths.requests.mkdir(exist_ok=True)
            self.journal = Journal.open(config.paths)
            # A person finds in the lock which journal file belongs to the running watcher.
            self.lock.write_epoch(self.journal.epoch)
            owner = self.lock.owner
            self.journal.append(
                Opened(host=owner.host, pid=owner.pid, start=owner.start, version=__version__, user=owner.user), t=clock()
            )
            self.notifier = Notifier(self.journal, environ, clock=clock, log=log)
            self._downtime_alerts = make_downtime_alerts(previous_health, clock())
            self._journal_warnings += self.journal.state.warnings
            for warning in self._journal_warnings:
                log("journal", message=warning)
            self.tick_runner = self._make_tick_runner(config, make_executor(config, environ) if executor is None else executor)
            self.report_scheduler = make_report_scheduler(config, environ, clock=clock, log=log)
        except BaseException:
            self.lock.release()
            raise

    def _make_tick_runner(self, config: Config, executor: Executor) -> TickRunner:
        return TickRunner(
            config,
            self.journal,
            executor,
            ensure_state_id(config),
            clock=self._clock,
            server_clock=self._server_clock,
            environ=self._environ,
            log=self.log,
            data_bytes_per_tick=self._data_bytes_per_tick,
        )

    def tick(self, is_stopping: Callable[[], bool] = lambda: False) -> bool:
        """One tick with notifications and status; whether it succeeded.

        Raises JournalSuperseded; an OSError becomes a warning.
        """
        errors: tuple[str, ...] = ()
        is_successful = True
        try:
            # The lock is checked first: a tick without it could act beside another watcher.
            if not self.lock.renew_heartbeat():
                self._recover_lock()
            self._find_runs()
            self.tick_runner.tick(is_stopping)
            self.heartbeat.ticks += 1
            errors = self.tick_runner.warnings
            # After the tick, so that its news are in the journal before anybody is notified.
            self.notifier.notify((*self._downtime_alerts, *self.tick_runner.alerts, *self.report_scheduler.alerts), self.config)
        except OSError as error:
            errors, is_successful = (f"this tick ended early: {error}",), False
            self.log("trouble", message=str(error))
        return self._publish_status((*errors, *self.report_scheduler.run_pending(self.journal.state))) and is_successful

    def _find_runs(self) -> None:
        """Make a stage of every run folder that came since the last tick."""
        config = update_run_stages(self.config)
        if config is not self.config:
            self.log("runs", stages=sorted(set(config.stages) - set(self.config.stages)), refused=dict(config.run_problems))
            self.config = self.report_scheduler.config = config
            self.tick_runner.use_stages(config)

    def _recover_lock(self) -> None:
        """Stop at another watcher's lock; make a removed lock again."""
        lock = self.config.paths.lock
        # A cleaner of scratch may remove the lock; the journal shows whether another watcher runs.
        if self.lock.is_free():
            self.journal.fence()
            if self.lock.recreate():
                self.log("lock", message=f"{lock} was removed or damaged; it is created again")
                return
        message = f"another watcher holds {lock}; this one stops"
        raise JournalSuperseded(message)

    def finish_reports(self) -> None:
        """Wait minutes for comparisons and report, for ``watcher once``."""
        warnings = self.report_scheduler.run_pending(self.journal.state, wait=True)
        try:
            self.notifier.notify(self.report_scheduler.alerts, self.config)
        except OSError as error:
            warnings = (*warnings, f"notify: {error}")
        self._publish_status((*self.tick_runner.warnings, *warnings))

    def _publish_status(self, errors: tuple[str, ...], *, stopped: bool = False) -> bool:
        config_warning = self._config_error or self._describe_edited_config()
        warnings = (*self._journal_warnings, *filter(None, (config_warning, self.notifier.last_error)), *errors)
        try:
            self.heartbeat.beat(
                self.tick_runner,
                self.config,
                epoch=self.journal.epoch,
                warnings=warnings,
                stage_notes=self.report_scheduler.stage_notes,
                stopped=stopped,
            )
        except OSError as error:
            self.log("trouble", message=f"cannot write the status: {error}")
            return False
        return True

    @property
    def summary(self) -> str:
        """How many evaluations are in which state, in a line."""
        counts = Counter(record.state.value for record in self.journal.state.records.values())
        return ", ".join(f"{number} {state}" for state, number in counts.items()) or "nothing to do yet"

    def publish_stopped(self) -> None:
        """Publish the last status: the watcher was stopped."""
        self._publish_status(self.tick_runner.warnings, stopped=True)

    def reload_config(self, load_config: Callable[[], Config]) -> bool:
        """Take a new config as a fresh start would, or keep the old one with a warning.

        State, scratch and executor cannot change. Returns whether the new one is taken.
        """
        stamp = _read_stamp(self.config.source)  # before the content: a later edit differs from it
        try:
            config = load_config()
        except UserError as problem:
            return self._refuse_config(str(problem), stamp)
        changes = [
            f"{key} ({getattr(self.config, key)} > {getattr(config, key)})"
            for key in FIXED_KEYS
            if getattr(config, key) != getattr(self.config, key)
        ]
        if changes:
            reason = f"{config.source}: {', '.join(changes)} cannot change while the watcher runs; restart it"
            return self._refuse_config(reason, stamp)
        executor = self.tick_runner.executor
        executor.set_command_rate(config.limits.slurm_calls_per_minute, config.poll)
        # Everything that a start derives from the config is made anew, so that no cache of the old one is left.
        self.tick_runner = self._make_tick_runner(config, executor)
        self.config, self._config_error, self._config_stamp = config, "", stamp
        self.report_scheduler.config = config
        self.log("config_reloaded", source=config.source)
        return True

    def _refuse_config(self, reason: str, stamp: tuple[int, int] | None) -> bool:
        self._config_error, self._config_stamp = f"the new config is refused and the old one stays: {reason}", stamp
        self.log("config_refused", message=reason)
        return False

    def _describe_edited_config(self) -> str:
        """A warning where the config file is newer than the config in use."""
        if _read_stamp(self.config.source) == self._config_stamp:
            return ""
        pid = self.lock.owner.pid
        return f"{self.config.source} was edited, and this watcher uses what it read before; check it and run kill -HUP {pid}"

    def close(self) -> None:
        """Give everything back. Jobs go on."""
        try:
            # The lock goes last: the next watcher must find the journal closed.
            self.notifier.close()
            self.report_scheduler.close()
            self.journal.close()
        finally:
            self.lock.release()


def open_daemon(config: Config, environ: Mapping[str, str], *, console: bool, mode: str = "run") -> Daemon:
    """Open a daemon.

    UserError where a watcher runs already, or the state folder is unusable.
    """
    try:
        config.paths.state.mkdir(parents=True, exist_ok=True)
        claim_state_folder(config.paths, shared=config.share_state)
        return Daemon(config, environ=environ, log=logs.start_daemon_log(config.paths.log, console=console), mode=mode)
    except OSError as error:
        raise make_unusable_error(config.paths, error, shared=config.share_state) from error


def _read_stamp(source: str) -> tuple[int, int] | None:
    """Time of change in ns and inode of a config file; None without a file."""
    try:
        stats = Path(source).stat()
    except OSError:
        return None
    return stats.st_mtime_ns, stats.st_ino

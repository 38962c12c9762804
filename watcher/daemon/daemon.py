"""The daemon: one lock, one journal, one executor, and a tick every poll until it is told to end.

Everything that matters between two ticks is on disk. Nothing here imports torch, numpy, pyarrow, datasets or transformers.
"""

import math
import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from suites.common.errors import Exit, Problem
from watcher import __version__
from watcher.config.settings import Config
from watcher.core.clock import Say, touch_clock
from watcher.core.executor import Executor
from watcher.daemon import log_setup as logs
from watcher.daemon.heartbeat import Heartbeat
from watcher.daemon.notify import Notifier
from watcher.daemon.report_scheduler import make_reporter
from watcher.daemon.setup import make_executor, state_id
from watcher.daemon.systemd import Service, without
from watcher.daemon.tick import Ticker
from watcher.daemon.wakeup import Wake
from watcher.journal.journal import OPENED, Journal, Superseded
from watcher.journal.lock import Lock
from watcher.observe.local_data import READ_A_TICK
from watcher.status.health import judge, unwatched

SUPERSEDED = 5
"""Exit code of a watcher that another one took over from."""

JITTER = 0.1
"""Part of a poll by which a sleep may be longer."""

Clock = Callable[[], float]


class Daemon:
    """Everything between taking the lock and giving it back."""

    def __init__(
        self,
        config: Config,
        *,
        environ: Mapping[str, str],
        say: Say,
        clock: Clock = time.time,
        server_clock: Callable[[Path], float] = touch_clock,
        executor: Executor | None = None,
        mode: str = "run",
    ) -> None:
        """``server_clock``: the file server's, asked through a file of ours; ``executor``: another than the config's."""
        self.config = config
        self.say, self._clock = say, clock
        self._notes: list[str] = []
        self._refused = ""
        config.paths.state.mkdir(parents=True, exist_ok=True)
        server_now = server_clock(config.paths.clock)
        self.lock = Lock.acquire(config.paths, lease=10 * config.poll, server_now=server_now)
        try:
            before = judge(config.paths, clock())
            self.heartbeat = Heartbeat(self.lock.me, mode=mode, paths=config.paths, clock=clock)
            config.paths.requests.mkdir(exist_ok=True)
            self.journal = Journal.open(config.paths)
            self.lock.enter(self.journal.epoch)
            me = self.lock.me
            self.journal.append(OPENED, t=clock(), host=me.host, pid=me.pid, start=me.start, version=__version__)
            self.notifier = Notifier(self.journal, environ, clock=clock, say=say)
            self._unwatched = unwatched(before, clock())
            self._notes += self.journal.ledger.notes
            for note in self._notes:
                say("journal", words=note)
            self.ticker = Ticker(
                config,
                self.journal,
                make_executor(config, environ) if executor is None else executor,
                state_id(config),
                clock=clock,
                server_clock=server_clock,
                environ=environ,
                say=say,
                data_a_tick=READ_A_TICK if mode == "run" else math.inf,  # once comes to its end before it says anything
            )
            self.reporter = make_reporter(config, environ, clock=clock, say=say)
        except BaseException:
            self.lock.release()
            raise

    def tick(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """One tick, its news and its status; whether all went well. Raises Superseded; every OSError is noted."""
        troubles: tuple[str, ...] = ()
        good = True
        try:
            if not self.lock.beat():
                self._without_lock()
            self.ticker.tick(stopping)
            self.heartbeat.ticks += 1
            troubles = self.ticker.notes
            self.notifier.tell((*self._unwatched, *self.ticker.alerts, *self.reporter.alerts), self.config)
        except OSError as error:
            troubles, good = (f"this tick ended early: {error}",), False
            self.say("trouble", words=str(error))
        return self._publish((*troubles, *self.reporter.work(self.journal.ledger))) and good

    def _without_lock(self) -> None:
        """Another's lock ends this watcher; one that is gone is made again, unless somebody took over or all is gone."""
        lock = self.config.paths.lock
        if not lock.exists():
            self.journal.fence()
            if self.lock.retake():
                self.say("lock", words=f"{lock} was gone: somebody removed it; it is made again")
                return
        message = f"{lock} is another's by now; this watcher stops"
        raise Superseded(message)

    def wrap_up(self) -> None:
        """For a single tick: wait for comparisons and report, a few minutes at most, and say in the status how they ended."""
        troubles = self.reporter.work(self.journal.ledger, wait=True)
        try:
            self.notifier.tell(self.reporter.alerts, self.config)
        except OSError as error:
            troubles = (*troubles, f"notify: {error}")
        self._publish((*self.ticker.notes, *troubles))

    def _publish(self, troubles: tuple[str, ...], *, stopped: bool = False) -> bool:
        notes = (*self._notes, *filter(None, (self._refused, self.notifier.trouble)), *troubles)
        try:
            self.heartbeat.beat(self.ticker, self.config, epoch=self.journal.epoch, notes=notes, stopped=stopped)
        except OSError as error:
            self.say("trouble", words=f"status cannot be written: {error}")
            return False
        return True

    @property
    def summary(self) -> str:
        """How many evaluations are in which state, in a line."""
        counts = Counter(record.state.value for record in self.journal.ledger.records.values())
        return ", ".join(f"{number} {state}" for state, number in counts.items()) or "nothing to do yet"

    def stop(self) -> None:
        """The last sign of life: it ended since it was told to."""
        self._publish(self.ticker.notes, stopped=True)

    def reload(self, load: Callable[[], Config]) -> None:
        """Take a new config; an invalid one, or one about another state folder or executor, is refused and the old one kept."""
        try:
            config = load()
        except Problem as problem:
            self._refuse(str(problem))
            return
        if (config.state, config.executor) != (self.config.state, self.config.executor):
            self._refuse("state and executor change only with a new start")
            return
        self.config, self._refused = config, ""
        self.ticker.reconfigure(config)
        self.reporter.config = config
        self.say("config_reloaded", source=config.source)

    def _refuse(self, words: str) -> None:
        self._refused = f"the config was read again and is refused, the one before it stays: {words}"
        self.say("config_refused", words=words)

    def close(self) -> None:
        """Give everything back. Jobs go on."""
        try:
            self.notifier.close()
            self.reporter.close()
            self.journal.close()
        finally:
            self.lock.release()


def run(config: Config, *, reload: Callable[[], Config], environ: Mapping[str, str]) -> int:
    """Watch until SIGTERM or SIGINT; SIGHUP re-reads the config. Gives the exit code: 0, or SUPERSEDED."""
    service, environ = Service(environ), without(environ)
    wake = Wake()
    asked = {"stop": False, "reload": False}
    handlers = {
        signal.SIGTERM: lambda: asked.update(stop=True),
        signal.SIGINT: lambda: asked.update(stop=True),
        signal.SIGHUP: lambda: asked.update(reload=True),
    }
    try:
        with wake.signals(handlers):
            daemon = open_daemon(config, environ, console=True)
            try:
                return _loop(daemon, wake, asked, reload, service)
            finally:
                daemon.close()
    finally:
        wake.close()
        logs.stop()


def open_daemon(config: Config, environ: Mapping[str, str], *, console: bool, mode: str = "run") -> Daemon:
    """Problem where a watcher runs already, or the state folder cannot be used."""
    try:
        config.paths.state.mkdir(parents=True, exist_ok=True)
        return Daemon(config, environ=environ, say=logs.start(config.paths.log, console=console), mode=mode)
    except OSError as error:
        todo = "make it writable, or name another with state:"
        raise Problem(
            f"the state folder cannot be used: {error}", where=config.paths.state, todo=todo, code=Exit.CANNOT_WRITE
        ) from error


def _loop(daemon: Daemon, wake: Wake, asked: dict[str, bool], reload: Callable[[], Config], service: Service) -> int:
    config, say = daemon.config, daemon.say
    say("watching", stages=sorted(config.stages), state=str(config.state), epoch=daemon.journal.epoch, pid=os.getpid())
    words = wake.watch(stage.checkpoints for stage in config.stages.values())
    if words:
        say("events", words=words)
    words = service.ready(config.poll)
    if words:
        say("service", words=words)
    while True:
        try:
            if daemon.tick(lambda: asked["stop"]):
                service.ticked(daemon.summary)
        except Superseded as error:
            say("superseded", words=str(error))
            return SUPERSEDED
        except Exception:  # noqa: BLE001  a defect of ours must not end three months of watching: it is told, and readers see a stale status
            say("defect", words="this tick failed; the next one is tried", traceback=traceback.format_exc())
        # so that many watchers do not ask at once; never sooner than a poll, or the limit of calls a minute would skip a turn
        jitter = random.uniform(1, 1 + JITTER)  # noqa: S311
        wake.sleep(daemon.config.poll * jitter, lambda: asked["stop"] or asked["reload"])
        if asked["stop"]:
            service.stopping()
            daemon.stop()
            say("stopped", reason="told to")
            return 0
        if asked["reload"]:
            asked["reload"] = False
            daemon.reload(reload)

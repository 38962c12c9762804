"""The polling loop of ``watcher run``: ticks, sleeps, signals."""

import os
import random
import signal
import traceback
from collections.abc import Callable, Mapping

from watcher.config.run_folders import list_watched_folders
from watcher.config.settings import Config
from watcher.daemon import log_setup as logs
from watcher.daemon.daemon import Daemon, open_daemon
from watcher.daemon.systemd import SystemdNotifier, strip_systemd_variables
from watcher.daemon.wakeup import Wakeup
from watcher.journal.journal import JournalSuperseded

SUPERSEDED_EXIT_CODE = 5
"""Exit code of a watcher that a newer one replaced."""

POLL_JITTER_FRACTION = 0.1
"""Share of a poll by which a sleep may be longer."""


def run_daemon(config: Config, *, load_config: Callable[[], Config], environ: Mapping[str, str]) -> int:
    """Watch until SIGTERM or SIGINT; SIGHUP re-reads the config.

    Returns the exit code: 0, or SUPERSEDED.
    """
    systemd, environ = SystemdNotifier(environ), strip_systemd_variables(environ)
    wakeup = Wakeup()
    signal_flags = {"stop": False, "reload": False}
    # A handler only sets a flag: an effect in progress must not be cut in two.
    handlers = {
        signal.SIGTERM: lambda: signal_flags.update(stop=True),
        signal.SIGINT: lambda: signal_flags.update(stop=True),
        signal.SIGHUP: lambda: signal_flags.update(reload=True),
    }
    try:
        with wakeup.handle_signals(handlers):
            daemon = open_daemon(config, environ, console=True)
            try:
                return _run_poll_loop(daemon, wakeup, signal_flags, load_config, systemd)
            finally:
                daemon.close()
    finally:
        wakeup.close()
        logs.stop_daemon_log()


def _run_poll_loop(
    daemon: Daemon, wakeup: Wakeup, signal_flags: dict[str, bool], load_config: Callable[[], Config], systemd: SystemdNotifier
) -> int:
    config, log = daemon.config, daemon.log
    log("watching", stages=sorted(config.stages), state=str(config.state), epoch=daemon.journal.epoch, pid=os.getpid())
    _use_poll_settings(daemon, wakeup, systemd)
    while True:
        stages = daemon.config.stages
        try:
            if daemon.tick(lambda: signal_flags["stop"]):
                systemd.notify_tick(daemon.summary)
            if daemon.config.stages is not stages:  # run folders came
                _watch_stage_folders(daemon, wakeup)
        except JournalSuperseded as error:
            log("superseded", message=str(error))
            return SUPERSEDED_EXIT_CODE
        except Exception:  # noqa: BLE001  a defect must not end the watching; readers see a stale status
            log("defect", message="internal error in this tick; the next tick runs as usual", traceback=traceback.format_exc())
        # Many watchers must not ask at once. Never sooner than a poll: the limit of calls a minute would skip a turn.
        jitter = random.uniform(1, 1 + POLL_JITTER_FRACTION)  # noqa: S311
        pause = 0.0 if daemon.tick_runner.is_unfinished else daemon.config.poll * jitter
        wakeup.sleep(pause, lambda: signal_flags["stop"] or signal_flags["reload"])
        if signal_flags["stop"]:
            systemd.notify_stopping()
            daemon.publish_stopped()
            log("stopped", reason="told to")
            return 0
        if signal_flags["reload"]:
            signal_flags["reload"] = False
            if daemon.reload_config(load_config):
                _use_poll_settings(daemon, wakeup, systemd)


def _use_poll_settings(daemon: Daemon, wakeup: Wakeup, systemd: SystemdNotifier) -> None:
    """Watch the folders of the config in use, and tell systemd its poll."""
    # Polling works without events, so a failure of either is only logged.
    _watch_stage_folders(daemon, wakeup)
    warning = systemd.notify_ready(daemon.config.poll)
    if warning:
        daemon.log("service", message=warning)


def _watch_stage_folders(daemon: Daemon, wakeup: Wakeup) -> None:
    warning = wakeup.watch_folders(list_watched_folders(daemon.config))
    if warning:
        daemon.log("events", message=warning)

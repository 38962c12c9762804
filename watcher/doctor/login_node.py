"""This login node: whether the watcher may live here, and whether one does."""

import os
import resource
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from suites.common.formatting import ago
from watcher.config.settings import Config
from watcher.doctor.check import OK, WARNING, WRONG, Check, asked
from watcher.executors.slurm_commands import Run, run_command
from watcher.status.health import judge

CPU_A_DAY = 20.0
"""Seconds of the daemon's, at most."""

MEMORY = 200 * 2**20
"""Bytes: three times what the daemon takes."""

_OURS = {"slurm": (), "local": ("bash", "nice")}


def checks(config: Config, environ: Mapping[str, str], *, run: Run = run_command) -> Iterator[Check]:
    """Limits, what keeps a daemon alive after the logout, and the daemon itself."""
    yield from _limits()
    yield _memory()
    yield _staying(environ, run)
    for name in _OURS[config.executor]:
        if shutil.which(name, path=environ.get("PATH")) is None:
            yield Check(WRONG, "local executor", f"no {name} on PATH", "install it")
    health = judge(config.paths, time.time())
    alive = health.verdict == "alive"
    todo = "start it with `watcher run`" + (", or `watcher once` from cron" if health.verdict == "absent" else "")
    words = health.line.replace("; start it with `watcher run`", "")
    yield Check(OK if alive else WARNING, "watcher", words, "" if alive else todo)


def _limits() -> Iterator[Check]:
    cpu = resource.getrlimit(resource.RLIMIT_CPU)[0]
    if cpu == resource.RLIM_INFINITY:
        yield Check(OK, "cpu limit", "none (ulimit -t)")
    else:
        days = cpu / CPU_A_DAY
        words = f"{cpu} s (ulimit -t): a daemon lives about {days:.0f} days"
        short = days < 30  # noqa: PLR2004  a month
        yield Check(WARNING if short else OK, "cpu limit", words, "`watcher once` from cron has no such limit" if short else "")
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY and space < 2 * MEMORY:
        words = f"{space / 2**20:.0f} MiB of address space (ulimit -v)"
        yield Check(WARNING, "memory limit", words, "the daemon maps about 200 MiB: raise it, or run it elsewhere")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files < 256:  # noqa: PLR2004  a few dozen are used
        yield Check(WARNING, "open files", f"{files} (ulimit -n)", "raise it to 256 or more")


def _memory() -> Check:
    """The control group's limit, which kills without a word."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="ascii").rstrip("\n").rpartition("::")[2]
        most = (Path("/sys/fs/cgroup") / own.lstrip("/") / "memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return Check(OK, "memory limit", "no control group says one")
    if most == "max":
        return Check(OK, "memory limit", "none")
    small = int(most) < MEMORY
    words = f"{int(most) / 2**20:.0f} MiB for this login's processes together"
    return Check(WARNING if small else OK, "memory limit", words, "run the daemon where there is more" if small else "")


def _staying(environ: Mapping[str, str], run: Run) -> Check:
    """What keeps a daemon after the logout."""
    path = environ.get("PATH")
    if environ.get("TMUX") or environ.get("STY"):
        return Check(OK, "staying", "this is tmux or screen: `watcher run` outlives the logout where the site lets it")
    if shutil.which("loginctl", path=path) and Path("/run/systemd/system").is_dir():
        ran = asked(["loginctl", "show-user", str(os.getuid()), "--property=Linger"], environ, 5.0, run)
        if ran.out.strip() == "Linger=yes":
            return Check(OK, "staying", "lingering is on: a systemd user unit outlives the logout")
        words = "lingering is off: a systemd user unit ends with the last login"
        return Check(WARNING, "staying", words, "`loginctl enable-linger`, or tmux, or `watcher once` from cron")
    ways = [name for name in ("tmux", "screen", "crontab", "scrontab") if shutil.which(name, path=path)]
    if not ways:
        return Check(WARNING, "staying", "no systemd, tmux, screen or crontab here", "see how this site keeps processes alive")
    return Check(OK, "staying", f"not in tmux; {', '.join(ways)} {'is' if len(ways) == 1 else 'are'} here to outlive the logout")


def requests_folder(config: Config) -> Check:
    """Where commands from other nodes leave what they ask for."""
    folder = config.paths.requests
    if not folder.is_dir():
        return Check(OK, "requests", f"{folder} is made at the first start")
    waiting = [name for name in os.listdir(folder) if name.endswith(".json")]  # noqa: PTH208
    oldest = max((time.time() - (folder / name).stat().st_mtime for name in waiting), default=0.0)
    if not os.access(folder, os.W_OK):
        return Check(WRONG, "requests", f"{folder} cannot be written", "make it writable for those who may ask")
    if oldest > 10 * config.poll:
        return Check(WARNING, "requests", f"{len(waiting)} wait, the oldest for {ago(oldest)}", "see why nobody takes them up")
    return Check(OK, "requests", f"{folder}: {len(waiting)} waiting")

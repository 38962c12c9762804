"""This login node: may the watcher live here, and does one run?"""

import os
import resource
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from suites.common.formatting import format_duration
from watcher.config.settings import Config
from watcher.doctor.check import OK, WARNING, WRONG, DoctorCheck, run_with_timeout
from watcher.executors.slurm_commands import CommandRunner, run_command
from watcher.status.health import check_liveness

CPU_SECONDS_PER_DAY = 20.0
"""Seconds of the daemon's, at most."""

REQUIRED_MEMORY_BYTES = 200 * 2**20
"""Bytes: three times what the daemon takes."""

_REQUIRED_COMMANDS = {"slurm": (), "local": ("bash", "nice")}


def check_login_node(config: Config, environ: Mapping[str, str], *, run: CommandRunner = run_command) -> Iterator[DoctorCheck]:
    """Check limits, survival after logout, and the daemon."""
    yield from _check_process_limits()
    yield _check_cgroup_memory()
    yield _check_survives_logout(environ, run)
    for name in _REQUIRED_COMMANDS[config.executor]:
        if shutil.which(name, path=environ.get("PATH")) is None:
            yield DoctorCheck(WRONG, "local executor", f"no {name} on PATH", "install it")
    health = check_liveness(config.paths, time.time())
    yield DoctorCheck(OK if health.verdict == "alive" else WARNING, "watcher", health.summary)


def _check_process_limits() -> Iterator[DoctorCheck]:
    cpu_seconds = resource.getrlimit(resource.RLIMIT_CPU)[0]
    if cpu_seconds == resource.RLIM_INFINITY:
        yield DoctorCheck(OK, "cpu limit", "none (ulimit -t)")
    else:
        lifetime_days = cpu_seconds / CPU_SECONDS_PER_DAY
        message = f"{cpu_seconds} s (ulimit -t): a daemon lives about {lifetime_days:.0f} days"
        is_short = lifetime_days < 30  # noqa: PLR2004  a month
        yield DoctorCheck(
            WARNING if is_short else OK, "cpu limit", message, "`watcher once` from cron has no such limit" if is_short else ""
        )
    address_space_bytes = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space_bytes != resource.RLIM_INFINITY and address_space_bytes < 2 * REQUIRED_MEMORY_BYTES:
        message = f"{address_space_bytes / 2**20:.0f} MiB of address space (ulimit -v)"
        yield DoctorCheck(WARNING, "memory limit", message, "the daemon maps about 200 MiB: raise it, or run it elsewhere")
    open_file_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if open_file_limit < 256:  # noqa: PLR2004  a few dozen are used
        yield DoctorCheck(WARNING, "open files", f"{open_file_limit} (ulimit -n)", "raise it to 256 or more")


def _check_cgroup_memory() -> DoctorCheck:
    """The control group's limit, which kills without a word."""
    try:
        cgroup = Path("/proc/self/cgroup").read_text(encoding="ascii").rstrip("\n").rpartition("::")[2]
        memory_max = (Path("/sys/fs/cgroup") / cgroup.lstrip("/") / "memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return DoctorCheck(OK, "memory limit", "no control group says one")
    if memory_max == "max":
        return DoctorCheck(OK, "memory limit", "none")
    is_too_small = int(memory_max) < REQUIRED_MEMORY_BYTES
    message = f"{int(memory_max) / 2**20:.0f} MiB for this login's processes together"
    return DoctorCheck(
        WARNING if is_too_small else OK, "memory limit", message, "run the daemon where there is more" if is_too_small else ""
    )


def _check_survives_logout(environ: Mapping[str, str], run: CommandRunner) -> DoctorCheck:
    """What keeps a daemon after the logout."""
    path = environ.get("PATH")
    if environ.get("TMUX") or environ.get("STY"):
        return DoctorCheck(OK, "staying", "this is tmux or screen: `watcher run` outlives the logout where the site lets it")
    if shutil.which("loginctl", path=path) and Path("/run/systemd/system").is_dir():
        result = run_with_timeout(["loginctl", "show-user", str(os.getuid()), "--property=Linger"], environ, 5.0, run)
        if result.stdout.strip() == "Linger=yes":
            return DoctorCheck(OK, "staying", "lingering is on: a systemd user unit outlives the logout")
        message = "lingering is off: a systemd user unit ends with the last login"
        return DoctorCheck(WARNING, "staying", message, "`loginctl enable-linger`, or tmux, or `watcher once` from cron")
    tools = [name for name in ("tmux", "screen", "crontab", "scrontab") if shutil.which(name, path=path)]
    if not tools:
        return DoctorCheck(
            WARNING, "staying", "no systemd, tmux, screen or crontab here", "see how this site keeps processes alive"
        )
    return DoctorCheck(
        OK, "staying", f"not in tmux; {', '.join(tools)} {'is' if len(tools) == 1 else 'are'} here to outlive the logout"
    )


def check_requests_folder(config: Config) -> DoctorCheck:
    """Where commands from other nodes leave what they ask for."""
    folder = config.paths.requests
    if not folder.is_dir():
        return DoctorCheck(OK, "requests", f"{folder} is made at the first start")
    request_names = [name for name in os.listdir(folder) if name.endswith(".json")]  # noqa: PTH208
    oldest_seconds = max((time.time() - (folder / name).stat().st_mtime for name in request_names), default=0.0)
    if not os.access(folder, os.W_OK):
        return DoctorCheck(WRONG, "requests", f"{folder} cannot be written", "make it writable for those who may ask")
    if oldest_seconds > 10 * config.poll:
        return DoctorCheck(
            WARNING,
            "requests",
            f"{len(request_names)} wait, the oldest for {format_duration(oldest_seconds)}",
            "see why nobody takes them up",
        )
    return DoctorCheck(OK, "requests", f"{folder}: {len(request_names)} waiting")

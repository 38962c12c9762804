"""This login node: its limits, survival after logout, a running watcher."""

import os
import resource
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from suites.common.errors import UserError
from suites.common.formatting import format_duration
from watcher.config.settings import Config
from watcher.doctor.check import OK, WARNING, WRONG, DoctorCheck, run_check, run_with_timeout, warn_if
from watcher.executors.slurm_commands import CommandRunner, run_command
from watcher.journal.state_owner import read_state_owner, refuse_other_user
from watcher.status.health import check_liveness

CPU_SECONDS_PER_DAY = 20.0
"""CPU seconds of the daemon, at most."""

REQUIRED_MEMORY_BYTES = 200 * 2**20
"""Bytes: three times the daemon's memory."""

_REQUIRED_COMMANDS = {"slurm": (), "local": ("bash", "nice")}


def check_login_node(config: Config, environ: Mapping[str, str], *, run: CommandRunner = run_command) -> Iterator[DoctorCheck]:
    """Check limits, survival after logout, and the running daemon."""
    yield from run_check("process limits", _check_process_limits)
    yield from run_check("memory limit", _check_cgroup_memory)
    yield from run_check("logout", lambda: _check_survives_logout(environ, run))
    for name in _REQUIRED_COMMANDS[config.executor]:
        if shutil.which(name, path=environ.get("PATH")) is None:
            yield DoctorCheck(WRONG, "local executor", f"no {name} on PATH", f"install {name}")
    yield from run_check("watcher", lambda: _check_watcher(config))
    yield from run_check("requests", lambda: check_requests_folder(config))


def _check_watcher(config: Config) -> DoctorCheck:
    health = check_liveness(config.paths, time.time())
    return warn_if(health.verdict != "alive", "watcher", health.summary, "")


def _check_process_limits() -> Iterator[DoctorCheck]:
    cpu_seconds = resource.getrlimit(resource.RLIMIT_CPU)[0]
    if cpu_seconds == resource.RLIM_INFINITY:
        yield DoctorCheck(OK, "cpu limit", "none (ulimit -t)")
    else:
        lifetime_days = cpu_seconds / CPU_SECONDS_PER_DAY
        message = f"{cpu_seconds} s (ulimit -t): a daemon lives about {lifetime_days:.0f} days"
        is_short = lifetime_days < 30  # noqa: PLR2004  a month
        yield warn_if(is_short, "cpu limit", message, "run `watcher once` from cron, where each run starts at zero")
    address_space_bytes = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space_bytes != resource.RLIM_INFINITY and address_space_bytes < 2 * REQUIRED_MEMORY_BYTES:
        message = f"{address_space_bytes / 2**20:.0f} MiB of address space (ulimit -v)"
        hint = "the daemon maps about 200 MiB; raise the limit, or run the daemon on another node"
        yield DoctorCheck(WARNING, "memory limit", message, hint)
    open_file_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if open_file_limit < 256:  # noqa: PLR2004  a few dozen are used
        yield DoctorCheck(WARNING, "open files", f"{open_file_limit} (ulimit -n)", "raise the limit to 256 or more")


def _check_cgroup_memory() -> DoctorCheck:
    """Check the control group's memory limit, which kills without a message."""
    try:
        cgroup = Path("/proc/self/cgroup").read_text(encoding="ascii").rstrip("\n").rpartition("::")[2]
        memory_max = (Path("/sys/fs/cgroup") / cgroup.lstrip("/") / "memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return DoctorCheck(OK, "memory limit", "no limit by a control group")
    if memory_max == "max":
        return DoctorCheck(OK, "memory limit", "none")
    message = f"{int(memory_max) / 2**20:.0f} MiB for all processes of this login together"
    return warn_if(int(memory_max) < REQUIRED_MEMORY_BYTES, "memory limit", message, "run the daemon on a node with more memory")


def _check_survives_logout(environ: Mapping[str, str], run: CommandRunner) -> DoctorCheck:
    """Check what keeps a daemon running after logout."""
    path = environ.get("PATH")
    if environ.get("TMUX") or environ.get("STY"):
        return DoctorCheck(OK, "logout", "in tmux or screen: `watcher run` survives logout if the site allows it")
    if shutil.which("loginctl", path=path) and Path("/run/systemd/system").is_dir():
        result = run_with_timeout(["loginctl", "show-user", str(os.getuid()), "--property=Linger"], environ, 5.0, run)
        if result.stdout.strip() == "Linger=yes":
            return DoctorCheck(OK, "logout", "lingering is on: a systemd user unit survives logout")
        message = "lingering is off: a systemd user unit stops at the last logout"
        hint = "run `loginctl enable-linger`, or use tmux, or run `watcher once` from cron"
        return DoctorCheck(WARNING, "logout", message, hint)
    tools = [name for name in ("tmux", "screen", "crontab", "scrontab") if shutil.which(name, path=path)]
    if not tools:
        message = "no systemd, tmux, screen or crontab on this node"
        return DoctorCheck(WARNING, "logout", message, "ask the site how processes survive logout")
    return DoctorCheck(OK, "logout", f"not in tmux; to survive logout, use {' or '.join(tools)}")


def check_state_owner(config: Config) -> DoctorCheck:
    """Check who looks after the state folder, and whether those who share it can write there."""
    name, paths = "state folder", config.paths
    try:
        refuse_other_user(paths, shared=config.share_state)
        owner = read_state_owner(paths)
    except UserError as error:
        return DoctorCheck(WRONG, name, error.message, error.hint)
    except OSError as error:
        return DoctorCheck(WRONG, name, f"cannot be read: {error}", "make it readable, or set state: in the config")
    if owner is None:
        return DoctorCheck(OK, name, f"{paths.state} will be looked after by the first user of `watcher run` or `watcher once`")
    message = f"looked after by {owner.user} (uid {owner.uid}){', shared with others' if config.share_state else ''}"
    # New files have to be the group's, and writable for it.
    is_group_writable = paths.state.stat().st_mode & (stat.S_ISGID | stat.S_IWGRP) == (stat.S_ISGID | stat.S_IWGRP)
    hint = f"share_state needs umask 002 and a setgid folder: chmod -R g+rwX {paths.state}, and chmod g+s on its folders"
    return warn_if(config.share_state and not is_group_writable, name, message, hint)


def check_requests_folder(config: Config) -> DoctorCheck:
    """Check the folder of requests from commands on any node."""
    folder = config.paths.requests
    if not folder.is_dir():
        return DoctorCheck(OK, "requests", f"{folder} is created at the first start")
    request_names = [name for name in os.listdir(folder) if name.endswith(".json")]  # noqa: PTH208
    oldest_seconds = max((time.time() - (folder / name).stat().st_mtime for name in request_names), default=0.0)
    if not os.access(folder, os.W_OK):
        return DoctorCheck(
            WRONG, "requests", f"{folder} cannot be written", "make it writable for everybody who may send requests"
        )
    if oldest_seconds > 10 * config.poll:
        message = f"{len(request_names)} waiting, the oldest for {format_duration(oldest_seconds)}"
        return DoctorCheck(WARNING, "requests", message, "check that a watcher runs: watcher status")
    return DoctorCheck(OK, "requests", f"{folder}: {len(request_names)} waiting")

"""Slurm's own packages, and an ordinary user, where this is root on Debian."""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo", "setpriv")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr", "sacct")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where the daemons are, and an ordinary PATH does not look."""


def find_missing_program() -> str | None:
    """Why there can be no cluster here; None where there can."""
    if os.geteuid() != 0:
        return "not root"
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    absent = [name for name in PROGRAMS + ACCOUNTING_PROGRAMS if shutil.which(name, path=path) is None]
    return f"not installed: {' '.join(absent)}" if absent else None


def install_slurm() -> str | None:
    """Install what is missing with apt-get, its services not started; the reason where that is not possible."""
    reason = find_missing_program()
    if reason is None or os.geteuid() != 0:
        return reason
    if shutil.which("apt-get") is None:
        return f"{reason}, and no apt-get"
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES, *ACCOUNTING_PACKAGES]
        if subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode:
            subprocess.run(["apt-get", "update", "-q"], env=environment, stdout=sys.stderr, check=False)
            subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
    finally:
        if ours:
            policy.unlink()
    return find_missing_program()


def ensure_unix_user(name: str) -> None:
    """An ordinary user: limits of partitions and QOS do not bind root."""
    with contextlib.suppress(KeyError):
        pwd.getpwnam(name)
        return
    subprocess.run(["useradd", "--create-home", name], check=True)

"""A real, throw-away Slurm in one folder, on 127.0.0.1, as root on Debian. For tests and for the demo.

    cluster.py install                     the packages, with apt-get; says why where it cannot
    cluster.py start DIR [--accounting] [--nodes N] [--user NAME ...] [--set Key=Value ...]
    cluster.py stop DIR                    ends every process of it, and removes DIR
    cluster.py env | status DIR
    cluster.py down | up DIR WHAT [--hard] WHAT: ctld, dbd, munge, mariadb or a node

``start`` prints shell lines: eval "$(cluster.py start DIR)". On a running DIR it only prints them, on a
stopped or crashed one it goes on where that was. Configuration, keys, sockets, state and logs live in DIR.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.slurm_cluster.accounting import fill_accounts, mariadb_command
from support.slurm_cluster.conf import ClusterLayout, find_free_ports, write_conf_files, write_secret
from support.slurm_cluster.install import SBIN, find_missing_program, install_slurm
from support.slurm_cluster.processes import ProcessGroup, find_processes, is_port_open, send_signal, wait_for

_CLIENTS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo")


class ClusterError(Exception):
    """The cluster cannot be brought up; the end of its logs is in the message."""


class SlurmCluster:
    """One cluster in one folder. Its daemons outlive this object: ``stop`` ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.processes = ProcessGroup(self.folder)
        self._about = self.folder / "cluster.json"

    @property
    def layout(self) -> ClusterLayout:
        """What it was made as. FileNotFoundError where it never was."""
        known = json.loads(self._about.read_text())
        return ClusterLayout(**known | {"nodes": tuple(known["nodes"]), "users": tuple(known["users"])})

    @property
    def daemons(self) -> list[str]:
        """Names of all its processes, in the order in which they start."""
        layout = self.layout
        return ["munge", *(["mariadb", "dbd"] if layout.accounting else []), "ctld", *layout.nodes]

    def environment(self, user: str | None = None) -> dict[str, str]:
        """What a client needs; with ``user``, PATH leads to Slurm's commands run as that user."""
        foreign = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_")
        found = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        found |= {"SLURM_CONF": str(self.folder / "etc/slurm.conf"), "MUNGE_SOCKET": str(self.folder / "run/munge.sock")}
        path = f"{found.get('PATH', '/usr/bin:/bin')}:{SBIN}"
        return found | {"PATH": f"{self.folder}/as/{user}:{path}" if user else path}

    def start(
        self, *, accounting: bool = False, nodes: int = 2, users: Sequence[str] = (), settings: Mapping[str, str] | None = None
    ) -> None:
        """Bring up what is not up. Raises ClusterError with the log of what failed; everything is stopped then."""
        reason = find_missing_program()
        if reason:
            raise ClusterError(reason)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._about.exists():
                self._make(accounting=accounting, nodes=nodes, users=users, settings=settings or {})
            try:
                for name in self.daemons:
                    self.start_process(name)
                self._await("ctld", self._nodes_idle, 30)
            except BaseException:
                self.halt()
                raise

    def _make(self, *, accounting: bool, nodes: int, users: Sequence[str], settings: Mapping[str, str]) -> None:
        for name in ("", "etc", "run", "pid", "log", "state", "spool", "dev", "as"):
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name).chmod(0o755)  # jobs of other users reach the socket, the config and their node's files
        layout = ClusterLayout(
            name=f"test{secrets.token_hex(3)}",
            host=socket.gethostname().split(".")[0],
            accounting=accounting,
            nodes=tuple(f"node{number}" for number in range(1, nodes + 1)),
            users=tuple(users),
            first_port=find_free_ports(nodes + 3),
            sql_password=secrets.token_hex(8) if accounting else "",
            settings=dict(settings),
        )
        write_conf_files(self.folder, layout)
        for user in users:
            self._make_commands(user)
        write_secret(self._about, json.dumps(dataclasses.asdict(layout), indent=1).encode())

    def _make_commands(self, user: str) -> None:
        bin_folder = self.folder / "as" / user
        bin_folder.mkdir()
        for name in _CLIENTS:
            command = bin_folder / name
            command.write_text(
                f'#!/bin/sh\nexec setpriv --reuid {user} --regid {user} --init-groups {shutil.which(name) or name} "$@"\n'
            )
            command.chmod(0o755)

    def start_process(self, name: str) -> None:
        """Start one daemon and wait until it answers (a node: until it is started)."""
        if self.processes.pid(name) is not None:
            return
        folder, layout = self.folder, self.layout
        conf = folder / "etc/slurm.conf"
        if name == "munge":
            munge = folder / "run/munge.sock"
            for left in (munge, munge.with_name("munge.sock.lock")):
                left.unlink(missing_ok=True)
            files = {"socket": munge, "key-file": folder / "etc/munge.key", "log-file": folder / "log/munged.log"}
            files |= {"pid-file": folder / "run/munged.pid", "seed-file": folder / "run/munged.seed"}
            self._start(name, ["munged", "--foreground", "--force", *(f"--{key}={path}" for key, path in files.items())])
            self._await(name, munge.exists, 5)
        elif name == "mariadb":
            self._start(name, mariadb_command(folder, layout))
            self._await(name, lambda: is_port_open(layout.sql_port), 30)
        elif name == "dbd":
            self._start(name, ["slurmdbd", "-D"])
            self._await(name, lambda: is_port_open(layout.dbd_port), 30)
            fill_accounts(folder, layout, self.run_slurm_command)
        elif name == "ctld":
            self._start(name, ["slurmctld", "-D", "-f", str(conf)])
            self._await(name, lambda: is_port_open(layout.controller_port), 10)
        else:
            (folder / "spool" / name).mkdir(exist_ok=True)
            self._start(name, ["slurmd", "-D", "-N", name, "-f", str(conf)])

    def stop_process(self, name: str, *, hard: bool = False) -> None:
        """End one daemon; ``hard``: as a crash does."""
        self.processes.end(name, hard=hard)

    @contextlib.contextmanager
    def process_stopped(self, name: str, *, hard: bool = False) -> Iterator[None]:
        """While the block runs, that daemon does not."""
        self.stop_process(name, hard=hard)
        try:
            yield
        finally:
            self.start_process(name)
            self._await("ctld", self._nodes_idle, 60)

    @contextlib.contextmanager
    def process_frozen(self, name: str) -> Iterator[None]:
        """While the block runs, that daemon takes connections (the kernel does) and never answers."""
        pid = self.processes.pid(name)
        if pid is None:
            raise ClusterError(f"{name} is not running")
        send_signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            send_signal(pid, signal.SIGCONT)

    def _start(self, name: str, command: Sequence[str]) -> None:
        environment = self.environment()
        program = shutil.which(command[0], path=environment["PATH"]) or command[0]
        self.processes.start(name, [program, *command[1:]], environment)

    def _await(self, name: str, ready: Callable[[], object], timeout: float) -> None:
        def settled() -> bool:
            return self.processes.pid(name) is None or bool(ready())

        if not wait_for(settled, timeout) or self.processes.pid(name) is None:
            logs = {"ctld": "slurmctld.log", "dbd": "slurmdbd.log", "munge": "munged.log", "mariadb": "mariadb-install.log"}
            texts = []
            for log in (f"{name}.out", logs.get(name, f"slurmd-{name}.log")):
                with contextlib.suppress(OSError):
                    texts += (self.folder / "log" / log).read_text(errors="replace").splitlines()[-15:]
            raise ClusterError("\n".join([f"{name} is not up within {timeout:g} s", *texts]))

    def _nodes_idle(self) -> bool:
        ran = self.run_slurm_command("sinfo", "--noheader", "--Node", "--format=%N %t")
        states = dict(words for line in ran.stdout.splitlines() if len(words := line.split()) == 2)
        return set(states) == set(self.layout.nodes) and set(states.values()) <= {"idle", "mix", "alloc", "comp"}

    def run_slurm_command(
        self, *command: str, user: str | None = None, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands on this cluster; its exit code is the caller's to judge."""
        return subprocess.run(
            command, env=self.environment(user), text=True, input=text or "", capture_output=True, timeout=60, check=False
        )

    def halt(self) -> None:
        """End all processes: jobs, then daemons. The folder stays, and ``start`` goes on from it."""
        layout = self.layout
        running = {name: pid for name in self.daemons if (pid := self.processes.pid(name)) is not None}
        if {"ctld", "munge", layout.nodes[0]} <= running.keys():
            for user in {"root", *layout.users}:
                self.run_slurm_command("scancel", "--quiet", f"--user={user}")
            wait_for(lambda: not self.run_slurm_command("squeue", "--noheader", "--states=R,CG,S,CF").stdout.strip(), 5, 0.1)
        for name in ("ctld", *layout.nodes):
            self.processes.end(name, timeout=5)
        markers = (f"SLURM_CLUSTER_NAME={layout.name}".encode(),)
        spare = {os.getpid(), os.getppid(), *running.values()}
        for what in (signal.SIGTERM, signal.SIGKILL):  # what a job left behind in sessions of its own
            for pid in find_processes(markers, self.folder, spare):
                send_signal(pid, what)
            wait_for(lambda: not find_processes(markers, self.folder, spare), 2, 0.1)
        for name in reversed(self.daemons[: -len(layout.nodes) - 1]):
            self.processes.end(name, timeout=20)

    def stop(self) -> None:
        """End all processes and remove the folder."""
        if self._about.exists():
            self.halt()
            shutil.rmtree(self.folder)

    def status(self) -> int:
        """Print each daemon's pid; 0 where all run, else 3."""
        pids = {name: self.processes.pid(name) for name in self.daemons}
        for name, pid in pids.items():
            print(f"{name:10} {'down' if pid is None else f'pid {pid}'}")
        return 3 if None in pids.values() else 0


def main() -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["install", "start", "stop", "env", "status", "down", "up"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("what", nargs="?")
    parser.add_argument("--accounting", action="store_true")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--user", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], metavar="Key=Value")
    parser.add_argument("--hard", action="store_true")
    given = parser.parse_args()
    if given.command == "install":
        reason = install_slurm()
        print(reason or "Slurm is installed", file=sys.stderr)
        return 1 if reason else 0
    if given.folder is None or (given.command in {"down", "up"} and given.what is None):
        parser.error(f"{given.command} what?")
    cluster = SlurmCluster(given.folder)
    if given.command == "start":
        settings = dict(line.split("=", 1) for line in given.set)
        cluster.start(accounting=given.accounting, nodes=given.nodes, users=given.user, settings=settings)
    if given.command in {"start", "env"}:
        for name in ("SLURM_CONF", "MUNGE_SOCKET"):
            print(f"export {name}='{cluster.environment()[name]}'")
    elif given.command == "stop":
        cluster.stop()
    elif given.command == "status":
        return cluster.status()
    elif given.command == "down":
        cluster.stop_process(given.what, hard=given.hard)
    else:
        cluster.start_process(given.what)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClusterError as error:
        sys.exit(str(error))

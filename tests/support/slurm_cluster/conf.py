"""The configuration of a throw-away Slurm: several nodes on 127.0.0.1, no cgroups, made-up GPUs, quick faults."""

import contextlib
import dataclasses
import fcntl
import os
import random
import secrets
import socket
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterLayout:
    """What a cluster was made as; kept in its folder as cluster.json."""

    name: str
    host: str
    accounting: bool
    nodes: tuple[str, ...]
    users: tuple[str, ...]
    first_port: int
    cpus: int = 8
    gpus: int = 4
    memory: int = 4000
    """MiB a node."""
    sql_password: str = ""
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Lines of slurm.conf that replace ours."""

    @property
    def controller_port(self) -> int:
        """Where slurmctld listens."""
        return self.first_port

    @property
    def dbd_port(self) -> int:
        """Where slurmdbd listens."""
        return self.first_port + 1

    @property
    def sql_port(self) -> int:
        """Where mariadbd listens."""
        return self.first_port + 2

    def node_port(self, node: str) -> int:
        """Where that slurmd listens."""
        return self.first_port + 3 + self.nodes.index(node)


def find_free_ports(count: int) -> int:
    """The first of ``count`` free consecutive ports below the ephemeral range.

    What was handed out in the last two minutes is remembered in a locked file, so that clusters that
    start at the same time do not meet.
    """
    with (Path(tempfile.gettempdir()) / ".slurm-test-ports").open("a+") as book:
        fcntl.flock(book, fcntl.LOCK_EX)
        book.seek(0)
        now = time.time()
        rows = [line.split() for line in book]
        recent = [(float(at), int(first), int(length)) for at, first, length in rows if now - 120 < float(at) <= now]
        for _ in range(200):
            first = random.randrange(20000, 32000 - count)
            if any(first < other + length and other < first + count for _, other, length in recent):
                continue
            with contextlib.ExitStack() as held:
                try:
                    for port in range(first, first + count):
                        held.enter_context(contextlib.closing(socket.socket())).bind(("127.0.0.1", port))
                except OSError:
                    continue
            book.seek(0)
            book.truncate()
            book.writelines(f"{at} {other} {length}\n" for at, other, length in [*recent, (now, first, count)])
            return first
    message = "no free ports between 20000 and 32000"
    raise OSError(message)


def write_secret(path: Path, data: bytes, mode: int = 0o600) -> None:
    """A file that only its owner could ever read."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def write_conf_files(folder: Path, layout: ClusterLayout) -> None:
    """Every file that the daemons read, below ``folder``/etc."""
    etc = folder / "etc"
    write_secret(etc / "munge.key", secrets.token_bytes(128), 0o400)
    (etc / "slurm.conf").write_text(_slurm_conf(folder, layout))
    (etc / "gres.conf").write_text(_gres_conf(folder, layout.gpus))
    # Debian's slurmd wants the file even where it is told to leave cgroups alone
    constraints = "".join(f"Constrain{what}=no\n" for what in ("Cores", "RAMSpace", "Devices", "SwapSpace"))
    (etc / "cgroup.conf").write_text(f"CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n{constraints}")
    (etc / "plugstack.conf").write_text("")
    if layout.accounting:
        write_secret(etc / "slurmdbd.conf", _slurmdbd_conf(folder, layout).encode())


def _gres_conf(folder: Path, gpus: int) -> str:
    """Slurmd wants character devices: copies of /dev/null will do; where none may be made, GPUs are only counted."""
    devices = [folder / "dev" / f"nvidia{number}" for number in range(gpus)]
    try:
        for device in devices:
            if not device.exists():
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except OSError:
        return f"AutoDetect=off\nName=gpu Count={gpus}\n"
    return "AutoDetect=off\n" + "".join(f"Name=gpu File={device}\n" for device in devices)


def _slurm_conf(folder: Path, layout: ClusterLayout) -> str:
    munge = folder / "run" / "munge.sock"
    settings = {
        "ClusterName": layout.name,
        "SlurmctldHost": f"{layout.host}(127.0.0.1)",
        "SlurmctldPort": layout.controller_port,
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        "AuthInfo": f"socket={munge},cred_expire=5",  # a requeued job waits cred_expire; the default is two minutes
        "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",  # 127.0.0.1, not 0.0.0.0
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": f"{folder}/spool/%n",
        "SlurmctldPidFile": folder / "run" / "ctld.pid",
        "SlurmdPidFile": f"{folder}/run/%n.pid",
        "SlurmctldLogFile": folder / "log" / "slurmctld.log",
        "SlurmdLogFile": f"{folder}/log/slurmd-%n.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "SlurmdParameters": "config_overrides",  # more CPUs than the machine has
        "GresTypes": "gpu",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "bf_interval=1,bf_resolution=1,batch_sched_delay=1,sched_interval=2,sched_min_interval=0",
        "PriorityType": "priority/basic",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
        "JobAcctGatherParams": "OverMemoryKill",
        "JobRequeue": 1,
        "MailProg": "/bin/true",
        "RebootProgram": "/bin/false",
        "ReturnToService": 2,
        "SlurmctldTimeout": 10,
        "SlurmdTimeout": 10,
        "MessageTimeout": 10,
        "KillWait": 3,
        "UnkillableStepTimeout": 20,
        "MinJobAge": 300,
        "Waittime": 0,
        "MaxJobCount": 20000,
        "PropagateResourceLimits": "NONE",
        "AccountingStorageType": "accounting_storage/none",
    }
    if layout.accounting:
        settings |= {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "localhost",
            "AccountingStoragePort": layout.dbd_port,
            "AccountingStorageEnforce": "associations,limits,qos",
            "AccountingStoragePass": munge,  # the way to slurmdbd does not read AuthInfo
            "AccountingStorageTRES": "gres/gpu",
            "AccountingStoreFlags": "job_comment",
        }
    lines = [f"{key}={value}" for key, value in (settings | dict(layout.settings)).items()]
    lines += [  # the host name need not resolve, since the address does
        f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={layout.node_port(node)} "
        f"CPUs={layout.cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={layout.cpus} ThreadsPerCore=1 "
        f"RealMemory={layout.memory} Gres=gpu:{layout.gpus} State=UNKNOWN"
        for node in layout.nodes
    ]
    every = ",".join(layout.nodes)
    lines += [
        f"PartitionName=short Nodes={every} Default=YES MaxTime=04:00:00 DefaultTime=00:30:00 PriorityTier=1 State=UP",
        f"PartitionName=urgent Nodes={every} MaxTime=24:00:00 DefaultTime=00:30:00 PriorityTier=10 State=UP",
        f"PartitionName=fragile Nodes={every} MaxTime=24:00:00 DefaultTime=00:30:00 PriorityTier=1 PreemptMode=CANCEL State=UP",
        f"PartitionName=closed Nodes={every} MaxTime=24:00:00 DefaultTime=00:30:00 PriorityTier=1 State=INACTIVE",
    ]
    return "\n".join(lines) + "\n"


def _slurmdbd_conf(folder: Path, layout: ClusterLayout) -> str:
    settings = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/run/munge.sock",
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": layout.dbd_port,
        "SlurmUser": "root",
        "LogFile": folder / "log" / "slurmdbd.log",
        "PidFile": folder / "run" / "dbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": layout.sql_port,
        "StorageUser": "slurm",
        "StoragePass": layout.sql_password,
        "StorageLoc": "slurm_acct",
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())

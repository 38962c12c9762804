"""The executors that the same contract tests run on: the model in this process, fake executables on PATH, a real Slurm."""

import abc
import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from support.fakes.slurm import FakeSlurm
from support.fakes.slurm_commands import run
from support.slurm_cluster.cluster import Cluster
from support.slurm_cluster.install import ensure_user, missing
from watcher.core.executor import Job, JobState, Resources, Submission
from watcher.executors.slurm import SlurmExecutor
from watcher.executors.slurm_commands import Ran

USER = "lab1"
FAKE_BIN = Path(__file__).parents[1] / "fakes" / "bin"
SETTINGS = {"MessageTimeout": "3", "EnforcePartLimits": "ALL"}


class Lab(abc.ABC):
    """Somewhere to run jobs: an executor, a folder that its jobs can write to, and ways to break it."""

    accounting = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = 0

    @abc.abstractmethod
    def executor(self, **changed: Any) -> SlurmExecutor:
        """A new executor on this lab, with no limit on its calls unless one is given."""

    @abc.abstractmethod
    def losing_answers(self) -> AbstractContextManager[None]:
        """While the block runs, a submission arrives and its answer does not."""

    @abc.abstractmethod
    def requeue(self, job: Job) -> None:
        """As a person or a lost node does."""

    @abc.abstractmethod
    def forget(self, job: Job) -> None:
        """Make sure that the queue no longer shows a job that is over."""

    def submission(self, text: str, **changed: Any) -> Submission:
        """One attempt that runs ``text`` in bash, under a name of its own."""
        self._names += 1
        name = changed.get("name", f"eval-stage1-2000-{self._names:08x}-{os.getpid()}")
        path = self.folder / f"{name}.sh"
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
        given = {
            "name": name,
            "comment": "watcher:4f2a",
            "script": path,
            "request": self.folder / "request.json",
            "stdout": self.folder / f"{name}_%j.out",
            "stderr": self.folder / f"{name}_%j.err",
            "resources": Resources(gres=None, cpus_per_task=1, mem="100"),
            "python": "python3",
        }
        return Submission(**given | changed)

    def until(self, executor: SlurmExecutor, name: str, *wanted: JobState, timeout: float = 90) -> Job:
        """Ask as the watcher does, the queue first, until the job is in a wanted state (any, where none is given)."""
        end = time.monotonic() + timeout
        while True:
            job = executor.queue().get(name)
            if job is None:
                job = (executor.history([name], time.time() - 60) or {}).get(name)
            if job is not None and (not wanted or job.state in wanted):
                return job
            assert time.monotonic() < end, f"{name} is {job}, not {wanted}, after {timeout} s"
            time.sleep(0.1)


class FakeLab(Lab):
    """The model, asked in this process."""

    def __init__(self, folder: Path, *, accounting: bool = True) -> None:
        super().__init__(folder)
        self.accounting = accounting
        self.fake = FakeSlurm(folder / "slurm", accounting=accounting)

    def executor(self, **changed: Any) -> SlurmExecutor:
        return SlurmExecutor(**{"per_minute": 100_000, "run": self._run, "environment": os.environ} | changed)

    def _run(self, command: Any, environment: Any, _timeout: float) -> Ran:
        return Ran(*run(self.fake, command, environment))

    @contextmanager
    def losing_answers(self) -> Iterator[None]:
        self.fake.fault("sbatch", "socket")
        yield
        self.fake.heal()

    def requeue(self, job: Job) -> None:
        self.fake.requeue(job.name)

    def forget(self, job: Job) -> None:
        self.fake.purge(job.name)

    def fake_job(self, name: str) -> Job:
        """What a release needs, without asking for it."""
        with self.fake.state() as state:
            number = next(job["id"] for job in state["jobs"].values() if job["name"] == name)
        return Job(job_id=number, name=name, state=JobState.HELD, word="PENDING")

    def close(self) -> None:
        """Nothing of it runs any more."""
        self.fake.stop()


class FakeBinLab(FakeLab):
    """The model, asked through executables as Slurm is."""

    def executor(self, **changed: Any) -> SlurmExecutor:
        environment = os.environ | {"PATH": f"{FAKE_BIN}:{os.environ['PATH']}", "FAKE_SLURM": str(self.fake.folder)}
        return SlurmExecutor(**{"per_minute": 100_000, "environment": environment} | changed)


class SlurmLab(Lab):
    """A real cluster, its commands run as an ordinary user."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        super().__init__(folder)
        self.cluster = cluster
        self.accounting = cluster.layout.accounting

    def executor(self, **changed: Any) -> SlurmExecutor:
        given = {"per_minute": 100_000, "user": USER, "environment": self.cluster.environment(USER)}
        return SlurmExecutor(**given | changed)

    def losing_answers(self) -> AbstractContextManager[None]:
        return self.cluster.frozen("ctld")

    def requeue(self, job: Job) -> None:
        self.cluster.tool("scontrol", "requeue", job.job_id, user=USER).check_returncode()

    def forget(self, job: Job) -> None:
        """It does so by itself after MinJobAge."""
        executor = self.executor()
        end = time.monotonic() + 60
        while job.name in executor.queue():
            assert time.monotonic() < end, f"{job.name} is still in the queue"
            time.sleep(0.5)


@contextmanager
def real_lab(*, accounting: bool) -> Iterator[Callable[[], SlurmLab]]:
    """A cluster for as long as the block runs, brought up at the first call. RuntimeError where there can be none."""
    made: list[SlurmLab] = []
    folder = Path(tempfile.mkdtemp(prefix="of-slurm-"))

    def lab() -> SlurmLab:
        if not made:
            reason = missing()
            if reason:
                raise RuntimeError(reason)
            ensure_user(USER)
            folder.chmod(0o755)
            jobs = folder / "jobs"
            jobs.mkdir()
            about = pwd.getpwnam(USER)
            os.chown(jobs, about.pw_uid, about.pw_gid)
            cluster = Cluster(folder / "cluster")
            # short memory only where accounting remembers for it
            cluster.start(accounting=accounting, users=[USER], settings=SETTINGS | ({"MinJobAge": "2"} if accounting else {}))
            made.append(SlurmLab(cluster, jobs))
        return made[0]

    try:
        yield lab
    finally:
        Cluster(folder / "cluster").stop()
        shutil.rmtree(folder)

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
from support.fakes.slurm_commands import run_fake_command
from support.slurm_cluster.cluster import SlurmCluster
from support.slurm_cluster.install import ensure_unix_user, find_missing_program
from watcher.core.executor import Job, JobState, Resources, Submission
from watcher.executors.slurm import SlurmExecutor
from watcher.executors.slurm_commands import CommandResult

USER = "lab1"
FAKE_COMMANDS_FOLDER = Path(__file__).parents[1] / "fakes" / "bin"
SLURM_SETTINGS = {"MessageTimeout": "3", "EnforcePartLimits": "ALL"}


class ExecutorHarness(abc.ABC):
    """Somewhere to run jobs: an executor, a folder that its jobs can write to, and ways to break it."""

    accounting = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = 0

    @abc.abstractmethod
    def make_executor(self, **changed: Any) -> SlurmExecutor:
        """A new executor on this lab, with no limit on its calls unless one is given."""

    @abc.abstractmethod
    def lose_responses(self) -> AbstractContextManager[None]:
        """While the block runs, a submission arrives and its answer does not."""

    @abc.abstractmethod
    def requeue_job(self, job: Job) -> None:
        """As a person or a lost node does."""

    @abc.abstractmethod
    def purge_job(self, job: Job) -> None:
        """Make sure that the queue no longer shows a job that is over."""

    def make_submission(self, text: str, **changed: Any) -> Submission:
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

    def wait_until(self, executor: SlurmExecutor, name: str, *wanted: JobState, timeout: float = 90) -> Job:
        """Ask as the watcher does, the queue first, until the job is in a wanted state (any, where none is given)."""
        end = time.monotonic() + timeout
        while True:
            job = executor.query_queue().get(name)
            if job is None:
                job = (executor.query_accounting([name], time.time() - 60) or {}).get(name)
            if job is not None and (not wanted or job.state in wanted):
                return job
            assert time.monotonic() < end, f"{name} is {job}, not {wanted}, after {timeout} s"
            time.sleep(0.1)


class FakeSlurmHarness(ExecutorHarness):
    """The model, asked in this process."""

    def __init__(self, folder: Path, *, accounting: bool = True) -> None:
        super().__init__(folder)
        self.accounting = accounting
        self.fake = FakeSlurm(folder / "slurm", accounting=accounting)

    def make_executor(self, **changed: Any) -> SlurmExecutor:
        return SlurmExecutor(**{"per_minute": 100_000, "run": self._run, "environment": os.environ} | changed)

    def _run(self, command: Any, environment: Any, _timeout: float) -> CommandResult:
        return CommandResult(*run_fake_command(self.fake, command, environment))

    @contextmanager
    def lose_responses(self) -> Iterator[None]:
        self.fake.add_fault("sbatch", "socket")
        yield
        self.fake.clear_faults()

    def requeue_job(self, job: Job) -> None:
        self.fake.requeue_job(job.name)

    def purge_job(self, job: Job) -> None:
        self.fake.purge_job(job.name)

    def find_fake_job(self, name: str) -> Job:
        """What a release needs, without asking for it."""
        with self.fake.state() as state:
            number = next(job["id"] for job in state["jobs"].values() if job["name"] == name)
        return Job(job_id=number, name=name, state=JobState.HELD, raw_state="PENDING")

    def close(self) -> None:
        """Nothing of it runs any more."""
        self.fake.kill_all()


class FakeCommandsHarness(FakeSlurmHarness):
    """The model, asked through executables as Slurm is."""

    def make_executor(self, **changed: Any) -> SlurmExecutor:
        environment = os.environ | {"PATH": f"{FAKE_COMMANDS_FOLDER}:{os.environ['PATH']}", "FAKE_SLURM": str(self.fake.folder)}
        return SlurmExecutor(**{"per_minute": 100_000, "environment": environment} | changed)


class SlurmClusterHarness(ExecutorHarness):
    """A real cluster, its commands run as an ordinary user."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        super().__init__(folder)
        self.cluster = cluster
        self.accounting = cluster.layout.accounting

    def make_executor(self, **changed: Any) -> SlurmExecutor:
        given = {"per_minute": 100_000, "user": USER, "environment": self.cluster.environment(USER)}
        return SlurmExecutor(**given | changed)

    def lose_responses(self) -> AbstractContextManager[None]:
        return self.cluster.process_frozen("ctld")

    @contextmanager
    def failing_launches(self) -> Iterator[None]:
        """While the block runs, each node's Prolog fails: its job is requeued and held, and the node drained."""
        flag = self.folder / "launches_fail"
        flag.touch()
        try:
            yield
        finally:
            flag.unlink()
            self.resume_nodes()

    def resume_nodes(self) -> None:
        """Undo drains."""
        self.cluster.run_slurm_command("scontrol", "update", f"NodeName={','.join(self.cluster.layout.nodes)}", "State=RESUME")

    def requeue_job(self, job: Job) -> None:
        self.cluster.run_slurm_command("scontrol", "requeue", job.job_id, user=USER).check_returncode()

    def purge_job(self, job: Job) -> None:
        """It does so by itself after MinJobAge."""
        executor = self.make_executor()
        end = time.monotonic() + 60
        while job.name in executor.query_queue():
            assert time.monotonic() < end, f"{job.name} is still in the queue"
            time.sleep(0.5)


@contextmanager
def start_slurm_cluster_harness(*, accounting: bool) -> Iterator[Callable[[], SlurmClusterHarness]]:
    """A cluster for as long as the block runs, brought up at the first call. RuntimeError where there can be none."""
    made: list[SlurmClusterHarness] = []
    folder = Path(tempfile.mkdtemp(prefix="of-slurm-"))

    def lab() -> SlurmClusterHarness:
        if not made:
            reason = find_missing_program()
            if reason:
                raise RuntimeError(reason)
            ensure_unix_user(USER)
            folder.chmod(0o755)
            jobs = folder / "jobs"
            jobs.mkdir()
            about = pwd.getpwnam(USER)
            os.chown(jobs, about.pw_uid, about.pw_gid)
            prolog = folder / "prolog"
            prolog.write_text(f"#!/bin/bash\n[ ! -e {jobs}/launches_fail ]\n")
            prolog.chmod(0o755)
            cluster = SlurmCluster(folder / "cluster")
            # short memory only where accounting remembers for it
            settings = SLURM_SETTINGS | {"Prolog": str(prolog)} | ({"MinJobAge": "2"} if accounting else {})
            cluster.start(accounting=accounting, users=[USER], settings=settings)
            made.append(SlurmClusterHarness(cluster, jobs))
        return made[0]

    try:
        yield lab
    finally:
        SlurmCluster(folder / "cluster").stop()
        shutil.rmtree(folder)

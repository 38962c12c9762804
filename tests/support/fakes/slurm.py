"""A model of Slurm in a folder: enough of it to submit, hold, release, run, requeue and cancel, and to fail as it does.

Jobs really run (a copy of their script, with bash), so that exit codes and files are real. The model
lives in files, so that fake executables and a test see the same cluster; the commands' words are in
``fake_slurm_commands.py``. Only the standard library: the fake executables run on any python3.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

State = dict[str, Any]
TERMINAL_STATES = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
)

_RUN = """
echo $$ >"$1.pid.new"; mv "$1.pid.new" "$1.pid"
base=$1 out=$2 err=$3; shift 3
if { true >>"$out" && true >>"$err"; } 2>/dev/null; then bash "$@" >>"$out" 2>>"$err"; code=$?; else code=53; fi
echo $code >"$base.exit.new"; mv "$base.exit.new" "$base.exit"
"""


class SbatchRequest(NamedTuple):
    """What an sbatch asks for."""

    options: Mapping[str, str]
    arguments: Sequence[str]
    """The script and its own."""
    environment: Mapping[str, str]


def _log(pattern: str, number: int, task: tuple[str, str] | None) -> str:
    array, index = task or (str(number), "4294967294")
    if "\\" in pattern:  # "Do not process any of the replacement symbols", and the backslashes go
        return pattern.replace("\\", "")
    values = {"%%": "%", "%j": str(number), "%A": array, "%a": index}
    return re.sub("%[%jAa]", lambda match: values[match[0]], pattern)


def find_job_tasks(state: State, number: str) -> list[dict[str, Any]]:
    """The job of that id, or all tasks of the array of that id."""
    return [job for job in state["jobs"].values() if number == (job["task"][0] if job["task"] else job["id"])]


class FakeSlurm:
    """One cluster. Partitions ``short`` (4 h, 4 GPUs a node) and ``closed``, account ``lab``, QOS ``normal`` and ``few``."""

    def __init__(self, folder: Path, *, accounting: bool = True, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.clock = clock
        (folder / "jobs").mkdir(parents=True, exist_ok=True)
        if not (folder / "state.json").exists():
            state = {"next": 1, "jobs": {}, "faults": [], "accounting": accounting, "scheduling": True, "cluster": "lab"}
            (folder / "state.json").write_text(json.dumps(state))

    @contextlib.contextmanager
    def state(self) -> Iterator[State]:
        """The model, locked; what the block changes is kept."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = self.folder / "state.json"
            state = json.loads(path.read_text())
            before = json.dumps(state)
            yield state
            if json.dumps(state) != before:
                aside = path.with_suffix(".new")
                aside.write_text(json.dumps(state))
                aside.replace(path)

    # What a test does to the cluster

    def add_fault(self, command: str, how: str, times: int = 1) -> None:
        """The next ``times`` runs of ``command`` fail: how is ``down``, ``munge``, ``socket`` (done, but the answer is lost),
        ``hang`` (done, and no answer), ``garbage`` (done, and an answer that is none) or ``silent`` (not done, no answer)."""  # noqa: D205, D209  one sentence
        with self.state() as state:
            state["faults"] += [[command, how]] * times

    def clear_faults(self) -> None:
        """No more faults."""
        with self.state() as state:
            state["faults"] = []

    def hold_scheduling(self) -> None:
        """Released jobs stay PENDING (Resources) from now on."""
        with self.state() as state:
            state["scheduling"] = False

    def set_state(self, name: str, word: str, *, reason: str = "None", exit_code: str = "0:0") -> None:
        """Put a job into any state, with any word; its processes are killed."""
        with self.state() as state:
            job = self._named(state, name)
            self._kill(job)
            job.update(
                state=word,
                reason=reason,
                exit=exit_code,
                end=self.clock() if word.split(maxsplit=1)[0] in TERMINAL_STATES else None,
            )

    def requeue_job(self, name: str) -> None:
        """As after a lost node or a preemption: killed, pending again under the same id, its submit time anew."""
        with self.state() as state:
            job = self._named(state, name)
            self._kill(job)
            job["earlier"].append({**{key: job[key] for key in ("submit", "start")}, "end": self.clock(), "state": "REQUEUED"})
            job.update(state="PENDING", reason="BeginTime", restarts=job["restarts"] + 1, submit=self.clock(), start=None)

    def purge_job(self, name: str) -> None:
        """Forget a job that is over, as slurmctld does after MinJobAge; accounting remembers it."""
        with self.state() as state:
            for job in state["jobs"].values():
                job["purged"] = job["purged"] or job["name"] == name

    def kill_all(self) -> None:
        """Kill whatever runs."""
        with self.state() as state:
            for job in state["jobs"].values():
                self._kill(job)

    def calls(self) -> list[dict[str, Any]]:
        """Every command that was run: ``command`` (argument list) and ``environment``."""
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    # What its commands do

    def add_job(self, state: State, request: SbatchRequest, *, accounting_only: bool = False) -> dict[str, Any]:
        """A new job, or the ``accounting_only`` that a refused one leaves in accounting; of an array its first task."""
        if "array" not in request.options:
            return self._add(state, request, ghost=accounting_only)
        tasks = range(int(request.options["array"].partition("-")[2]) + 1)
        array = str(state["next"])
        first, *_ = [self._add(state, request, task=(array, str(task))) for task in tasks]
        return first

    def _add(
        self, state: State, asked: SbatchRequest, *, ghost: bool = False, task: tuple[str, str] | None = None
    ) -> dict[str, Any]:
        options, arguments, environment = asked
        number = state["next"]
        state["next"] = number + 1
        held = "hold" in options
        job = {
            "id": str(number),
            "name": options.get("job-name", Path(arguments[0]).name),
            "comment": options.get("comment", "(null)"),
            "state": "PENDING",
            "reason": "JobHeldUser" if held else "None",
            "exit": "0:0",
            "submit": self.clock(),
            "start": None,
            "end": None,
            "node": "None assigned",
            "eligible": not held,
            "restarts": 0,
            "earlier": [],
            "purged": False,
            "ghost": ghost,
            "qos": options.get("qos", "normal"),
            "possible": options.get("gres", "gpu:0") in {"none", "gpu:0", "gpu:1", "gpu:2", "gpu:3", "gpu:4"},
            "after": options.get("dependency", "").removeprefix("afterok:") or None,
            "out": _log(options.get("output", "slurm-%j.out"), number, task),
            "err": _log(options.get("error", options.get("output", "slurm-%j.out")), number, task),
            "task": task,
            "arguments": list(arguments[1:]),
            "environment": dict(environment),
        }
        if ghost:
            job |= {"state": "FAILED", "exit": "1:0", "eligible": True, "purged": True}
        else:
            shutil.copy(arguments[0], self.folder / "jobs" / f"{number}.script")
        state["jobs"][str(number)] = job
        return job

    def advance(self, state: State) -> None:
        """What happened since: scripts that ended, jobs that may start."""
        for job in state["jobs"].values():
            base = self._base(job)
            if job["state"] == "RUNNING" and base.with_suffix(".exit").exists():
                code = int(base.with_suffix(".exit").read_text())
                done = {"state": "FAILED", "reason": "NonZeroExitCode"} if code else {"state": "COMPLETED", "reason": "None"}
                if code == 53:
                    done["reason"] = "JobLaunchFailure"
                ended = base.with_suffix(".exit").stat().st_mtime if self.clock is time.time else self.clock()
                job.update(done, exit=f"0:{code}" if code == 53 else f"{code}:0", end=ended)
            elif job["state"] == "PENDING" and job["eligible"] and not job["ghost"]:
                self._try_to_start(state, job)

    def _try_to_start(self, state: State, job: dict[str, Any]) -> None:
        before = state["jobs"].get(job["after"] or "")
        if before is not None and before["state"].split()[0] in TERMINAL_STATES and before["state"] != "COMPLETED":
            job.update(state="CANCELLED", reason="DependencyNeverSatisfied", end=self.clock())
        elif before is not None and before["state"] != "COMPLETED":
            job["reason"] = "Dependency"
        elif not job["possible"]:
            job["reason"] = "BadConstraints"
        elif not state["scheduling"]:
            job["reason"] = "Resources"
        else:
            self._start(job)

    def _start(self, job: dict[str, Any]) -> None:
        base = self._base(job)
        environment = job["environment"] | {"SLURM_JOB_ID": job["id"], "SLURM_JOB_NAME": job["name"]}
        if job["task"]:
            environment |= {"SLURM_ARRAY_JOB_ID": job["task"][0], "SLURM_ARRAY_TASK_ID": job["task"][1]}
        if job["restarts"]:
            environment["SLURM_RESTART_COUNT"] = str(job["restarts"])
        script = str(self.folder / "jobs" / f"{job['id']}.script")
        shell = ["bash", "-c", _RUN, "job", str(base), job["out"], job["err"], script, *job["arguments"]]
        # In a session of its own and nobody's child: it outlives whoever asked, and leaves no zombie.
        subprocess.run(
            ["setsid", "--fork", *shell],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        job.update(state="RUNNING", reason="None", start=self.clock(), node="node1")

    def cancel_job(self, job: dict[str, Any]) -> None:
        """As scancel by this user does."""
        waited = job["state"] == "PENDING"
        self._kill(job)
        job.update(state="CANCELLED", end=self.clock(), by=os.geteuid(), start=self.clock() if waited else job["start"])

    def _kill(self, job: dict[str, Any]) -> None:
        if job["state"] != "RUNNING":
            return
        path = self._base(job).with_suffix(".pid")
        while not path.exists():  # written first thing by the job's own shell
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)

    def _base(self, job: dict[str, Any]) -> Path:
        return self.folder / "jobs" / f"{job['id']}-{job['restarts']}"

    @staticmethod
    def _named(state: State, name: str) -> dict[str, Any]:
        return next(job for job in reversed(state["jobs"].values()) if job["name"] == name and not job["ghost"])

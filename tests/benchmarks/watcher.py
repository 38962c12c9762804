"""What the daemon costs: a tick's wall time, CPU and system calls, its start, its memory; and what `watcher status` imports.

Idle: nothing to do, whatever lies on disk. Backlog: complete checkpoints wait behind one running job.
"""

import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import watcher.daemon.daemon
from benchmarks.watching import HOUR_SECONDS, MeasuredDaemon, write_complete_checkpoint, write_unscheduled_checkpoints
from watcher.config.loader import check_config

IDLE_SIZES = (10, 1_000, 10_000)
BACKLOG_SIZES = (10, 200)
POLL_SECONDS = 1.0
WARM_TICKS = 6
MEASURED_TICKS = 50


class DaemonBenchmark(MeasuredDaemon):
    """`watcher run` over a folder made for it."""

    def __init__(self, root: Path, *, backlog: int, idle: int) -> None:
        super().__init__(root)
        steps = [10_000_000 + step for step in range(10)]  # scheduled, and not there
        checkpoints = root / "ckpts"
        write_unscheduled_checkpoints(checkpoints, range(1, idle + 1), last=idle)
        long_ago = time.time() - HOUR_SECONDS  # a folder that moved lately is listed again until its times can be trusted
        checkpoints.mkdir(parents=True, exist_ok=True)
        os.utime(checkpoints, (long_ago, long_ago))
        if backlog:
            steps = list(range(1, backlog + 1))
            for step in steps:
                write_complete_checkpoint(checkpoints / str(step), step)
        self.write_config(
            {"stage1": {"checkpoints": str(checkpoints), "steps": steps}},
            job_seconds=600,  # a job that never ends while it is looked at
            executor="local",
            poll=f"{POLL_SECONDS}s",
            settle="1s",
            limits={"max_running": 1},
        )

    def end_jobs(self) -> None:
        """End the job that the daemon left running."""
        for note in self.state.glob("attempts/*/spawned.json"):
            pid = json.loads(note.read_text()).get("pid")
            command = Path(f"/proc/{pid}/cmdline")
            if pid and command.exists() and str(self.root).encode() in command.read_bytes():
                os.killpg(pid, signal.SIGKILL)


def time_ticks(config: Path) -> dict[str, float]:
    """Mean wall and CPU milliseconds of a tick, its status included, one after the other in this process."""
    environ = dict(os.environ)
    daemon = watcher.daemon.daemon.Daemon(check_config(config, environ), environ=environ, log=lambda *_, **__: None)
    try:
        for _ in range(WARM_TICKS):  # the first ones list, inspect and submit
            daemon.tick()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(MEASURED_TICKS):
            daemon.tick()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finally:
        daemon.close()
    return {"tick_wall_ms": 1000 * wall / MEASURED_TICKS, "tick_cpu_ms": 1000 * cpu / MEASURED_TICKS}


def measure_tick(root: Path, *, backlog: int = 0, idle: int = 0) -> dict[str, object]:
    """One line of the table."""
    daemon = DaemonBenchmark(root, backlog=backlog, idle=idle)
    try:
        daemon.start_daemon()
        daemon.wait_for_ticks(WARM_TICKS)
        calls, memory = daemon.count_syscalls(8 * POLL_SECONDS), daemon.read_memory_mib()
        daemon.stop_daemon()
        times = json.loads(
            subprocess.run([sys.executable, "-P", __file__, daemon.config], check=True, capture_output=True).stdout
        )
    finally:
        daemon.stop_daemon()
        daemon.end_jobs()
    return {
        "checkpoints": backlog or idle,
        "case": "backlog" if backlog else "idle",
        "start_s": daemon.start_seconds,
        **times,
        "cpu_s_a_day_at_60_s": times["tick_cpu_ms"] / 1000 * 86400 / 60,
        "syscalls_a_tick": sum(calls.values()),
        "syscalls": {name: round(count, 1) for name, count in sorted(calls.items(), key=lambda call: -call[1])[:8]},
        "rss_mib": memory["VmRSS"],
        "peak_mib": memory["VmHWM"],
    }


def measure_status(root: Path, repeats: int = 7) -> dict[str, object]:
    """`watcher status` where no daemon is, over a bare interpreter."""
    daemon = DaemonBenchmark(root, backlog=0, idle=10)
    watcher = str(Path(sys.executable).with_name("watcher"))
    environ = os.environ | {"PYTHONPATH": ""}

    def seconds(command: list[str]) -> tuple[float, float]:
        """By the clock and of CPU: the former says little on a busy machine."""
        walls, cpus = [], []
        for _ in range(repeats):
            began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=False, capture_output=True, env=environ)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            walls.append(time.perf_counter() - began)
            cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return statistics.median(walls), statistics.median(cpus)

    status = ["status", "--config", str(daemon.config)]
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", watcher, *status], check=False, capture_output=True, text=True, env=environ
    ).stderr
    modules = re.findall(r"^import time:.*\|\s*(\S+)$", imported, re.MULTILINE)
    bare = subprocess.run([sys.executable, "-X", "importtime", "-c", ""], check=False, capture_output=True, text=True).stderr
    (wall, cpu), (bare_wall, bare_cpu) = seconds([watcher, *status]), seconds([sys.executable, "-c", ""])
    return {
        "modules": len(modules) - 1,
        "modules_bare": len(re.findall(r"^import time:.*\|", bare, re.MULTILINE)) - 1,
        "wall_s": wall,
        "wall_bare_s": bare_wall,
        "cpu_s": cpu,
        "cpu_bare_s": bare_cpu,
    }


def measure_watcher(folder: Path) -> dict[str, object]:
    """Everything about the watcher."""
    ticks = []
    cases = [{"idle": size} for size in IDLE_SIZES] + [{"backlog": size} for size in BACKLOG_SIZES]
    for case in cases:
        name = "_".join(f"{key}{value}" for key, value in case.items())
        print(f"watcher: {name}", flush=True)
        root = folder / name
        root.mkdir(parents=True)
        ticks.append(measure_tick(root, **case))
        shutil.rmtree(root)
    print("watcher: status", flush=True)
    (folder / "status").mkdir()
    return {"ticks": ticks, "status": measure_status(folder / "status")}


if __name__ == "__main__":
    print(json.dumps(time_ticks(Path(sys.argv[1]))))

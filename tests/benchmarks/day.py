"""A quiet day, in which only time passes: 4 stages, 10,000 checkpoints on disk, 20 jobs in flight on a real Slurm.

Its 1,440 polls are made in a row, at a poll of a second: what one costs is measured over some of them, and what an hourly look
costs beyond that by a clock that is set forward.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import watcher.daemon.daemon
from benchmarks.tables import format_number, render_markdown_table
from benchmarks.watching import HOUR_SECONDS, MeasuredDaemon, write_complete_checkpoint, write_unscheduled_checkpoints
from support.executors.harness import USER, start_slurm_cluster_harness
from watcher.config.loader import check_config
from watcher.core.clock import touch_clock

STAGES, CHECKPOINTS, JOBS_IN_FLIGHT = 4, 10_000, 20
POLLS_A_DAY, HOURS = 1440, 24
MEASURED_POLLS = 60


class DayBenchmark(MeasuredDaemon):
    """A daemon with jobs that outlast the measurement."""

    def __init__(self, root: Path, environ: dict[str, str]) -> None:
        super().__init__(root, environ | {"SCRATCH": str(root)})
        each, scheduled = CHECKPOINTS // STAGES, JOBS_IN_FLIGHT // STAGES
        stages = {}
        for place in range(1, STAGES + 1):
            folder = root / "ckpts" / f"stage{place}"
            write_unscheduled_checkpoints(folder, range(scheduled + 1, each + 1), last=each)
            for step in range(1, scheduled + 1):
                write_complete_checkpoint(folder / str(step), step)
            (folder / "latest.txt").write_text(str(each))
            long_ago = time.time() - HOUR_SECONDS
            for path in (folder / "latest.txt", folder):
                os.utime(path, (long_ago, long_ago))
            stages[f"stage{place}"] = {
                "checkpoints": str(folder),
                "steps": list(range(1, scheduled + 1)),
            }
        self.write_config(
            stages,
            job_seconds=3600,
            slurm={"gres": None, "cpus_per_task": 1, "mem": "100", "time": "01:00:00"},
            limits={"slurm_calls_per_minute": 10_000},
            report={"compare": False, "page": False},
        )

    def wait_until_all_in_flight(self) -> None:
        """Until every job is in the queue, and nothing is done any more."""
        counts: dict[str, int] = {}
        while counts.get("queued", 0) + counts.get("running", 0) < JOBS_IN_FLIGHT:
            self.wait_for_ticks(1)
            counts = self.read_status()["counts"]
        self.wait_for_ticks(20)  # jobs start

    def measure(self) -> dict[str, float]:
        """Of one poll: seconds of CPU, the daemon's own and its children's, and Slurm commands."""
        ticks, calls, cpu = self.count_ticks(), self.read_status()["slurm_calls"], self.read_cpu_seconds()
        self.wait_for_ticks(MEASURED_POLLS)
        made, after, used = self.count_ticks() - ticks, self.read_status()["slurm_calls"], self.read_cpu_seconds()
        return {
            "own_s": (used[0] - cpu[0]) / made,
            "children_s": (used[1] - cpu[1]) / made,
            "commands": (sum(after.values()) - sum(calls.values())) / made,
        }


def measure_hourly_tick(config: Path) -> dict[str, float]:
    """Seconds of CPU of a tick in which everything is looked at, and of one that follows it."""
    environ, now = dict(os.environ), [0.0]
    daemon = watcher.daemon.daemon.Daemon(
        check_config(config, environ),
        environ=environ,
        log=lambda *_, **__: None,
        clock=lambda: time.time() + now[0],
        server_clock=lambda path: touch_clock(path) + now[0],
    )
    looks, others = [], []
    try:
        daemon.tick()
        for _ in range(5):
            now[0] += HOUR_SECONDS + 1
            for found in (looks, others):
                cpu = time.process_time()
                daemon.tick()
                found.append(time.process_time() - cpu)
                now[0] += 60
    finally:
        daemon.close()
    return {"hourly_s": min(looks), "other_s": min(others)}


def measure_day(folder: Path) -> dict[str, object]:
    """The day."""
    with start_slurm_cluster_harness(accounting=False) as lab:
        slurm = lab()
        try:
            day = DayBenchmark(folder, slurm.cluster.environment())
            try:
                day.start_daemon()
                day.wait_until_all_in_flight()
                poll, memory, states = day.measure(), day.read_memory_mib(), day.read_status()["counts"]
                calls = day.count_syscalls(20)
                day.stop_daemon()
                command = [sys.executable, "-P", __file__, day.config]
                looks = json.loads(subprocess.run(command, check=True, capture_output=True, env=day.environ).stdout)
            finally:
                day.stop_daemon()
        finally:
            slurm.cluster.run_slurm_command("scancel", "--quiet", "--user=root")
            slurm.cluster.run_slurm_command("scancel", "--quiet", f"--user={USER}")
    more = HOURS * max(0.0, looks["hourly_s"] - looks["other_s"])
    return {
        "states": states,
        "own_cpu_s": POLLS_A_DAY * poll["own_s"] + more,
        "hourly_cpu_s": more,
        "children_cpu_s": POLLS_A_DAY * poll["children_s"],
        "commands_a_poll": poll["commands"],
        "syscalls_a_poll": sum(calls.values()),
        "syscalls": {name: round(count, 1) for name, count in sorted(calls.items(), key=lambda call: -call[1])[:10]},
        "rss_mib": memory["VmRSS"],
        "peak_mib": memory["VmHWM"],
    }


def render_day(figures: dict) -> str:
    """The day's part of RESULTS.md."""
    flying = " and ".join(f"{count} {state}" for state, count in figures["states"].items())
    rows = [
        ["", "measured", "at most"],
        ["CPU of the daemon, s a day", format_number(figures["own_cpu_s"]), 20],
        ["CPU of its children (squeue), s a day", format_number(figures["children_cpu_s"]), ""],
        ["RSS, MiB", format_number(figures["rss_mib"]), 60],
        ["Slurm commands a minute", format_number(figures["commands_a_poll"]), 10],
        ["system calls a poll, with all threads and children", format_number(figures["syscalls_a_poll"]), ""],
    ]
    return f"""## A quiet day

Polls every 60 s, {STAGES} stages, {CHECKPOINTS:,} checkpoints on disk, {JOBS_IN_FLIGHT} jobs in flight ({flying}) on a real
Slurm; nothing but time passes. Reckoned from {MEASURED_POLLS} polls of a running daemon, a second apart, and from what an hourly
look costs beyond a poll: {format_number(1000 * figures["hourly_cpu_s"] / HOURS)} ms.

{render_markdown_table(rows)}
"""


if __name__ == "__main__":
    print(json.dumps(measure_hourly_tick(Path(sys.argv[1]))))

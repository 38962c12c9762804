"""What the daemon costs: a tick's wall time, CPU and system calls, its start, its memory; and what `watcher status` imports.

Idle: nothing to do, whatever lies on disk. Backlog: complete checkpoints wait behind one running job.
"""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import yaml

import watcher.daemon
from support.nanotron_layout import tiny_checkpoint
from watcher.settings import check

HOUR = 3600.0
IDLE_SIZES = (10, 1_000, 10_000)
BACKLOG_SIZES = (10, 200)
POLL = 1.0
WARM_TICKS = 6
MEASURED_TICKS = 50
SUITE = """\
tier: tier2_ppl
slices: {{one: {{data_files: ["{text}"], target_tokens: 1000}}}}
"""


class Daemon:
    """`watcher run` over a folder made for it."""

    def __init__(self, root: Path, *, backlog: int, idle: int) -> None:
        self.root, self.state = root, root / "results" / ".watcher"
        steps = [10_000_000 + step for step in range(10)]  # scheduled, and not there
        checkpoints = root / "ckpts"
        for step in range(1, idle + 1):  # never opened: their steps are on no schedule
            folder = checkpoints / str(step)
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(f"general: {{step: {step}}}\ntokens: {{train_steps: {idle}}}\n")
        long_ago = time.time() - HOUR  # a folder that moved lately is listed again until its times can be trusted
        checkpoints.mkdir(parents=True, exist_ok=True)
        os.utime(checkpoints, (long_ago, long_ago))
        if backlog:
            steps = list(range(1, backlog + 1))
            for step in steps:
                self._complete(checkpoints / str(step), step)
        (root / "text.jsonl").write_text('{"text": "a"}\n')
        (root / "suite.yaml").write_text(SUITE.format(text=root / "text.jsonl"))
        sleeper = root / "python"  # a job that never ends while it is looked at
        sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
        sleeper.chmod(0o755)
        self.config = root / "watcher.yaml"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "scratch": str(root),
                    "results": str(root / "results"),
                    "executor": "local",
                    "python": str(sleeper),
                    "poll": f"{POLL}s",
                    "settle": "1s",
                    "limits": {"max_running": 1},
                    "stages": {
                        "stage1": {
                            "checkpoints": str(checkpoints),
                            "steps": steps,
                            "suites": [str(root / "suite.yaml")],
                            "tokenizer": "byte-level",
                            "seq_len": 64,
                        }
                    },
                }
            )
        )
        self.start_seconds = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def _complete(folder: Path, step: int) -> None:
        tiny_checkpoint(folder, step)
        old = time.time() - HOUR
        for path in folder.rglob("*"):
            os.utime(path, (old, old))

    def start(self) -> None:
        """Start it, and wait for its first status: the daemon's start-up time."""
        began = time.perf_counter()
        with (self.root / "daemon.log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("watcher")), "run", "--config", str(self.config)], stdout=log, stderr=log
            )
        while not (self.state / "status.json").exists():
            if self.process.poll() is not None:
                raise RuntimeError((self.root / "daemon.log").read_text()[-3000:])
            time.sleep(0.005)
        self.start_seconds = time.perf_counter() - began

    def ticks(self) -> int:
        """How many it has made."""
        return json.loads((self.state / "status.json").read_text())["ticks"]

    def memory(self) -> dict[str, float]:
        """MiB now, and at most so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return {name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmRSS", "VmHWM")}

    def wait_for_ticks(self, more: int) -> None:
        """Let it make that many."""
        first = self.ticks()
        while self.ticks() < first + more:
            if self.process.poll() is not None:
                raise RuntimeError((self.root / "daemon.log").read_text()[-3000:])
            time.sleep(0.02)

    def syscalls(self, seconds: float) -> dict[str, float]:
        """System calls a tick, by name, over a few seconds (strace -c)."""
        table = self.root / "strace"
        before = self.ticks()
        subprocess.run(
            ["timeout", "-s", "INT", str(seconds), "strace", "-f", "-c", "-o", str(table), "-p", str(self.process.pid)],
            check=False,
            capture_output=True,
        )
        made = max(1, self.ticks() - before)
        rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", table.read_text(), re.MULTILINE)
        return {name: int(calls) / made for calls, name in rows if name != "total"}

    def end(self) -> None:
        """End the daemon; its job goes on."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

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
    daemon = watcher.daemon.Daemon(check(config, environ), environ=environ, say=lambda *_, **__: None)
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
    daemon = Daemon(root, backlog=backlog, idle=idle)
    try:
        daemon.start()
        daemon.wait_for_ticks(WARM_TICKS)
        calls, memory = daemon.syscalls(8 * POLL), daemon.memory()
        daemon.end()
        times = json.loads(subprocess.run([sys.executable, __file__, daemon.config], check=True, capture_output=True).stdout)
    finally:
        daemon.end()
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
    daemon = Daemon(root, backlog=0, idle=10)
    watcher = str(Path(sys.executable).with_name("watcher"))
    environ = os.environ | {"PYTHONPATH": ""}

    def seconds(command: list[str]) -> float:
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            subprocess.run(command, check=False, capture_output=True, env=environ)
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    status = ["status", "--config", str(daemon.config)]
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", watcher, *status], check=False, capture_output=True, text=True, env=environ
    ).stderr
    modules = re.findall(r"^import time:.*\|\s*(\S+)$", imported, re.MULTILINE)
    bare = subprocess.run([sys.executable, "-X", "importtime", "-c", ""], check=False, capture_output=True, text=True).stderr
    return {
        "modules": len(modules) - 1,
        "modules_bare": len(re.findall(r"^import time:.*\|", bare, re.MULTILINE)) - 1,
        "wall_s": seconds([watcher, *status]),
        "wall_bare_s": seconds([sys.executable, "-c", ""]),
    }


def measure(folder: Path) -> dict[str, object]:
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

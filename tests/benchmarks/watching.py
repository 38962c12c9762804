"""`watcher run` in a process of its own, looked at from outside: its ticks, its memory, its CPU, its system calls."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from suites.contract.paths import DataPaths
from support.models.nanotron_checkpoint import write_tiny_checkpoint
from watcher.simulate.jobs import cache_tokenizer

HOUR_SECONDS = 3600.0
SUITE = 'tier: tier2_ppl\nslices: {{one: {{data_files: ["{text}"], target_tokens: 1000}}}}\n'
TOKENIZER = "byte-level"
_TICK = os.sysconf("SC_CLK_TCK")


def write_unscheduled_checkpoints(checkpoints: Path, steps: Iterable[int], *, last: int) -> None:
    """Checkpoints that are on no schedule: they are listed, and never opened."""
    for step in steps:
        folder = checkpoints / str(step)
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"general: {{step: {step}}}\ntokens: {{train_steps: {last}}}\n")


def write_complete_checkpoint(folder: Path, step: int) -> None:
    """A whole checkpoint, finished an hour ago."""
    write_tiny_checkpoint(folder, step)
    old = time.time() - HOUR_SECONDS
    for path in folder.rglob("*"):
        os.utime(path, (old, old))


class MeasuredDaemon:
    """A daemon over ``root``, by the config in ``watcher.yaml`` there."""

    def __init__(self, root: Path, environ: Mapping[str, str] | None = None) -> None:
        self.root, self.state, self.config = root, root / "results" / ".watcher", root / "watcher.yaml"
        self.environ = None if environ is None else dict(environ)
        self.start_seconds = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def write_config(self, stages: Mapping[str, Mapping[str, Any]], *, job_seconds: int, **settings: Any) -> None:
        """The config, a suite of one local file, and a stand-in whose jobs take so long and score nothing."""
        (self.root / "text.jsonl").write_text('{"text": "a"}\n')
        (self.root / "suite.yaml").write_text(SUITE.format(text=self.root / "text.jsonl"))
        (self.root / "python").write_text(f"#!/bin/sh\nexec sleep {job_seconds}\n")
        (self.root / "python").chmod(0o755)
        results = self.root / "results"
        cache_tokenizer(TOKENIZER, DataPaths(results / "eval_data"))
        shared = {"suites": [str(self.root / "suite.yaml")], "tokenizer": TOKENIZER, "seq_len": 64}
        document = {
            "scratch": str(self.root),
            "results": str(results),
            "python": str(self.root / "python"),
            "poll": "1s",
            "stages": {name: {**shared, **stage} for name, stage in stages.items()},
            **settings,
        }
        self.config.write_text(yaml.safe_dump(document))

    def start_daemon(self) -> None:
        """Start it, and wait for its first status: the daemon's start-up time."""
        began = time.perf_counter()
        with (self.root / "daemon.log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("watcher")), "run", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env=self.environ,
            )
        while not (self.state / "status.json").exists():
            if self.process.poll() is not None:
                raise RuntimeError((self.root / "daemon.log").read_text()[-3000:])
            time.sleep(0.005)
        self.start_seconds = time.perf_counter() - began

    def count_ticks(self) -> int:
        """How many it has made."""
        return json.loads((self.state / "status.json").read_text())["ticks"]

    def read_memory_mib(self) -> dict[str, float]:
        """MiB now, and at most so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return {name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmRSS", "VmHWM")}

    def wait_for_ticks(self, more: int) -> None:
        """Let it make that many."""
        first = self.count_ticks()
        while self.count_ticks() < first + more:
            if self.process.poll() is not None:
                raise RuntimeError((self.root / "daemon.log").read_text()[-3000:])
            time.sleep(0.02)

    def count_syscalls(self, seconds: float) -> dict[str, float]:
        """System calls a tick, by name, over a few seconds (strace -c)."""
        table = self.root / "strace"
        before = self.count_ticks()
        subprocess.run(
            ["timeout", "-s", "INT", str(seconds), "strace", "-f", "-c", "-o", str(table), "-p", str(self.process.pid)],
            check=False,
            capture_output=True,
        )
        made = max(1, self.count_ticks() - before)
        rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", table.read_text(), re.MULTILINE)
        return {name: int(calls) / made for calls, name in rows if name != "total"}

    def stop_daemon(self) -> None:
        """End the daemon; its job goes on."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def read_status(self) -> dict:
        """status.json."""
        return json.loads((self.state / "status.json").read_text())

    def read_cpu_seconds(self) -> tuple[float, float]:
        """CPU seconds so far: its own, and those of its children that are over."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        own, children = (sum(map(int, fields[place : place + 2])) / _TICK for place in (11, 13))
        return own, children

"""Thousands of step folders that appear at once, and a request of 10,000 steps: how long the status is silent, and the CPU.

The checkpoints are complete, on the schedule, and appear by a rename of their folder.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from benchmarks.tables import format_number, render_markdown_table
from benchmarks.watching import HOUR_SECONDS, MeasuredDaemon
from support.models.nanotron_checkpoint import write_tiny_checkpoint

SIZES = (2_000, 5_000, 20_000)
REQUESTED_STEPS = 10_000
POLL_SECONDS = 10.0
IDLE_POLLS = 3


def write_checkpoints(folder: Path, count: int) -> None:
    """So many complete checkpoints, finished an hour ago; their shards are links to one file each."""
    template = write_tiny_checkpoint(folder / "0", 0)
    names = [path.relative_to(template) for path in template.rglob("*")]
    texts = {name: (template / name).read_text() for name in ("config.yaml", "checkpoint_metadata.json")}
    run, metadata = yaml.safe_load(texts["config.yaml"]), json.loads(texts["checkpoint_metadata.json"])
    old = time.time() - HOUR_SECONDS
    for path in template.rglob("*"):
        os.utime(path, (old, old))
    for step in range(1, count + 1):
        target = folder / str(step)
        target.mkdir()
        run["general"]["step"] = metadata["metas"]["last_train_step"] = step
        for name in names:
            if (template / name).is_dir():
                (target / name).mkdir()
            elif str(name) in texts:
                text = json.dumps(run if name.suffix == ".yaml" else metadata)  # JSON is YAML, and quicker
                (target / name).write_text(text)
                os.utime(target / name, (old, old))
            else:
                os.link(template / name, target / name)
    shutil.rmtree(template)


class ArrivalBenchmark(MeasuredDaemon):
    """`watcher run` over a folder whose every step is on the schedule; its jobs never start."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.write_config(
            {"stage1": {"checkpoints": str(root / "ckpts"), "every": 1}},
            job_seconds=5,
            executor="local",
            poll=f"{POLL_SECONDS}s",
            settle="1s",
            report={"page": False, "compare": False},
        )

    def watch_heartbeats(self, is_done: Callable[[dict[str, int]], bool], seconds: float) -> dict[str, float]:
        """Longest time between two statuses until ``is_done(counts of states)``, and what it all took."""
        began, cpu_before = time.time(), sum(self.read_cpu_seconds())
        path, beats = self.state / "status.json", [time.time()]
        while time.time() - began < seconds:
            mtime = path.stat().st_mtime
            if mtime > beats[-1]:
                beats.append(mtime)
                if is_done(json.loads(path.read_text())["counts"]):
                    break
            time.sleep(0.05)
        else:
            raise RuntimeError((self.root / "daemon.log").read_text()[-3000:])
        return {
            "seconds": time.time() - began,
            "longest_gap_s": max(later - earlier for earlier, later in itertools.pairwise(beats)),
            "statuses": len(beats) - 1,
            "cpu_s": sum(self.read_cpu_seconds()) - cpu_before,
            "rss_mib": self.read_memory_mib()["VmHWM"],
        }


def measure_arrival(folder: Path) -> dict[str, object]:
    """Each size, and the request."""
    rows = []
    for size in SIZES:
        print(f"arrival: {size}", flush=True)
        root = folder / str(size)
        root.mkdir(parents=True)
        write_checkpoints(root / "prepared", size)
        rows.append(_measure(root, f"{size:,} checkpoints", size, lambda root=root: (root / "prepared").rename(root / "ckpts")))
        shutil.rmtree(root)
    print("arrival: request", flush=True)
    (root := folder / "request").mkdir()
    steps = f"1:{REQUESTED_STEPS}:1"
    command = [Path(sys.executable).with_name("watcher"), "enqueue", "stage1", steps, "--config", root / "watcher.yaml"]
    rows.append(_measure(root, f"enqueue {steps}", REQUESTED_STEPS, lambda: subprocess.run(command, check=True)))
    return {"poll_s": POLL_SECONDS, "rows": rows}


def _measure(root: Path, case: str, count: int, begin: Callable[[], object]) -> dict[str, object]:
    """One row: from ``begin()`` until that many evaluations are beyond their first look; then three polls."""
    daemon = ArrivalBenchmark(root)
    arrives_as_waiting = case.startswith("enqueue")
    polls = itertools.count(1)

    def is_settled(counts: dict[str, int]) -> bool:
        unseen = counts.get("pending", 0) + (0 if arrives_as_waiting else counts.get("waiting", 0))
        return sum(counts.values()) == count and not unseen

    try:
        daemon.start_daemon()
        begin()
        done = daemon.watch_heartbeats(is_settled, 1800)
        idle = daemon.watch_heartbeats(lambda _counts: next(polls) == IDLE_POLLS, 600)
    finally:
        daemon.stop_daemon()
    return {"case": case, **done, "poll_cpu_s": idle["cpu_s"] / IDLE_POLLS}


def render_arrival(figures: dict) -> str:
    """The part of RESULTS.md about much at once."""
    head = [
        "at once",
        "seconds until all are ready",
        "longest time without a status, s",
        "CPU, s",
        "CPU s a poll then",
        "RSS, MiB",
    ]
    keys = ("seconds", "longest_gap_s", "cpu_s", "poll_cpu_s", "rss_mib")
    rows = [[row["case"], *(format_number(row[key]) for key in keys)] for row in figures["rows"]]
    return f"""## Much at once

Complete checkpoints on the schedule that appear by one rename, and one request of so many steps. `watcher run`, local executor,
a poll of {figures["poll_s"]:.0f} s: a status that is older than {3 * figures["poll_s"]:.0f} s counts as stale. All
ready: inspected and journaled, in slices of half a poll. A poll then: what each later poll costs while they wait for their turn.
{figures.get("note", "")}

{render_markdown_table([head, *rows])}
"""

"""A real daemon with the local executor and the real batch script is SIGKILLed again and again: each evaluation runs once.

Only the scorer is a stand-in: it writes valid tier files at once, so that many kills fit into seconds.
"""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter

from suites.contract.paths import DataPaths
from support.executors.batch_scripts import wait_until
from support.models.nanotron_checkpoint import set_times, write_tiny_checkpoint
from support.runs.scripts import write_stand_in_scorer
from watcher.simulate.jobs import cache_tokenizer

STEPS = (10, 20, 30, 40, 50, 60)

DAEMON = """
import os, sys
from pathlib import Path
from watcher.config.settings import Bridge, Config, LimitSettings, RetrySettings, Stage
from watcher.daemon import polling
root, steps = Path(sys.argv[1]), tuple(int(word) for word in sys.argv[2].split(","))
suites = (str(root / "slices.yaml"), str(root / "tasks.yaml"))
def stage(name, **more):
    more |= {"tokenizer": "t", "seq_len": 64, "suites": suites}
    return Stage(name=name, checkpoints=root / "ckpts" / name, results=root / "results", **more)
stages = {"stage1": stage("stage1", steps=steps), "stage2": stage("stage2", bridge=Bridge(source="stage1"))}
config = Config(source="test", scratch=root, results=root / "results", eval_data=root / "data", state=root / "state",
                python=str(root / "scorer"), executor="local", poll=0.1, settle=0.2, retry=RetrySettings(backoff=0.1),
                limits=LimitSettings(max_running=3), stages=stages)
sys.exit(polling.run_daemon(config, load_config=lambda: config, environ=dict(os.environ)))
"""


def start(root):
    with (root / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, str(root / "run.py"), str(root), ",".join(map(str, STEPS))],
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )


def watches(root, process):
    """Whether it has begun: killed before that, nothing is put to the test."""
    lock = root / "state" / "daemon.lock"
    return process.poll() is not None or (lock.exists() and json.loads(lock.read_text())["pid"] == process.pid)


def states(root, process):
    """Evaluation -> state, as this very daemon says; empty before its first tick."""
    path = root / "state" / "status.json"
    status = json.loads(path.read_text()) if path.exists() else {"pid": None}
    stages = status["stages"].values() if status["pid"] == process.pid else ()
    return {row["evaluation"]: row["state"] for stage in stages for row in stage["evaluations"]}


def test_killed_at_random_moments_each_evaluation_runs_once(tmp_path):
    (tmp_path / "run.py").write_text(textwrap.dedent(DAEMON))
    (tmp_path / "slices.yaml").write_text("tier: tier2_ppl\nslices:\n  web: {data_files: [/data/web.jsonl]}\n")
    (tmp_path / "tasks.yaml").write_text("tier: tier3_cf\ntasks:\n  ours: {data_files: [/d.jsonl], adapter: multiple_choice}\n")
    cache_tokenizer("t", DataPaths(tmp_path / "data"))
    write_stand_in_scorer(tmp_path, "note(request.evaluation)\npublish_scores(request)")
    draw = random.Random(0)
    kills = 0
    for step in STEPS:
        set_times(write_tiny_checkpoint(tmp_path / "ckpts" / "stage1" / str(step), step), time.time() - 100)
        for _ in range(2):
            process = start(tmp_path)
            wait_until(lambda process=process: watches(tmp_path, process), "it has the lock")
            time.sleep(draw.uniform(0.0, 0.6))  # a random moment is the point
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            process.kill()
            process.wait()
            kills += 1
    process = start(tmp_path)
    expected = {f"stage1/step_{step}" for step in STEPS} | {f"stage2/step_{max(STEPS)}"}
    end = time.monotonic() + 180
    while states(tmp_path, process) != dict.fromkeys(expected, "scored"):
        assert time.monotonic() < end, (states(tmp_path, process), (tmp_path / "log").read_text()[-3000:])
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=90) == 0
    runs = Counter((tmp_path / "runs").read_text().split())
    assert runs == dict.fromkeys(expected, 1)
    epochs = list((tmp_path / "state" / "journal").glob("*.jsonl"))
    print(f"{kills} kills, {len(epochs)} take-overs, 0 duplicates, 0 lost")

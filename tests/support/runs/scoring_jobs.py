"""Requests for scoring jobs on small things, run in this process or in one of their own."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import structlog

from scoring.cli.app import scoring_cli
from scoring.cli.score_options import ScoreOptions, request_from_options
from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.models.tiny_llama_items import LLAMA_CHECKPOINT

REPOSITORY_ROOT = Path(__file__).resolve().parents[3]


def write_suites(folder, *, slices=None, items=6):
    """Two suites over files in ``folder``: slices by name -> text, and one task."""
    slices = slices or {"prose": "The loss falls at every step.", "code": "def step(self): return self.loss"}
    lines = ["tier: tier2_ppl", "slices:"]
    for name, text in slices.items():
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n")
        lines.append(f"  {name}: {{data_files: [{folder}/{name}.jsonl]}}")
    (folder / "ppl.yaml").write_text("\n".join(lines) + "\n")
    rows = [{"context": f"Step {n} of", "choices": ["the loss", "a", "training"], "gold": n % 3} for n in range(items)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "cf.yaml").write_text(
        f"tier: tier3_cf\ntasks:\n  ours: {{data_files: [{folder}/items.jsonl], adapter: multiple_choice}}\n"
    )


def make_score_arguments(folder, *more, checkpoint=LLAMA_CHECKPOINT, suites=("ppl.yaml", "cf.yaml")):
    """Arguments of the by-hand form, everything under ``folder``."""
    given = [argument for suite in suites for argument in ("--suite", str(folder / suite))]
    given += ["--results", str(folder / "results"), "--eval-data", str(folder / "data"), "--stage", "stage1"]
    given += ["--tokenizer", str(BYTE_TOKENIZER), "--seq-len", "64", "--device", "cpu"]
    return ["score", "--checkpoint", str(checkpoint), *given, *more]


def make_score_request(folder, checkpoint=LLAMA_CHECKPOINT, **changes):
    """The request of a job over ``write_suites(folder)``, as the watcher would have written it."""
    options = {
        "suites": (str(folder / "ppl.yaml"), str(folder / "cf.yaml")),
        "results": folder / "results",
        "eval_data": folder / "data",
        "tokenizer": str(BYTE_TOKENIZER),
        "slow_tokenizer": False,
        "seq_len": 64,
        "stage": "stage1",
        "name": None,
        "device": "cpu",
        "dtype": None,
        "padded_vocab": "in_softmax",
        "backend": "direct",
        "exports": (),
        "offline": True,
        "checkpoint": checkpoint,
        **changes,
    }
    return request_from_options(ScoreOptions(**options), {})


def get_results_folder(folder, step=60):
    return folder / "results" / "stage1" / "by_checkpoint" / f"step_{step}"


def run_scoring_in_process(arguments):
    """The exit code of ``python -m scoring ARGUMENTS`` in this process, which is left as it was."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    environment = dict(os.environ)
    try:
        scoring_cli(arguments, prog_name="scoring", standalone_mode=False)
    except SystemExit as end:
        return end.code
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)
        structlog.reset_defaults()
    raise AssertionError("the command did not end with an exit code")


@contextmanager
def start_scoring_process(arguments, log, **environ):
    """``python -m scoring ARGUMENTS`` in a process of its own, killed at the end if it is still there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environ}
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "scoring", *arguments], cwd=REPOSITORY_ROOT, env=environment, stdout=stream, stderr=stream
        )
        try:
            yield child
        finally:
            child.kill()
            child.wait()

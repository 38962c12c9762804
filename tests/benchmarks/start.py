"""What a scoring job takes before it loads the model, beside an old commit that read tokenizers and templates in the job."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.tables import format_number, render_markdown_table
from support.models.smollm2 import write_tokenizer
from support.models.tiny_llama_items import LLAMA_CHECKPOINT

ROOT = Path(__file__).resolve().parents[2]
OLD_COMMIT = "837dfb3"
PAIRS = 5

STOP_AT_LOAD = """
import json, os, resource, sys, time
def stop(*_, **__):
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = {"wall": time.time() - float(os.environ["BENCH_STARTED"]), "user": usage.ru_utime, "sys": usage.ru_stime}
    print(json.dumps({**seconds, "libraries": [name for name in ("transformers", "jinja2") if name in sys.modules]}), flush=True)
    os._exit(0)
if sys.argv[1] == "old":
    import scoring.backends
    scoring.backends.load = stop
    from scoring.__main__ import main
else:
    import scoring.model.backends
    scoring.model.backends.load_model = stop
    from scoring.cli.app import scoring_cli as main
main(sys.argv[2:], prog_name="scoring")
"""


def has_old_commit() -> bool:
    """Whether this repository has the commit that is compared with."""
    command = ["git", "-C", str(ROOT), "cat-file", "-e", f"{OLD_COMMIT}^{{commit}}"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def measure_start(folder: Path) -> dict:
    """Both sides by turns, with caches that an earlier job of each filled."""
    tokenizer = write_tokenizer(folder / "tokenizer")
    texts = (json.dumps({"text": "The loss falls at every step. " * 40}) + "\n" for _ in range(50))
    (folder / "texts.jsonl").write_text("".join(texts))
    (folder / "ppl.yaml").write_text(f"tier: tier2_ppl\nslices:\n  prose: {{data_files: [{folder}/texts.jsonl]}}\n")
    subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "-q", "--detach", str(folder / "old"), OLD_COMMIT], check=True)
    try:
        sides = {"old": folder / "old", "new": ROOT}
        for side, tree in sides.items():
            _run_job(side, tree, folder, tokenizer, "first")
        runs: dict[str, list[dict]] = {side: [] for side in sides}
        for number in range(PAIRS):
            for side in sorted(sides, reverse=bool(number % 2)):
                runs[side].append(_run_job(side, sides[side], folder, tokenizer, str(number)))
    finally:
        subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(folder / "old")], check=True)
    medians = {
        side: {key: statistics.median(run[key] for run in found) for key in ("wall", "user", "sys")}
        for side, found in runs.items()
    }
    ratios = [new["user"] / old["user"] for old, new in zip(runs["old"], runs["new"], strict=True)]
    libraries = {side: found[0]["libraries"] for side, found in runs.items()}
    return {**medians, "user_ratios": ratios, "libraries": libraries, "load": os.getloadavg()[0]}


def _run_job(side: str, tree: Path, folder: Path, tokenizer: Path, name: str) -> dict:
    suites = [argument for suite in (folder / "ppl.yaml", "stage4_sft_native") for argument in ("--suite", str(suite))]
    places = ["--results", str(folder / f"{side} results"), "--eval-data", str(folder / f"{side} data"), "--stage", "stage4"]
    job = ["score", "--checkpoint", str(LLAMA_CHECKPOINT), "--tokenizer", str(tokenizer), "--seq-len", "512", "--device", "cpu"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree), "BENCH_STARTED": str(time.time())}
    command = [sys.executable, "-c", STOP_AT_LOAD, side, *job, *suites, *places, "--name", name]
    done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, check=True)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"wall"')))


def render_start(figures: dict) -> str:
    """Its part of RESULTS.md."""
    rows = [["side", "wall, s", "user CPU, s", "system CPU, s", "imports"]]
    for side, name in (("old", f"commit {OLD_COMMIT}"), ("new", "now")):
        seconds = (format_number(figures[side][key]) for key in ("wall", "user", "sys"))
        rows.append([name, *seconds, ", ".join(figures["libraries"][side]) or "neither"])
    ratios = sorted(figures["user_ratios"])
    middle = figures["new"]["user"] / figures["old"]["user"]
    return f"""## Start of a job

From exec until the model would be loaded: tokenizer, a slice and the prompts of stage4_sft_native are read. SmolLM2's
tokenizer, warm caches, one thread, medians of {PAIRS} pairs by turns. The load average afterwards was {figures["load"]:.1f}:
other work makes the wall longer. Imports: which of transformers and jinja2 the job has imported by then.

{render_markdown_table(rows)}

User CPU, now / {OLD_COMMIT}: {middle:.2f}; the pairs {ratios[0]:.2f} to {ratios[-1]:.2f}.
"""

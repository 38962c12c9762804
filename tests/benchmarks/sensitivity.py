"""What do bits per byte see that accuracies do not?

SmolLM2-135M-Instruct, and the same weights with Gaussian noise added to each tensor (NOISES of that tensor's standard deviation),
each scored by a job of its own on the first real items of eleven tasks. Every noisy one is compared with the published weights,
by the product's comparison: |z| of bits per byte against |z| of the accuracy, both delta / stderr.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.probes import make_noisy_weights
from benchmarks.tables import render_markdown_table
from scoring.cli.compare_output import locate_evaluation
from scoring.compare.compare import compare_with_baseline
from scoring.compare.published import open_evaluation
from suites.contract.objectives import Objectives
from suites.contract.paths import EvaluationPaths
from support.datasets.benchmark_items import BENCHMARK_FOLDERS, write_items, write_mmlu
from support.models import smollm2

NOISES = (0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4)
"""Downwards by the square root of two from the noise at which the model knows nothing; chosen before the first measurement."""
TESTED_COUNT = 2
"""The smallest levels, which the target is for."""
TARGET_RATIO, TARGET_TASKS = 5, 8
ITEMS = 75
SUBJECTS = ("anatomy", "college_physics", "econometrics", "high_school_biology", "philosophy")
TASKS = (*BENCHMARK_FOLDERS, "mmlu")


def write_suite(folder: Path) -> Path:
    """A cloze suite of a seeded sample of ITEMS real rows of each task."""
    lines = ["tier: tier3_cf", "tasks:"]
    for task in TASKS:
        if task == "mmlu":
            for subject in SUBJECTS:
                write_mmlu(subject, 1000, folder / f"mmlu.{subject}.parquet")
        else:
            write_items(task, 20_000, folder / f"{task}.parquet")
        lines.append(f"  {task}: {{data_files: [{folder}/{task}*.parquet], adapter: {task}, subset_size: {ITEMS}}}")
    path = folder / "real_cf.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def score_noisy_model(folder: Path, noise: float, suite: Path) -> Path:
    """The folder of an evaluation's results; its checkpoint is gone afterwards."""
    checkpoint = smollm2.write_smollm2_checkpoint(folder / f"noise_{noise:g}", tensors=make_noisy_weights(noise))
    results = folder / "results" / f"noise_{noise:g}"
    command = [sys.executable, "-m", "scoring", "score", "--checkpoint", str(checkpoint), "--suite", str(suite)]
    command += ["--results", str(results), "--eval-data", str(folder / "data"), "--seq-len", "512", "--stage", "stage1"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    shutil.rmtree(checkpoint)
    return EvaluationPaths(results / "stage1", f"step_{smollm2.STEP}").folder


def compare_levels(published: Path, noisy: Path) -> dict[str, dict[str, float | None]]:
    """Task -> both deltas and both z of one level."""
    sides = [open_evaluation(locate_evaluation(folder)) for folder in (published, noisy)]
    comparison = compare_with_baseline("bridge", *sides, Objectives())
    found = {}
    for entry in comparison.entries:
        effects = {"acc": entry.effect, "bpb": entry.effects["bpb"]}
        deltas = {f"{key}_delta": effect.delta for key, effect in effects.items()}
        found[entry.name] = deltas | {
            # Without a discordant pair there is no error, and nothing was seen.
            f"{key}_z": abs(effect.delta) / effect.stderr if effect.stderr else 0.0
            for key, effect in effects.items()
        }
    return found


def measure_sensitivity(folder: Path) -> dict:
    """The figures of all levels."""
    suite = write_suite(folder)
    published = score_noisy_model(folder, 0.0, suite)
    levels = {f"{noise:g}": compare_levels(published, score_noisy_model(folder, noise, suite)) for noise in NOISES}
    return {"levels": levels, "items": ITEMS}


def count_reached(tasks: dict) -> int:
    """Tasks in which |z| of bits per byte is TARGET_RATIO times that of the accuracy, or of one standard error."""
    return sum(row["bpb_z"] >= TARGET_RATIO * max(row["acc_z"], 1.0) for row in tasks.values())


def render_sensitivity(figures: dict) -> str:
    """This part of RESULTS.md."""
    levels = figures["levels"]
    tasks = list(next(iter(levels.values())))
    rows = [["task", *(f"noise {noise}" for noise in levels)]]
    rows += [[task, *(f"{found[task]['bpb_z']:.1f} / {found[task]['acc_z']:.1f}" for found in levels.values())] for task in tasks]
    rows.append(["tasks that reach the ratio", *(f"{count_reached(found)} of {len(found)}" for found in levels.values())])
    for what, key in (("bits per byte, mean change", "bpb_delta"), ("accuracy, mean change", "acc_delta")):
        rows.append([what, *(f"{sum(row[key] for row in found.values()) / len(found):+.3f}" for found in levels.values())])
    tested = list(levels.items())[:TESTED_COUNT]
    said = [
        f"noise {noise}: {count_reached(found)} of {len(found)}, "
        f"{'reached' if count_reached(found) >= TARGET_TASKS else 'not reached'}"
        for noise, found in tested
    ]
    return f"""## What bits per byte see, and accuracies do not

SmolLM2-135M-Instruct against itself with Gaussian noise on its weights, in standard deviations of each tensor; fp32, CPU,
{figures["items"]} real items of each of {len(tasks)} tasks, one thread. Each cell has |z| of bits per byte / |z| of the
task's primary accuracy, paired by item, by the product's comparison.

{render_markdown_table(rows)}

Target: at each of the {TESTED_COUNT} smallest levels, |z| of bits per byte is at least {TARGET_RATIO} times
max(|z| of accuracy, 1) in at least {TARGET_TASKS} tasks. {"; ".join(said)}.
"""

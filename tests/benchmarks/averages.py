"""The demo's model trained with a constant learning rate: its last checkpoint against the average of the last four.

    PYTHONPATH=tests python -m benchmarks.averages FOLDER [--steps 800] [--every 400]

Trains in FOLDER as the demo does, without its second stage and without the decay of its learning rate, then lets `watcher run`
score every fourth checkpoint and the average at it, and prints what compare.json says. Interrupted, it goes on from there.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

from demo import corpus, run, train
from suites.contract.comparison import describe_levels, read_comparison_document
from suites.contract.paths import EvaluationPaths
from watcher.config.loader import load_config

MEMBERS = 4


def train_with_constant_rate(folder: Path, last_step: int) -> None:
    """Train to ``last_step``: the demo's warm-up, then its peak learning rate."""
    train.STAGES.clear()
    train.STAGES["stage1"] = last_step
    train.compute_learning_rate = lambda step: train.PEAK_LEARNING_RATE * min(1.0, step / train.WARMUP_STEPS)
    train.main(folder)


def write_config(folder: Path, last_step: int, every: int) -> Path:
    """The demo's config with one stage and its averages."""
    path = run.write_config(folder, "local")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    stage = {**config["stages"]["stage1"], "steps": list(range(every, last_step + 1, every))}
    config["stages"] = {"stage1": {**stage, "average": {"last": MEMBERS, "every": every}}}
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def score(folder: Path, config_file: Path, expected_count: int) -> None:
    """Run a watcher until everything is scored and compared."""
    environ = run.make_process_environment(folder, {})
    command = [sys.executable, "-P", "-m", "watcher", "run", "--config", str(config_file)]
    results = load_config(config_file, {}).results
    with (folder / "watcher.log").open("ab") as log, subprocess.Popen(command, env=environ, stdout=log, stderr=log) as watcher:
        try:
            while watcher.poll() is None:
                states = [state for state, _ in run.read_states(results).values()]
                compared = list(results.glob("stage1/by_checkpoint/*_avg*/compare.json"))
                if len(states) == expected_count and set(states) == {"scored"} and len(compared) * 2 == expected_count:
                    time.sleep(5)  # the comparison with the average before is made anew
                    return
                time.sleep(1)
        finally:
            watcher.terminate()


def print_comparisons(config_file: Path, every: int, last_step: int) -> None:
    """Each average against its last member and the average before it."""
    root = load_config(config_file, {}).stages["stage1"].root
    for step in range(every, last_step + 1, every):
        paths = EvaluationPaths(root, f"step_{step}_avg{MEMBERS}")
        document = read_comparison_document(paths.compare_json)
        assert document is not None
        model = json.loads(paths.run_json.read_text())["model"]
        print(f"step {step}: {len(model['members'])} members, {model['bytes'] / 1e6:.1f} MB read")
        for comparison in document.comparisons:
            for total in comparison.totals:
                for effect in total.effects.values():
                    interval = "" if effect.low is None else f" [{effect.low:+.4f}, {effect.high:+.4f}]"
                    figures = f"{effect.baseline:.4f} -> {effect.candidate:.4f}, {effect.delta:+.4f}{interval}"
                    print(f"  {comparison.role}: {total.tier} {effect.metric} {figures} n={effect.n}: {effect.verdict}")
            print(f"  {comparison.role}: {describe_levels(comparison)}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--every", type=int, default=400)
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    corpus.build_corpus(folder)
    train_with_constant_rate(folder, given.steps)
    config_file = write_config(folder, given.steps, given.every)
    score(folder, config_file, 2 * (given.steps // given.every))
    print_comparisons(config_file, given.every, given.steps)


if __name__ == "__main__":
    main()

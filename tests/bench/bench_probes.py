"""Does tier 4 tell a model that follows instructions from one that does not?

SmolLM2-135M-Instruct, the same weights with noise added to each tensor (NOISES of that tensor's standard deviation), and random
weights (normal, std 0.02, norms 1), each scored by a job of its own on all of stage4_sft_native, answers at full length.
An hour of two cores.
"""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from suites.contract import RATES
from suites.paths import EvaluationPaths
from support import smollm2

NOISES = (0.1, 0.2, 0.4)
KINDS = {"as published (4 bits)": 0.0, **{f"with noise of {noise} x std": noise for noise in NOISES}, "random": None}
SEED = 0
TIER = "tier4_sft_native"


def weights(noise: float | None) -> dict[str, torch.Tensor]:
    """fp32 tensors under HF's names; random ones where ``noise`` is None."""
    tensors = smollm2.hf_tensors()
    generator = torch.Generator().manual_seed(SEED)
    for name, tensor in tensors.items():
        drawn = torch.randn(tensor.shape, generator=generator)
        if noise is None:
            tensors[name] = torch.ones_like(tensor) if tensor.dim() == 1 else 0.02 * drawn
        else:
            tensors[name] = tensor + noise * tensor.std() * drawn
    return tensors


def score(folder: Path, number: int, noise: float | None) -> float:
    """One job; the seconds it took."""
    checkpoint = smollm2.checkpoint(folder / str(number), tensors=weights(noise))
    command = [sys.executable, "-m", "scoring", "score", "--checkpoint", str(checkpoint), "--suite", "stage4_sft_native"]
    command += ["--results", str(folder / "results"), "--eval-data", str(folder / "data"), "--seq-len", "2048"]
    started = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - started


def row(folder: Path, number: int) -> dict:
    """What it published: the summary, how its answers ended, and how well the model reads the prompts themselves."""
    paths = EvaluationPaths(folder / "results", str(number), "step_2000")
    document, run = json.loads(paths.tier(TIER).read_text()), json.loads(paths.run.read_text())
    prompts = document["prompts"]
    replies = [prompt["response"] for prompt in prompts.values()]
    ppl = run["canary"]["ppl"]
    return {
        **document["summary"],
        "simple_passed": sum(prompt["passed"] for name, prompt in prompts.items() if name.startswith("simple_")),
        "simple_prompts": sum(name.startswith("simple_") for name in prompts),
        "stopped": sum(reply["finish"] != "length" for reply in replies),
        "answer_tokens": sum(reply["tokens"] for reply in replies),
        "prompt_nats": None if ppl is None else math.log(ppl),
    }


def judged(models: dict, nothing: float) -> str:
    """What of the claim holds: published beats noise of 0.4 x std, and both beat random ones. ``nothing``: ln(vocabulary)."""
    published, *_, noisy, random = ({**row, "kind": kind} for kind, row in models.items())
    said = []
    for better, worse in ((published, noisy), (published, random), (noisy, random)):
        a, b = better["all_checks_pass_rate"], worse["all_checks_pass_rate"]
        said.append(f"{better['kind']} {'beats' if a > b else 'does not beat'} {worse['kind']} ({a:.3f}, {b:.3f})")
    dead = [row["kind"] for row in (noisy, random) if row["prompt_nats"] is None or row["prompt_nats"] >= nothing]
    why = f" Weights that read the prompts no better than a model that knows nothing: {', '.join(dead)}." if dead else ""
    return f"all_checks_pass_rate: {'; '.join(said)}.{why}"


def measure(folder: Path) -> dict:
    """The figures of all."""
    took = {kind: score(folder, number, noise) for number, (kind, noise) in enumerate(KINDS.items())}
    rows = {kind: {**row(folder, number), "seconds": round(took[kind], 1)} for number, kind in enumerate(KINDS)}
    return {"models": rows, "rates": list(RATES), "vocabulary": smollm2.MODEL_CONFIG["vocab_size"]}

"""Does tier 4 tell a model that follows instructions from one that does not?

SmolLM2-135M-Instruct, the same weights with noise added to each tensor (NOISES of its standard deviation), and random
weights (normal, std 0.02, norms 1), each scored by a job of its own on every third prompt of stage4_sft_native.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from suites.contract import RATES
from suites.paths import EvaluationPaths
from suites.schema import load_suite
from support import smollm2

NOISES = (0.1, 0.2, 0.4)
EVERY = 3
NEW_TOKENS = 128
SEED = 0


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


def write_suite(path: Path) -> None:
    """Every third prompt, answers cut earlier."""
    whole = load_suite("stage4_sft_native", {}).definition
    prompts = {
        name: {**definition, "max_new_tokens": min(NEW_TOKENS, definition["max_new_tokens"])}
        for name, definition in list(whole.items())[::EVERY]
    }
    path.write_text(yaml.safe_dump({"tier": "tier4_sft_native", "prompts": prompts}, sort_keys=False))


def measure(folder: Path) -> dict:
    """The summaries of all."""
    write_suite(folder / "sft.yaml")
    found: dict[str, dict] = {}
    kinds = {"as published (4 bits)": 0.0, **{f"with noise of {noise} x std": noise for noise in NOISES}, "random": None}
    for number, (kind, noise) in enumerate(kinds.items()):
        checkpoint = smollm2.checkpoint(folder / str(number), tensors=weights(noise))
        command = [sys.executable, "-m", "scoring", "score", "--checkpoint", str(checkpoint), "--suite", str(folder / "sft.yaml")]
        command += ["--results", str(folder / "results"), "--eval-data", str(folder / "data"), "--seq-len", "2048"]
        started = time.perf_counter()
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        document = json.loads(EvaluationPaths(folder / "results", str(number), "step_2000").tier("tier4_sft_native").read_text())
        tokens = sum(prompt["response"]["tokens"] for prompt in document["prompts"].values())
        found[kind] = {**document["summary"], "answer_tokens": tokens, "seconds": round(time.perf_counter() - started, 1)}
    return {"models": found, "rates": list(RATES)}

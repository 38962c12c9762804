"""Does tier 4 tell a model that follows instructions from one that does not?

SmolLM2-135M-Instruct, the same weights with noise added to each tensor (NOISES of that tensor's standard deviation), and random
weights (normal, std 0.02, norms 1), each scored by a job of its own on the simple prompts of stage4_sft_native and every third of
the others, answers cut at NEW_TOKENS.
"""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from suites.contract.objectives import TIER4_RATES
from suites.contract.paths import EvaluationPaths
from suites.definitions.suite import load_suite
from support.models import smollm2

NOISE_STDS = (0.1, 0.2, 0.4)
MODEL_KINDS = {"as published (4 bits)": 0.0, **{f"with noise of {noise} x std": noise for noise in NOISE_STDS}, "random": None}
PROMPT_STRIDE, NEW_TOKENS, SIMPLE_PREFIX = 3, 128, "simple_"
SEED = 0
TIER = "tier4_sft_native"


def make_noisy_weights(noise: float | None) -> dict[str, torch.Tensor]:
    """fp32 tensors under HF's names; random ones where ``noise`` is None."""
    tensors = smollm2.load_hf_tensors()
    generator = torch.Generator().manual_seed(SEED)
    for name, tensor in tensors.items():
        drawn = torch.randn(tensor.shape, generator=generator)
        if noise is None:
            tensors[name] = torch.ones_like(tensor) if tensor.dim() == 1 else 0.02 * drawn
        else:
            tensors[name] = tensor + noise * tensor.std() * drawn
    return tensors


def write_suite(path: Path) -> Path:
    """The prompts that are asked."""
    whole = load_suite("stage4_sft_native", {}).definition
    simple = [name for name in whole if name.startswith(SIMPLE_PREFIX)]
    names = [*[name for name in whole if name not in simple][::PROMPT_STRIDE], *simple]
    prompts = {name: {**whole[name], "max_new_tokens": min(NEW_TOKENS, whole[name]["max_new_tokens"])} for name in names}
    path.write_text(yaml.safe_dump({"tier": TIER, "prompts": prompts}, sort_keys=False))
    return path


def score_model(folder: Path, number: int, noise: float | None) -> float:
    """One job; the seconds it took."""
    checkpoint = smollm2.write_smollm2_checkpoint(folder / str(number), tensors=make_noisy_weights(noise))
    command = [
        sys.executable,
        "-m",
        "scoring",
        "score",
        "--checkpoint",
        str(checkpoint),
        "--suite",
        str(write_suite(folder / f"{number}.yaml")),
    ]
    command += ["--results", str(folder / "results"), "--eval-data", str(folder / "data"), "--seq-len", "2048"]
    started = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - started


def read_model_row(folder: Path, number: int) -> dict:
    """What it published: the summary, how its answers ended, and how well the model reads the prompts themselves."""
    paths = EvaluationPaths(folder / "results" / str(number), "step_2000")
    document, run = json.loads(paths.tier_json(TIER).read_text()), json.loads(paths.run_json.read_text())
    prompts = document["prompts"]
    replies = [prompt["response"] for prompt in prompts.values()]
    lines = [json.loads(line) for line in paths.generations.read_text().splitlines()]
    answers = [line["answer"].lstrip() for line in lines if line["category"] == "strict_json"]
    ppl = run["canary"]["ppl"]
    return {
        **document["summary"],
        "simple_passed": sum(prompt["passed"] for name, prompt in prompts.items() if name.startswith(SIMPLE_PREFIX)),
        "simple_prompts": sum(name.startswith(SIMPLE_PREFIX) for name in prompts),
        "stopped": sum(reply["finish"] != "length" for reply in replies),
        "answer_tokens": sum(reply["tokens"] for reply in replies),
        "json_answers": len(answers),
        "json_fences": sum(answer.startswith("```python") for answer in answers),
        "prompt_nats": None if ppl is None else math.log(ppl),
    }


def check_ordering(models: dict, uniform_nll: float) -> str:
    """What of the claim holds: published beats noise of 0.4 x std, and both beat random ones. ``uniform_nll``: ln(vocabulary)."""
    published, *_, noisy, random = ({"kind": kind, **models.get(kind, {})} for kind in MODEL_KINDS)
    said = []
    for better, worse in ((published, noisy), (published, random), (noisy, random)):
        if len(better) > 1 and len(worse) > 1:
            a, b = better["all_checks_pass_rate"], worse["all_checks_pass_rate"]
            said.append(f'"{better["kind"]}" {"beats" if a > b else "does not beat"} "{worse["kind"]}" ({a:.3f}, {b:.3f})')
    dead = [kind for kind, row in models.items() if row["prompt_nats"] is None or row["prompt_nats"] >= uniform_nll]
    why = f" Weights that read the prompts no better than a model that knows nothing: {', '.join(dead)}." if dead else ""
    fences = f"{published['json_fences']} of the published weights' {published['json_answers']} answers to strict_json prompts"
    return f"all_checks_pass_rate: {'; '.join(said)}.{why} {fences} begin with a fence of Python."


def measure_answer_checks(folder: Path) -> dict:
    """The figures of all."""
    took = {kind: score_model(folder, number, noise) for number, (kind, noise) in enumerate(MODEL_KINDS.items())}
    rows = {kind: {**read_model_row(folder, number), "seconds": round(took[kind], 1)} for number, kind in enumerate(MODEL_KINDS)}
    return {"models": rows, "rates": list(TIER4_RATES), "vocabulary": smollm2.MODEL_CONFIG["vocab_size"]}

"""What a GPU gives: tokens/s and MFU, trees, a job's start, reading, several GPUs, memory; and whether its numbers are a CPU's.

    PYTHONPATH=tests python -m benchmarks.gpu [--scratch DIR]     # everything; `make bench BENCH=gpu` does the same
    ... benchmarks.gpu --device cpu --size tiny --into DIR        # does this script run?

It prints what it found as JSON, and writes it into results.json, and RESULTS.md anew, in this folder or the one of --into.
--scratch says where the checkpoint of 3.4 GB is written that reading and whole jobs are measured with: on a GPU node, the
parallel file system.

Model: a Llama of 1.7B parameters with random weights (SmolLM2-1.7B's sizes), bfloat16, rows of 4096 tokens, every token
predicted: tier 2's work.

    FLOP per token = 2 x weights of all matrices (the embedding's look-up is none, the head's product is one)
                   + 2 x S x hidden x layers     (attention's two products, causal: half of 4 x S x hidden)
    MFU            = tokens/s x FLOP per token / the device's dense bfloat16 peak

Parity: a small Llama's log-probabilities on this device against the CPU's in float32: float32 to 1e-3 nats a token at most (other
kernels, other orders of summation), bfloat16 to 0.05 on average.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import gpu_jobs
from benchmarks.growth import measure_cost
from scoring.inference.loglikelihood import compute_token_logprobs
from scoring.inference.prefix_tree import TokenSpan
from scoring.model import flops as flop
from scoring.model.loader import load_causal_lm
from scoring.model.memory_budget import estimate_peak_bytes
from scoring.runtime import provenance
from scoring.runtime.progress import compute_mfu
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG, write_tiny_checkpoint
from support.models.random_weights import make_random_model

FULL_SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 24,
    "num_key_value_heads": 32,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
}
TINY_SIZES = {
    **FULL_SIZES,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
}
TINY_SIZES["vocab_size"] = 512
STAGE3_TOKENS = {"tier2_tokens": 70e6, "tier3_tokens": 9.01e6}
"""Tokens of stage 3's suites; tier 3's as requests that each carry their context."""
GPU_CONFIGS = {
    "full": {
        "model": FULL_SIZES,
        "seq_len": 4096,
        "rows": 64,
        "repeats": 5,
        "items": 2000,
        "slice": 400_000,
        "compiler": "inductor",
    },
    "tiny": {"model": TINY_SIZES, "seq_len": 128, "rows": 2, "repeats": 1, "items": 8, "slice": 300, "compiler": "eager"},
}


def measure_median_seconds(action, repeats):
    """Seconds of ``action``, after once that is not counted. Its results have to be on the CPU: nothing is still running then."""
    took = []
    for _ in range(repeats + 1):
        began = time.monotonic()
        action()
        took.append(time.monotonic() - began)
    return sorted(took[1:])[repeats // 2]


def measure_tier2_speed(model, how):
    """Tokens a second of tier 2's rows, MFU, what torch.compile would change, and the most memory against what was reckoned."""
    draw, where = np.random.default_rng(0), model.device
    stretches = [TokenSpan(draw.integers(0, model.vocab_size, how["seq_len"] + 1), 1) for _ in range(how["rows"])]
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    _, beyond = measure_cost(lambda: compute_token_logprobs(model, stretches))
    weights = model.parameter_count * model.head.element_size()
    used = torch.cuda.max_memory_allocated(where) if where.type == "cuda" else weights + beyond
    size, width = model.head.element_size(), how["seq_len"]
    places = max(model.budget.token_positions, width)
    allowed = estimate_peak_bytes(model.architecture, device=where, bytes_per_value=size, token_positions=places, key_count=width)
    seconds = measure_median_seconds(lambda: compute_token_logprobs(model, stretches), how["repeats"])
    tokens, per_token = how["rows"] * how["seq_len"], flop.count_flop_per_token(model.architecture, seq_len=how["seq_len"])
    found = {
        "parameters": model.parameter_count,
        "dtype": model.dtype,
        "seq_len": how["seq_len"],
        "token_places": model.budget.token_positions,
        "tokens_per_s": tokens / seconds,
        "flop_per_token": per_token,
        "model_flop_per_s": tokens * per_token / seconds,
        "mfu": compute_mfu(tokens * per_token, seconds, flop.get_peak_flops(where)),
        "memory": {"peak": used, "weights": weights, "reckoned": allowed},
    }
    return found | {"compile": measure_compiled_layers(model, stretches, how, seconds)}


def measure_compiled_layers(model, spans, how, eager):
    """The same rows with compiled layers: seconds until they are, tokens/s then, and from how many tokens on that pays."""
    layers, tokens = model.body.layers, how["rows"] * how["seq_len"]
    model.body.layers = torch.nn.ModuleList(torch.compile(layer, backend=how["compiler"], dynamic=False) for layer in layers)
    began = time.monotonic()
    compute_token_logprobs(model, spans)
    first = time.monotonic() - began
    seconds = measure_median_seconds(lambda: compute_token_logprobs(model, spans), how["repeats"])
    model.body.layers = layers
    pays = (first - seconds) / (eager - seconds) * tokens if seconds < eager else None
    return {"compile_s": first - seconds, "tokens_per_s": tokens / seconds, "pays_from_tokens": pays}


def measure_prefix_trees(model, how):
    """Seconds for items of four choices (120 tokens of context, choices of 2 to 30): as trees, and a request each."""
    draw = np.random.default_rng(0)
    sequences, groups = [], []
    for item in range(how["items"]):
        context = draw.integers(0, model.vocab_size, 120)
        for _ in range(4):
            choice = draw.integers(0, model.vocab_size, int(draw.integers(2, 31)))
            sequences.append(TokenSpan(np.concatenate([context, choice]), len(context)))
            groups.append(item)
    together = measure_median_seconds(lambda: compute_token_logprobs(model, sequences, groups=groups), how["repeats"])
    apart = measure_median_seconds(lambda: compute_token_logprobs(model, sequences), how["repeats"])
    tokens = sum(len(sequence.tokens) - 1 for sequence in sequences)
    rates = {"ratio": apart / together, "tokens_per_s": tokens / together}
    return {"items": how["items"], "request_tokens": tokens, "trees_s": together, "requests_s": apart, **rates}


def measure_dtype_parity(device):
    """Differences of log-probabilities from the CPU's float32 ones, nats: (float32 largest, bfloat16 mean)."""
    sizes = {**TINY_SIZES, "max_position_embeddings": 256}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_tiny_checkpoint(Path(folder) / "20", 20, model_config=sizes, tp=2)
        draw = np.random.default_rng(1)
        rows = [TokenSpan(draw.integers(0, sizes["vocab_size"], length), 1) for length in (257, 40, 129)]
        found = {
            (where, dtype): np.concatenate(compute_token_logprobs(load_causal_lm(checkpoint, device=where, dtype=dtype), rows))
            for where, dtype in (("cpu", "float32"), (device, "float32"), (device, "bfloat16"))
        }
    exact = found["cpu", "float32"]
    return {
        "float32_largest": float(np.abs(found[device, "float32"] - exact).max()),
        "bfloat16_mean": float(np.abs(found[device, "bfloat16"] - exact).mean()),
    }


def measure_gpu(folder, device="cuda", size="full"):
    """Everything. ``folder`` is where checkpoints and results go."""
    how = GPU_CONFIGS[size]
    model = make_random_model(
        {**BYTE_LEVEL_CONFIG, **how["model"], "tie_word_embeddings": True}, device=device, dtype=torch.bfloat16
    )
    found = {
        "size": size,
        "device": provenance.describe_device(model.device),
        "speed": measure_tier2_speed(model, how),
        "trees": measure_prefix_trees(model, how),
    }
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
    most = torch.cuda.device_count() if device == "cuda" else 2
    found |= gpu_jobs.measure_gpu_jobs(
        folder, how["model"], device=device, seq_len=how["seq_len"], tokens=how["slice"], max_devices=most
    )
    found |= {"parity": measure_dtype_parity(device), "versions": provenance.collect_versions()}
    tier2, tier3 = found["speed"]["tokens_per_s"], found["trees"]["tokens_per_s"]
    found["stage3_minutes"] = (STAGE3_TOKENS["tier2_tokens"] / tier2 + STAGE3_TOKENS["tier3_tokens"] / tier3) / 60
    return found


def main(arguments=None):
    """The command line; 1 where parity does not hold, 69 where the device is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=GPU_CONFIGS, default="full")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--into", type=Path, default=Path(__file__).resolve().parent)
    given = parser.parse_args(arguments)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA here: nothing is measured (--device cpu --size tiny tries the script)", file=sys.stderr)
        return 69
    from benchmarks import run  # noqa: PLC0415  it imports this

    with tempfile.TemporaryDirectory(dir=given.scratch, prefix="gpu-") as folder:
        found = measure_gpu(Path(folder), given.device, given.size)
    run.write_results(given.into, {"gpu": found})
    print(json.dumps(found, indent=2))
    return int(found["parity"]["float32_largest"] > 1e-3 or found["parity"]["bfloat16_mean"] > 0.05)


if __name__ == "__main__":
    sys.exit(main())

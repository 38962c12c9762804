"""What a GPU gives: tokens a second and MFU of a Llama with random weights, and whether its numbers are the CPU's.

    PYTHONPATH=tests python tests/bench/gpu.py [--device cuda|cpu] [--tiny] [--json FILE]

Model: 1.7B parameters (SmolLM2-1.7B's sizes), bfloat16, rows of 4096 tokens, every token predicted: tier 2's work.

    FLOP per token = 2 x parameters of all matrices (the embedding's look-up is none, the head's product is one)
                   + 2 x S x hidden x layers   (attention's two products, causal: half of 4 x S x hidden)
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

from bench import bench_loading
from scoring import provenance
from scoring.checkpoint import load
from scoring.loglik import Stretch, token_logprobs
from support.nanotron_layout import BYTE_LEVEL, tiny_checkpoint
from support.random_model import random_model

FULL = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 24,
    "num_key_value_heads": 32,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
}
TINY = {
    **FULL,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
}
TINY["vocab_size"] = 512


def flop_per_token(architecture, parameters, seq_len):
    """See above."""
    matrices = parameters - architecture.vocab * architecture.hidden  # the embedding
    return 2 * matrices + 2 * seq_len * architecture.hidden * architecture.layers


def speed(sizes, *, device, dtype, seq_len, rows, repeats):
    """Tokens a second of ``rows`` rows, after one that is not counted."""
    model = random_model({**BYTE_LEVEL, **sizes}, device=device, dtype=dtype)
    draw = np.random.default_rng(0)
    stretches = [Stretch(draw.integers(0, model.vocab_size, seq_len + 1), 1) for _ in range(rows)]
    took = []
    for _ in range(repeats + 1):
        started = time.monotonic()
        token_logprobs(model, stretches)  # its results are on the CPU: nothing is still running
        took.append(time.monotonic() - started)
    seconds = sorted(took[1:])[repeats // 2]
    per_token = flop_per_token(model.architecture, model.n_params, seq_len)
    rate = rows * seq_len / seconds
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    peak = next((value for key, value in sorted(provenance._PEAK.items(), key=lambda pair: -len(pair[0])) if key in name), None)
    return {
        "device": name,
        "parameters": model.n_params,
        "dtype": str(dtype).removeprefix("torch."),
        "seq_len": seq_len,
        "tokens_per_s": rate,
        "flop_per_token": per_token,
        "model_flop_per_s": rate * per_token,
        "mfu": rate * per_token / peak if peak else None,
        "peak_memory": provenance.peak_memory(torch.device(device)),
    }


def trees(sizes, *, device, dtype, items, repeats):
    """Seconds for items of four choices (120 tokens of context, choices of 2 to 30): as trees, and a request each."""
    model = random_model({**BYTE_LEVEL, **sizes}, device=device, dtype=dtype)
    draw = np.random.default_rng(0)
    sequences, groups = [], []
    for item in range(items):
        context = draw.integers(0, model.vocab_size, 120)
        for _ in range(4):
            choice = draw.integers(0, model.vocab_size, int(draw.integers(2, 31)))
            sequences.append(Stretch(np.concatenate([context, choice]), len(context)))
            groups.append(item)
    took = {"trees_s": [], "requests_s": []}
    for _ in range(repeats + 1):
        for name, how in (("trees_s", {"together": groups}), ("requests_s", {})):
            started = time.monotonic()
            token_logprobs(model, sequences, **how)
            took[name].append(time.monotonic() - started)
    medians = {name: sorted(values[1:])[repeats // 2] for name, values in took.items()}
    tokens = sum(len(sequence.tokens) - 1 for sequence in sequences)
    ratio = medians["requests_s"] / medians["trees_s"]
    return {"items": items, "request_tokens": tokens, **medians, "ratio": ratio, "tokens_per_s": tokens / medians["trees_s"]}


def reading(device, gigabytes):
    """GB/s of loading a checkpoint that was just written (so from the page cache), and of plainly reading the same files."""
    with tempfile.TemporaryDirectory() as folder:
        bench_loading.write(Path(folder) / "20", gigabytes=gigabytes, dtype="bfloat16", tp=2)
        files = list(Path(folder).rglob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        load(Path(folder) / "20", device=device, dtype="bfloat16")
        started = time.monotonic()
        for file in files:
            file.read_bytes()
        plainly = time.monotonic() - started
        started = time.monotonic()
        load(Path(folder) / "20", device=device, dtype="bfloat16")
        took = time.monotonic() - started
    return {"gb": size / 1e9, "gb_per_s": size / took / 1e9, "plain_gb_per_s": size / plainly / 1e9}


STAGE3 = {"tier2_tokens": 70e6, "tier3_tokens": 9.01e6}
"""Tokens of stage 3's suites; tier 3's as requests that each carry their context."""


def parity(device):
    """Differences of log-probabilities from the CPU's float32 ones, nats: (float32 largest, bfloat16 mean)."""
    sizes = {**TINY, "max_position_embeddings": 256}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tiny_checkpoint(Path(folder) / "20", 20, model_config=sizes, tp=2)
        draw = np.random.default_rng(1)
        rows = [Stretch(draw.integers(0, sizes["vocab_size"], length), 1) for length in (257, 40, 129)]
        found = {
            (where, dtype): np.concatenate(token_logprobs(load(checkpoint, device=where, dtype=dtype), rows))
            for where, dtype in (("cpu", "float32"), (device, "float32"), (device, "bfloat16"))
        }
    exact = found["cpu", "float32"]
    return {
        "float32_largest": float(np.abs(found[device, "float32"] - exact).max()),
        "bfloat16_mean": float(np.abs(found[device, "bfloat16"] - exact).mean()),
    }


def main(arguments=None):
    """The command line; 1 where parity does not hold, 69 where the device is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of almost no size: does this script run?")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA here: nothing is measured (--device cpu --tiny tries the script)", file=sys.stderr)
        return 69
    size = {"seq_len": 128, "rows": 2, "repeats": 1} if given.tiny else {"seq_len": 4096, "rows": 16, "repeats": 5}
    found = {
        "speed": speed(TINY if given.tiny else FULL, device=given.device, dtype=torch.bfloat16, **size),
        "trees": trees(
            TINY if given.tiny else FULL,
            device=given.device,
            dtype=torch.bfloat16,
            items=8 if given.tiny else 2000,
            repeats=1 if given.tiny else 3,
        ),
        "reading": reading(given.device, 0.05 if given.tiny else 3.4),
        "parity": parity(given.device),
        "versions": provenance.versions(),
    }
    rates = found["speed"]["tokens_per_s"], found["trees"]["tokens_per_s"]
    found["stage3_minutes"] = (STAGE3["tier2_tokens"] / rates[0] + STAGE3["tier3_tokens"] / rates[1]) / 60
    text = json.dumps(found, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    return int(found["parity"]["float32_largest"] > 1e-3 or found["parity"]["bfloat16_mean"] > 0.05)


if __name__ == "__main__":
    sys.exit(main())

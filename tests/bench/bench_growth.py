"""What scoring costs as its work grows (tokens, items, parts, vocabulary), and what memory it takes."""

import os
import time
from pathlib import Path

import numpy as np
import torch

from scoring import perplexity
from scoring.budget import bytes_a_place
from scoring.loglik import HEAD_ROWS, Stretch, token_logprobs
from support.nanotron_layout import BYTE_LEVEL
from support.random_model import random_model

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
}


def cost(action):
    """(seconds, the most bytes beyond what was there before)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    began = time.perf_counter()
    action()
    return time.perf_counter() - began, max(0, memory("VmHWM") - before)


def memory(name):
    """Bytes, of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def growth():
    """Rows of (what, how much, seconds, bytes): ten times the tokens, items, parts; larger vocabularies."""
    rows = []
    draw = np.random.default_rng(0)
    options = {"seq_len": 128, "special": (), "isolate_documents": False, "name": "s"}
    model = random_model({**BYTE_LEVEL, **SIZES})

    def stream(count):
        starts = np.arange(0, count, 1000)
        sizes = np.full(len(starts), 4000)
        return perplexity.Stream(tokens=draw.integers(0, 1024, count), document_starts=starts, document_bytes=sizes)

    perplexity.score(model, stream(20_000), **options)  # warms up
    for count in (20_000, 200_000):
        given = stream(count)
        rows.append(("tokens", count, *cost(lambda given=given: perplexity.score(model, given, **options))))
    for count in (50, 500):
        sequences, groups = [], []
        for item in range(count):
            context = draw.integers(0, 1024, 60)
            sequences += [Stretch(np.concatenate([context, draw.integers(0, 1024, 20)]), 60) for _ in range(4)]
            groups += [item] * 4
        rows.append(("items", count, *cost(lambda s=sequences, g=groups: token_logprobs(model, s, together=g))))
    for count in (4, 40):
        slices = [stream(5000) for _ in range(count)]
        rows.append(("parts", count, *cost(lambda given=slices: [perplexity.score(model, each, **options) for each in given])))
    for vocab in (32_768, 131_072, 262_144):
        wide = random_model({**BYTE_LEVEL, **SIZES, "vocab_size": vocab, "tie_word_embeddings": True})
        rows.append(("vocabulary", vocab, *cost(lambda wide=wide: perplexity.score(wide, stream(4000), **options))))
    return [dict(zip(("what", "size", "seconds", "bytes"), row, strict=True)) for row in rows]


def peak():
    """The most bytes that scoring windows takes beyond the weights, and what one budget a thread takes by our own reckoning."""
    model = random_model({**BYTE_LEVEL, **SIZES, "vocab_size": 32_768, "hidden_size": 512, "intermediate_size": 1408})
    windows = [Stretch(np.arange(513) % 1000, 1) for _ in range(24)]
    token_logprobs(model, windows[:1])
    _, used = cost(lambda: token_logprobs(model, windows))
    places = max(model.budget.places, 512)
    one = places * bytes_a_place(model.architecture, 4, 512) + 2 * HEAD_ROWS["cpu"] * model.vocab_size * 4
    return {"weights": model.n_params * 4, "used": used, "reckoned": one * torch.get_num_threads()}


def measure(folder):  # noqa: ARG001  nothing is written
    """Everything, on all cores."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return {"growth": growth(), "peak": peak()}

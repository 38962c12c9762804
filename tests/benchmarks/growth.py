"""What scoring costs as its work grows (tokens, items, parts, vocabulary), and what memory it takes."""

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import structlog
import torch

from scoring.inference.loglikelihood import Stretch, token_logprobs
from scoring.model.memory_budget import at_most
from scoring.runtime.parts import Finished, Identity, Workers, plan
from scoring.runtime.progress import Progress
from scoring.tiers import perplexity_metric as perplexity
from suites.contract.paths import EvaluationPaths
from support.models.nanotron_checkpoint import BYTE_LEVEL
from support.models.random_weights import random_model

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


def in_parts(count, folder):
    """So many parts of a row each, taken as a job takes them: leased, written, read again by a second worker."""
    paths = EvaluationPaths(folder, "stage1", "step_1")
    paths.parts.mkdir(parents=True)
    of = {"seq_len": 128, "dtype": "float32", "backend": "direct", "padded_vocab": "in_softmax"}
    identity = Identity(fingerprint="f", tokenizer="t", **of)
    wanted = [part for number in range(count) for part in plan("tier2_ppl", f"s{number}", {}, "data", identity)]

    def score(part):
        return Finished(part, {"entry": {}, "tokens": 1, "run_id": "r"}, pa.table({"x": [1.0]}))

    for _ in range(2):
        progress = Progress(paths, "r", count, sizes={part.label: 1 for part in wanted})
        worker = Workers(
            paths=paths,
            identity=identity,
            score=score,
            before=lambda: None,
            wait=lambda _: None,
            after=lambda finished, here, progress=progress: progress.finished(finished.part.label, here=here),
        )
        with structlog.testing.capture_logs():
            worker.run(wanted)
        if progress.done != count:
            raise RuntimeError("a part is missing")


def growth(folder):
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
    rows += [("parts", count, *cost(lambda count=count: in_parts(count, folder / str(count)))) for count in (40, 400)]
    for vocab in (32_768, 131_072, 262_144):
        wide = random_model({**BYTE_LEVEL, **SIZES, "vocab_size": vocab, "tie_word_embeddings": True})
        rows.append(("vocabulary", vocab, *cost(lambda wide=wide: perplexity.score(wide, stream(4000), **options))))
    return [dict(zip(("what", "size", "seconds", "bytes"), row, strict=True)) for row in rows]


def peak(threads):
    """The most bytes that scoring windows takes beyond the weights, of several goes, and the most by our own reckoning."""
    torch.set_num_threads(threads)
    model = random_model({**BYTE_LEVEL, **SIZES, "vocab_size": 16_384, "hidden_size": 256, "intermediate_size": 1408})
    windows = [Stretch(np.arange(513) % 1000, 1) for _ in range(8)]
    token_logprobs(model, windows[:1])
    used = max(cost(lambda: token_logprobs(model, windows))[1] for _ in range(3))
    allowed = {"device": model.device, "bytes_a_value": 4, "places": max(model.budget.places, 512), "width": 512}
    return {"threads": threads, "weights": model.n_params * 4, "used": used, "reckoned": at_most(model.architecture, **allowed)}


def measure(folder):
    """Everything, on all cores."""
    cores = len(os.sched_getaffinity(0))
    peaks = [peak(threads) for threads in sorted({1, cores})]
    return {"growth": growth(folder), "peaks": peaks}

"""What scoring costs as its work grows (tokens, items, parts, vocabulary), and what memory it takes."""

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import structlog
import torch

from scoring.inference.loglikelihood import compute_token_logprobs
from scoring.inference.prefix_tree import TokenSpan
from scoring.model.memory_budget import estimate_peak_bytes
from scoring.runtime.parts import FinishedPart, PartWorker, RunIdentity, plan_parts
from scoring.runtime.progress import JobProgress
from scoring.tiers import perplexity_metric as perplexity
from suites.contract.paths import EvaluationPaths
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG
from support.models.random_weights import make_random_model

MODEL_SIZES = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
}


def measure_cost(action):
    """(seconds, the most bytes beyond what was there before)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = read_memory_bytes("VmRSS")
    began = time.perf_counter()
    action()
    return time.perf_counter() - began, max(0, read_memory_bytes("VmHWM") - before)


def read_memory_bytes(name):
    """Bytes, of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def score_in_parts(count, folder):
    """So many parts of a row each, taken as a job takes them: leased, written, read again by a second worker."""
    paths = EvaluationPaths(folder / "stage1", "step_1")
    paths.parts.mkdir(parents=True)
    of = {"seq_len": 128, "dtype": "float32", "backend": "direct", "padded_vocab": "in_softmax"}
    identity = RunIdentity(fingerprint="f", tokenizer="t", **of)
    wanted = [part for number in range(count) for part in plan_parts("tier2_ppl", f"s{number}", {}, "data", identity)]

    def score(part):
        return FinishedPart(part, {"entry": {}, "tokens": 1, "run_id": "r"}, pa.table({"x": [1.0]}))

    for _ in range(2):
        progress = JobProgress(paths, "r", count, part_sizes={part.label: 1 for part in wanted})
        worker = PartWorker(
            paths=paths,
            identity=identity,
            score_part=score,
            before_part=lambda: None,
            sleep=lambda _: None,
            after_part=lambda finished, here, progress=progress: progress.finish_part(finished.part.label, is_ours=here),
        )
        with structlog.testing.capture_logs():
            worker.score_parts(wanted)
        if len(progress.parts_done) != count:
            raise RuntimeError("a part is missing")


def measure_growth(folder):
    """Rows of (what, how much, seconds, bytes): ten times the tokens, items, parts; larger vocabularies."""
    rows = []
    draw = np.random.default_rng(0)
    options = {"seq_len": 128, "special_ids": (), "isolate_documents": False, "name": "s"}
    model = make_random_model({**BYTE_LEVEL_CONFIG, **MODEL_SIZES})

    def stream(count):
        starts = np.arange(0, count, 1000)
        sizes = np.full(len(starts), 4000)
        return perplexity.TokenStream(tokens=draw.integers(0, 1024, count), document_starts=starts, document_bytes=sizes)

    perplexity.score_slice(model, stream(20_000), **options)  # warms up
    for count in (20_000, 200_000):
        given = stream(count)
        rows.append(("tokens", count, *measure_cost(lambda given=given: perplexity.score_slice(model, given, **options))))
    for count in (50, 500):
        sequences, groups = [], []
        for item in range(count):
            context = draw.integers(0, 1024, 60)
            sequences += [TokenSpan(np.concatenate([context, draw.integers(0, 1024, 20)]), 60) for _ in range(4)]
            groups += [item] * 4
        rows.append(("items", count, *measure_cost(lambda s=sequences, g=groups: compute_token_logprobs(model, s, groups=g))))
    rows += [
        ("parts", count, *measure_cost(lambda count=count: score_in_parts(count, folder / str(count)))) for count in (40, 400)
    ]
    for vocab in (32_768, 131_072, 262_144):
        wide = make_random_model({**BYTE_LEVEL_CONFIG, **MODEL_SIZES, "vocab_size": vocab, "tie_word_embeddings": True})
        rows.append(("vocabulary", vocab, *measure_cost(lambda wide=wide: perplexity.score_slice(wide, stream(4000), **options))))
    return [dict(zip(("what", "size", "seconds", "bytes"), row, strict=True)) for row in rows]


def measure_peak_memory(threads):
    """The most bytes that scoring windows takes beyond the weights, of several goes, and the most by our own reckoning."""
    torch.set_num_threads(threads)
    model = make_random_model(
        {**BYTE_LEVEL_CONFIG, **MODEL_SIZES, "vocab_size": 16_384, "hidden_size": 256, "intermediate_size": 1408}
    )
    windows = [TokenSpan(np.arange(513) % 1000, 1) for _ in range(8)]
    compute_token_logprobs(model, windows[:1])
    used = max(measure_cost(lambda: compute_token_logprobs(model, windows))[1] for _ in range(3))
    allowed = {
        "device": model.device,
        "bytes_per_value": 4,
        "token_positions": max(model.budget.token_positions, 512),
        "key_count": 512,
    }
    return {
        "threads": threads,
        "weights": model.parameter_count * 4,
        "used": used,
        "reckoned": estimate_peak_bytes(model.architecture, **allowed),
    }


def measure_all_growth(folder):
    """Everything, on all cores."""
    cores = len(os.sched_getaffinity(0))
    peaks = [measure_peak_memory(threads) for threads in sorted({1, cores})]
    return {"growth": measure_growth(folder), "peaks": peaks}

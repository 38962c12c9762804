"""bfloat16 against float32 on a real model: SmolLM2-135M, per token of real text and per task on real items.

PYTHONPATH=tests python -m benchmarks.dtypes [--items 50] [--tokens 2048] [--device cpu|cuda]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from scoring.data import cache
from scoring.data.tokenizer_cache import resolve_tokenizer
from scoring.inference.loglikelihood import compute_token_logprobs
from scoring.inference.prefix_tree import TokenSpan
from scoring.model.loader import load_causal_lm
from scoring.tiers import cloze_metric as choice
from suites.contract.paths import DataPaths
from support.datasets.benchmark_items import write_items
from support.models import smollm2

TASKS = ("arc_easy", "sciq", "piqa", "winogrande", "openbookqa")
DTYPES = ("float32", "bfloat16")
SEQ_LEN = 512


def compare_dtypes(folder, *, items, tokens, device):
    """Lines for a person."""
    checkpoint = smollm2.write_smollm2_checkpoint(folder / "smollm2")
    tokenizer = resolve_tokenizer(str(checkpoint.parent / "tokenizer"), DataPaths(folder))
    text = Path(argparse.__file__).read_text()  # the standard library: real code and prose, everywhere the same kind
    stream = np.asarray(tokenizer.encode([text])[0][: tokens + 1])
    rows = [TokenSpan(stream[start : start + SEQ_LEN + 1], 1) for start in range(0, len(stream) - 1, SEQ_LEN)]
    entries = {}
    for task in TASKS:
        write_items(task, 20_000, folder / f"{task}.parquet")
        definition = {"data_files": [str(folder / f"{task}.parquet")], "adapter": task, "subset_size": items}
        entries[task] = cache.ensure_task(task, definition, tokenizer=tokenizer, data=DataPaths(folder), offline=True)
    logprobs, scored = {}, {}
    for dtype in DTYPES:
        model = load_causal_lm(checkpoint, device=device, dtype=dtype)
        logprobs[dtype] = np.concatenate(compute_token_logprobs(model, rows))
        scored[dtype] = {
            task: choice.score_items(model, entry.items, seq_len=SEQ_LEN, name=task).to_pylist()
            for task, entry in entries.items()
        }
    return [*_of_tokens(*(logprobs[dtype] for dtype in DTYPES)), *_of_tasks(*(scored[dtype] for dtype in DTYPES))]


def _of_tokens(exact, rounded):
    apart = rounded - exact
    yield (
        f"tokens: {len(apart)}; |difference| of a token's log-probability: mean {np.abs(apart).mean():.4f},"
        f" median {np.median(np.abs(apart)):.4f}, 99th percentile"
        f" {np.quantile(np.abs(apart), 0.99):.4f}, largest {np.abs(apart).max():.4f} nats"
    )
    yield f"perplexity: {np.exp(-exact.mean()):.4f} in float32, {np.exp(-rounded.mean()):.4f} in bfloat16"


def _of_tasks(exact, rounded):
    for task in exact:
        pairs = list(zip(exact[task], rounded[task], strict=True))
        apart = [abs(a - b) for one, other in pairs for a, b in zip(one["ll"], other["ll"], strict=True)]
        metric = "acc_per_char"
        accuracies = [np.mean([row[f"pick_{metric}"] == row["gold"] for row in rows]) for rows in (exact[task], rounded[task])]
        turned = sum(one[f"pick_{metric}"] != other[f"pick_{metric}"] for one, other in pairs)
        yield (
            f"{task}: {len(pairs)} items; |difference| of a choice's log-likelihood: mean {np.mean(apart):.4f},"
            f" largest {max(apart):.4f};"
            f" {metric} {accuracies[0]:.3f} in float32, {accuracies[1]:.3f} in bfloat16; {turned} picks turned"
        )


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for line in compare_dtypes(Path(folder), items=given.items, tokens=given.tokens, device=given.device):
            print(line)


if __name__ == "__main__":
    main()

"""Tier 2 against its peers on a CPU: lm-evaluation-harness's rolling log-likelihood, and a plain transformers loop.

Two settings. All cores: a million tokens, seconds by the clock, medians of three, the sides in turn. One thread: fewer tokens,
CPU seconds, the least of three: what is left of a ratio where others use the machine, too, since threads of one product that
wait for each other burn what they wait.
"""

import os
import statistics
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed import BATCH_SIZES, LmEvalProcess, write_hf_model
from scoring.data.tokenizer_cache import resolve_tokenizer
from scoring.inference.loglikelihood import compute_token_logprobs
from scoring.inference.prefix_tree import TokenSpan
from scoring.model.loader import load_causal_lm
from scoring.tiers import perplexity_metric as perplexity
from suites.contract.paths import DataPaths
from support.models import glasslm as glass

REPEATS = 3
TOKEN_COUNT, REDUCED_TOKEN_COUNT = 1_000_000, 100_000
BATCH_SHAPE = (8, glass.SEQ_LEN)
"""Of the batches that torch.compile is tried with: constant, as it likes them."""
OPTIONS = {"seq_len": glass.SEQ_LEN, "special": (), "isolate_documents": False, "name": "text"}


def collect_texts(tokenizer, tokens):
    """The standard library's files, one after the other, until there are so many tokens; and the stream that they make."""
    texts, stream, starts, sizes = [], [], [], []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        ids = tokenizer.encode([text])[0]
        if len(ids) < 1000:
            continue
        texts.append(text)
        starts.append(len(stream))
        sizes.append(len(text.encode()))
        stream += ids
        if len(stream) >= tokens:
            break
    held = {"document_starts": np.array(starts), "document_bytes": np.array(sizes)}
    return texts, perplexity.TokenStream(tokens=np.array(stream, dtype=np.int32), **held)


@torch.inference_mode()
def compute_plain_nll(theirs, tokens, batch):
    """Nats of all windows, as anybody would write it."""
    count, total = (len(tokens) - 1) // glass.SEQ_LEN, 0.0
    used = torch.from_numpy(tokens[: count * glass.SEQ_LEN + 1].astype(np.int64))
    inputs, targets = used[:-1].view(count, -1), used[1:].view(count, -1)
    for first in range(0, count, batch):
        logits = theirs(input_ids=inputs[first : first + batch], use_cache=False).logits
        wanted = targets[first : first + batch].flatten()
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum").item()
    return total


def find_best_batch_size(theirs, tokens):
    """The plain loop's, of several, on 64 windows."""
    few, tried = tokens[: 64 * glass.SEQ_LEN + 1], {}
    for batch in (1, 8, 16, 64):
        compute_plain_nll(theirs, few[: 2 * batch * glass.SEQ_LEN + 1], batch)
        _, _, tried[batch] = measure_seconds(compute_plain_nll, theirs, few, batch)
    return min(tried, key=tried.get)


def measure_seconds(action, *arguments, **more):
    """(what it gives, seconds, CPU seconds of this process)."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = action(*arguments, **more)
    return found, time.perf_counter() - wall, time.process_time() - cpu


def compare_with_plain(folder, threads, tokens, best):
    """One setting. ``best`` picks one figure of several repeats."""
    torch.set_num_threads(threads)
    theirs = write_hf_model(glass, folder / "hf")
    tokenizer = resolve_tokenizer(str(folder / "nanotron" / "tokenizer"), DataPaths(folder / "data"))
    texts, stream = collect_texts(tokenizer, tokens)
    model = load_causal_lm(folder / "nanotron" / str(glass.STEP), device="cpu")
    batch = find_best_batch_size(theirs, stream.tokens)
    peer = LmEvalProcess(folder / "hf", glass.SEQ_LEN)
    peer.find_best_batch_size("loglikelihood_rolling", [[text] for text in texts])
    wall, cpu = ({"ours": [], "plain": [], "peer": []} for _ in range(2))
    for _ in range(REPEATS):
        (entry, _), *took = measure_seconds(perplexity.score_slice, model, stream, **OPTIONS)
        nats, *plainly = measure_seconds(compute_plain_nll, theirs, stream.tokens, batch)
        found = peer.run_requests("loglikelihood_rolling", [[text] for text in texts], peer.best_batch_sizes)
        for side, (seconds, busy) in (("ours", took), ("plain", plainly), ("peer", (found["seconds"], found["cpu_s"]))):
            wall[side].append(seconds)
            cpu[side].append(busy)
    peer.close()
    count = (len(stream.tokens) - 1) // glass.SEQ_LEN * glass.SEQ_LEN
    if abs(entry["nll_per_token"] - nats / count) > 1e-3 * entry["nll_per_token"]:
        raise RuntimeError(f"not the same work: {entry['nll_per_token']} here, {nats / count} in the plain loop")
    figures = {f"{side}_s": best(values) for side, values in wall.items()}
    busy = {f"{side}_cpu_s": best(values) for side, values in cpu.items()}
    batches = {"plain_batch": batch, "batch": peer.best_batch_sizes}
    return {"threads": threads, "tokens": len(stream.tokens), **batches, "wall": wall, "cpu": cpu, **figures, **busy}


def measure_torch_compile(folder, repeats=20):
    """torch.compile of one shape on one thread: CPU seconds until it has compiled, and for a batch with and without it."""
    torch.set_num_threads(1)
    model = load_causal_lm(folder / "nanotron" / str(glass.STEP), device="cpu")
    draw = np.random.default_rng(0)
    rows = [TokenSpan(draw.integers(0, model.vocab_size, BATCH_SHAPE[1] + 1), 1) for _ in range(BATCH_SHAPE[0])]

    def batch():
        return min(measure_seconds(compute_token_logprobs, model, rows)[2] for _ in range(repeats))

    batch()
    eager = batch()
    began = time.perf_counter()
    model.body.layers = torch.nn.ModuleList(torch.compile(layer, dynamic=False) for layer in model.body.layers)
    compute_token_logprobs(model, rows)
    compiling = time.perf_counter() - began
    faster = eager - batch()
    tokens = BATCH_SHAPE[0] * BATCH_SHAPE[1]
    return {
        "compile_s": compiling,
        "eager_us_a_token": eager / tokens * 1e6,
        "compiled_us_a_token": (eager - faster) / tokens * 1e6,
        "pays_from_tokens": compiling / faster * tokens if faster > 0 else None,
    }


def measure_perplexity(folder):
    """Everything."""
    glass.write_checkpoint_of_glasslm(folder / "nanotron")
    cores = len(os.sched_getaffinity(0))
    load_before = os.getloadavg()[0]
    print("perplexity: one thread", flush=True)
    one = compare_with_plain(folder, 1, REDUCED_TOKEN_COUNT, min)
    print("perplexity: all cores", flush=True)
    every = compare_with_plain(folder, cores, TOKEN_COUNT, statistics.median)
    print("perplexity: torch.compile", flush=True)
    found = {"repeats": REPEATS, "batches": BATCH_SIZES, "load_before": load_before, "all": every, "one": one}
    return {**found, "compile": measure_torch_compile(folder)}

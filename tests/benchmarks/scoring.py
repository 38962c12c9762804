"""Scoring speed on the CPU, tier 2 and tier 3, of a model of the demo's size: ours, and a plain transformers loop, in turn."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from demo import corpus, train
from support.models.nanotron_checkpoint import write_checkpoint

REPEATS = 3
PLAIN_BATCH = 16
TARGET_TOKENS = 40_000


def prepare_scoring_benchmark(folder: Path) -> LlamaForCausalLM:
    """Corpus, suites and a checkpoint of random weights under ``folder``; the same model for the plain loop."""
    corpus.build_corpus(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(train.make_llama_config()).eval()
    write_checkpoint(
        folder / "ckpts" / "100",
        step=100,
        model_config=train.MODEL_CONFIG,
        tensors=model.state_dict(),
        train_steps=100,
        seq_len=train.SEQ_LEN,
        tokenizer=str(folder / "tokenizer"),
        tp=train.TENSOR_PARALLEL_SIZE,
    )
    prose = {"data_files": [str(folder / "data" / "prose_heldout.jsonl")], "target_tokens": TARGET_TOKENS}
    cloze = {"data_files": [str(folder / "data" / "prose_cloze.jsonl")], "adapter": "multiple_choice"}
    (folder / "tier2.yaml").write_text(yaml.safe_dump({"tier": "tier2_ppl", "slices": {"prose": prose}}))
    (folder / "tier3.yaml").write_text(yaml.safe_dump({"tier": "tier3_cf", "tasks": {"cloze": cloze}}))
    return model


def run_scoring_job(folder: Path, tiers: tuple[str, ...], run: str) -> dict[str, object]:
    """A process of its own, results in a folder of their own; run.json, and the seconds from exec to exit."""
    command = [sys.executable, "-m", "scoring", "score", "--checkpoint", str(folder / "ckpts" / "100"), "--device", "cpu"]
    command += [word for tier in tiers for word in ("--suite", str(folder / f"{tier}.yaml"))]
    command += ["--results", str(folder / run), "--eval-data", str(folder / "eval_data"), "--stage", "bench"]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    seconds = time.perf_counter() - began
    report = json.loads((folder / run / "bench" / "by_checkpoint" / "step_100" / "run.json").read_text())
    return {"seconds": seconds, **report}


def score_tier2_plainly(model: LlamaForCausalLM, stream: torch.Tensor) -> tuple[int, float]:
    """(tokens predicted, perplexity): windows in batches."""
    count = (len(stream) - 1) // train.SEQ_LEN
    inputs = stream[: count * train.SEQ_LEN].view(count, train.SEQ_LEN)
    targets = stream[1 : count * train.SEQ_LEN + 1].view(count, train.SEQ_LEN)
    total = 0.0
    with torch.inference_mode():
        for first in range(0, count, PLAIN_BATCH):
            logits = model(input_ids=inputs[first : first + PLAIN_BATCH], use_cache=False).logits  # [batch, SEQ_LEN, vocabulary]
            wanted = targets[first : first + PLAIN_BATCH].flatten()
            total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum").item()
    return targets.numel(), float(torch.tensor(total / targets.numel()).exp())


def score_tier3_plainly(model: LlamaForCausalLM, requests: list[tuple[list[int], int]]) -> list[float]:
    """The log-likelihood of each (tokens, length of the continuation)."""
    order = sorted(range(len(requests)), key=lambda index: -len(requests[index][0]))
    found = [0.0] * len(requests)
    with torch.inference_mode():
        for first in range(0, len(order), PLAIN_BATCH):
            rows = [requests[index] for index in order[first : first + PLAIN_BATCH]]
            longest = max(len(tokens) for tokens, _ in rows)
            batch = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in rows])
            logprobs = model(input_ids=batch[:, :-1], use_cache=False).logits.log_softmax(-1)  # [batch, longest - 1, vocabulary]
            picked = logprobs.gather(-1, batch[:, 1:, None]).squeeze(-1)
            for row, (tokens, length) in enumerate(rows):
                found[order[first + row]] = picked[row, len(tokens) - 1 - length : len(tokens) - 1].sum().item()
    return found


def make_plain_requests(tokenizer: Tokenizer, path: Path) -> list[tuple[list[int], int]]:
    """Every choice with its context, cut from the left to the model's window."""
    requests = []
    for line in path.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        context = tokenizer.encode(item["context"]).ids
        for choice in item["choices"]:
            continuation = tokenizer.encode(f" {choice}", add_special_tokens=False).ids
            requests.append(((context + continuation)[-train.SEQ_LEN - 1 :], len(continuation)))
    return requests


def make_plain_stream(tokenizer: Tokenizer, path: Path) -> torch.Tensor:
    """Documents one after the other, each with BOS and EOS, up to the target."""
    ids: list[int] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        ids += [*tokenizer.encode(json.loads(line)["text"]).ids, tokenizer.token_to_id(corpus.EOS)]
        if len(ids) >= TARGET_TOKENS:
            break
    return torch.tensor(ids)


def measure_scoring(folder: Path) -> dict[str, object]:
    """Everything about scoring."""
    torch.set_num_threads(1)
    print("scoring: preparing", flush=True)
    model = prepare_scoring_benchmark(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    stream = make_plain_stream(tokenizer, folder / "data" / "prose_heldout.jsonl")
    requests = make_plain_requests(tokenizer, folder / "data" / "prose_cloze.jsonl")
    whole = run_scoring_job(folder, ("tier2", "tier3"), "fills_the_cache")
    seconds: dict[str, list[float]] = {"plain2": [], "plain3": [], "ours2": [], "ours3": [], "process": []}
    plain_ppl = 0.0
    tokens = 0
    for repeat in range(REPEATS):
        print(f"scoring: {repeat + 1} of {REPEATS}", flush=True)
        began = time.perf_counter()
        tokens, plain_ppl = score_tier2_plainly(model, stream)
        seconds["plain2"].append(time.perf_counter() - began)
        seconds["ours2"].append(run_scoring_job(folder, ("tier2",), f"tier2_{repeat}")["timings"]["scoring"])
        began = time.perf_counter()
        score_tier3_plainly(model, requests)
        seconds["plain3"].append(time.perf_counter() - began)
        seconds["ours3"].append(run_scoring_job(folder, ("tier3",), f"tier3_{repeat}")["timings"]["scoring"])
        seconds["process"].append(run_scoring_job(folder, ("tier2", "tier3"), f"both_{repeat}")["seconds"])
    ours_ppl = whole["summary"]["tier2_ppl"]["ppl"]
    if abs(ours_ppl - plain_ppl) > 0.01 * plain_ppl:
        raise RuntimeError(f"not the same work: perplexity {ours_ppl} here, {plain_ppl} in the plain loop")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    work3 = f"{len(requests) // corpus.CHOICE_COUNT} items of {corpus.CHOICE_COUNT} choices"
    return {
        "model": f"Llama of {sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}M parameters",
        "repeats": REPEATS,
        "process_s": medians["process"],
        "all": seconds,
        "tiers": [
            {
                "tier": "2",
                "work": f"{tokens:,} tokens",
                "tokens": tokens,
                "plain_s": medians["plain2"],
                "ours_s": medians["ours2"],
            },
            {
                "tier": "3",
                "work": work3,
                "tokens": sum(len(row) - 1 for row, _ in requests),
                "plain_s": medians["plain3"],
                "ours_s": medians["ours3"],
            },
        ],
    }

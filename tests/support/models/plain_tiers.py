"""Tiers 2, 3 and 4 as anybody would write them with transformers: one forward pass for each window, choice and token."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from support.models.hf_models import compute_plain_logprobs, generate_plainly

SEQ_LEN = 96
CLOSE = 1e-4
"""Nats: of a log-likelihood."""
DOCUMENTS = [
    "The loss falls at every step of the run, and nobody looks at it for weeks.\n" * 4,
    "def step(model, batch):\n    loss = model(batch).loss\n    loss.backward()\n    return loss\n" * 3,
    "A checkpoint is a folder. It is whole once nothing is written to it any more.",
]
ITEMS = [
    {"context": "The capital of France is", "choices": ["Paris", "a cheese", "the river that runs through it"], "gold": 0},
    {"context": "def add(a, b): return", "choices": ["a + b", "None", "print(a)"], "gold": 0},
    {"context": "Water is", "choices": ["wet", "dry", "a number between one and two"], "gold": 0},
]
PROMPTS = {"capital": "Name the capital of France.", "sum": "What is 2 + 3? Answer with a number, please.", "hello": "Hello!"}
NEW_TOKENS = 12


def write_suites(folder):
    """Names of three suites over files in ``folder``."""
    (folder / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ITEMS))
    check = [{"check": "words", "at_least": 1}]
    template = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}assistant:"
    prompts = {
        name: {
            "messages": [{"role": "user", "content": text}],
            "max_new_tokens": NEW_TOKENS,
            "chat_template": template,
            "checks": check,
            "category": "concise_answer",
        }
        for name, text in PROMPTS.items()
    }
    documents = {
        "ppl": {"tier": "tier2_ppl", "slices": {"docs": {"data_files": [str(folder / "docs.jsonl")]}}},
        "cf": {
            "tier": "tier3_cf",
            "tasks": {"ours": {"data_files": [str(folder / "items.jsonl")], "adapter": "multiple_choice"}},
        },
        "sft": {"tier": "tier4_sft_native", "prompts": prompts},
    }
    for name, document in documents.items():
        (folder / f"{name}.yaml").write_text(json.dumps(document))
    return [str(folder / f"{name}.yaml") for name in documents]


def open_tokenizer(folder):
    """Transformers' tokenizer of a folder."""
    return PreTrainedTokenizerFast.from_pretrained(str(folder))


def compute_plain_nll(model, tokenizer):
    """(sum of the negative log-likelihoods of all documents as one stream, predicted tokens)."""
    stream = []
    for text in DOCUMENTS:
        stream += [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    windows = [stream[start : start + SEQ_LEN + 1] for start in range(0, len(stream) - 1, SEQ_LEN)]
    return -math.fsum(float(compute_plain_logprobs(model, window).sum()) for window in windows), len(stream) - 1


def compute_plain_choices(model, tokenizer):
    """For each item the log-likelihood of each choice."""
    found = []
    for item in ITEMS:
        context = tokenizer(item["context"])["input_ids"]
        wholes = [tokenizer(f"{item['context']} {choice}")["input_ids"] for choice in item["choices"]]
        assert all(whole[: len(context)] == context for whole in wholes)
        found.append([float(compute_plain_logprobs(model, whole)[len(context) - 1 :].sum()) for whole in wholes])
    return found


def compute_plain_answers(model, rows):
    """Name of a prompt -> greedy tokens as far as the published ones go."""
    return {row["name"]: generate_plainly(model, row["prompt_tokens"], len(row["tokens"])) for row in rows}


def set_one_thread():
    """So that parallel tests do not take each other's cores."""
    torch.set_num_threads(1)


def compare_with_plain_loop(published, model, tokenizer_folder):
    """Published tiers against the loops: log-likelihoods within CLOSE, and no pick and no token another."""
    tokenizer = open_tokenizer(tokenizer_folder)
    entry = json.loads((published / "tier2_ppl.json").read_text())["slices"]["docs"]
    nll, tokens = compute_plain_nll(model, tokenizer)
    assert entry["tokens"] == tokens
    assert entry["nll_sum"] / tokens == pytest.approx(nll / tokens, abs=CLOSE)
    rows = pq.read_table(published / "items" / "ours.parquet").to_pylist()
    expected = compute_plain_choices(model, tokenizer)
    for row, values in zip(rows, expected, strict=True):
        assert np.abs(np.subtract(row["ll"], values)).max() < CLOSE
        assert row["pick_acc"] == int(np.argmax(values))
    answers = [json.loads(line) for line in (published / "tier4_sft_native_generations.jsonl").read_text().splitlines()]
    assert {row["name"]: row["tokens"] for row in answers} == compute_plain_answers(model, answers)
    assert max(len(row["tokens"]) for row in answers) > 1

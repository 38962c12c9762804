"""Things to score: the small real checkpoint, made-up items, and the plainest way to get a log-likelihood."""

import random

import msgspec
import numpy as np
import torch

from scoring.model.loader import load_causal_lm
from support.models.nanotron_fixtures import find_checkpoint, find_reference

LLAMA_CHECKPOINT = find_checkpoint("llama_gqa_tp1", 60)
REFERENCE_FOLDER = find_reference("llama_gqa_tp1", 60)


def load_tiny_llama():
    torch.set_num_threads(1)
    return load_causal_lm(LLAMA_CHECKPOINT, device="cpu")


def load_reference_tokens():
    return np.load(REFERENCE_FOLDER / "tokens.npy")


def compute_reference_logprobs(model, tokens):
    """Give log p(token i | before) for i = 1 .. n-1: one sequence, all logits, float64."""
    ids = torch.tensor([list(map(int, tokens))])
    logits = model.logits(model.hidden_states(ids))[0].double()
    return [float(torch.log_softmax(logits[i], -1)[tokens[i + 1]]) for i in range(len(tokens) - 1)]


class ContextPair(msgspec.Struct, frozen=True):
    context: list[int]
    continuation: list[int]


class ClozeItem(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    id: str
    subject: str | None = None
    gold: int
    requests: list[ContextPair]
    uncond: list[ContextPair] | None = None
    chars: list[int]
    chars_with_space: list[int]
    bytes: list[int]
    text_key: str | None = None


def make_item(index, context, choices, gold, *, subject=None, uncond=True):
    """Text as bytes: a token is a byte."""
    spaced = [f" {choice}".encode() for choice in choices]
    return ClozeItem(
        index=index,
        id=f"item-{index}",
        subject=subject,
        gold=gold,
        requests=[ContextPair(list(context.encode()), list(choice)) for choice in spaced],
        uncond=[ContextPair(list(b"Answer:"), list(choice)) for choice in spaced] if uncond else None,
        chars=[len(choice) for choice in choices],
        chars_with_space=[len(choice) + 1 for choice in choices],
        bytes=[len(choice) for choice in spaced],
    )


def make_items(count, *, seed=0, subjects=(None,)):
    """Questions of 2 to 5 choices of different lengths, some with two equal choices."""
    draw = random.Random(seed)
    words = ["the", "model", "of", "a", "naïve", "train", "loss", "step", "data", "is", "falls", "rises"]

    def phrase(low, high):
        return " ".join(draw.choice(words) for _ in range(draw.randint(low, high)))

    made = []
    for index in range(count):
        choices = [phrase(1, 4) for _ in range(draw.randint(2, 5))]
        if index % 7 == 3:
            choices[-1] = choices[0]
        subject = subjects[index % len(subjects)]
        made.append(
            make_item(index, f"Question: {phrase(2, 9)}\nAnswer:", choices, draw.randrange(len(choices)), subject=subject)
        )
    return made

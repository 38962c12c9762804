"""Greedy answers, many at a time, with a cache of keys and values.

An answer must not depend on what it is computed beside. So every forward pass of a suite has the same shapes, however many
prompts there are: ROWS rows (those without a prompt are computed and thrown away), prompts padded to one width, a cache of one
width; each row has its own positions and sees its own tokens alone, and the head is fp32. The suite and the sequence length
decide the shapes, never the device or its memory. (One exception: an expert multiplies as many rows as chose it, so in fp32 the
last bits of a mixture of experts do depend on the company.) What is left is rounding: of every answer it is counted how often
the best two tokens were within NEAR of each other, where another device may decide otherwise.

The next token is the first of those with the highest logit. Rows of the head that stand for no token are never chosen.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import torch

from scoring.inference.loglikelihood import NotFiniteError
from scoring.model.attention_mask import whole
from scoring.model.backends import Loaded
from scoring.model.causal_lm import CausalModel
from scoring.model.kv_cache import Past

ROWS = 32
"""Of every forward pass."""

ROUND = 64
"""Widths are multiples of this."""

NEAR = 1e-3
"""Nats between the best two tokens of a near tie."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt."""

    tokens: list[int]
    """[n], n >= 1."""
    max_new_tokens: int
    stop_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What followed it."""

    tokens: list[int]
    """All new ones, with the token that ended the answer."""
    text: str
    """Of them, up to what ended the answer."""
    finish: str
    """``stop_token``, ``stop_string``, or ``length``."""
    near_ties: int
    """How many tokens were chosen by less than NEAR."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Of every forward pass of a suite."""

    rows: int = ROWS
    prompt: int
    """Token places of a prompt."""
    width: int
    """Token places of a prompt and its answer."""


def shape_of(questions: Sequence[Question]) -> Shape:
    """The one shape that all of a suite's questions fit into."""
    prompt = max(len(question.tokens) for question in questions)
    width = max(len(question.tokens) + question.max_new_tokens for question in questions)
    return Shape(prompt=-(-prompt // ROUND) * ROUND, width=-(-width // ROUND) * ROUND)


class _Reader(Protocol):
    """A model that remembers what it has read."""

    def read(self, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Int64 [B, P] prompts -> hidden states [B, hidden] at their last places int64 [B]."""
        ...

    def add(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """One more token int64 [B] a row, at int64 [B] -> hidden states [B, hidden] there."""
        ...


class _Cached:
    """By a cache."""

    def __init__(self, model: CausalModel, shape: Shape) -> None:
        self.model = model
        self.past = Past(model.architecture, rows=shape.rows, width=shape.width, like=model.head)

    def read(self, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        hidden = self.model.hidden_states(tokens, past=self.past)
        return hidden[torch.arange(len(ends), device=ends.device), ends]

    def add(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        seen = self.past.step(places)
        return self.model.hidden_states(tokens[:, None], places[:, None], whole(seen), past=self.past)[:, 0]


class _Whole:
    """By reading everything again, for models without a cache. Slow."""

    def __init__(self, model: Loaded, shape: Shape) -> None:
        self.model = model
        self.tokens = torch.zeros(shape.rows, shape.width, dtype=torch.int64, device=model.device)
        self.rows = torch.arange(shape.rows, device=model.device)

    def read(self, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        self.tokens[:, : tokens.shape[1]] = tokens
        return self.model.hidden_states(self.tokens[:, : int(ends.max()) + 1])[self.rows, ends]

    def add(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        self.tokens[self.rows, places] = tokens
        return self.model.hidden_states(self.tokens[:, : int(places.max()) + 1])[self.rows, places]


def generate(
    model: Loaded,
    questions: Sequence[Question],
    *,
    shape: Shape,
    decode: Callable[[Sequence[int]], str],
    between: Callable[[int], None] = lambda tokens: None,  # noqa: ARG005  what to do with it is the caller's
) -> list[Reply]:
    """Answer each question, greedily.

    Args:
        model: the checkpoint, fitted to its tokenizer.
        questions: any number.
        shape: of all questions of the suite, from ``shape_of``.
        decode: tokens -> text.
        between: called after every forward pass with the number of tokens put in; may raise to stop.

    Raises:
        NotFiniteError: where a logit that decides is not a finite number.
    """
    replies: list[Reply] = []
    for start in range(0, len(questions), shape.rows):
        replies += _together(model, questions[start : start + shape.rows], shape, decode, between)
    return replies


class _Row:
    """One answer as it grows."""

    def __init__(self, question: Question, decode: Callable[[Sequence[int]], str]) -> None:
        self.question, self.decode = question, decode
        self.tokens: list[int] = []
        self.finish: str | None = None
        self.near_ties = 0
        # a token holds at least one byte, so a string that has just ended lies within so many of them
        self._tail = max((len(text.encode()) for text in question.stop_strings), default=0) + 8

    def take(self, token: int, gap: float) -> None:
        """One token more."""
        self.tokens.append(token)
        self.near_ties += gap < NEAR
        if token in self.question.stop_ids:
            self.finish = "stop_token"
        elif self.question.stop_strings and self._ended(self.decode(self.tokens[-self._tail :])):
            self.finish = "stop_string"
        elif len(self.tokens) >= self.question.max_new_tokens:
            self.finish = "length"

    def _ended(self, text: str) -> bool:
        return any(stop in text for stop in self.question.stop_strings)

    def reply(self) -> Reply:
        finish = self.finish or "length"
        text = self.decode(self.tokens[:-1] if finish == "stop_token" else self.tokens)
        ends = [at for stop in self.question.stop_strings if (at := text.find(stop)) >= 0]
        text = text[: min(ends)] if finish == "stop_string" and ends else text
        return Reply(tokens=self.tokens, text=text, finish=finish, near_ties=self.near_ties)


@torch.inference_mode()
def _together(
    model: Loaded,
    questions: Sequence[Question],
    shape: Shape,
    decode: Callable[[Sequence[int]], str],
    between: Callable[[int], None],
) -> list[Reply]:
    rows = [_Row(question, decode) for question in questions]
    prompts = torch.zeros(shape.rows, shape.prompt, dtype=torch.int64)
    for index, question in enumerate(questions):
        prompts[index, : len(question.tokens)] = torch.tensor(question.tokens)
    lengths = [len(question.tokens) for question in questions] + [1] * (shape.rows - len(questions))
    places = torch.tensor(lengths, device=model.device) - 1
    reader: _Reader = (_Cached if isinstance(model, CausalModel) else _Whole)(model, shape)  # type: ignore[arg-type]
    hidden = reader.read(prompts.to(model.device), places)
    between(sum(lengths[: len(questions)]))
    while True:
        chosen, gaps = _choose(model, hidden)
        for row, token, gap in zip(rows, chosen.tolist(), gaps.tolist(), strict=False):
            if row.finish is None:
                row.take(token, gap)
        active = [row.finish is None for row in rows]
        if not any(active):
            return [row.reply() for row in rows]
        # a row that has ended is computed further where it stands: shapes stay, and nobody looks at it
        places = places + torch.tensor(active + [False] * (shape.rows - len(rows)), device=places.device)
        hidden = reader.add(chosen, places)
        between(sum(active))


def _choose(model: Loaded, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, hidden] -> the next tokens int64 [B], and by how many nats each was chosen, float32 [B]."""
    logits = model.logits(hidden)[:, : model.real_vocab]
    best = logits.topk(min(2, logits.shape[-1])).values
    if not torch.isfinite(best[:, 0]).all():
        raise NotFiniteError("a logit that decides which token follows is not finite")
    return logits.argmax(-1), best[:, 0] - best[:, -1]

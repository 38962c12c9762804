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
from scoring.model.attention_mask import full_mask
from scoring.model.backends import LoadedModel
from scoring.model.causal_lm import CausalModel
from scoring.model.kv_cache import KVCache

GENERATION_ROWS = 32
"""Of every forward pass."""

GENERATION_WIDTH_MULTIPLE = 64
"""Widths are multiples of this."""

NEAR_TIE_NATS = 1e-3
"""Nats between the best two tokens of a near tie."""


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt."""

    tokens: list[int]
    """[n], n >= 1."""
    max_new_tokens: int
    stop_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()


class GenerationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What followed it."""

    tokens: list[int]
    """All new ones, with the token that ended the answer."""
    text: str
    """Of them, up to what ended the answer."""
    finish: str
    """``stop_token``, ``stop_string``, or ``length``."""
    near_ties: int
    """How many tokens were chosen by less than NEAR."""


class GenerationShape(msgspec.Struct, frozen=True, kw_only=True):
    """Of every forward pass of a suite."""

    rows: int = GENERATION_ROWS
    prompt_width: int
    """Token places of a prompt."""
    width: int
    """Token places of a prompt and its answer."""


def fit_shape(requests: Sequence[GenerationRequest]) -> GenerationShape:
    """The one shape that all of a suite's questions fit into."""
    prompt_width = max(len(request.tokens) for request in requests)
    width = max(len(request.tokens) + request.max_new_tokens for request in requests)
    return GenerationShape(
        prompt_width=-(-prompt_width // GENERATION_WIDTH_MULTIPLE) * GENERATION_WIDTH_MULTIPLE,
        width=-(-width // GENERATION_WIDTH_MULTIPLE) * GENERATION_WIDTH_MULTIPLE,
    )


class _IncrementalModel(Protocol):
    """A model that remembers what it has read."""

    def prefill(self, tokens: torch.Tensor, last_positions: torch.Tensor) -> torch.Tensor:
        """Int64 [B, P] prompts -> hidden states [B, hidden] at their last places int64 [B]."""
        ...

    def decode_step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """One more token int64 [B] a row, at int64 [B] -> hidden states [B, hidden] there."""
        ...


class _Cached:
    """By a cache."""

    def __init__(self, model: CausalModel, shape: GenerationShape) -> None:
        self.model = model
        self.kv_cache = KVCache(model.architecture, rows=shape.rows, width=shape.width, like=model.head)

    def prefill(self, tokens: torch.Tensor, last_positions: torch.Tensor) -> torch.Tensor:
        hidden = self.model.hidden_states(tokens, kv_cache=self.kv_cache)
        return hidden[torch.arange(len(last_positions), device=last_positions.device), last_positions]

    def decode_step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        mask = self.kv_cache.begin_step(positions)
        return self.model.hidden_states(tokens[:, None], positions[:, None], full_mask(mask), kv_cache=self.kv_cache)[:, 0]


class _WithoutCache:
    """By reading everything again, for models without a cache. Slow."""

    def __init__(self, model: LoadedModel, shape: GenerationShape) -> None:
        self.model = model
        self.tokens = torch.zeros(shape.rows, shape.width, dtype=torch.int64, device=model.device)
        self.row_index = torch.arange(shape.rows, device=model.device)

    def prefill(self, tokens: torch.Tensor, last_positions: torch.Tensor) -> torch.Tensor:
        self.tokens[:, : tokens.shape[1]] = tokens
        return self.model.hidden_states(self.tokens[:, : int(last_positions.max()) + 1])[self.row_index, last_positions]

    def decode_step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self.tokens[self.row_index, positions] = tokens
        return self.model.hidden_states(self.tokens[:, : int(positions.max()) + 1])[self.row_index, positions]


def generate_answers(
    model: LoadedModel,
    requests: Sequence[GenerationRequest],
    *,
    shape: GenerationShape,
    decode: Callable[[Sequence[int]], str],
    on_batch: Callable[[int], None] = lambda tokens: None,  # noqa: ARG005  what to do with it is the caller's
) -> list[GenerationResult]:
    """Answer each question, greedily.

    Args:
        model: the checkpoint, fitted to its tokenizer.
        requests: any number.
        shape: of all questions of the suite, from ``fit_shape``.
        decode: tokens -> text.
        on_batch: called after every forward pass with the number of tokens put in; may raise to stop.

    Raises:
        NotFiniteError: where a logit that decides is not a finite number.
    """
    results: list[GenerationResult] = []
    for start in range(0, len(requests), shape.rows):
        results += _generate_batch(model, requests[start : start + shape.rows], shape, decode, on_batch)
    return results


class _GrowingAnswer:
    """One answer as it grows."""

    def __init__(self, request: GenerationRequest, decode: Callable[[Sequence[int]], str]) -> None:
        self.request, self.decode = request, decode
        self.tokens: list[int] = []
        self.finish: str | None = None
        self.near_ties = 0
        # a token holds at least one byte, so a string that has just ended lies within so many of them
        self._tail_tokens = max((len(text.encode()) for text in request.stop_strings), default=0) + 8

    def append_token(self, token: int, gap_nats: float) -> None:
        """One token more."""
        self.tokens.append(token)
        self.near_ties += gap_nats < NEAR_TIE_NATS
        if token in self.request.stop_ids:
            self.finish = "stop_token"
        elif self.request.stop_strings and self._has_stop_string(self.decode(self.tokens[-self._tail_tokens :])):
            self.finish = "stop_string"
        elif len(self.tokens) >= self.request.max_new_tokens:
            self.finish = "length"

    def _has_stop_string(self, text: str) -> bool:
        return any(stop in text for stop in self.request.stop_strings)

    def build_result(self) -> GenerationResult:
        finish = self.finish or "length"
        text = self.decode(self.tokens[:-1] if finish == "stop_token" else self.tokens)
        stop_starts = [start for stop in self.request.stop_strings if (start := text.find(stop)) >= 0]
        text = text[: min(stop_starts)] if finish == "stop_string" and stop_starts else text
        return GenerationResult(tokens=self.tokens, text=text, finish=finish, near_ties=self.near_ties)


@torch.inference_mode()
def _generate_batch(
    model: LoadedModel,
    requests: Sequence[GenerationRequest],
    shape: GenerationShape,
    decode: Callable[[Sequence[int]], str],
    on_batch: Callable[[int], None],
) -> list[GenerationResult]:
    answers = [_GrowingAnswer(request, decode) for request in requests]
    prompts = torch.zeros(shape.rows, shape.prompt_width, dtype=torch.int64)
    for index, request in enumerate(requests):
        prompts[index, : len(request.tokens)] = torch.tensor(request.tokens)
    lengths = [len(request.tokens) for request in requests] + [1] * (shape.rows - len(requests))
    positions = torch.tensor(lengths, device=model.device) - 1
    incremental_model: _IncrementalModel = (_Cached if isinstance(model, CausalModel) else _WithoutCache)(model, shape)  # type: ignore[arg-type]
    hidden = incremental_model.prefill(prompts.to(model.device), positions)
    on_batch(sum(lengths[: len(requests)]))
    while True:
        next_tokens, gaps_nats = _choose_tokens(model, hidden)
        for answer, token, gap_nats in zip(answers, next_tokens.tolist(), gaps_nats.tolist(), strict=False):
            if answer.finish is None:
                answer.append_token(token, gap_nats)
        is_active = [answer.finish is None for answer in answers]
        if not any(is_active):
            return [answer.build_result() for answer in answers]
        # a row that has ended is computed further where it stands: shapes stay, and nobody looks at it
        positions = positions + torch.tensor(is_active + [False] * (shape.rows - len(answers)), device=positions.device)
        hidden = incremental_model.decode_step(next_tokens, positions)
        on_batch(sum(is_active))


def _choose_tokens(model: LoadedModel, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, hidden] -> the next tokens int64 [B], and by how many nats each was chosen, float32 [B]."""
    logits = model.logits(hidden)[:, : model.real_vocab]
    best_logits = logits.topk(min(2, logits.shape[-1])).values
    if not torch.isfinite(best_logits[:, 0]).all():
        raise NotFiniteError("a logit that decides which token follows is not finite")
    return logits.argmax(-1), best_logits[:, 0] - best_logits[:, -1]

"""Greedy generation with a KV cache, several prompts at a time.

An answer must not depend on the other prompts. So all forward passes of a suite have the same shapes, which only the suite and
the sequence length decide; rows see only their own tokens, and the head is fp32.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import torch

from scoring.inference.decoding import open_decoding
from scoring.inference.loglikelihood import NEAR_TIE_NATS, NotFiniteError
from scoring.model.backends import LoadedModel

GENERATION_ROWS = 32
"""Rows of every forward pass. Rows without a prompt are computed, too, and ignored.

Rounding depends on the number of rows of a product, which is therefore constant. One exception: an expert computes as many rows
as chose it, so in fp32 the last bits of a mixture of experts depend on the other prompts.
"""

GENERATION_WIDTH_MULTIPLE = 64
"""Widths are multiples of this."""


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt."""

    tokens: list[int]
    """n >= 1 token ids."""
    max_new_tokens: int
    stop_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()


class GenerationResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one prompt."""

    tokens: list[int]
    """All new tokens, including the one that ended the answer."""
    text: str
    """The text before the stop token or stop string."""
    finish: str
    """``stop_token``, ``stop_string``, or ``length``."""
    near_ties: int
    """How many tokens were chosen by less than NEAR_TIE_NATS; another device may choose others."""


class GenerationShape(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of every forward pass of a suite."""

    rows: int = GENERATION_ROWS
    prompt_width: int
    """Columns for a prompt."""
    width: int
    """Columns for a prompt and its answer."""


def fit_shape(requests: Sequence[GenerationRequest]) -> GenerationShape:
    """The smallest shape that all requests of a suite fit into."""
    prompt_width = max(len(request.tokens) for request in requests)
    width = max(len(request.tokens) + request.max_new_tokens for request in requests)
    return GenerationShape(
        prompt_width=-(-prompt_width // GENERATION_WIDTH_MULTIPLE) * GENERATION_WIDTH_MULTIPLE,
        width=-(-width // GENERATION_WIDTH_MULTIPLE) * GENERATION_WIDTH_MULTIPLE,
    )


def generate_answers(
    model: LoadedModel,
    requests: Sequence[GenerationRequest],
    *,
    shape: GenerationShape,
    decode: Callable[[Sequence[int]], str],
    on_batch: Callable[[int], None] = lambda tokens: None,  # noqa: ARG005  the caller's business
) -> list[GenerationResult]:
    """Answer each request greedily.

    The next token is the first of those with the highest logit.

    Args:
        model: the checkpoint, fitted to its tokenizer: rows of the head without a token are never chosen.
        requests: any number.
        shape: shape of all requests of the suite, from ``fit_shape``.
        decode: token ids -> text.
        on_batch: called after every forward pass with its number of input tokens; may raise to stop.

    Returns:
        One result for each request, in their order.

    Raises:
        NotFiniteError: if a logit that decides the next token is not finite.
    """
    results: list[GenerationResult] = []
    for start in range(0, len(requests), shape.rows):
        results += _generate_batch(model, requests[start : start + shape.rows], shape, decode, on_batch)
    return results


class _GrowingAnswer:
    """The tokens of one answer so far, and why it ended."""

    def __init__(self, request: GenerationRequest, decode: Callable[[Sequence[int]], str]) -> None:
        self.request, self.decode = request, decode
        self.tokens: list[int] = []
        self.finish: str | None = None
        self.near_ties = 0
        # A token has at least one byte, so a stop string that has just ended lies within this many tokens.
        self._tail_tokens = max((len(text.encode()) for text in request.stop_strings), default=0) + 8

    def append_token(self, token: int, gap_nats: float) -> None:
        """Add a token; set ``finish`` if it ends the answer.

        ``gap_nats``: by how much the token was likelier than the second best.
        """
        self.tokens.append(token)
        self.near_ties += gap_nats < NEAR_TIE_NATS
        tail = self.decode(self.tokens[-self._tail_tokens :]) if self.request.stop_strings else ""
        if token in self.request.stop_ids:
            self.finish = "stop_token"
        elif any(stop in tail for stop in self.request.stop_strings):
            self.finish = "stop_string"
        elif len(self.tokens) >= self.request.max_new_tokens:
            self.finish = "length"

    def build_result(self) -> GenerationResult:
        """The finished answer."""
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
    """Answer at most R = ``shape.rows`` requests together."""
    answers = [_GrowingAnswer(request, decode) for request in requests]
    # Prompts are padded on the right; rows without a prompt get one token.
    prompts = torch.zeros(shape.rows, shape.prompt_width, dtype=torch.int64)  # [R, P]
    for index, request in enumerate(requests):
        prompts[index, : len(request.tokens)] = torch.tensor(request.tokens)
    lengths = [len(request.tokens) for request in requests] + [1] * (shape.rows - len(requests))
    positions = torch.tensor(lengths, device=model.device) - 1  # [R]: of the newest token of each row
    decoding = open_decoding(model, rows=shape.rows, width=shape.width)
    hidden = decoding.prefill(prompts.to(model.device), positions)  # [R, hidden]
    on_batch(sum(lengths[: len(requests)]))
    while True:
        choice = _choose_tokens(model, hidden)
        # Rows without a request are the last ones: zip stops before them.
        for answer, token, gap_nats in zip(answers, choice.tokens.tolist(), choice.gaps_nats.tolist(), strict=False):
            if answer.finish is None:
                answer.append_token(token, gap_nats)
        is_active = [answer.finish is None for answer in answers]
        if not any(is_active):
            return [answer.build_result() for answer in answers]
        # A finished row is computed on at its last position, so that shapes stay constant; its tokens are ignored.
        positions = positions + torch.tensor(is_active + [False] * (shape.rows - len(answers)), device=positions.device)  # [R]
        hidden = decoding.decode_step(choice.tokens, positions)  # [R, hidden]
        on_batch(sum(is_active))


class TokenChoice(NamedTuple):
    """The next token of each row."""

    tokens: torch.Tensor
    """int64 [R]."""
    gaps_nats: torch.Tensor
    """float32 [R]: log-likelihood of the token less that of the second best, 0 for a vocabulary of one."""


def _choose_tokens(model: LoadedModel, hidden: torch.Tensor) -> TokenChoice:
    """Choose the likeliest next tokens after [R, hidden]."""
    logits = model.logits(hidden)[:, : model.real_vocab]  # [R, tokens of the tokenizer]
    best_logits = logits.topk(min(2, logits.shape[-1])).values  # [R, 2]
    if not torch.isfinite(best_logits[:, 0]).all():
        raise NotFiniteError("a logit that decides the next token is not finite")
    return TokenChoice(logits.argmax(-1), best_logits[:, 0] - best_logits[:, -1])

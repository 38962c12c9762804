"""A checkpoint as a model: hidden states under any mask, and fp32 logits.

Two things matter more than the rest: attention masks (none at all where plain causal attention is meant, so that flash
kernels run), and the head, whose logits are fp32 whatever the weights are.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional

from scoring.model import attention_mask as sight
from scoring.model.attention_mask import Strip
from scoring.model.decoder import ACTIVATIONS, Decoder, slides
from scoring.model.kv_cache import Past
from scoring.model.linear import linear
from scoring.model.memory_budget import Budget, fitting
from suites.checkpoint.architecture import Architecture
from suites.common.errors import Exit, Problem

HEAD = "lm_head.weight"
"""The name that ``translate`` gives the head; all others are names within the body."""

EMBEDDING = "embed_tokens.weight"
"""The head, too, where they are tied: then it lies as a product wants it, and tokens are looked up from that."""

ALIKE = 8
"""Rows from which on a product's rows do not depend on how many there are: CPU libraries add up fewer in another order."""

_LAYER = re.compile(r"model\.decoder\.(\d+)\.pp_block\.(.+)")

_OUTSIDE_LAYERS = {
    "model.token_position_embeddings.pp_block.token_embedding": "embed_tokens",
    "model.token_embeddings.pp_block.token_embedding": "embed_tokens",
    "model.final_layer_norm.pp_block": "norm",
    "model.lm_head.pp_block": "lm_head",
}

_IN_LAYER = {
    "attn.o_proj": "self_attn.o_proj",
    "attn.o": "self_attn.o_proj",
    "attn.dense": "self_attn.o_proj",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "ff.c_fc": "mlp.c_fc",
    "ff.c_proj": "mlp.c_proj",
    "mlp.experts": "mlp",
}


class CausalModel:
    """A loaded decoder. Everything runs without gradients."""

    def __init__(
        self, body: Any, head: torch.Tensor, architecture: Architecture, padded_vocab: str, description: dict[str, Any]
    ) -> None:
        self.body, self.head, self.architecture, self.padded_vocab = body, head, architecture, padded_vocab
        self.description = description
        self.real_vocab = architecture.vocab
        """Rows of the head that stand for tokens; smaller once ``fit_tokenizer`` said so."""
        parameters = {parameter.data_ptr(): parameter.numel() for parameter in (*body.parameters(), head)}
        self.n_params = sum(parameters.values())
        self.out_dtype = head.dtype is not torch.float32 and head.device.type == "cuda"

    takes_trees = True

    @functools.cached_property
    def budget(self) -> Budget:
        """How much is computed at a time; asked for only once the weights are where they belong."""
        size = self.head.element_size()
        return fitting(self.architecture, device=self.device, bytes_a_value=size, weights=self.n_params * size)

    @property
    def vocab_size(self) -> int:
        """Rows of the head, padding included."""
        return self.architecture.vocab

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.device

    @property
    def dtype(self) -> str:
        """``float32`` or ``bfloat16``: of weights and hidden states."""
        return str(self.head.dtype).removeprefix("torch.")

    def fit_tokenizer(self, size: int) -> None:
        """Say how many tokens the tokenizer has; with ``masked`` padding, rows from there on get no probability.

        Raises Problem where the tokenizer has tokens that the model has no rows for.
        """
        if size > self.vocab_size:
            what = f"the tokenizer has {size} tokens, the model only {self.vocab_size}"
            raise Problem(what, where="tokenizer", todo="give the tokenizer that it was trained with", code=Exit.CANNOT_SCORE)
        self.real_vocab = size

    @torch.inference_mode()
    def hidden_states(
        self,
        tokens: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        seen: Sequence[Strip] | None = None,
        *,
        rows: torch.Tensor | None = None,
        past: Past | None = None,
    ) -> torch.Tensor:
        """Hidden states after the final norm.

        Args:
            tokens: int64 [B, S].
            position_ids: int64 [B, S] or [1, S]; 0, 1, ... S-1 by default.
            seen: what the queries see; causal attention by default. None sees a later place. A sliding window narrows it
                further, by positions.
            rows: int64 [U], which of the B * S places are asked for; all by default.
            past: what was read before, and where this is added.

        Returns:
            [B, S, hidden], or [U, hidden] of ``rows``, in the weights' type.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None] if position_ids is None else position_ids
        hidden: torch.Tensor = self.body.embed_tokens(tokens)  # [B, S, hidden]
        rotations = self.body.rotations(positions)
        near = self._narrowed(positions.expand(tokens.shape), seen, past)
        narrow, wide = (_added(strips, hidden) for strips in (near, seen))
        last = len(self.body.layers) - 1
        for index, layer in enumerate(self.body.layers):
            strips = narrow if slides(self.architecture, index) else wide
            meet = None if past is None else past.of_layer(index)
            hidden = layer(hidden, rotations, strips, meet, rows if index == last else None)
        normed: torch.Tensor = self.body.norm(hidden)
        return normed

    def _narrowed(self, positions: torch.Tensor, seen: Sequence[Strip] | None, past: Past | None) -> Sequence[Strip] | None:
        """What layers with a sliding window see: keys in (t - window, t]. None where that is plain causal attention."""
        window, length = self.architecture.sliding_window, positions.shape[1]
        if window is None or (seen is None and length <= window):
            return seen
        if seen is None:
            seen = sight.strips(torch.full_like(positions[:1], length))
        held = positions if past is None else past.places(positions)
        return [
            s._replace(mask=s.mask & ((positions[:, None, s.start : s.stop, None] - s.of_keys(held)[:, None, None]) < window))
            for s in seen
        ]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 [..., V] of hidden states [..., hidden]: products of the weights as they are, summed and kept in fp32."""
        if self.out_dtype:
            flat = hidden.reshape(-1, hidden.shape[-1])
            logits = torch.mm(flat, self.head.t(), out_dtype=torch.float32).view(*hidden.shape[:-1], -1)
        elif hidden[..., 0].numel() < ALIKE:
            few = hidden.flatten(0, -2)
            padded = functional.pad(few, (0, 0, 0, ALIKE - len(few)))
            logits = linear(padded.float(), self.head.float())[: len(few)].view(*hidden.shape[:-1], -1)
        else:
            logits = linear(hidden.float(), self.head.float())
        if self.padded_vocab == "masked":
            logits[..., self.real_vocab :] = -torch.inf
        return logits


def _added(seen: Sequence[Strip] | None, hidden: torch.Tensor) -> Sequence[Strip] | None:
    """With what is added to scores for masks: made once here, where each layer would make it anew of True and False."""
    sees, not_sees = hidden.new_zeros(()), hidden.new_full((), -torch.inf)
    return None if seen is None else [strip._replace(mask=torch.where(strip.mask, sees, not_sees)) for strip in seen]


def build(architecture: Architecture, *, mup: bool, device: torch.device) -> Decoder:
    """The decoder without its head: weights on the meta device, rope's frequencies on ``device``.

    Raises ValueError for an activation that is not known here.
    """
    if architecture.activation not in ACTIVATIONS:
        raise ValueError(f"activation {architecture.activation!r} is none of {', '.join(ACTIVATIONS)}")
    scale = 1 / architecture.head_dim if mup and architecture.family == "llama" else None
    return Decoder(architecture, scale=scale, device=device).eval().requires_grad_(requires_grad=False)


def translate(architecture: Architecture, name: str, whole: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A whole nanotron tensor -> the tensors of the body (or the head) that it stands for; views where possible."""
    module, _, parameter = name.rpartition(".")
    match = _LAYER.fullmatch(module)
    if match is None:
        yield f"{_OUTSIDE_LAYERS[module]}.{parameter}", whole
        return
    layer, inner = f"layers.{match[1]}", match[2]
    attention, a = f"{layer}.self_attn", architecture
    if inner == "attn.qkv_proj":
        turning = a.hidden + a.kv_size
        if not a.rope_interleaved:
            whole = torch.cat([_neighbours(a, whole[:turning]), whole[turning:]])
        yield f"{attention}.qkv_proj.{parameter}", whole
    elif inner == "attn.query_key_value":  # rows grouped by key head: its queries, its key, its value
        groups = torch.unflatten(whole, 0, (a.kv_heads, -1, a.head_dim))  # [kv heads, q per kv + 2, head_dim, ...]
        q, k, v = groups[:, :-2].flatten(0, 2), groups[:, -2].flatten(0, 1), groups[:, -1].flatten(0, 1)
        yield f"{attention}.qkv_proj.{parameter}", torch.cat([_neighbours(a, q), _neighbours(a, k), v])
    elif inner == "attn.qkv.q":
        yield f"{attention}.q_proj.{parameter}", _neighbours(a, whole)
    elif inner == "attn.qkv.kv":
        k, v = whole.chunk(2)
        yield f"{attention}.kv_proj.{parameter}", torch.cat([_neighbours(a, k), v])
    else:
        yield f"{layer}.{_IN_LAYER.get(inner, inner)}.{parameter}", whole


def _neighbours(architecture: Architecture, rows: torch.Tensor) -> torch.Tensor:
    """Rows of q or k whose rope pairs are (j, j + head_dim / 2) -> pairs (2j, 2j + 1)."""
    halves = torch.unflatten(rows, 0, (-1, 2, architecture.head_dim // 2))  # [heads, 2, head_dim / 2, ...]
    return halves.transpose(1, 2).flatten(0, 2)

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

from scoring.model import attention_mask
from scoring.model.attention_mask import QueryBlock
from scoring.model.decoder import ACTIVATIONS, Decoder, has_sliding_window
from scoring.model.kv_cache import KVCache
from scoring.model.linear import linear
from scoring.model.memory_budget import TokenBudget, compute_budget
from suites.checkpoint.architecture import Architecture
from suites.common.errors import ExitCode, UserError

HEAD_NAME = "lm_head.weight"
"""The name that ``convert_tensor`` gives the head; all others are names within the body."""

EMBEDDING_NAME = "embed_tokens.weight"
"""The head, too, where they are tied: then it lies as a product wants it, and tokens are looked up from that."""

MIN_BATCH_INVARIANT_ROWS = 8
"""Rows from which on a product's rows do not depend on how many there are: CPU libraries add up fewer in another order."""

_LAYER_NAME = re.compile(r"model\.decoder\.(\d+)\.pp_block\.(.+)")

_NAMES_OUTSIDE_LAYERS = {
    "model.token_position_embeddings.pp_block.token_embedding": "embed_tokens",
    "model.token_embeddings.pp_block.token_embedding": "embed_tokens",
    "model.final_layer_norm.pp_block": "norm",
    "model.lm_head.pp_block": "lm_head",
}

_NAMES_IN_LAYER = {
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
        self.parameter_count = sum(parameters.values())
        self.has_fp32_product = head.dtype is not torch.float32 and head.device.type == "cuda"

    can_take_trees = True

    @functools.cached_property
    def budget(self) -> TokenBudget:
        """How much is computed at a time; asked for only once the weights are where they belong."""
        value_bytes = self.head.element_size()
        return compute_budget(
            self.architecture, device=self.device, bytes_per_value=value_bytes, weight_bytes=self.parameter_count * value_bytes
        )

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

    def fit_tokenizer(self, token_count: int) -> None:
        """Say how many tokens the tokenizer has; with ``masked`` padding, rows from there on get no probability.

        Raises Problem where the tokenizer has tokens that the model has no rows for.
        """
        if token_count > self.vocab_size:
            message = f"the tokenizer has {token_count} tokens, the model only {self.vocab_size}"
            raise UserError(
                message, location="tokenizer", hint="give the tokenizer that it was trained with", code=ExitCode.CANNOT_SCORE
            )
        self.real_vocab = token_count

    @torch.inference_mode()
    def hidden_states(
        self,
        tokens: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        mask: Sequence[QueryBlock] | None = None,
        *,
        output_positions: torch.Tensor | None = None,
        kv_cache: KVCache | None = None,
    ) -> torch.Tensor:
        """Hidden states after the final norm.

        Args:
            tokens: int64 [B, S].
            position_ids: int64 [B, S] or [1, S]; 0, 1, ... S-1 by default.
            mask: what the queries see; causal attention by default. None sees a later place. A sliding window narrows it
                further, by positions.
            output_positions: int64 [U], which of the B * S places are asked for; all by default.
            kv_cache: what was read before, and where this is added.

        Returns:
            [B, S, hidden], or [U, hidden] of ``output_positions``, in the weights' type.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None] if position_ids is None else position_ids
        hidden: torch.Tensor = self.body.embed_tokens(tokens)  # [B, S, hidden]
        rotations = self.body.rotations(positions)
        window_mask = self._apply_sliding_window(positions.expand(tokens.shape), mask, kv_cache)
        window_bias, full_bias = (_to_additive_mask(layer_bias, hidden) for layer_bias in (window_mask, mask))
        last_index = len(self.body.layers) - 1
        for index, layer in enumerate(self.body.layers):
            layer_bias = window_bias if has_sliding_window(self.architecture, index) else full_bias
            update = None if kv_cache is None else kv_cache.get_layer_update(index)
            hidden = layer(hidden, rotations, layer_bias, update, output_positions if index == last_index else None)
        normed: torch.Tensor = self.body.norm(hidden)
        return normed

    def _apply_sliding_window(
        self, positions: torch.Tensor, mask: Sequence[QueryBlock] | None, kv_cache: KVCache | None
    ) -> Sequence[QueryBlock] | None:
        """What layers with a sliding window see: keys in (t - window, t]. None where that is plain causal attention."""
        window, length = self.architecture.sliding_window, positions.shape[1]
        if window is None or (mask is None and length <= window):
            return mask
        if mask is None:
            mask = attention_mask.query_blocks(torch.full_like(positions[:1], length))
        key_positions = positions if kv_cache is None else kv_cache.get_key_positions(positions)
        return [
            block._replace(
                mask=block.mask
                & (
                    (positions[:, None, block.start : block.stop, None] - block.gather_keys(key_positions)[:, None, None])
                    < window
                )
            )
            for block in mask
        ]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 [..., V] of hidden states [..., hidden]: products of the weights as they are, summed and kept in fp32."""
        if self.has_fp32_product:
            flat = hidden.reshape(-1, hidden.shape[-1])
            logits = torch.mm(flat, self.head.t(), out_dtype=torch.float32).view(*hidden.shape[:-1], -1)
        elif hidden[..., 0].numel() < MIN_BATCH_INVARIANT_ROWS:
            short = hidden.flatten(0, -2)
            padded = functional.pad(short, (0, 0, 0, MIN_BATCH_INVARIANT_ROWS - len(short)))
            logits = linear(padded.float(), self.head.float())[: len(short)].view(*hidden.shape[:-1], -1)
        else:
            logits = linear(hidden.float(), self.head.float())
        if self.padded_vocab == "masked":
            logits[..., self.real_vocab :] = -torch.inf
        return logits


def _to_additive_mask(mask: Sequence[QueryBlock] | None, hidden: torch.Tensor) -> Sequence[QueryBlock] | None:
    """With what is added to scores for masks: made once here, where each layer would make it anew of True and False."""
    visible, invisible = hidden.new_zeros(()), hidden.new_full((), -torch.inf)
    return None if mask is None else [block._replace(mask=torch.where(block.mask, visible, invisible)) for block in mask]


def build_decoder(architecture: Architecture, *, mup: bool, device: torch.device) -> Decoder:
    """The decoder without its head: weights on the meta device, rope's frequencies on ``device``.

    Raises ValueError for an activation that is not known here.
    """
    if architecture.activation not in ACTIVATIONS:
        raise ValueError(f"activation {architecture.activation!r} is none of {', '.join(ACTIVATIONS)}")
    scale = 1 / architecture.head_dim if mup and architecture.family == "llama" else None
    return Decoder(architecture, scale=scale, device=device).eval().requires_grad_(requires_grad=False)


def convert_tensor(architecture: Architecture, name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A whole nanotron tensor -> the tensors of the body (or the head) that it stands for; views where possible."""
    module, _, parameter = name.rpartition(".")
    match = _LAYER_NAME.fullmatch(module)
    if match is None:
        yield f"{_NAMES_OUTSIDE_LAYERS[module]}.{parameter}", tensor
        return
    layer, submodule = f"layers.{match[1]}", match[2]
    attention, arch = f"{layer}.self_attn", architecture
    if submodule == "attn.qkv_proj":
        rope_rows = arch.hidden + arch.kv_size
        if not arch.rope_interleaved:
            tensor = torch.cat([_interleave_rope_pairs(arch, tensor[:rope_rows]), tensor[rope_rows:]])
        yield f"{attention}.qkv_proj.{parameter}", tensor
    elif submodule == "attn.query_key_value":  # rows grouped by key head: its queries, its key, its value
        groups = torch.unflatten(tensor, 0, (arch.kv_heads, -1, arch.head_dim))  # [kv heads, q per kv + 2, head_dim, ...]
        q, k, v = groups[:, :-2].flatten(0, 2), groups[:, -2].flatten(0, 1), groups[:, -1].flatten(0, 1)
        yield (
            f"{attention}.qkv_proj.{parameter}",
            torch.cat([_interleave_rope_pairs(arch, q), _interleave_rope_pairs(arch, k), v]),
        )
    elif submodule == "attn.qkv.q":
        yield f"{attention}.q_proj.{parameter}", _interleave_rope_pairs(arch, tensor)
    elif submodule == "attn.qkv.kv":
        k, v = tensor.chunk(2)
        yield f"{attention}.kv_proj.{parameter}", torch.cat([_interleave_rope_pairs(arch, k), v])
    else:
        yield f"{layer}.{_NAMES_IN_LAYER.get(submodule, submodule)}.{parameter}", tensor


def _interleave_rope_pairs(architecture: Architecture, weight: torch.Tensor) -> torch.Tensor:
    """Rows of q or k whose rope pairs are (j, j + head_dim / 2) -> pairs (2j, 2j + 1)."""
    halves = torch.unflatten(weight, 0, (-1, 2, architecture.head_dim // 2))  # [heads, 2, head_dim / 2, ...]
    return halves.transpose(1, 2).flatten(0, 2)

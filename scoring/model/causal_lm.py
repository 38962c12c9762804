"""A checkpoint as a model: hidden states and fp32 logits.

Plain causal attention runs without a mask, so that flash kernels can compute it. Logits are fp32 whatever the weights are.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional

from scoring.model import attention_mask
from scoring.model.attention_mask import QueryBlock
from scoring.model.decoder import Decoder, has_sliding_window
from scoring.model.kv_cache import KVCache
from scoring.model.linear import linear
from scoring.model.memory_budget import TokenBudget, compute_budget
from suites.checkpoint.architecture import Architecture
from suites.common.errors import ExitCode, UserError

HEAD_NAME = "lm_head.weight"
"""The head's name from ``convert_tensor``; all other names are parameters of the decoder."""

EMBEDDING_NAME = "embed_tokens.weight"
"""If tied, the head as well: then its memory layout is that of a product's weight."""

MIN_BATCH_INVARIANT_ROWS = 8
"""Fewest rows of a CPU product whose results do not depend on the number of rows; below it, sums have another order."""

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


class ModelVocabulary:
    """A model's vocabulary: rows of its head, some of them padding."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.real_vocab = architecture.vocab
        """Rows of the head that stand for tokens; ``fit_tokenizer`` lowers it."""

    @property
    def vocab_size(self) -> int:
        """Rows of the head, padding included."""
        return self.architecture.vocab

    def fit_tokenizer(self, token_count: int) -> None:
        """Set how many tokens the tokenizer has.

        With ``masked`` padding, later rows of the head get no probability.
        Raises UserError (CANNOT_SCORE) if the head has fewer rows.
        """
        if token_count > self.vocab_size:
            message = f"the tokenizer has {token_count} tokens, the model only {self.vocab_size}"
            hint = "use the tokenizer that the model was trained with"
            raise UserError(message, location="tokenizer", hint=hint, code=ExitCode.CANNOT_SCORE)
        self.real_vocab = token_count


class CausalModel(ModelVocabulary):
    """A loaded decoder with its head. Everything runs without gradients."""

    can_take_trees = True

    def __init__(
        self, body: Decoder, head: torch.Tensor, architecture: Architecture, padded_vocab: str, description: dict[str, Any]
    ) -> None:
        """``head``: [V, hidden]. ``description``: the model in run.json."""
        super().__init__(architecture)
        self.body, self.head, self.padded_vocab, self.description = body, head, padded_vocab, description
        # A tied embedding is the head's memory and counts once.
        parameters = {parameter.data_ptr(): parameter.numel() for parameter in (*body.parameters(), head)}
        self.parameter_count = sum(parameters.values())

    @functools.cached_property
    def budget(self) -> TokenBudget:
        """Token positions of a forward pass.

        Computed on first use, with the weights in memory.
        """
        value_bytes = self.head.element_size()
        return compute_budget(
            self.architecture, device=self.device, bytes_per_value=value_bytes, weight_bytes=self.parameter_count * value_bytes
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.head.device

    @property
    def dtype(self) -> str:
        """``float32`` or ``bfloat16``: the type of weights and hidden states."""
        return str(self.head.dtype).removeprefix("torch.")

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
        """Compute the hidden states after the final norm.

        Args:
            tokens: int64 [B, S].
            position_ids: int64 [B, S] or [1, S]; 0, 1, ... S-1 by default.
            mask: which keys the queries see; causal attention by default. No query may see a later column. A sliding window
                narrows the mask further, by position ids.
            output_positions: int64 [U], flat indices into [B, S]; all by default.
            kv_cache: the tokens read before; the new ones are added to it.

        Returns:
            [B, S, hidden], or [U, hidden] of ``output_positions``, in the weights' type.
        """
        if position_ids is None:
            position_ids = torch.arange(tokens.shape[1], device=tokens.device)[None]  # [1, S]
        rope = self.body.compute_rope(position_ids)  # [B or 1, S, 1, head_dim / 2] both
        window_mask = self._apply_sliding_window(position_ids.expand(tokens.shape), mask, kv_cache)
        hidden: torch.Tensor = self.body.embed_tokens(tokens)  # [B, S, hidden]
        # Masks are built once for all layers: one for those with a sliding window, one for the others.
        window_bias, full_bias = (_to_additive_mask(layer_mask, hidden) for layer_mask in (window_mask, mask))
        last_index = len(self.body.layers) - 1
        for index, layer in enumerate(self.body.layers):
            layer_bias = window_bias if has_sliding_window(self.architecture, index) else full_bias
            update = None if kv_cache is None else functools.partial(kv_cache.update, index)
            # The last layer computes only the needed rows: [U, hidden].
            hidden = layer(hidden, rope, layer_bias, update, output_positions if index == last_index else None)
        normed: torch.Tensor = self.body.norm(hidden)  # [B, S, hidden] or [U, hidden]
        return normed

    def _apply_sliding_window(
        self, positions: torch.Tensor, mask: Sequence[QueryBlock] | None, kv_cache: KVCache | None
    ) -> Sequence[QueryBlock] | None:
        """The mask of layers with a sliding window; None if plain causal.

        Keys in (t - window, t] are visible. ``positions``: position ids [B, S].
        """
        window, length = self.architecture.sliding_window, positions.shape[1]
        if window is None or (mask is None and length <= window):
            return mask
        # Without a mask attention is plain causal, which has no window: build the causal mask.
        if mask is None:
            mask = attention_mask.query_blocks(torch.full_like(positions[:1], length))  # of [1, S]: a causal mask
        key_positions = positions if kv_cache is None else kv_cache.get_key_positions(positions)  # [B or 1, all keys]
        window_mask = []
        for block in mask:
            block_positions = positions[:, None, block.start : block.stop, None]  # [B, 1, Q, 1]
            distance = block_positions - block.gather_keys(key_positions)[:, None, None]  # [B, 1, Q, K]
            window_mask.append(block._replace(mask=block.mask & (distance < window)))
        return window_mask

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> float32 [..., V].

        Products of the weights as they are, summed and kept in fp32.
        """
        logits = compute_fp32_logits(hidden, self.head)
        if self.padded_vocab == "masked":
            logits[..., self.real_vocab :] = -torch.inf
        return logits


def compute_fp32_logits(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """[..., hidden], [V, hidden] -> float32 [..., V], whatever their types are.

    A row's logits do not depend on how many rows are computed.
    """
    # CUDA multiplies bfloat16 with fp32 sums. Elsewhere both sides become fp32 first.
    if head.dtype is not torch.float32 and head.device.type == "cuda":
        flat = hidden.reshape(-1, hidden.shape[-1])  # [N, hidden]
        product: torch.Tensor = torch.mm(flat, head.t(), out_dtype=torch.float32).view(*hidden.shape[:-1], -1)  # [..., V]
        return product
    if hidden[..., 0].numel() < MIN_BATCH_INVARIANT_ROWS:
        # Few rows are padded, so that a token's logits do not depend on how many rows are computed.
        few = hidden.flatten(0, -2)  # [N, hidden]
        padded = functional.pad(few, (0, 0, 0, MIN_BATCH_INVARIANT_ROWS - len(few)))  # [8, hidden]
        return linear(padded.float(), head.float())[: len(few)].view(*hidden.shape[:-1], -1)  # [..., V]
    return linear(hidden.float(), head.float())  # [..., V]


def _to_additive_mask(mask: Sequence[QueryBlock] | None, hidden: torch.Tensor) -> Sequence[QueryBlock] | None:
    """The mask as 0 and -inf to add to attention scores.

    Made once here, since each layer would make it again.
    """
    visible, invisible = hidden.new_zeros(()), hidden.new_full((), -torch.inf)  # scalars
    return None if mask is None else [block._replace(mask=torch.where(block.mask, visible, invisible)) for block in mask]


def build_decoder(architecture: Architecture, *, mup: bool, device: torch.device) -> Decoder:
    """The decoder without its head.

    Weights are on the meta device, rope's frequencies on ``device``.
    """
    scale = 1 / architecture.head_dim if mup and architecture.family == "llama" else None
    return Decoder(architecture, scale=scale, device=device).eval().requires_grad_(requires_grad=False)


def convert_tensor(arch: Architecture, name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Convert a merged nanotron tensor to named tensors of the model.

    They are views where possible.
    """
    module, _, parameter = name.rpartition(".")
    match = _LAYER_NAME.fullmatch(module)
    if match is None:
        yield f"{_NAMES_OUTSIDE_LAYERS[module]}.{parameter}", tensor
        return
    layer, submodule = f"layers.{match[1]}", match[2]
    if submodule == "attn.qkv_proj":  # rows of q, k, v: [hidden + 2 kv_size, ...]
        rope_rows = arch.hidden + arch.kv_size
        # Interleaved checkpoints have neighbouring rope pairs already.
        if not arch.rope_interleaved:
            tensor = torch.cat([_interleave_rope_pairs(arch, tensor[:rope_rows]), tensor[rope_rows:]])
        yield f"{layer}.self_attn.qkv_proj.{parameter}", tensor
    elif submodule == "attn.query_key_value":  # rows grouped by key head: its queries, its key, its value
        groups = torch.unflatten(tensor, 0, (arch.kv_heads, -1, arch.head_dim))  # [kv heads, q per kv + 2, head_dim, ...]
        q, k, v = groups[:, :-2].flatten(0, 2), groups[:, -2].flatten(0, 1), groups[:, -1].flatten(0, 1)  # [rows, ...] each
        qkv = torch.cat([_interleave_rope_pairs(arch, q), _interleave_rope_pairs(arch, k), v])  # [hidden + 2 kv_size, ...]
        yield f"{layer}.self_attn.qkv_proj.{parameter}", qkv
    elif submodule == "attn.qkv.q":
        yield f"{layer}.self_attn.q_proj.{parameter}", _interleave_rope_pairs(arch, tensor)
    elif submodule == "attn.qkv.kv":
        k, v = tensor.chunk(2)  # [kv_size, ...] both
        yield f"{layer}.self_attn.kv_proj.{parameter}", torch.cat([_interleave_rope_pairs(arch, k), v])
    else:
        yield f"{layer}.{_NAMES_IN_LAYER.get(submodule, submodule)}.{parameter}", tensor


def _interleave_rope_pairs(arch: Architecture, weight: torch.Tensor) -> torch.Tensor:
    """Reorder rows of q or k, [rows, ...], for neighbouring rope pairs.

    Pairs (j, j + head_dim / 2) become (2j, 2j + 1).
    """
    halves = torch.unflatten(weight, 0, (-1, 2, arch.head_dim // 2))  # [heads, 2, head_dim / 2, ...]
    return halves.transpose(1, 2).flatten(0, 2)  # [rows, ...]

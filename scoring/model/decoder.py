"""The decoders that nanotron trains: Llama, its Qwen2 class and Starcoder2, as few operations as they need.

Products are fused as nanotron stores them (q, k and v in one, gate and up in one). The values of a rope pair lie side by
side, in neighbouring rows of q and k, so that a rotation is one complex product; ``causal_lm.convert_tensor`` puts them so.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from scoring.model.attention_mask import QueryBlock
from scoring.model.linear import Linear
from scoring.model.moe import ExpertsMLP
from suites.checkpoint.architecture import Architecture

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
}
"""Names of config.json -> what they mean."""

RopeCosSin = tuple[torch.Tensor, torch.Tensor]
"""cos and sin, float32 [B, S, 1, head_dim / 2]."""

UpdateKV = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Keys and values [B, kv heads, S, head_dim] -> those that the same tokens' queries meet."""


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, in fp32 whatever the type of x."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., size] -> [..., size]."""
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Embedding(nn.Embedding):
    """As ``Linear``: without first values."""

    def reset_parameters(self) -> None:
        """Nothing."""


class Attention(nn.Module):
    """Grouped-query attention."""

    def __init__(self, arch: Architecture, *, use_rope: bool, scale: float | None) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = arch.heads, arch.kv_heads, arch.head_dim
        self.use_rope, self.scale = use_rope, scale
        self.qkv_proj: Linear | None = None
        if arch.multi_query:
            self.q_proj = Linear(arch.hidden, arch.hidden, bias=arch.attention_bias)
            self.kv_proj = Linear(arch.hidden, 2 * arch.kv_size, bias=arch.attention_bias)
        else:
            self.qkv_proj = Linear(arch.hidden, arch.hidden + 2 * arch.kv_size, bias=arch.attention_bias)
        self.o_proj = Linear(arch.hidden, arch.hidden, bias=arch.family == "starcoder2")

    def forward(
        self,
        x: torch.Tensor,
        rotations: RopeCosSin,
        mask: Sequence[QueryBlock] | None,
        update: UpdateKV | None = None,
        output_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, S, hidden] -> [B, S, hidden], or [U, hidden] of the places ``output_positions`` alone; ``mask`` None: plain causal attention.

        ``update`` takes the keys and values of these tokens and gives those that their queries meet: its own by default.
        """
        projections = torch.cat([self.q_proj(x), self.kv_proj(x)], -1) if self.qkv_proj is None else self.qkv_proj(x)
        qkv = projections.unflatten(-1, (-1, self.head_dim))  # [B, S, heads + 2 kv heads, head_dim]
        rope_heads = self.heads + self.kv_heads
        qk, v = qkv[:, :, :rope_heads], qkv[:, :, rope_heads:]
        if self.use_rope:
            qk = apply_rope(qk, rotations)
        q, k = qk[:, :, : self.heads], qk[:, :, self.heads :]
        if update is not None:
            k, v = (part.transpose(1, 2) for part in update(k.transpose(1, 2), v.transpose(1, 2)))
        is_grouped = self.heads != self.kv_heads
        if is_grouped and q.is_cuda and (mask is not None or q.dtype is torch.float32):  # flash takes neither, others no groups
            k, v = (part.repeat_interleave(self.heads // self.kv_heads, 2) for part in (k, v))
            is_grouped = False
        attend = functools.partial(_scaled_dot_product_attention, scale=self.scale, enable_gqa=is_grouped)
        if mask is None:
            out = attend(q, k, v, is_causal=True)
        else:
            parts = [
                attend(q[:, block.start : block.stop], block.gather_keys(k), block.gather_keys(v), attn_mask=block.mask)
                for block in mask
            ]
            out = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        flat = out.flatten(2)
        projected: torch.Tensor = self.o_proj(flat if output_positions is None else flat.flatten(0, 1)[output_positions])
        return projected


def _scaled_dot_product_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    """[B, S, heads, head_dim] and [B, K, kv heads, head_dim] twice -> [B, S, heads, head_dim]."""
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2)


def apply_rope(x: torch.Tensor, rotations: RopeCosSin) -> torch.Tensor:
    """Turn the pairs (2j, 2j + 1) of [B, S, heads, head_dim] by their angles, in fp32. ``x`` is used up."""
    cos, sin = rotations
    if x.dtype is torch.float32 and x.device.type == "cpu":
        torch.view_as_complex(torch.unflatten(x, -1, (-1, 2))).mul_(torch.complex(cos, sin))
        return x
    pairs = torch.unflatten(x.float(), -1, (-1, 2))  # [B, S, heads, head_dim / 2, 2]
    even, odd = pairs[..., 0], pairs[..., 1]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2).to(x.dtype)


class GatedMLP(nn.Module):
    """down(activation(gate) * up)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.gate_up_proj = Linear(arch.hidden, 2 * arch.intermediate, bias=False)
        self.down_proj = Linear(arch.intermediate, arch.hidden, bias=False)
        self.activation = ACTIVATIONS[arch.activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., hidden]."""
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        out: torch.Tensor = self.down_proj(self.activation(gate).mul_(up))
        return out


class MLP(nn.Module):
    """Starcoder2's: two layers with biases."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.c_fc = Linear(arch.hidden, arch.intermediate)
        self.c_proj = Linear(arch.intermediate, arch.hidden)
        self.activation = ACTIVATIONS[arch.activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., hidden]."""
        out: torch.Tensor = self.c_proj(self.activation(self.c_fc(x)))
        return out


class DecoderLayer(nn.Module):
    """Attention, then MLP, each normed before and added to what it was made of."""

    def __init__(self, arch: Architecture, index: int, *, scale: float | None) -> None:
        super().__init__()
        self.input_layernorm = _build_norm(arch)
        self.self_attn = Attention(arch, use_rope=has_rope(arch, index), scale=scale)
        self.post_attention_layernorm = _build_norm(arch)
        self.mlp: nn.Module
        if arch.experts is not None and index in arch.experts.layers:
            self.mlp = ExpertsMLP(arch.hidden, arch.experts, ACTIVATIONS[arch.activation])
        else:
            self.mlp = MLP(arch) if arch.family == "starcoder2" else GatedMLP(arch)

    def forward(
        self,
        hidden: torch.Tensor,
        rotations: RopeCosSin,
        mask: Sequence[QueryBlock] | None,
        update: UpdateKV | None = None,
        output_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, S, hidden] -> [B, S, hidden], or [U, hidden] of the places ``output_positions`` alone."""
        residual = hidden if output_positions is None else hidden.flatten(0, 1)[output_positions]
        hidden = self.self_attn(self.input_layernorm(hidden), rotations, mask, update, output_positions).add_(residual)
        out: torch.Tensor = self.mlp(self.post_attention_layernorm(hidden)).add_(hidden)
        return out


class Decoder(nn.Module):
    """A decoder without its head. Its angles are computed on the CPU, so that every device turns by the same."""

    def __init__(self, arch: Architecture, *, scale: float | None, device: torch.device) -> None:
        """``scale`` multiplies q k; None is 1 / sqrt(head_dim). Weights are on the meta device."""
        super().__init__()
        with torch.device("meta"):
            self.embed_tokens = Embedding(arch.vocab, arch.hidden)
            self.layers = nn.ModuleList(DecoderLayer(arch, index, scale=scale) for index in range(arch.layers))
            self.norm = _build_norm(arch)
        frequencies = 1.0 / arch.rope_theta ** (torch.arange(0, arch.head_dim, 2, dtype=torch.float32) / arch.head_dim)
        self.frequencies = (frequencies / arch.rope_factor).to(device)

    def rotations(self, positions: torch.Tensor) -> RopeCosSin:
        """Of positions [B, S]."""
        angles = positions[..., None, None].float() * self.frequencies  # [B, S, 1, head_dim / 2]
        return angles.cos(), angles.sin()


def _build_norm(arch: Architecture) -> nn.Module:
    return nn.LayerNorm(arch.hidden, arch.norm_eps) if arch.family == "starcoder2" else RMSNorm(arch.hidden, arch.norm_eps)


def has_rope(arch: Architecture, layer: int) -> bool:
    """Whether a layer turns its queries and keys."""
    return arch.no_rope_every is None or (layer + 1) % arch.no_rope_every != 0


def has_sliding_window(arch: Architecture, layer: int) -> bool:
    """Whether a layer has the sliding window."""
    return arch.sliding_window is not None and has_rope(arch, layer) and layer not in arch.global_layers

"""The decoders that nanotron trains: Llama, its Qwen2 class, Starcoder2.

Products are fused as nanotron stores them: q, k and v; gate and up. The two values of a rope pair are neighbours, so that a
rotation is one complex product; ``causal_lm.convert_tensor`` reorders the rows of q and k for that.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from scoring.model.attention_mask import QueryBlock
from scoring.model.kv_cache import UpdateKV
from scoring.model.linear import Linear
from scoring.model.moe import Activation, ExpertsMLP, GatedMLP
from scoring.model.rope import compute_frequencies
from suites.checkpoint.architecture import Architecture

ACTIVATIONS: dict[str, Activation] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
}
"""Each of ``ACTIVATION_NAMES`` -> its function. Each returns a new tensor, which its caller may overwrite."""


class RopeCosSin(NamedTuple):
    """Cosine and sine of rope's angles.

    Each is float32 [B, S, 1, head_dim / 2].
    """

    cos: torch.Tensor
    sin: torch.Tensor


class RMSNorm(nn.Module):
    """Root mean square norm, in fp32 whatever the input's type.

    x / sqrt(mean(x^2) + eps) * weight
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., size] -> [..., size]."""
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Embedding(nn.Embedding):
    """An embedding without initial values, like ``Linear``."""

    def reset_parameters(self) -> None:
        """Do nothing."""


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
        rope: RopeCosSin,
        mask: Sequence[QueryBlock] | None,
        update: UpdateKV | None = None,
        output_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, S, hidden] -> [B, S, hidden], plain causal without ``mask``.

        With ``output_positions``, flat indices: [U, hidden].
        ``update`` stores the new keys and values and returns those to attend to.
        """
        projections = torch.cat([self.q_proj(x), self.kv_proj(x)], -1) if self.qkv_proj is None else self.qkv_proj(x)
        qkv = projections.unflatten(-1, (-1, self.head_dim))  # [B, S, heads + 2 kv heads, head_dim]
        # Queries and keys are rotated in one operation, since they are neighbours.
        rope_heads = self.heads + self.kv_heads
        qk, v = qkv[:, :, :rope_heads], qkv[:, :, rope_heads:]  # [B, S, heads + kv heads, head_dim], [B, S, kv heads, head_dim]
        if self.use_rope:
            qk = apply_rope(qk, rope)
        q, k = qk[:, :, : self.heads], qk[:, :, self.heads :]  # [B, S, heads, head_dim], [B, S, kv heads, head_dim]
        if update is not None:
            k, v = (part.transpose(1, 2) for part in update(k.transpose(1, 2), v.transpose(1, 2)))  # [B, K, kv heads, head_dim]

        # Flash attention takes no mask and no fp32. CUDA's other kernels take no groups, so keys and values are repeated.
        is_grouped = self.heads != self.kv_heads
        if is_grouped and q.is_cuda and (mask is not None or q.dtype is torch.float32):
            k, v = (part.repeat_interleave(self.heads // self.kv_heads, 2) for part in (k, v))  # [B, K, heads, head_dim]
            is_grouped = False
        attend = functools.partial(_scaled_dot_product_attention, scale=self.scale, enable_gqa=is_grouped)
        if mask is None:
            out = attend(q, k, v, is_causal=True)  # [B, S, heads, head_dim]
        else:
            parts = [
                attend(q[:, block.start : block.stop], block.gather_keys(k), block.gather_keys(v), attn_mask=block.mask)
                for block in mask
            ]  # each [B, stop - start, heads, head_dim]
            # A single block is not copied.
            out = torch.cat(parts, 1) if len(parts) > 1 else parts[0]  # [B, S, heads, head_dim]

        # In the last layer only the needed rows go on: keys and values came from all of them.
        flat = out.flatten(2)  # [B, S, hidden]
        projected: torch.Tensor = self.o_proj(flat if output_positions is None else flat.flatten(0, 1)[output_positions])
        return projected


def _scaled_dot_product_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    """Attention of q [B, S, heads, head_dim]; returns the same shape.

    Keys and values: [B, K, kv heads, head_dim].
    """
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [B, heads or kv heads, S or K, head_dim]
    return functional.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2)


def apply_rope(x: torch.Tensor, rope: RopeCosSin) -> torch.Tensor:
    """Rotate the pairs (2j, 2j + 1) in fp32.

    [B, S, heads, head_dim] -> the same; may overwrite ``x``.
    """
    if x.dtype is torch.float32 and x.device.type == "cpu":
        # One complex product in place: (even + i odd) * (cos + i sin).
        pairs = torch.view_as_complex(torch.unflatten(x, -1, (-1, 2)))  # complex64 [B, S, heads, head_dim / 2]
        pairs.mul_(torch.complex(rope.cos, rope.sin))
        return x
    even, odd = torch.unflatten(x.float(), -1, (-1, 2)).unbind(-1)  # [B, S, heads, head_dim / 2] both
    return torch.stack([even * rope.cos - odd * rope.sin, odd * rope.cos + even * rope.sin], -1).flatten(-2).to(x.dtype)


class MLP(nn.Module):
    """Starcoder2's MLP: two layers with biases."""

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
    """Attention and MLP, each on normed input and with a residual."""

    def __init__(self, arch: Architecture, index: int, *, scale: float | None) -> None:
        super().__init__()
        self.input_layernorm = _build_norm(arch)
        self.self_attn = Attention(arch, use_rope=has_rope(arch, index), scale=scale)
        self.post_attention_layernorm = _build_norm(arch)
        activation = ACTIVATIONS[arch.activation]
        self.mlp: nn.Module
        if arch.experts is not None and index in arch.experts.layers:
            self.mlp = ExpertsMLP(arch.hidden, arch.experts, activation)
        elif arch.family == "starcoder2":
            self.mlp = MLP(arch)
        else:
            self.mlp = GatedMLP(arch.hidden, arch.intermediate, activation)

    def forward(
        self,
        hidden: torch.Tensor,
        rope: RopeCosSin,
        mask: Sequence[QueryBlock] | None,
        update: UpdateKV | None = None,
        output_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, S, hidden] -> [B, S, hidden].

        With ``output_positions``, flat indices: [U, hidden].
        """
        residual = hidden if output_positions is None else hidden.flatten(0, 1)[output_positions]  # [B, S, hidden] or [U, hidden]
        hidden = self.self_attn(self.input_layernorm(hidden), rope, mask, update, output_positions).add_(residual)
        out: torch.Tensor = self.mlp(self.post_attention_layernorm(hidden)).add_(hidden)  # as residual
        return out


class Decoder(nn.Module):
    """A decoder without its head.

    Rope's frequencies are computed on the CPU, so that they are equal on every device.
    """

    def __init__(self, arch: Architecture, *, scale: float | None, device: torch.device) -> None:
        """Weights are on the meta device.

        ``scale`` multiplies q k; None is 1 / sqrt(head_dim).
        """
        super().__init__()
        with torch.device("meta"):
            self.embed_tokens = Embedding(arch.vocab, arch.hidden)
            self.layers = nn.ModuleList(DecoderLayer(arch, index, scale=scale) for index in range(arch.layers))
            self.norm = _build_norm(arch)
        self.frequencies = compute_frequencies(arch).to(device)  # float32 [head_dim / 2]
        self.rope_amplitude = 1.0 if arch.rope_scaling is None else arch.rope_scaling.attention_factor

    def compute_rope(self, position_ids: torch.Tensor) -> RopeCosSin:
        """Cosine and sine for int64 [B, S]."""
        angles = position_ids[..., None, None].float() * self.frequencies  # [B, S, 1, head_dim / 2]
        return RopeCosSin(angles.cos() * self.rope_amplitude, angles.sin() * self.rope_amplitude)


def _build_norm(arch: Architecture) -> nn.Module:
    return nn.LayerNorm(arch.hidden, arch.norm_eps) if arch.family == "starcoder2" else RMSNorm(arch.hidden, arch.norm_eps)


def has_rope(arch: Architecture, layer: int) -> bool:
    """Whether a layer rotates its queries and keys by their positions."""
    return arch.no_rope_every is None or (layer + 1) % arch.no_rope_every != 0


def has_sliding_window(arch: Architecture, layer: int) -> bool:
    """Whether a layer sees only the keys of the sliding window."""
    return arch.sliding_window is not None and has_rope(arch, layer) and layer not in arch.global_layers

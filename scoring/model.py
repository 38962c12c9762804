"""The decoders that nanotron trains, held by transformers' own classes, and the forward pass that scoring needs.

Two things are done here and not by transformers: attention masks (none at all where plain causal attention
is meant, so that flash kernels run), and the head, whose logits are fp32 whatever the weights are.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaModel, PreTrainedConfig, SmolLM3Config, SmolLM3Model, Starcoder2Config, Starcoder2Model

from scoring.experts import ExpertsMLP
from suites.architecture import Architecture
from suites.problem import Exit, Problem

HEAD = "lm_head.weight"
"""The name that ``translate`` gives the head; all others are names within the body."""
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
    "attn.qkv.q": "self_attn.q_proj",
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
        self, tokens: torch.Tensor, position_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states after the final norm.

        Args:
            tokens: int64 [B, S].
            position_ids: int64 [B, S] or [1, S]; 0, 1, ... S-1 by default.
            attention_mask: bool [B, S, S], [1, S, S] or [B, 1, S, S], True where the query of a row sees the
                key of a column; causal attention by default. A sliding window narrows it further, by positions.

        Returns:
            [B, S, hidden], in the weights' type.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None] if position_ids is None else position_ids
        if attention_mask is not None and attention_mask.dim() == 3:  # noqa: PLR2004  [B, S, S] lacks the heads' dimension
            attention_mask = attention_mask[:, None]
        hidden: torch.Tensor = self.body.embed_tokens(tokens)  # [B, S, hidden]
        rotations = self.body.rotary_emb(hidden, positions)
        narrow = self._narrowed(positions, attention_mask)
        for index, layer in enumerate(self.body.layers):
            mask = narrow if slides(self.architecture, index) else attention_mask
            hidden = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotations, use_cache=False)
        normed: torch.Tensor = self.body.norm(hidden)
        return normed

    def _narrowed(self, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
        """What layers with a sliding window see: keys in (t - window, t]. None where that is plain causal attention."""
        window = self.architecture.sliding_window
        if window is None or (mask is None and positions.shape[1] <= window):
            return mask
        length = positions.shape[1]
        near = (positions[:, None, :, None] - positions[:, None, None, :]) < window  # [B, 1, S, S]
        causal = torch.ones(length, length, dtype=torch.bool, device=positions.device).tril() if mask is None else mask
        return near & causal

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 [..., V] of hidden states [..., hidden]: products of the weights as they are, summed and kept in fp32."""
        if self.out_dtype:
            flat = hidden.reshape(-1, hidden.shape[-1])
            logits = torch.mm(flat, self.head.t(), out_dtype=torch.float32).view(*hidden.shape[:-1], -1)
        else:
            logits = functional.linear(hidden.float(), self.head.float())
        if self.padded_vocab == "masked":
            logits[..., self.real_vocab :] = -torch.inf
        return logits


def slides(architecture: Architecture, layer: int) -> bool:
    """Whether a layer has the sliding window."""
    return architecture.sliding_window is not None and _has_rope(architecture, layer) and layer not in architecture.global_layers


def _has_rope(architecture: Architecture, layer: int) -> bool:
    return architecture.no_rope_every is None or (layer + 1) % architecture.no_rope_every != 0


def build(architecture: Architecture, *, mup: bool, device: torch.device) -> Any:
    """The decoder without its head: weights on the meta device, rope's frequencies on ``device``."""
    config = _config(architecture)
    classes: dict[type, Any] = {LlamaConfig: LlamaModel, SmolLM3Config: SmolLM3Model, Starcoder2Config: Starcoder2Model}
    config._attn_implementation = "sdpa"  # noqa: SLF001  the only way to say it to a model that is not loaded by transformers
    with torch.device("meta"):
        body = classes[type(config)](config)
        for index, layer in enumerate(body.layers):
            if architecture.family == "qwen2":
                layer.self_attn.o_proj.register_parameter("bias", None)  # the bias is of q, k and v alone
            if mup and architecture.family == "llama":
                layer.self_attn.scaling = 1 / architecture.head_dim
            if architecture.experts is not None and index in architecture.experts.layers:
                layer.mlp = ExpertsMLP(architecture.hidden, architecture.experts, architecture.activation)
    with torch.device(device):
        body.rotary_emb = type(body.rotary_emb)(config)
    return body.eval().requires_grad_(requires_grad=False)


def _config(a: Architecture) -> PreTrainedConfig:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": a.rope_theta}
    if a.rope_factor != 1:
        rope |= {"rope_type": "linear", "factor": a.rope_factor}
    common: dict[str, Any] = {
        "vocab_size": a.vocab,
        "hidden_size": a.hidden,
        "intermediate_size": a.intermediate,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "hidden_act": a.activation,
        "max_position_embeddings": a.max_positions,
        "rope_parameters": rope,
        "tie_word_embeddings": False,  # the head is held apart
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "use_cache": False,
    }
    if a.family == "starcoder2":
        return Starcoder2Config(**common, norm_epsilon=a.norm_eps)
    if a.family == "llama":
        return LlamaConfig(**common, rms_norm_eps=a.norm_eps)
    layers = [int(_has_rope(a, layer)) for layer in range(a.layers)]
    return SmolLM3Config(
        **common,
        rms_norm_eps=a.norm_eps,
        attention_bias=a.attention_bias,
        no_rope_layers=layers,
        layer_types=["full_attention"] * a.layers,  # masks are made here
    )


def translate(architecture: Architecture, name: str, whole: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A whole nanotron tensor -> the tensors of the body (or the head) that it stands for; views where possible."""
    module, _, parameter = name.rpartition(".")
    match = _LAYER.fullmatch(module)
    if match is None:
        yield f"{_OUTSIDE_LAYERS[module]}.{parameter}", whole
        return
    layer, inner = f"layers.{match[1]}", match[2]
    attention = f"{layer}.self_attn"
    if inner == "attn.qkv_proj":
        q, k, v = torch.split(whole, [architecture.hidden, architecture.kv_size, architecture.kv_size])
        yield f"{attention}.q_proj.{parameter}", _halves(architecture, q)
        yield f"{attention}.k_proj.{parameter}", _halves(architecture, k)
        yield f"{attention}.v_proj.{parameter}", v
    elif inner == "attn.query_key_value":  # rows grouped by key head: its queries, its key, its value
        groups = torch.unflatten(
            whole, 0, (architecture.kv_heads, -1, architecture.head_dim)
        )  # [kv heads, q per kv + 2, head_dim, ...]
        yield f"{attention}.q_proj.{parameter}", groups[:, :-2].flatten(0, 2)
        yield f"{attention}.k_proj.{parameter}", groups[:, -2].flatten(0, 1)
        yield f"{attention}.v_proj.{parameter}", groups[:, -1].flatten(0, 1)
    elif inner == "attn.qkv.kv":
        k, v = whole.chunk(2)
        yield f"{attention}.k_proj.{parameter}", k
        yield f"{attention}.v_proj.{parameter}", v
    elif inner.endswith("gate_up_proj"):
        gate, up = whole.chunk(2)
        base = f"{layer}.{inner.removesuffix('gate_up_proj')}"
        yield f"{base}gate_proj.{parameter}", gate
        yield f"{base}up_proj.{parameter}", up
    else:
        yield f"{layer}.{_IN_LAYER.get(inner, inner)}.{parameter}", whole


def _halves(architecture: Architecture, rows: torch.Tensor) -> torch.Tensor:
    """Rows of q or k whose rope pairs are (2j, 2j + 1) -> pairs (j, j + head_dim / 2), as transformers rotates them."""
    if not architecture.rope_interleaved:
        return rows
    pairs = torch.unflatten(rows, 0, (-1, architecture.head_dim // 2, 2))  # [heads, head_dim / 2, 2, ...]
    return pairs.transpose(1, 2).flatten(0, 2)

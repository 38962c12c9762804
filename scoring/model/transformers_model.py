"""A model of transformers behind the interface ``scoring.inference.loglikelihood.Model``.

Rows are padded on the right and need no mask: a causal model never sees later tokens. The model is cut in two: its body gives
hidden states of all positions, and what follows gives logits of the needed ones in fp32. A model that cannot be cut so gives
logits of all positions, and they take the place of hidden states.
"""

import contextlib
import copy
import functools
import inspect
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from scoring.model.attention_mask import QueryBlock
from scoring.model.causal_lm import ModelVocabulary, compute_fp32_logits
from scoring.model.memory_budget import TokenBudget, compute_budget
from suites.checkpoint.architecture import Architecture

_PROBE_TOKENS = 24
"""Tokens of the row on which a loaded model is tried."""

_PROBE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest difference of two ways to the same numbers, for each unit of the largest number."""

_CHANGING_ROPES = ("dynamic", "longrope")
"""Ropes whose frequencies depend on the longest row of a batch."""


class NotCausalError(ValueError):
    """A later token changes what the model says of an earlier one."""


class NotFiniteError(ValueError):
    """The model says nothing: its outputs are NaN or infinite."""


class TransformersModel(ModelVocabulary):
    """A causal language model of transformers. Everything runs without gradients."""

    can_take_trees = False

    def __init__(self, model: Any, architecture: Architecture, padded_vocab: str, description: dict[str, Any]) -> None:
        """Raises NotCausalError, NotFiniteError. ``model``: with its weights, on its device."""
        super().__init__(architecture)
        self.model, self.padded_vocab, self.description = model, padded_vocab, description
        self.parameter_count = sum(parameter.numel() for parameter in model.parameters())
        self._has_changing_rope = _has_changing_rope(model.config)
        # Such a rope is changed in place, and rows of a batch are computed in several threads.
        self._lock: Any = threading.Lock() if self._has_changing_rope else contextlib.nullcontext()
        self._body, self._tail = _split_model(model)
        self._check_causality()
        if self._tail is not None and not self._is_split_right():
            self._body, self._tail = model, None
        self.description["split"] = self._tail is not None

    @functools.cached_property
    def budget(self) -> TokenBudget:
        """Token positions of a forward pass; a row at a time where rows would change each other."""
        if self._has_changing_rope:
            return TokenBudget(1)
        value_bytes = self._parameter.element_size()
        return compute_budget(
            self.architecture, device=self.device, bytes_per_value=value_bytes, weight_bytes=self.parameter_count * value_bytes
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self._parameter.device
        return device

    @property
    def dtype(self) -> str:
        """``float32`` or ``bfloat16``: the type of weights and hidden states."""
        return str(self._parameter.dtype).removeprefix("torch.")

    @property
    def _parameter(self) -> torch.Tensor:
        parameter: torch.Tensor = self.model.get_input_embeddings().weight
        return parameter

    @functools.cached_property
    def position_count(self) -> int | None:
        """Positions of a learned table; None where any position can be computed."""
        longest, embeddings = self.architecture.max_positions, self.model.get_input_embeddings()
        tables = (module for module in self.model.modules() if isinstance(module, nn.Embedding) and module is not embeddings)
        # OPT's table has two more rows than positions.
        return longest if any(longest <= table.num_embeddings <= longest + 2 for table in tables) else None

    @functools.cached_property
    def can_pad_left(self) -> bool:
        """Whether rows of different lengths can share a KV cache: the model takes positions, and keeps keys and values."""
        names = inspect.signature(self._body.forward).parameters
        is_stateful = bool(getattr(self.model, "_is_stateful", False))
        return {"position_ids", "past_key_values", "attention_mask"} <= set(names) and not is_stateful

    @torch.inference_mode()
    def hidden_states(
        self,
        tokens: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        mask: Sequence[QueryBlock] | None = None,
        *,
        output_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Int64 [B, S] -> [B, S, hidden] or [U, hidden].

        Takes no positions and no masks.
        """
        if position_ids is not None or mask is not None:
            raise NotImplementedError("rows of a transformers model are plain causal ones")
        with self._lock:
            hidden: torch.Tensor = self._read_output(self._body(input_ids=tokens, use_cache=False))  # [B, S, hidden]
        return hidden if output_positions is None else hidden.flatten(0, 1)[output_positions]

    @torch.inference_mode()
    def hidden_states_with_cache(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """The hidden states [B, S, hidden] of new tokens int64 [B, S], whose keys and values are added to ``cache``.

        ``attention_mask``: int64 [B, K], 1 for each token read so far, 0 for padding on the left. ``position_ids``: [B, S].
        """
        inputs = {"input_ids": tokens, "attention_mask": attention_mask, "position_ids": position_ids}
        with self._lock:
            return self._read_output(self._body(**inputs, past_key_values=cache, use_cache=True))

    def open_cache(self) -> Any:
        """An empty KV cache of transformers."""
        from transformers import DynamicCache  # noqa: PLC0415  importing it takes a second, which other backends need not wait

        return DynamicCache(config=self.model.config)

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> float32 [..., V].

        Whatever the model does behind its head (scales, soft caps) is done in fp32.
        """
        logits = hidden.float()
        if self._tail is not None:
            logits = self._tail(inputs_embeds=hidden.reshape(1, -1, hidden.shape[-1])).logits.float()  # [1, N, V]
            logits = logits.view(*hidden.shape[:-1], -1)
        if self.padded_vocab == "masked":
            logits = logits.clone() if logits is hidden else logits
            logits[..., self.real_vocab :] = -torch.inf
        return logits

    def _read_output(self, output: Any) -> torch.Tensor:
        # Logits, where the model is not cut: fp32 whatever its weights are.
        hidden: torch.Tensor = output.logits.float() if self._tail is None else output[0]
        return hidden

    def _probe_tokens(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1234)
        return torch.randint(self.vocab_size, (1, _PROBE_TOKENS), generator=generator).to(self.device)  # [1, S]

    @torch.inference_mode()
    def _check_causality(self) -> None:
        tokens = self._probe_tokens()
        changed = tokens.clone()
        half = _PROBE_TOKENS // 2
        changed[:, half:] = tokens[:, half:].flip(-1)
        before, after = (self._body(input_ids=row, use_cache=False)[0][:, :half] for row in (tokens, changed))  # [1, half, ...]
        if not all(bool(output.isfinite().all()) for output in (before, after)):
            raise NotFiniteError("its outputs are not finite")
        if not self._are_close(before, after):
            raise NotCausalError("later tokens change its hidden states of earlier ones, so it is no causal language model")

    @torch.inference_mode()
    def _is_split_right(self) -> bool:
        tokens = self._probe_tokens()
        try:
            logits = self.logits(self.hidden_states(tokens))
        except Exception:  # noqa: BLE001  a model of another form: it is used as a whole
            return False
        expected = self.model(input_ids=tokens, use_cache=False).logits.float()
        return logits.shape == expected.shape and self._are_close(logits, expected)

    def _are_close(self, values: torch.Tensor, expected: torch.Tensor) -> bool:
        scale = max(float(expected.abs().max()), 1.0)
        return float((values - expected).abs().max()) <= _PROBE_TOLERANCE[self._parameter.dtype] * scale


class _Fp32Head(nn.Module):
    """A head whose logits are fp32, with the weight of the model's own."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> float32 [..., V]."""
        logits = compute_fp32_logits(hidden, self.weight)
        return logits if self.bias is None else logits.add_(self.bias)


class _GivenHiddenStates(nn.Module):
    """Takes the place of a model's body: the hidden states are those that the model was given as embeddings."""

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> "_BodyOutput":
        """[1, N, hidden] -> the same, as a body's output."""
        return _BodyOutput(inputs_embeds)


class _BodyOutput:
    """A body's output without caches, attentions, router logits or whatever else a model hands on."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> torch.Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None


def _split_model(model: Any) -> tuple[Any, Any]:
    """The model's body, and the model with its body replaced; the model itself and None where that cannot be done."""
    prefix, head = model.base_model_prefix, model.get_output_embeddings()
    head_name = next((name for name, module in model.named_children() if module is head), None)
    if prefix not in dict(model.named_children()) or head_name is None or type(head) is not nn.Linear:
        return model, None
    tail = copy.copy(model)
    tail._modules = {**model._modules, prefix: _GivenHiddenStates(), head_name: _Fp32Head(head)}  # noqa: SLF001  no public way
    return getattr(model, prefix), tail


def _has_changing_rope(config: Any) -> bool:
    """Whether rope depends on the length of a batch's longest row."""
    text_config = config.get_text_config()
    parameters = getattr(text_config, "rope_parameters", None) or getattr(text_config, "rope_scaling", None) or {}
    sections = [parameters, *(section for section in parameters.values() if isinstance(section, dict))]
    return any(section.get("rope_type", section.get("type")) in _CHANGING_ROPES for section in sections)

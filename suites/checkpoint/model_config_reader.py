"""Reads values of a model_config.json, and finds the keys that nobody read.

A key that changes the computation and is not implemented makes every number wrong without a sign of it. So a key that no reader
asked for must have no effect by its name, or be neutral by its value; else it is an ``UnimplementedKey``.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

ASSUMPTIONS = ("ignored", "applied")
"""What a config may say of a key that is not implemented."""

ROPE_SCALING_KEY = "rope_scaling"
"""The only key that can be applied."""

MAX_DIMENSION_SIZE = 1 << 32

MAX_SHOWN_CHARACTERS = 120
"""Characters of a key's value in messages."""

_WITHOUT_EFFECT = re.compile(
    r"\w+_token_id|initializer_\w+|init_std|init_method|\w*loss\w*|log_attn_probs|\w*(?:dropout|pdrop)\w*|\w*recompute\w*"
    r"|gradient_\w+|disable_parameter_transpose_cache|router_load_balancing_type|\w*jitter\w*|use_\w*permute|_fused_\w+|_use_qkv_packed|_use_doc_masking|ring_attn_heads_k_stride|token_dispatcher_type"
    r"|pretraining_tp|use_cache|output_(?:router_logits|attentions|hidden_states)|\w*softmax_in_fp32|architectures|model_type|torch_dtype|dtype"
    r"|transformers_version|_name_or_path|auto_map"
)
"""Keys of training, logging, kernels and libraries: no value changes the scores of a trained model."""

_NEUTRAL_AT_ONE = re.compile(r"\w*(?:multipl|scal|factor|ratio|percent|pct|temperature)\w*")
"""Names of what is multiplied or divided by: 1 is neutral, and 0 is not."""

_NEVER_NEUTRAL = re.compile(r"\w*(?:attention|attn|softmax|query|qk)\w*(?:multipl|scal)\w*")
"""Names of the scale of attention's scores: its usual value depends on head_dim, so that no number is neutral."""

_IMPLEMENTED_VALUES: Mapping[str, tuple[Any, ...]] = {
    "_attn_implementation": ("flash_attention_2", "flex_attention", "sdpa", "ring_flash_triton", "ring", "llama3_ring_attention"),
    "flex_attention_mask": ("causal", "document", "sliding_window", "sliding_window_document"),
    "scale_attn_weights": (True,),
    "use_rotary_embeddings": (True,),
}
"""Key -> values that need no reader, beside the neutral ones of every key."""

_NEVER_NEUTRAL_IF_FALSE = ("scale_attn_weights", "use_rotary_embeddings")

_NEUTRAL_TEXTS = ("", "none", "default", "full", "full_attention")


class UnscorableCheckpoint(Exception):  # noqa: N818  a verdict on a checkpoint, not a defect
    """The checkpoint can never be scored as it is.

    The message says why in one line.
    """


class UnimplementedKey(msgspec.Struct, frozen=True):
    """A key of model_config.json that may change the computation."""

    name: str
    """With a dot for a key of a section: ``moe_config.norm_topk_prob``."""
    value: str
    """As JSON, shortened."""
    choices: tuple[str, ...] = ("ignored",)
    """What ``assume`` may say of it: ``ignored``, and ``applied`` where it is implemented."""


class ModelConfigReader:
    """Reads values of model_config.json and checks their types and bounds."""

    def __init__(self, data: dict[str, Any], section: str = "") -> None:
        self.data = data
        self._section = section
        self._read_keys: set[str] = set()
        self._sections: list[ModelConfigReader] = []

    def make_error(self, key: str) -> UnscorableCheckpoint:
        """The error of a value that cannot be used, or is missing."""
        description = f"is {str(self.data[key])[:60]!r}" if key in self.data else "is missing"
        return UnscorableCheckpoint(f"model_config.json: {key} {description}, which is not a usable value")

    def read(self, key: str) -> Any:
        """The value as it is; None where there is none."""
        self._read_keys.add(key)
        return self.data.get(key)

    def _read_checked(self, key: str, default: Any, is_usable: Callable[[Any], bool]) -> Any:
        value = self.read(key)
        value = default if value is None else value
        if not is_usable(value):
            raise self.make_error(key)
        return value

    def read_size(self, key: str, default: int | None = None, maximum: int = MAX_DIMENSION_SIZE) -> int:
        """A whole number above 0."""
        return int(self._read_checked(key, default, lambda value: type(value) is int and 0 < value <= maximum))

    def read_optional_size(self, key: str) -> int | None:
        """A whole number above 0, or None."""
        return None if self.read(key) is None else self.read_size(key)

    def read_number(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        return float(
            self._read_checked(key, default, lambda value: type(value) in {int, float} and 0 < value <= sys.float_info.max)
        )

    def read_flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        return bool(self._read_checked(key, default, lambda value: isinstance(value, bool)))

    def read_name(self, key: str, default: str, known: tuple[str, ...]) -> str:
        """One of the known names."""
        value = self._read_checked(key, default, lambda value: isinstance(value, str))
        if value not in known:
            raise UnscorableCheckpoint(f"model_config.json: {key} {value[:60]!r} is unknown; known are {', '.join(known)}")
        return str(value)

    def read_layers(self, key: str, count: int) -> tuple[int, ...]:
        """Numbers of layers; [-1] is all of them."""
        value = self.read(key) or []
        if not isinstance(value, list) or not all(type(layer) is int and -1 <= layer < count for layer in value):
            raise self.make_error(key)
        return tuple(range(count)) if value == [-1] else tuple(sorted(set(value)))

    def read_section(self, key: str, **defaults: Any) -> "ModelConfigReader | None":
        """A reader of a mapping, whose unread keys count as well; None where there is none."""
        value = self.read(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.make_error(key)
        section = ModelConfigReader({**defaults, **value}, f"{key}.")
        self._sections.append(section)
        return section

    def find_unimplemented_keys(self) -> tuple[UnimplementedKey, ...]:
        """The keys that nobody read and that may have an effect, sorted."""
        own_keys = [
            UnimplementedKey(f"{self._section}{key}", describe_value(value))
            for key, value in self.data.items()
            if key not in self._read_keys and not is_without_effect(key, value)
        ]
        section_keys = [key for section in self._sections for key in section.find_unimplemented_keys()]
        return tuple(sorted([*own_keys, *section_keys], key=lambda key: key.name))


def describe_value(value: Any) -> str:
    """A value as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."


def is_without_effect(key: str, value: Any) -> bool:
    """Whether a key with this value leaves the computation as it is without the key."""
    if _WITHOUT_EFFECT.fullmatch(key) or value in _IMPLEMENTED_VALUES.get(key, ()):
        return True
    return not (value is False and key in _NEVER_NEUTRAL_IF_FALSE) and _is_neutral(key, value)


def _is_neutral(key: str, value: Any) -> bool:
    match value:
        case None | False:
            return True
        case True:
            return False
        case int() | float():
            return not _NEVER_NEUTRAL.fullmatch(key) and value == (1 if _NEUTRAL_AT_ONE.fullmatch(key) else 0)
        case str():
            return value.lower() in _NEUTRAL_TEXTS
        case list():
            return all(_is_neutral(key, item) for item in value)
        case dict():
            return all(is_without_effect(str(name), item) for name, item in value.items())
    return False


def describe_unassumed_keys(keys: Iterable[UnimplementedKey], choices: Mapping[str, str], setting: str = "assume") -> str:
    """What ``setting`` must say before a checkpoint can be scored; empty where it says enough."""
    open_keys = [key for key in keys if choices.get(key.name) not in key.choices]
    if not open_keys:
        return ""
    values = ", ".join(f"{key.name} {key.value}" for key in open_keys)
    answers = ", ".join(f"{key.name}: {' or '.join(key.choices)}" for key in open_keys)
    return f"model_config.json has {values}, which is not implemented; say what it means: {setting}: {{{answers}}}"

"""config.json of a Hugging Face checkpoint as an architecture, and trainer_state.json.

Llama, Qwen2 and Starcoder2 are computed by this project's decoder where every key of their config is understood. Everything
else is left to transformers, which knows its own keys; then sizes serve estimates of memory and FLOPs only.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from suites.checkpoint.architecture import ACTIVATION_NAMES, MAX_LAYERS, Architecture, ParameterSpec
from suites.checkpoint.model_config_reader import ModelConfigReader, UnscorableCheckpoint
from suites.checkpoint.rope_scaling import RopeScaling, has_no_effect, parse_rope_scaling

_SIZE_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "vocab": ("vocab_size", "padded_vocab_size"),
    "max_positions": ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx"),
}
"""A size -> its keys in config.json, by model type."""


class TrainerState(msgspec.Struct, frozen=True, kw_only=True):
    """What trainer_state.json says of a run of transformers' Trainer."""

    step: int | None
    """``global_step``."""
    train_steps: int | None
    """``max_steps``."""
    tokens_seen: int | None
    """Counted by the Trainer (``include_num_input_tokens_seen``) or by TRL; None where nobody counted."""


def parse_trainer_state(document: Mapping[str, Any]) -> TrainerState:
    """The parsed trainer_state.json."""
    step = _as_count(document.get("global_step"))
    # The Trainer writes 0 where it does not count.
    tokens_seen = _as_count(document.get("num_input_tokens_seen")) or _find_logged_tokens(document.get("log_history"), step)
    return TrainerState(step=step, train_steps=_as_count(document.get("max_steps")) or None, tokens_seen=tokens_seen)


def _find_logged_tokens(history: Any, step: int | None) -> int | None:
    """TRL's ``num_tokens`` of this very step."""
    entries = history if isinstance(history, list) else []
    counts = [
        entry["num_tokens"]
        for entry in entries
        if isinstance(entry, dict) and "num_tokens" in entry and entry.get("step") == step
    ]
    is_number = bool(counts) and type(counts[-1]) in {int, float} and 0 < counts[-1] < 1 << 62
    return int(counts[-1]) if is_number else None


def refuse_unscorable_config(config: Mapping[str, Any]) -> None:
    """Raise UnscorableCheckpoint for a model that is no causal language model with plain weights."""
    quantization = config.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise UnscorableCheckpoint(
            f"config.json has quantization_config ({str(method or 'of unknown kind')[:40]}): quantised weights are not scored; "
            "give the checkpoint that was quantised"
        )
    if config.get("is_encoder_decoder") is True:
        raise UnscorableCheckpoint("config.json has is_encoder_decoder: only causal language models are scored")
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        raise UnscorableCheckpoint("config.json has no model_type, which names the architecture")


def read_context_length(config: Mapping[str, Any]) -> int | None:
    """The longest context that config.json names; None where it names none."""
    return _find_size(config, "max_positions")


_READ_BY_NOBODY = ("is_llama_config", "is_qwen2_config", "rope_interleaved", "transformers.js_config", "task_specific_params")
"""Keys of converters and other programs: transformers' classes do not read them."""


def parse_known_architecture(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture of a Llama, Qwen2 or Starcoder2 whose every key is understood; None for any other model."""
    parse = _PARSERS.get(str(config.get("model_type")))
    if parse is None:
        return None
    reader = ModelConfigReader({key: value for key, value in config.items() if key not in _READ_BY_NOBODY})
    try:
        architecture, head_dim = parse(reader), reader.read("head_dim")
    except UnscorableCheckpoint:  # a value that this reader does not take: transformers judges it
        return None
    is_plain = architecture is not None and not reader.find_unimplemented_keys()
    # These sizes decide the shape of every tensor.
    if architecture is None or not is_plain or architecture.hidden % architecture.heads or architecture.head_dim % 2:
        return None
    has_whole_groups = architecture.heads % architecture.kv_heads == 0
    return architecture if has_whole_groups and head_dim in (None, architecture.head_dim) else None


def describe_stored_architecture(config: Mapping[str, Any], parameters: Iterable[ParameterSpec]) -> Architecture:
    """The architecture that only transformers computes, with the tensors as the files have them."""
    stored = tuple(parameters)
    matrices = sorted(
        (parameter.shape for parameter in stored if len(parameter.shape) > 1), key=lambda shape: (max(shape), shape)
    )
    largest = matrices[-1] if matrices else (1, 1)
    sizes = {name: _find_size(config, name) for name in _SIZE_NAMES}
    hidden, heads = sizes["hidden"] or min(largest), sizes["heads"] or 1
    return Architecture(
        family=str(config["model_type"]),
        layers=sizes["layers"] or 1,
        hidden=hidden,
        intermediate=sizes["intermediate"] or 4 * hidden,
        heads=heads,
        kv_heads=sizes["kv_heads"] or heads,
        vocab=sizes["vocab"] or max(largest),
        tied=config.get("tie_word_embeddings") is True,
        norm_eps=1e-6,
        activation="silu",
        max_positions=sizes["max_positions"] or 1,
        stored_parameters=stored,
    )


def _find_size(config: Mapping[str, Any], name: str) -> int | None:
    # Models of text and images have the decoder's sizes in a section of their own.
    section = config.get("text_config")
    for source in (config, section if isinstance(section, dict) else {}):
        for key in _SIZE_NAMES[name]:
            if size := _as_count(source.get(key)):
                return size
    return None


def _parse_llama(reader: ModelConfigReader) -> Architecture | None:
    if reader.read_flag("attention_bias", default=False) or reader.read_flag("mlp_bias", default=False):
        return None
    return _parse_gated(reader, "llama")


def _parse_qwen2(reader: ModelConfigReader) -> Architecture | None:
    # Layers with a window and layers without one are told apart by two keys that have changed between versions.
    layer_types = reader.read("layer_types")
    if reader.read_flag("use_sliding_window", default=False) or (layer_types and set(layer_types) != {"full_attention"}):
        return None
    for key in ("sliding_window", "max_window_layers"):  # without an effect while use_sliding_window is false
        reader.read(key)
    architecture = _parse_gated(reader, "qwen2")
    return None if architecture is None else msgspec.structs.replace(architecture, attention_bias=True)


def _parse_gated(reader: ModelConfigReader, family: str) -> Architecture | None:
    heads = reader.read_size("num_attention_heads")
    rope = _parse_rope(reader)
    if rope is None:
        return None
    theta, scaling = rope
    return Architecture(
        family=family,
        layers=reader.read_size("num_hidden_layers", maximum=MAX_LAYERS),
        hidden=reader.read_size("hidden_size"),
        intermediate=reader.read_size("intermediate_size"),
        heads=heads,
        kv_heads=reader.read_size("num_key_value_heads", heads),
        vocab=reader.read_size("vocab_size"),
        tied=reader.read_flag("tie_word_embeddings", default=False),
        norm_eps=reader.read_number("rms_norm_eps", 1e-6),
        activation=reader.read_name("hidden_act", "silu", ACTIVATION_NAMES),
        max_positions=reader.read_size("max_position_embeddings"),
        rope_theta=theta,
        rope_scaling=scaling,
    )


def _parse_starcoder2(reader: ModelConfigReader) -> Architecture | None:
    rope = _parse_rope(reader)
    has_biases, is_tied = reader.read_flag("use_bias", default=True), reader.read_flag("tie_word_embeddings", default=True)
    if rope is None or not has_biases or not is_tied:
        return None
    theta, scaling = rope
    heads = reader.read_size("num_attention_heads")
    return Architecture(
        family="starcoder2",
        layers=reader.read_size("num_hidden_layers", maximum=MAX_LAYERS),
        hidden=reader.read_size("hidden_size"),
        intermediate=reader.read_size("intermediate_size"),
        heads=heads,
        kv_heads=reader.read_size("num_key_value_heads", heads),
        vocab=reader.read_size("vocab_size"),
        tied=True,
        norm_eps=reader.read_number("norm_epsilon", 1e-5),
        activation=reader.read_name("hidden_act", "gelu_pytorch_tanh", ACTIVATION_NAMES),
        max_positions=reader.read_size("max_position_embeddings"),
        rope_theta=theta,
        rope_scaling=scaling,
        sliding_window=reader.read_optional_size("sliding_window"),
        attention_bias=True,
    )


_PARSERS = {"llama": _parse_llama, "qwen2": _parse_qwen2, "starcoder2": _parse_starcoder2}


def _parse_rope(reader: ModelConfigReader) -> tuple[float, RopeScaling | None] | None:
    """Theta and scaling; None for a rope that is not understood.

    transformers 5 writes both into ``rope_parameters``, older versions into ``rope_theta`` and ``rope_scaling``.
    """
    parameters, legacy = reader.read("rope_parameters"), reader.read("rope_scaling")
    if parameters is not None and legacy is not None:
        return None
    theta = reader.read_number("rope_theta", 10_000.0)
    value = parameters if parameters is not None else legacy
    if value is None:
        return theta, None
    if not isinstance(value, dict):
        return None
    own_theta = value.get("rope_theta", theta)
    if type(own_theta) not in {int, float} or own_theta <= 0:
        return None
    others = {key: item for key, item in value.items() if key != "rope_theta" and item is not None}
    if others.get("rope_type", others.get("type", "default")) == "default":
        return (float(own_theta), None) if set(others) <= {"rope_type", "type"} else None
    scaling = parse_rope_scaling(others, max_positions=reader.read_size("max_position_embeddings"), theta=float(own_theta))
    if scaling is None:
        return None
    return float(own_theta), None if has_no_effect(scaling) else scaling


def _as_count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 62 else None

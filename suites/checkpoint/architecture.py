"""Architecture of a nanotron model_config.json, and the tensors that it implies.

Tensor names are nanotron's, with dots (``model.decoder.0.pp_block.attn.qkv_proj.weight``): the folders below
``model/`` and the last part of the file name.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from suites.checkpoint.model_config_reader import (
    ROPE_SCALING_KEY,
    ModelConfigReader,
    UnimplementedKey,
    UnscorableCheckpoint,
    describe_unassumed_keys,
    describe_value,
    is_without_effect,
)
from suites.checkpoint.rope_scaling import RopeScaling, has_no_effect, parse_rope_scaling

MAX_LAYERS = 4096

ACTIVATION_NAMES = ("silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "relu2")

MODEL_FAMILIES = ("llama", "qwen2", "starcoder2")


class ParameterSpec(msgspec.Struct, frozen=True):
    """One tensor that the architecture implies."""

    name: str
    shape: tuple[int, ...]
    sharded: bool
    """Whether tensor parallelism splits it. Its file names then have ranks, even at tp = pp = 1."""


class Experts(msgspec.Struct, frozen=True, kw_only=True):
    """Mixture of experts of some layers."""

    count: int
    top_k: int
    intermediate: int
    shared_intermediate: int | None
    """Size of the shared expert; None where there is none."""
    layers: tuple[int, ...]


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder as nanotron describes it.

    Sizes are of the complete model, for any tp x pp.
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    """With padding rows: nanotron does not record how many rows are real."""
    tied: bool
    norm_eps: float
    activation: str
    max_positions: int
    rope_theta: float = 10_000.0
    rope_interleaved: bool = False
    rope_factor: float = 1.0
    """Positions are divided by it."""
    no_rope_every: int | None = None
    """Layers with (i + 1) % n == 0 have no rope and no sliding window."""
    sliding_window: int | None = None
    """Token t attends to the keys in (t - window, t]."""
    global_layers: tuple[int, ...] = ()
    """Layers without the sliding window (Starcoder2)."""
    attention_bias: bool = False
    multi_query: bool = False
    """Starcoder2 with one key and value head in a tensor of its own."""
    experts: Experts | None = None
    rope_scaling: RopeScaling | None = None
    """As recorded, where it is implemented; after ``assume``: where it is applied."""
    unimplemented: tuple[UnimplementedKey, ...] = ()
    """Keys of model_config.json that may change the computation; no number is right before ``assume`` says what they mean."""
    assumed: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Key -> ``ignored`` or ``applied``, as ``assume`` decided."""
    stored_parameters: tuple[ParameterSpec, ...] = ()
    """Tensors as the files have them, of an architecture that only transformers computes. Its sizes are estimates then."""

    @property
    def head_dim(self) -> int:
        """Always hidden / heads."""
        return self.hidden // self.heads

    @property
    def kv_size(self) -> int:
        """Rows of K; V has as many."""
        return self.kv_heads * self.head_dim

    @property
    def n_params(self) -> int:
        """Number of weights; a tied embedding counts once."""
        return sum(math.prod(parameter.shape) for parameter in self.parameters())

    def assume(self, choices: Mapping[str, str]) -> "Architecture":
        """The architecture with its unimplemented keys ignored or applied.

        Choices for keys that it does not have are left out. Raises UnscorableCheckpoint for a key without a possible choice.
        """
        problem = describe_unassumed_keys(self.unimplemented, choices)
        if problem:
            raise UnscorableCheckpoint(problem)
        assumed = {key.name: choices[key.name] for key in self.unimplemented}
        # A scaling that is no open question, such as a Hugging Face model's, stays.
        scaling = None if assumed.get(ROPE_SCALING_KEY) == "ignored" else self.rope_scaling
        return msgspec.structs.replace(self, rope_scaling=scaling, unimplemented=(), assumed=assumed)

    def parameters(self) -> tuple[ParameterSpec, ...]:
        """Every tensor that a complete checkpoint of this architecture has."""
        if self.stored_parameters:
            return self.stored_parameters
        return tuple(_starcoder2_parameters(self) if self.family == "starcoder2" else _llama_parameters(self))


def parse_architecture(model_config: Any) -> Architecture:
    """The architecture of a parsed model_config.json.

    Raises UnscorableCheckpoint with the keys that are present, or with the unusable value.
    """
    if not isinstance(model_config, dict):
        raise UnscorableCheckpoint("model_config.json is not a mapping")
    families = [name for name in MODEL_FAMILIES if model_config.get(f"is_{name}_config") is True]
    if len(families) != 1:
        present_keys = ", ".join(sorted(str(key) for key in model_config)[:40]) or "none"
        family_flags = ", ".join(f"is_{name}_config" for name in MODEL_FAMILIES)
        raise UnscorableCheckpoint(
            f"unknown architecture: exactly one of {family_flags} must be true in model_config.json (keys found: {present_keys})"
        )
    # Every tensor shape follows from these sizes, so heads that do not divide them are refused here.
    reader = ModelConfigReader(model_config)
    for name in MODEL_FAMILIES:
        reader.read(f"is_{name}_config")
    architecture = _parse_starcoder2(reader) if families == ["starcoder2"] else _parse_llama_like(families[0], reader)
    if architecture.hidden % architecture.heads or architecture.head_dim % 2:
        raise UnscorableCheckpoint(
            f"model_config.json: hidden_size {architecture.hidden} does not give {architecture.heads} heads of an even size"
        )
    if architecture.heads % architecture.kv_heads:
        raise UnscorableCheckpoint(
            f"model_config.json: {architecture.heads} heads cannot share {architecture.kv_heads} key and value heads"
        )
    return _add_unimplemented_keys(architecture, reader)


def _add_unimplemented_keys(architecture: Architecture, reader: ModelConfigReader) -> Architecture:
    head_dim, value = reader.read("head_dim"), reader.read(ROPE_SCALING_KEY)
    keys = list(reader.find_unimplemented_keys())
    if head_dim not in (None, architecture.head_dim):  # it may be a list, which no set holds
        keys.append(UnimplementedKey("head_dim", describe_value(head_dim)))
    # Nanotron's main records rope_scaling and ignores it; some forks apply it. Only the user knows which one trained the model.
    scaling = parse_rope_scaling(value, max_positions=architecture.max_positions, theta=architecture.rope_theta)
    if scaling is not None and has_no_effect(scaling):
        scaling = None
    elif not is_without_effect(ROPE_SCALING_KEY, value):
        choices = ("ignored",) if scaling is None else ("ignored", "applied")
        keys.append(UnimplementedKey(ROPE_SCALING_KEY, describe_value(value), choices))
    return msgspec.structs.replace(
        architecture, rope_scaling=scaling, unimplemented=tuple(sorted(keys, key=lambda key: key.name))
    )


def _parse_llama_like(family: str, reader: ModelConfigReader) -> Architecture:
    layers = reader.read_size("num_hidden_layers", maximum=MAX_LAYERS)
    heads = reader.read_size("num_attention_heads")
    is_qwen = family == "qwen2"
    return Architecture(
        family=family,
        layers=layers,
        hidden=reader.read_size("hidden_size"),
        intermediate=reader.read_size("intermediate_size"),
        heads=heads,
        kv_heads=reader.read_size("num_key_value_heads", heads),
        vocab=reader.read_size("vocab_size"),
        tied=reader.read_flag("tie_word_embeddings", default=False),
        norm_eps=reader.read_number("rms_norm_eps", 1e-6),
        activation=reader.read_name("hidden_act", "silu", ACTIVATION_NAMES),
        max_positions=reader.read_size("max_position_embeddings", 2048),
        rope_theta=reader.read_number("rope_theta", 10_000.0),
        # A save without this key is older than the key: nanotron rotated interleaved pairs then.
        rope_interleaved=reader.read_flag("rope_interleaved", default=not is_qwen),
        rope_factor=reader.read_number("rope_seq_len_interpolation_factor", 1.0) if is_qwen else 1.0,
        no_rope_every=reader.read_optional_size("no_rope_layer") if is_qwen else None,
        sliding_window=reader.read_optional_size("sliding_window_size") if is_qwen else None,
        attention_bias=reader.read_flag("attention_bias", default=False) and is_qwen,  # nanotron's Llama ignores it
        experts=_parse_experts(reader, layers) if is_qwen else None,
    )


def _parse_experts(reader: ModelConfigReader, layer_count: int) -> Experts | None:
    moe_reader = reader.read_section("moe_config", layers=[-1])
    if moe_reader is None:
        return None
    shared_intermediate = moe_reader.read_optional_size("shared_expert_intermediate_size")
    if not moe_reader.read_flag("enable_shared_expert", default=False):
        shared_intermediate = None
    elif shared_intermediate is None:
        raise moe_reader.make_error("shared_expert_intermediate_size")
    experts = Experts(
        count=moe_reader.read_size("num_experts"),
        top_k=moe_reader.read_size("top_k"),
        intermediate=moe_reader.read_size("moe_intermediate_size"),
        shared_intermediate=shared_intermediate,
        layers=moe_reader.read_layers("layers", layer_count),
    )
    if experts.top_k > experts.count:
        raise moe_reader.make_error("top_k")
    return experts if experts.layers else None


def _parse_starcoder2(reader: ModelConfigReader) -> Architecture:
    layers = reader.read_size("num_hidden_layers", maximum=MAX_LAYERS)
    hidden = reader.read_size("hidden_size")
    # Without grouped_query, nanotron's Starcoder2 has one key and value head.
    is_grouped, kv_heads = reader.read_flag("grouped_query", default=False), reader.read_optional_size("num_kv_heads")
    multi_query = reader.read_flag("multi_query", default=False) or not is_grouped
    if not multi_query and kv_heads is None:
        raise reader.make_error("num_kv_heads")
    return Architecture(
        family="starcoder2",
        layers=layers,
        hidden=hidden,
        intermediate=reader.read_size("intermediate_size", 4 * hidden),
        heads=reader.read_size("num_attention_heads"),
        kv_heads=1 if multi_query or kv_heads is None else kv_heads,
        vocab=reader.read_size("vocab_size"),
        tied=True,
        norm_eps=reader.read_number("layer_norm_epsilon", 1e-5),
        activation=reader.read_name("activation_function", "gelu_pytorch_tanh", ACTIVATION_NAMES),
        max_positions=reader.read_size("max_position_embeddings", 4096),
        rope_theta=reader.read_number("rope_theta", 10_000.0),
        sliding_window=reader.read_optional_size("sliding_window_size"),
        global_layers=reader.read_layers("global_attn_layers", layers),
        attention_bias=True,
        multi_query=multi_query,
    )


def _llama_parameters(a: Architecture) -> Iterator[ParameterSpec]:
    yield ParameterSpec("model.token_position_embeddings.pp_block.token_embedding.weight", (a.vocab, a.hidden), sharded=True)
    for layer in range(a.layers):
        block = f"model.decoder.{layer}.pp_block"
        yield ParameterSpec(f"{block}.input_layernorm.weight", (a.hidden,), sharded=False)
        yield ParameterSpec(f"{block}.attn.qkv_proj.weight", (a.hidden + 2 * a.kv_size, a.hidden), sharded=True)
        if a.attention_bias:
            yield ParameterSpec(f"{block}.attn.qkv_proj.bias", (a.hidden + 2 * a.kv_size,), sharded=True)
        yield ParameterSpec(f"{block}.attn.o_proj.weight", (a.hidden, a.hidden), sharded=True)
        yield ParameterSpec(f"{block}.post_attention_layernorm.weight", (a.hidden,), sharded=False)
        if a.experts is not None and layer in a.experts.layers:
            yield from _expert_parameters(f"{block}.mlp", a.hidden, a.experts)
        else:
            yield from _gated_mlp_parameters(f"{block}.mlp", a.hidden, a.intermediate)
    yield ParameterSpec("model.final_layer_norm.pp_block.weight", (a.hidden,), sharded=False)
    if not a.tied:
        yield ParameterSpec("model.lm_head.pp_block.weight", (a.vocab, a.hidden), sharded=True)


def _gated_mlp_parameters(module: str, hidden: int, intermediate: int) -> Iterator[ParameterSpec]:
    yield ParameterSpec(f"{module}.gate_up_proj.weight", (2 * intermediate, hidden), sharded=True)
    yield ParameterSpec(f"{module}.down_proj.weight", (hidden, intermediate), sharded=True)


def _expert_parameters(module: str, hidden: int, e: Experts) -> Iterator[ParameterSpec]:
    yield ParameterSpec(f"{module}.router.weight", (e.count, hidden), sharded=False)
    yield ParameterSpec(f"{module}.experts.merged_gate_up_proj", (e.count, hidden, 2 * e.intermediate), sharded=False)
    yield ParameterSpec(f"{module}.experts.merged_down_proj", (e.count, e.intermediate, hidden), sharded=False)
    if e.shared_intermediate is not None:
        yield from _gated_mlp_parameters(f"{module}.shared_expert", hidden, e.shared_intermediate)
        yield ParameterSpec(f"{module}.shared_expert_gate.weight", (1, hidden), sharded=False)


def _starcoder2_parameters(a: Architecture) -> Iterator[ParameterSpec]:
    yield ParameterSpec("model.token_embeddings.pp_block.token_embedding.weight", (a.vocab, a.hidden), sharded=True)
    for layer in range(a.layers):
        block = f"model.decoder.{layer}.pp_block"
        for norm in ("ln_1", "ln_2"):
            yield from _weight_and_bias_parameters(f"{block}.{norm}", (a.hidden,), sharded=False)
        if a.multi_query:
            yield from _weight_and_bias_parameters(f"{block}.attn.qkv.q", (a.hidden, a.hidden), sharded=True)
            yield from _weight_and_bias_parameters(f"{block}.attn.qkv.kv", (2 * a.kv_size, a.hidden), sharded=False)
            yield from _row_linear_parameters(f"{block}.attn.o", (a.hidden, a.hidden))
        else:
            yield from _weight_and_bias_parameters(
                f"{block}.attn.query_key_value", (a.hidden + 2 * a.kv_size, a.hidden), sharded=True
            )
            yield from _row_linear_parameters(f"{block}.attn.dense", (a.hidden, a.hidden))
        yield from _weight_and_bias_parameters(f"{block}.ff.c_fc", (a.intermediate, a.hidden), sharded=True)
        yield from _row_linear_parameters(f"{block}.ff.c_proj", (a.hidden, a.intermediate))
    yield from _weight_and_bias_parameters("model.final_layer_norm.pp_block", (a.hidden,), sharded=False)


def _weight_and_bias_parameters(module: str, shape: tuple[int, ...], *, sharded: bool) -> Iterator[ParameterSpec]:
    yield ParameterSpec(f"{module}.weight", shape, sharded=sharded)
    yield ParameterSpec(f"{module}.bias", shape[:1], sharded=sharded)


def _row_linear_parameters(module: str, shape: tuple[int, ...]) -> Iterator[ParameterSpec]:
    yield ParameterSpec(f"{module}.weight", shape, sharded=True)
    yield ParameterSpec(f"{module}.bias", shape[:1], sharded=False)

"""Tensors of a Hugging Face checkpoint under nanotron's names.

The decoder has nanotron's fused matrices. A fused matrix of such a checkpoint has its parts (q, k and v; gate and up) as
shards, so that it is read like one that tensor parallelism has split.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from suites.checkpoint.architecture import Architecture, ParameterSpec
from suites.checkpoint.model_config_reader import UnscorableCheckpoint
from suites.checkpoint.shard_headers import (
    BYTES_PER_ELEMENT,
    IndexRange,
    Shard,
    ShardHeader,
    ShardPiece,
    describe_unusable_type,
)
from suites.common.formatting import format_names

HEAD_NAME = "lm_head.weight"

_DERIVED_NAME_ENDINGS = (".rotary_emb.inv_freq",)
"""Buffers that older versions saved, and that follow from the config."""


class StoredTensor(NamedTuple):
    """A tensor as a file has it."""

    file: str
    header: ShardHeader

    def to_shard(self, pieces: tuple[ShardPiece, ...]) -> Shard:
        """The tensor as a shard of a larger one."""
        return Shard(self.file, self.header.dtype, self.header.shape, self.header.offset_bytes, pieces)

    def to_whole_shard(self) -> tuple[Shard, ...]:
        """The tensor as the only shard of itself."""
        box = tuple((0, size) for size in self.header.shape)
        return (self.to_shard((ShardPiece(box, box),)),)


class _Rows(NamedTuple):
    """Rows of a stored tensor, and where they belong."""

    source: IndexRange
    target: IndexRange


class _Part(NamedTuple):
    """A stored tensor that is part of a parameter; all of it where no rows are named."""

    name: str
    rows: tuple[_Rows, ...] = ()


def map_tensors(arch: Architecture, stored: Mapping[str, StoredTensor]) -> dict[str, tuple[Shard, ...]] | None:
    """Nanotron's parameter -> its shards in the files.

    None where the files hold other tensors than the architecture has: then only transformers can tell what they mean.
    Raises UnscorableCheckpoint where some are missing, and none is surplus, or where one is of integers.
    """
    parts = {parameter.name: tuple(_list_parts(arch, parameter.name)) for parameter in arch.parameters()}
    expected = {part.name for members in parts.values() for part in members}
    present = {name for name in stored if not name.endswith(_DERIVED_NAME_ENDINGS)}
    # A tied model with a head of its own: transformers decides which of the two counts.
    if present - expected:
        return None
    if missing := sorted(expected - present):
        raise UnscorableCheckpoint(f"lacks {format_names(missing, limit=3)}, which config.json implies")
    for name in sorted(expected):
        tensor = stored[name]
        if tensor.header.dtype not in BYTES_PER_ELEMENT:  # buffers may have other types, and weights may not
            raise UnscorableCheckpoint(describe_unusable_type(f"{tensor.file}: {name[:120]}", tensor.header.dtype))
    tensors = {}
    for parameter in arch.parameters():
        shards = _build_shards(parameter, parts[parameter.name], stored)
        if shards is None:
            return None
        tensors[parameter.name] = shards
    return tensors


def _build_shards(
    parameter: ParameterSpec, parts: tuple[_Part, ...], stored: Mapping[str, StoredTensor]
) -> tuple[Shard, ...] | None:
    """The shards; None for another shape than the architecture has, or for parts of several types."""
    columns = tuple((0, size) for size in parameter.shape[1:])
    shards, covered_rows = [], 0
    for part in parts:
        tensor = stored[part.name]
        rows = part.rows or (_Rows((0, parameter.shape[0]), (0, parameter.shape[0])),)
        row_count = sum(row.source[1] - row.source[0] for row in rows)
        if tensor.header.shape != (row_count, *parameter.shape[1:]):
            return None
        covered_rows += row_count
        shards.append(tensor.to_shard(tuple(ShardPiece((row.source, *columns), (row.target, *columns)) for row in rows)))
    is_whole = covered_rows == parameter.shape[0] and len({shard.dtype for shard in shards}) == 1
    return tuple(shards) if is_whole else None


def _list_parts(arch: Architecture, name: str) -> Iterator[_Part]:
    """The stored tensors of one of nanotron's parameters."""
    module, _, kind = name.removeprefix("model.").rpartition(".")
    if module in _OUTSIDE_LAYERS:
        yield _Part(f"{_OUTSIDE_LAYERS[module]}.{kind}")
        return
    _, layer, _, submodule = module.split(".", 3)
    prefix = f"model.layers.{layer}"
    if submodule == "attn.qkv_proj":
        yield from _stack_rows(
            f"{prefix}.self_attn", kind, {"q_proj": arch.hidden, "k_proj": arch.kv_size, "v_proj": arch.kv_size}
        )
    elif submodule == "mlp.gate_up_proj":
        yield from _stack_rows(f"{prefix}.mlp", kind, {"gate_proj": arch.intermediate, "up_proj": arch.intermediate})
    elif submodule == "attn.query_key_value":
        yield from _interleave_groups(arch, f"{prefix}.self_attn", kind)
    else:
        yield _Part(f"{prefix}.{_IN_LAYER.get(submodule, submodule)}.{kind}")


_OUTSIDE_LAYERS = {
    "token_position_embeddings.pp_block.token_embedding": "model.embed_tokens",
    "token_embeddings.pp_block.token_embedding": "model.embed_tokens",
    "final_layer_norm.pp_block": "model.norm",
    "lm_head.pp_block": "lm_head",
}

_IN_LAYER = {
    "attn.o_proj": "self_attn.o_proj",
    "attn.dense": "self_attn.o_proj",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "ff.c_fc": "mlp.c_fc",
    "ff.c_proj": "mlp.c_proj",
}


def _stack_rows(prefix: str, kind: str, row_counts: Mapping[str, int]) -> Iterator[_Part]:
    start = 0
    for name, count in row_counts.items():
        yield _Part(f"{prefix}.{name}.{kind}", (_Rows((0, count), (start, start + count)),))
        start += count


def _interleave_groups(arch: Architecture, prefix: str, kind: str) -> Iterator[_Part]:
    """Starcoder2's rows: for each key head its queries, its key, its value."""
    queries = arch.heads // arch.kv_heads * arch.head_dim
    group_rows = queries + 2 * arch.head_dim
    offset = 0
    for name, count in (("q_proj", queries), ("k_proj", arch.head_dim), ("v_proj", arch.head_dim)):
        rows = tuple(
            _Rows((group * count, (group + 1) * count), (group * group_rows + offset, group * group_rows + offset + count))
            for group in range(arch.kv_heads)
        )
        yield _Part(f"{prefix}.{name}.{kind}", rows)
        offset += count

"""Headers and file names, honest and hostile: what is wrong is Torn or Refused, never anything else."""

import json
import struct
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suites.checkpoint.architecture import ParameterSpec
from suites.checkpoint.model_config_reader import UnscorableCheckpoint
from suites.checkpoint.shard_files import parse_shard_name
from suites.checkpoint.shard_headers import MAX_HEADER_BYTES, IncompleteFile, parse_shape, read_header, read_shards
from support.faults.fuzzed_files import assert_memory_below
from support.models.nanotron_checkpoint import RawTensor, encode_safetensors

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NUMBERS = st.sampled_from([0, 1, 2, 8, 32, 64, -1, 2**40, 2**63, 10**30, True, 1.0, None, "8"])
HEADERS = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "I64", "F999", 3, None]),
                "shape": st.lists(NUMBERS, max_size=9) | VALUES,
                "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3) | VALUES,
            }
        )
        | VALUES,
        "__metadata__": VALUES,
    }
)
QUIETLY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def file_of(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def looked_at(tmp_path, content: bytes) -> str:
    path = tmp_path / "model_weight.safetensors"
    path.write_bytes(content)

    def act():
        try:
            read_shards(ParameterSpec("model.norm.weight", (8,), sharded=False), (path.name,), tmp_path)
        except (IncompleteFile, UnscorableCheckpoint) as error:
            return str(error)
        return "fine"

    return assert_memory_below(act, 100 * len(content) + (1 << 17))  # an empty list takes 3 bytes in JSON and 64 in Python


@QUIETLY
@given(header=HEADERS, data=st.binary(max_size=64))
def test_no_header_brings_it_down(header, data, tmp_path):
    assert looked_at(tmp_path, file_of(json.dumps(header).encode(), data))


@QUIETLY
@given(content=st.binary(max_size=128))
def test_no_bytes_bring_it_down(content, tmp_path):
    assert looked_at(tmp_path, content) != "fine"


@QUIETLY
@given(
    pairs=st.text(alphabet="0123456789,|#;None-_ ", max_size=60),
    shape=st.text(alphabet="()0123456789, np.int64", max_size=30) | st.just("(8,)"),
)
def test_no_slices_bring_it_down(pairs, shape, tmp_path):
    metadata = {"local_global_slices_pairs": pairs, "unsharded_shape": shape}
    assert looked_at(tmp_path, encode_safetensors(RawTensor("F32", (8,), b"\0" * 32), metadata))


def test_a_header_longer_than_its_file_allocates_nothing(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(file_of(b"{}", length=2**62))
    with path.open("r+b") as file:
        file.truncate(1 << 34)
    tracemalloc.start()
    with pytest.raises(IncompleteFile, match="truncated shard"):
        read_header(path, "model/x.safetensors")
    path.write_bytes(file_of(b"{}", length=1 << 33))
    with path.open("r+b") as file:
        file.truncate(1 << 34)
    with pytest.raises(UnscorableCheckpoint, match="a header of 8589934592 bytes"):
        read_header(path, "model/x.safetensors")
    assert tracemalloc.get_traced_memory()[1] < MAX_HEADER_BYTES
    tracemalloc.stop()


def test_thousands_of_slices_are_refused_before_they_are_compared(tmp_path):
    metadata = {"local_global_slices_pairs": ";".join(["0,1,None#0,1,None"] * 5000), "unsharded_shape": "(8,)"}
    assert "more than 1024 slices" in looked_at(tmp_path, encode_safetensors(RawTensor("F32", (8,), b"\0" * 32), metadata))


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ("None,None,None#0,4,None", "joins boxes of different sizes"),
        ("0,4,None#0,4,None", "hold 4 of 8 elements"),
        ("0,4,None#0,4,None;4,8,None#2,6,None", "overlap"),
        ("0,4,None#0,4,None;0,4,None#4,8,None", "overlap"),  # one half of the file twice
        ("0,2,None#0,2,None;0,2,None#2,4,None;0,2,None#4,6,None;0,2,None#6,8,None", "overlap"),
        ("0,8,None#0,9,None", "does not fit a size of 8"),
        ("0,8,2#0,8,None", "does not fit"),
        ("0,8,None|None,None,None#0,8,None", "does not fit shape"),
        ("0,8,None", "no #"),
    ],
)
def test_slices_that_do_not_make_the_tensor_are_refused(pairs, why, tmp_path):
    metadata = {"local_global_slices_pairs": pairs, "unsharded_shape": "(8,)"}
    assert why in looked_at(tmp_path, encode_safetensors(RawTensor("F32", (8,), b"\0" * 32), metadata))


@pytest.mark.parametrize("elements", [2, 12])
def test_slices_that_do_not_make_the_file_are_refused(elements, tmp_path):
    """A tensor of four times its file, or a file of which a part belongs nowhere."""
    pairs = "0,8,None#0,8,None" if elements > 8 else ";".join(f"0,2,None#{n},{n + 2},None" for n in (0, 2, 4, 6))
    metadata = {"local_global_slices_pairs": pairs, "unsharded_shape": "(8,)"}
    assert f"hold 8 of {elements} elements" in looked_at(
        tmp_path, encode_safetensors(RawTensor("F32", (elements,), bytes(4 * elements)), metadata)
    )


@pytest.mark.parametrize("shape", ["(8,)", "(np.int64(8),)"])
def test_slices_that_make_the_tensor_are_fine(shape, tmp_path):
    metadata = {"local_global_slices_pairs": "0,4,None#4,8,None;4,8,None#0,4,None", "unsharded_shape": shape}
    assert looked_at(tmp_path, encode_safetensors(RawTensor("F32", (8,), b"\0" * 32), metadata)) == "fine"


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("(128, 64)", (128, 64)),
        ("(np.int64(128), 64)", (128, 64)),
        ("(np.int64(128), np.int32(64))", (128, 64)),
        ("(64,)", (64,)),
        ("()", ()),
        ("128, 64", None),
        ("(128; 64)", None),
        ("(-1, 64)", None),
        ("(" + "9" * 5000 + ")", None),
    ],
)
def test_shapes_as_nanotron_writes_them_with_either_numpy(text, shape):
    assert parse_shape(text) == shape


PLACE = "model/model/decoder/3/pp_block/attn/qkv_proj"


@pytest.mark.parametrize(
    ("base", "found"),
    [
        ("model_weight.safetensors", ("weight", None, 0)),
        ("model_bias_pp-rank-1-of-2_tp-rank-3-of-4.safetensors", ("bias", (1, 2, 3, 4, 0, 1), 0)),
        ("model_model_weight.safetensors_pp-rank-0-of-1_tp-rank-0-of-2.safetensors", ("weight", (0, 1, 0, 2, 0, 1), 1)),
        ("model_merged_gate_up_proj.safetensors", ("merged_gate_up_proj", None, 0)),
        ("model_weight.safetensors.lock", None),
        (".tmpAb12", None),
        ("optimizer_weight.safetensors", None),
    ],
)
def test_file_names_in_both_spellings(base, found):
    name = parse_shard_name(f"{PLACE}/{base}")
    if found is None:
        assert name is None
    else:
        assert (name.parameter, name.ranks, name.name_format) == (
            f"model.decoder.3.pp_block.attn.qkv_proj.{found[0]}",
            *found[1:],
        )


@QUIETLY
@given(name=st.text(max_size=80))
def test_no_file_name_brings_it_down(name):
    parsed = parse_shard_name(f"{PLACE}/{name}")
    assert parsed is None or parsed.parameter

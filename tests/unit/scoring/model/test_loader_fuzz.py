"""Loading a checkpoint with odd files: a model or a problem in one line, and no more memory than the files hold."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.loading import MIB, read_memory_bytes
from scoring.model.loader import load_causal_lm
from suites.common.errors import UserError
from support.faults.fuzzed_files import HEAD_SHARD, MODEL_CONFIG_KEYS, MOE_CONFIGS, ODD_VALUES, SHAPE_TEXTS, SLICE_PAIR_TEXTS
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG, RawTensor, encode_safetensors, write_tiny_checkpoint

pytestmark = pytest.mark.scoring
QUIETLY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLAUSIBLE = ODD_VALUES | st.sampled_from([1e-6, 0.5, 4.0, 1e6, "gelu", "relu", [0], [-1]])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("loaded") / "20", 20)


@pytest.fixture
def folder(whole):
    """Loaded once; its files are as they were after the test."""
    kept = {name: (whole / name).read_bytes() for name in ("model_config.json", HEAD_SHARD)}
    load_causal_lm(whole, device="cpu")
    yield whole
    for name, content in kept.items():
        (whole / name).write_bytes(content)


def loaded(folder):
    """Its logits of four tokens, or None where it is refused; the process does not grow by more than a few times its files."""
    grown = []
    while not grown or (grown[-1] >= 16 * MIB and len(grown) < 3):  # what is made once is not the load's
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is used now
        before, model, refused = read_memory_bytes("VmRSS"), None, ""
        try:
            model = load_causal_lm(folder, device="cpu")
        except UserError as problem:
            refused = str(problem)
        grown.append(read_memory_bytes("VmHWM") - before)
    assert min(grown) < 16 * MIB, grown
    assert "\n" not in refused
    if model is None:
        return None
    logits = model.logits(model.hidden_states(torch.arange(4)[None]))
    assert logits.shape == (1, 4, model.vocab_size)
    return logits


@QUIETLY
@given(changes=st.dictionaries(MODEL_CONFIG_KEYS, PLAUSIBLE | MOE_CONFIGS, min_size=1, max_size=3))
def test_no_model_config_brings_a_load_down(changes, folder):
    config = {**BYTE_LEVEL_CONFIG, **changes}
    if config["num_hidden_layers"] in (1, 2, 3):
        (folder / "model_config.json").write_text(json.dumps(config))
        loaded(folder)


@QUIETLY
@given(
    pairs=SLICE_PAIR_TEXTS
    | st.just("0,128,None|None,None,None#128,256,None|None,None,None;128,256,None|0,8,None#0,128,None|0,8,1"),
    shape=SHAPE_TEXTS,
)
def test_no_slices_bring_a_load_down(pairs, shape, folder):
    metadata = {"local_global_slices_pairs": pairs, "unsharded_shape": shape}
    (folder / HEAD_SHARD).write_bytes(encode_safetensors(RawTensor("F32", (256, 8), bytes(8192)), metadata))
    loaded(folder)


@QUIETLY
@given(
    dtype=st.sampled_from(["F64", "F32", "BF16", "F16", "I64", "F8_E4M3"]),
    shape=st.sampled_from([(256, 8), (2048,), (8, 256), (256, 8, 1)]),
)
def test_no_type_or_shape_of_a_shard_brings_a_load_down(dtype, shape, folder):
    size = 2048 * {"F64": 8, "I64": 8, "F32": 4, "F8_E4M3": 1}.get(dtype, 2)
    (folder / HEAD_SHARD).write_bytes(encode_safetensors(RawTensor(dtype, shape, bytes(size))))
    found = loaded(folder)
    assert (found is not None) == (dtype in {"F64", "F32", "BF16", "F16"} and shape == (256, 8))

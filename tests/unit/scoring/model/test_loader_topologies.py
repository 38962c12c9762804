"""One Llama in every way that nanotron may have saved it: the same logits, transformers' own."""

import json
import re
import struct

import pytest
import torch

from scoring.model.loader import load_causal_lm
from suites.checkpoint.completeness import Completeness, inspect_checkpoint
from support.models.hf_to_nanotron import TINY_SIZES, write_hf_checkpoint
from support.models.transformers_parity import assert_same_logits, load_from_nanotron, make_transformers_model, randomize_weights

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

SIZES = {key: size for key, size in TINY_SIZES.items() if key != "num_key_value_heads"}


def llama(*, kv_heads=2, tied=False, **more):
    return randomize_weights(
        make_transformers_model("Llama", **SIZES, num_key_value_heads=kv_heads, tie_word_embeddings=tied, **more)
    )


def load_and_compare(folder, theirs):
    ours = load_causal_lm(folder, device="cpu")
    assert_same_logits(ours, theirs)
    return ours


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 2)])
@pytest.mark.parametrize("tied", [False, True])
def test_any_topology_tied_or_not_with_either_rope(tied, tp, pp, interleaved, tmp_path):
    theirs = llama(kv_heads=4, tied=tied)
    folder = write_hf_checkpoint(theirs, tmp_path / "20", tokenizer="t", seq_len=64, tp=tp, pp=pp, interleaved=interleaved)
    ours = load_and_compare(folder, theirs)
    assert (ours.description["tp"], ours.description["pp"], ours.description["tied"]) == (tp, pp, tied)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_one_or_some_or_all_key_heads_in_the_oldest_spelling(kv_heads, tmp_path):
    theirs = llama(kv_heads=kv_heads)
    folder = write_hf_checkpoint(theirs, tmp_path / "20", tokenizer="t", seq_len=64, tp=1, version="1.3")
    assert list(folder.rglob("model_model_weight.safetensors_pp-rank-*"))
    load_and_compare(folder, theirs)


def test_headers_as_numpy_2_writes_them(tmp_path):
    theirs = llama()
    folder = write_hf_checkpoint(theirs, tmp_path / "20", tokenizer="t", seq_len=64, tp=2)
    for file in folder.rglob("model_*tp-rank-*.safetensors"):
        raw = file.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        metadata = header["__metadata__"]
        metadata["unsharded_shape"] = re.sub(r"(\d+)", r"np.int64(\1)", metadata["unsharded_shape"], count=1)
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    load_and_compare(folder, theirs)


def test_what_zero_1_leaves_beside_the_weights_is_none_of_ours(tmp_path):
    theirs = llama()
    folder = write_hf_checkpoint(theirs, tmp_path / "20", tokenizer="t", seq_len=64, tp=2)
    for rank in range(4):
        (folder / "optimizer" / f"optimizer_pp-0-of-1_dp-{rank}-of-4_tp-0-of-2_exp-0-of-1.pt").write_bytes(b"sharded over dp")
    assert inspect_checkpoint(folder, now=2e9, settle_seconds=0.0, forced=True).kind is Completeness.COMPLETE
    assert load_and_compare(folder, theirs).description["ignored"] == []


def test_bfloat16_weights_are_exact_in_float32(tmp_path):
    theirs = llama(tied=True)
    for parameter in theirs.parameters():
        parameter.data = parameter.data.bfloat16()
    folder = write_hf_checkpoint(theirs, tmp_path / "20", tokenizer="t", seq_len=64, tp=2, pp=2)
    for parameter in theirs.parameters():
        parameter.data = parameter.data.float()
    assert load_and_compare(folder, theirs).description["checkpoint_dtypes"] == ["BF16"]


def test_keys_that_are_absent_mean_what_nanotron_meant(tmp_path):
    """Saves before the keys existed: theta 1e4, interleaved pairs, as many key heads as heads."""
    theirs = llama(kv_heads=4, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0})
    folder = write_hf_checkpoint(theirs, tmp_path / "20", tokenizer="t", seq_len=64, interleaved=True)
    path = folder / "model_config.json"
    kept = json.loads(path.read_text())
    for key in ("rope_theta", "rope_interleaved", "num_key_value_heads"):
        del kept[key]
    path.write_text(json.dumps(kept))
    load_and_compare(folder, theirs)


@pytest.mark.parametrize("tp", [1, 2])
def test_layers_without_rope_are_transformers_smollm3(tp, tmp_path):
    theirs = randomize_weights(
        make_transformers_model(
            "SmolLM3",
            **SIZES,
            num_key_value_heads=2,
            no_rope_layer_interval=2,
            tie_word_embeddings=True,
            pad_token_id=None,
            use_sliding_window=False,
        )
    )
    model_config = {
        **SIZES,
        "is_llama_config": False,
        "is_qwen2_config": True,
        "no_rope_layer": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": theirs.config.rms_norm_eps,
        "rope_theta": theirs.config.rope_parameters["rope_theta"],
        "tie_word_embeddings": True,
    }
    assert_same_logits(load_from_nanotron(tmp_path, model_config, theirs.state_dict(), tp=tp), theirs)

"""Experts split over expert-parallel ranks: the files that nanotron's rules give them, and the same logits."""

import json
import re
import shutil
import struct

import pytest
import torch

from scoring.model.loader import load_causal_lm
from suites.checkpoint.completeness import Completeness, inspect_checkpoint
from suites.common.errors import ExitCode, UserError
from support.models import hf_to_nanotron
from support.models import moe as mixtures
from support.models.nanotron_checkpoint import (
    DTYPE_BYTES,
    RawTensor,
    encode_safetensors,
    make_tiny_checkpoint_arguments,
    write_checkpoint,
)
from support.models.transformers_parity import assert_same_logits, randomize_weights

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

SIZES = {**hf_to_nanotron.TINY_SIZES, "num_hidden_layers": 3}
KEYS = {"is_llama_config": False, "is_qwen2_config": True, "rms_norm_eps": 1e-6, "attention_bias": True}
EXPERTS = 8


@pytest.fixture(scope="module")
def theirs():
    return randomize_weights(mixtures.make_qwen2_moe(SIZES, num_experts=EXPERTS))


def write_mixture(folder, theirs, *, ep, tp=1, pp=1):
    """A checkpoint whose experts are whole, with an ep in its config.yaml."""
    moe, tensors = mixtures.convert_moe(theirs)
    arguments = make_tiny_checkpoint_arguments(
        20,
        model_config={**SIZES, **KEYS, "moe_config": moe},
        tp=tp,
        pp=pp,
        config_extra={"parallelism": {"expert_parallel_size": ep}},
    )
    return write_checkpoint(folder / "20", **{**arguments, "tensors": tensors})


def read_tensor(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    tensor = json.loads(raw[8 : 8 + length])["data"]
    return RawTensor(tensor["dtype"], tuple(tensor["shape"]), raw[8 + length :])


def list_expert_files(folder):
    return sorted(folder.glob("model/model/decoder/*/pp_block/mlp/experts/model_merged_*.safetensors"))


def reshard(folder, *, ep, tp=1, pp=1, group="ep", layers=3):
    """Split whole experts along their first dimension, and name the files as nanotron's get_path does.

    ``group``: ``ep`` is written by tp rank 0, ``replicas`` by every tp rank alike, and ``tp_and_ep`` splits over both, in
    the order of the process group's ranks: tp runs fastest.
    """
    for path in (path for path in list_expert_files(folder) if "_pp-rank-" not in path.name):
        whole = read_tensor(path)
        layer = int(re.search(r"decoder/(\d+)/", str(path))[1])
        parts = ep * tp if group == "tp_and_ep" else ep
        size, row_bytes = whole.shape[0] // parts, len(whole.data) // whole.shape[0]
        assert row_bytes == DTYPE_BYTES[whole.dtype] * whole.shape[1] * whole.shape[2]
        for ep_rank in range(ep):
            for tp_rank in range(1 if group == "ep" else tp):
                part = ep_rank * tp + tp_rank if group == "tp_and_ep" else ep_rank
                first = part * size
                full = "None,None,None|None,None,None"
                metadata = {
                    "version": "1.5",
                    "unsharded_shape": str(whole.shape),
                    "local_global_slices_pairs": f"None,None,None|{full}#{first},{first + size},None|{full}",
                }
                data = whole.data[first * row_bytes : (first + size) * row_bytes]
                stem = path.name.removesuffix(".safetensors")
                ranks = f"_pp-rank-{layer * pp // layers}-of-{pp}_tp-rank-{tp_rank}-of-{tp}_exp-rank-{ep_rank}-of-{ep}"
                shard = encode_safetensors(RawTensor(whole.dtype, (size, *whole.shape[1:]), data), metadata)
                path.with_name(f"{stem}{ranks}.safetensors").write_bytes(shard)
        path.unlink()
    return folder


TOPOLOGIES = {
    "2 ranks": {"ep": 2},
    "4 ranks": {"ep": 4},
    "an expert a rank, over 3 stages": {"ep": 8, "pp": 3},
    "written by tp rank 0": {"ep": 2, "tp": 2},
    "written by every tp rank": {"ep": 2, "tp": 2, "pp": 3, "group": "replicas"},
    "split over tp too": {"ep": 2, "tp": 2, "group": "tp_and_ep"},
    "an expert a rank of both": {"ep": 4, "tp": 2, "group": "tp_and_ep"},
}


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_experts_of_any_number_of_ranks_give_the_same_logits(name, theirs, tmp_path):
    topology = TOPOLOGIES[name]
    sizes = {key: size for key, size in topology.items() if key != "group"}
    folder = reshard(write_mixture(tmp_path, theirs, **sizes), **topology)
    assert inspect_checkpoint(folder, now=2e9, settle_seconds=0.0, forced=True).kind is Completeness.COMPLETE
    ours = load_causal_lm(folder, device="cpu")
    assert_same_logits(ours, theirs)
    assert ours.description["ep"] == topology["ep"]
    assert ours.description["ignored"] == []


def test_files_of_another_number_of_ranks_are_left_alone(theirs, tmp_path):
    folder = write_mixture(tmp_path, theirs, ep=2)
    whole = shutil.copytree(folder, tmp_path / "whole" / "20")
    for number in (4, 2):
        reshard(folder, ep=number)
        for path in list_expert_files(whole):
            shutil.copy2(path, folder / path.relative_to(whole))
    ours = load_causal_lm(folder, device="cpu")
    assert_same_logits(ours, theirs)
    ignored = ours.description["ignored"]
    assert sum("_exp-rank-" in name and name.endswith("-of-4.safetensors") for name in ignored) == 2 * 2 * 4
    assert sum("_exp-rank-" not in name for name in ignored) == 2 * 2  # whole files of an earlier save


@pytest.mark.parametrize(
    ("lost", "named"), [("_exp-rank-1-of-2", "expert rank 1 of 2"), ("_exp-rank-0-of-2", "expert rank 0 of 2")]
)
def test_a_rank_that_has_not_written_yet_is_named(lost, named, theirs, tmp_path):
    folder = reshard(write_mixture(tmp_path, theirs, ep=2), ep=2)
    next(path for path in list_expert_files(folder) if lost in path.name).unlink()
    found = inspect_checkpoint(folder, now=2e9, settle_seconds=0.0, forced=True)
    assert found.kind is Completeness.NOT_YET
    assert re.search(rf"model\.decoder\.0\.pp_block\.mlp\.experts\.merged_\w+_proj lacks the shard of {named}", found.reason)


def test_experts_of_one_rank_under_the_name_of_all_are_refused(theirs, tmp_path):
    folder = reshard(write_mixture(tmp_path, theirs, ep=2), ep=2)
    for path in list_expert_files(folder):  # as nanotron's main saves them: every rank writes the same file
        if "_exp-rank-1" in path.name:
            path.with_name(path.name.partition("_pp-rank")[0] + ".safetensors").write_bytes(encode_safetensors(read_tensor(path)))
        path.unlink()
    with pytest.raises(UserError, match="only the experts of one rank were saved") as caught:
        load_causal_lm(folder, device="cpu")
    assert caught.value.code is ExitCode.CANNOT_SCORE


def test_ranks_that_overlap_without_being_equal_are_refused(theirs, tmp_path):
    folder = reshard(write_mixture(tmp_path, theirs, ep=2), ep=2)
    first, second = (next(path for path in list_expert_files(folder) if f"_exp-rank-{rank}-of-2" in path.name) for rank in (0, 1))
    second.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match="its 1 slices hold"):
        load_causal_lm(folder, device="cpu")

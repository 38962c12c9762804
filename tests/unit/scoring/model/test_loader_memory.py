"""Loading takes no more memory than the weights and little more than the largest tensor."""

import threading
import weakref

import pytest
import torch

from benchmarks.loading import MIB, measure_loading_cases
from scoring.model import loader as checkpoint
from scoring.model import tensor_reader
from support.models.nanotron_checkpoint import make_tiny_checkpoint_arguments, write_checkpoint

pytestmark = pytest.mark.scoring


@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
def test_a_load_holds_one_tensor_besides_the_weights(stored, tmp_path):
    (row,) = measure_loading_cases(0.15, "cpu", tmp_path, [(stored, "float32", 2)])
    assert row["weights"] >= 0.2e9
    assert row["beyond"] <= 1.2 * row["largest_tensor"] + 24 * MIB
    assert row["beyond"] <= row["allowed"]


class Held:
    """Bytes of the tensors that were read from files and are still there, and the most that there ever were."""

    def __init__(self, merge):
        self.merge, self.now, self.most, self.lock = merge, 0, 0, threading.Lock()

    def add(self, count):
        with self.lock:
            self.now += count
            self.most = max(self.most, self.now)

    def __call__(self, folder, shape, shards):
        size = torch.Size(shape).numel() * tensor_reader._TORCH_DTYPES[shards[0].dtype].itemsize
        self.add(size)
        whole = self.merge(folder, shape, shards)
        weakref.finalize(whole, self.add, -size)
        return whole


@pytest.mark.parametrize("largest", ["vocab_size", "intermediate_size"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_was_read_and_is_not_yet_a_weight_is_one_tensor_at_most(elsewhere, largest, tmp_path, monkeypatch):
    """``elsewhere``: weights lie on another device, for which a copy stands here; else their type is changed."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "vocab_size": 64, "intermediate_size": 64, largest: 2048}
    described = make_tiny_checkpoint_arguments(20, model_config=sizes, tp=2)
    tensors = {
        name: torch.frombuffer(bytearray(raw.data), dtype=torch.float32).view(raw.shape)
        for name, raw in described["tensors"].items()
    }
    folder = write_checkpoint(tmp_path / "20", **{**described, "tensors": tensors})
    if elsewhere:
        monkeypatch.setattr(checkpoint, "_move_to_device", lambda device, whole: whole.clone())  # noqa: ARG005  the device that is none
    really_merge, most = tensor_reader._merge_shards, []
    for _ in range(3):  # a reading thread may let go of what it read a moment late
        held = Held(really_merge)
        monkeypatch.setattr(tensor_reader, "_merge_shards", held)
        model = checkpoint.load_causal_lm(folder, device="cpu", dtype="float32" if elsewhere else "bfloat16")
        assert held.now == 0
        most.append(held.most)
    stored = max(parameter.numel() for parameter in (*model.body.parameters(), model.head)) * 4
    assert stored <= min(most) <= 1.2 * stored


@pytest.mark.parametrize("stored", [pytest.param("bfloat16", marks=pytest.mark.slow), "float32"])
def test_an_average_of_four_holds_two_tensors_besides_the_weights(stored, tmp_path):
    (row,) = measure_loading_cases(0.15, "cpu", tmp_path, [(stored, "float32", 2)], members=4)
    assert row["weights"] >= 0.2e9
    assert row["beyond"] <= 1.2 * row["largest_tensor"] + 24 * MIB

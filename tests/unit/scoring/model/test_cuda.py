"""What only a GPU can show. Skipped where there is none; `pytest -m cuda` on a GPU node runs just these."""

import os

import pytest
import torch

from benchmarks import gpu
from benchmarks.loading import measure_loading_cases
from scoring.inference import verify
from support.models.tiny_llama_items import LLAMA_CHECKPOINT

pytestmark = [
    pytest.mark.scoring,
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"),
]


@pytest.mark.parametrize(("stored", "loaded"), [("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "bfloat16")])
def test_host_memory_beyond_imports_stays_under_one_tensor_and_half_a_gibibyte(stored, loaded, tmp_path):
    (row,) = measure_loading_cases(1.0, "cuda", tmp_path, [(stored, loaded, 2)])
    assert row["allowed"] == pytest.approx(1.2 * row["largest_tensor"] + 2**29)
    assert row["beyond"] <= row["allowed"]


def test_log_probabilities_are_the_cpus():
    found = gpu.measure_dtype_parity("cuda")
    assert found["float32_largest"] <= 1e-3
    assert found["bfloat16_mean"] <= 0.05


@pytest.mark.skipif("NANOTRON_ROOT" not in os.environ, reason="NANOTRON_ROOT is not set")
def test_nanotron_itself_agrees():
    found = verify.verify_logits(LLAMA_CHECKPOINT)
    assert found.agree, found.verdict

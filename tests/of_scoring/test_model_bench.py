"""The GPU benchmark runs anywhere, small; its formula is checked by counting."""

import json

import pytest
import torch

from bench import gpu
from suites.architecture import understand
from support.nanotron_layout import BYTE_LEVEL

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)


def test_the_gpu_benchmark_runs_small_on_a_cpu(tmp_path, capsys):
    assert gpu.main(["--device", "cpu", "--tiny", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert json.loads(capsys.readouterr().out) == found
    assert found["speed"]["tokens_per_s"] > 0
    assert found["speed"]["mfu"] is None  # nobody says what this CPU could do
    assert found["parity"]["float32_largest"] == 0.0
    assert 0 < found["parity"]["bfloat16_mean"] < 0.05


def test_without_cuda_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 69
    assert "no CUDA here" in capsys.readouterr().err


def test_flop_of_a_token_are_twice_the_weights_of_its_products():
    architecture = understand({**BYTE_LEVEL, **gpu.FULL})
    hidden, inner, layers, vocab = 2048, 8192, 24, 49152
    products = layers * (4 * hidden * hidden + 3 * hidden * inner) + vocab * hidden
    norms = (2 * layers + 1) * hidden
    scores_and_values = layers * 2 * 2 * (4096 / 2) * hidden
    counted = gpu.flop_per_token(architecture, products + vocab * hidden + norms, 4096)
    assert counted == pytest.approx(2 * products + scores_and_values, rel=1e-4)

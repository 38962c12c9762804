"""The GPU benchmark runs anywhere, small; its formula is checked by counting."""

import json

import pytest
import torch

from benchmarks import gpu
from scoring.model.flops import count_flop_per_token
from suites.checkpoint.architecture import parse_architecture
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)


@pytest.mark.slow
def test_the_gpu_benchmark_runs_small_on_a_cpu(tmp_path, capsys):
    assert gpu.main(["--device", "cpu", "--size", "tiny", "--into", str(tmp_path), "--scratch", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())["gpu"]
    said = json.loads(capsys.readouterr().out)
    assert {key: found[key] for key in said} == said
    assert found["speed"]["tokens_per_s"] > 0
    assert found["speed"]["mfu"] is None  # nobody says what this CPU could do
    assert found["parity"]["float32_largest"] == 0.0
    assert 0 < found["parity"]["bfloat16_mean"] < 0.05
    assert [row["devices"] for row in found["scaling"]] == [1, 2]
    assert {"import_torch", "load", "rest_until_first_batch", "until_first_batch"} <= set(found["start"])
    assert found["stage3_minutes"] > 0
    told = (tmp_path / "RESULTS.md").read_text()
    for words in ("size tiny", "a request a choice", "Each count of processes gave the same bits", "minutes\na checkpoint"):
        assert words in told
    assert list(tmp_path.glob("gpu-*")) == []


def test_without_cuda_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 69
    assert "no CUDA here" in capsys.readouterr().err


def test_flop_of_a_token_are_twice_the_weights_of_its_products():
    architecture = parse_architecture({**BYTE_LEVEL_CONFIG, **gpu.FULL_SIZES})
    hidden, inner, layers, vocab = 2048, 8192, 24, 49152
    products = layers * (4 * hidden * hidden + 3 * hidden * inner) + vocab * hidden
    scores_and_values = layers * 2 * 2 * (4096 / 2) * hidden
    assert count_flop_per_token(architecture, seq_len=4096) == 2 * products + scores_and_values

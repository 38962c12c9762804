"""What a token costs: counted by torch itself, and by hand where it computes more than the formula means."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scoring.model import flops as flop
from scoring.model import linear as products
from scoring.runtime.progress import compute_mfu
from suites.checkpoint.architecture import parse_architecture
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG
from support.models.random_weights import make_random_model

pytestmark = pytest.mark.scoring

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2}
SEQ_LEN = 32


@pytest.mark.parametrize("tied", [True, False])
def test_it_is_what_torch_counts_for_a_full_row(tied, monkeypatch):
    monkeypatch.setattr(products, "HAS_ONEDNN_LINEAR", False)  # torch counts its own products only
    model = make_random_model({**BYTE_LEVEL_CONFIG, **SIZES, "vocab_size": 256, "tie_word_embeddings": tied})
    tokens = torch.zeros(2, SEQ_LEN, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model.logits(model.hidden_states(tokens))
    per_layer = 4 * 64 * SEQ_LEN  # the scores of keys that come later too, which a causal kernel skips
    counted = counter.get_total_flops() / tokens.numel()
    attention = 3 * per_layer if any("attention" in str(name) for name in counter.get_flop_counts()["Global"]) else 0
    found = flop.count_flop_per_token(model.architecture, seq_len=SEQ_LEN)
    assert found == pytest.approx(counted - attention + 3 * per_layer / 2)
    with FlopCounterMode(display=False) as counter:
        model.hidden_states(tokens, output_positions=torch.zeros(1, dtype=torch.int64))
    of_the_one_row = 2 * (64 * 64 + 3 * 64 * 96)
    counted = (counter.get_total_flops() - of_the_one_row) / tokens.numel()
    assert flop.count_flop_per_token(model.architecture, seq_len=None) == counted - attention


def test_of_experts_the_top_k_count():
    experts = {"num_experts": 8, "top_k": 2, "moe_intermediate_size": 32}
    a = parse_architecture(
        {
            **BYTE_LEVEL_CONFIG,
            **SIZES,
            "hidden_size": 64,
            "is_llama_config": False,
            "is_qwen2_config": True,
            "moe_config": experts,
            "vocab_size": 256,
        }
    )
    assert a.experts is not None
    qkv, rest = 64 * (64 + 2 * 32), 64 * 64 + 8 * 64 + 2 * 3 * 64 * 32
    assert flop.count_flop_per_token(a, seq_len=None) == 2 * (3 * qkv + 2 * rest)


def test_a_window_shortens_what_a_query_sees():
    wide, narrow = (
        parse_architecture({**BYTE_LEVEL_CONFIG, **SIZES, "is_llama_config": False, "is_qwen2_config": True, **more})
        for more in ({}, {"sliding_window_size": 8})
    )
    assert narrow.sliding_window == 8
    seen = [min(place + 1, 8) for place in range(SEQ_LEN)]
    saved = flop.count_flop_per_token(wide, seq_len=SEQ_LEN) - flop.count_flop_per_token(narrow, seq_len=SEQ_LEN)
    counted = 3 * 4 * 64 * (SEQ_LEN + 1 - 2 * sum(seen) / SEQ_LEN) / 2
    assert saved == pytest.approx(counted, rel=0.05)


def test_the_peak_is_that_of_the_card(monkeypatch):
    for name, most in (("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM-64GB", 312e12)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert flop.get_peak_flops(torch.device("cuda")) == most
    assert flop.get_peak_flops(torch.device("cpu")) is None
    assert compute_mfu(5e12, 10, 1e12) == 0.5
    assert compute_mfu(5e12, 10, None) is None

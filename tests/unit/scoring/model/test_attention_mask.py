"""Strips hide no key that a query sees, show none that it does not, and attention over them is attention over the whole mask."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from scoring.inference.batching import TreePacker
from scoring.inference.prefix_tree import TokenSpan, build_trees
from scoring.model.attention_mask import BLOCK_QUERIES, full_mask, query_blocks
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG
from support.models.random_weights import make_random_model

pytestmark = pytest.mark.scoring

LLAMA = {
    **BYTE_LEVEL_CONFIG,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
}
QWEN2 = {**LLAMA, "is_llama_config": False, "is_qwen2_config": True, "sliding_window_size": 9}


def batch_of(seed, items, longest, choices):
    """Trees of items whose choices grow from one context, in one batch."""
    draw = np.random.default_rng(seed)
    stretches, trees = [], []
    for _ in range(items):
        context = draw.integers(0, 96, int(draw.integers(1, longest)))
        begun = len(stretches)
        for _ in range(choices):
            more = draw.integers(0, 96, int(draw.integers(1, longest)))
            stretches.append(TokenSpan(np.concatenate([context, more]), len(context)))
        trees += build_trees(range(begun, len(stretches)), stretches)
    return TreePacker(trees, one_tree_per_row=False, device="cpu").take_batch(10_000)


def plain_mask(ends):
    """Bool [B, S, S] by the definition."""
    place = np.arange(ends.shape[1])
    return torch.from_numpy((place[None, :] <= place[:, None]) & (place[:, None] < ends[:, None, :]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([3, 20, 70]), st.integers(1, 6))
def test_each_query_meets_each_key_that_it_sees_once(seed, items, longest, choices):
    batch = batch_of(seed, items, longest, choices)
    rows, width = batch.tokens.shape
    expected, places = plain_mask(batch.subtree_end), torch.arange(rows * width).view(rows, width)
    after = 0
    for strip in query_blocks(torch.from_numpy(batch.subtree_end)):
        assert strip.start == after
        after = strip.stop
        keys = strip.gather_keys(places).expand(rows, -1) - places[:, :1]  # their places within the row
        found = torch.zeros(rows, strip.stop - strip.start, width, dtype=torch.int64)
        index = keys[:, None].expand(-1, strip.stop - strip.start, -1)
        found.scatter_add_(2, index, strip.mask[:, 0].long())
        assert torch.equal(found, expected[:, strip.start : strip.stop].long())
    assert after == width


def test_keys_that_no_query_sees_are_left_out_of_strips():
    batch = batch_of(3, 1, 60, 6)
    found = query_blocks(torch.from_numpy(batch.subtree_end))
    assert len(found) == -(-batch.tokens.shape[1] // BLOCK_QUERIES) > 4
    assert any(strip.keys is not None for strip in found)
    met = sum(strip.mask.numel() for strip in found)
    assert met < 0.8 * sum((strip.stop - strip.start) * strip.stop for strip in found)


@pytest.mark.parametrize("config", [LLAMA, QWEN2], ids=["llama", "sliding window"])
def test_hidden_states_by_strips_are_those_of_one_mask(config):
    model = make_random_model(config, weight_std=0.25)
    batch = batch_of(5, 3, 60, 4)
    tokens, positions, ends = (torch.from_numpy(values) for values in (batch.tokens, batch.positions, batch.subtree_end))
    cut = query_blocks(ends)
    assert any(strip.keys is not None for strip in cut)
    found, expected = (model.hidden_states(tokens, positions, seen) for seen in (cut, full_mask(plain_mask(batch.subtree_end))))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    some = torch.from_numpy(batch.output_positions)
    asked = model.hidden_states(tokens, positions, cut, output_positions=some)
    torch.testing.assert_close(asked, expected.flatten(0, 1)[some], atol=2e-5, rtol=0)


def test_attention_over_a_strip_is_attention_over_its_keys():
    batch = batch_of(7, 2, 50, 5)
    rows, width = batch.tokens.shape
    q, k, v = (torch.randn(rows, width, 2, 8, generator=torch.Generator().manual_seed(1)) for _ in range(3))
    whole_of = functional.scaled_dot_product_attention(
        *(part.transpose(1, 2) for part in (q, k, v)), attn_mask=plain_mask(batch.subtree_end)[:, None]
    )
    for strip in query_blocks(torch.from_numpy(batch.subtree_end)):
        parts = (part.transpose(1, 2) for part in (q[:, strip.start : strip.stop], strip.gather_keys(k), strip.gather_keys(v)))
        found = functional.scaled_dot_product_attention(*parts, attn_mask=strip.mask)
        torch.testing.assert_close(found, whole_of[:, :, strip.start : strip.stop], atol=1e-5, rtol=0)

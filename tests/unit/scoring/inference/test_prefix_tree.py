"""Trees of tokens give what one sequence at a time gives, in every architecture."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring.inference import prefix_tree
from scoring.inference.batching import MIN_TREE_ROW_WIDTH, TreePacker
from scoring.inference.loglikelihood import compute_token_logprobs
from scoring.inference.prefix_tree import MAX_TREE_NODES, TokenSpan, build_trees
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG
from support.models.random_weights import make_random_model
from support.models.tiny_llama_items import compute_reference_logprobs

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
}
LLAMA = {**BYTE_LEVEL_CONFIG, **SIZES}
QWEN2 = {**LLAMA, "is_llama_config": False, "is_qwen2_config": True, "attention_bias": True}
STARCODER2 = {"is_starcoder2_config": True, "grouped_query": True, "num_kv_heads": 2, "layer_norm_epsilon": 1e-5, **SIZES}
MOE = {"num_experts": 4, "top_k": 2, "moe_intermediate_size": 16, "layers": [-1]}
SHARED = {"enable_shared_expert": True, "shared_expert_intermediate_size": 24}
FAMILIES = {
    "llama": LLAMA,
    "interleaved rope": {**LLAMA, "rope_interleaved": True},
    "qwen2 with a sliding window": {**QWEN2, "sliding_window_size": 7},
    "qwen2 with a window and layers without rope": {**QWEN2, "sliding_window_size": 5, "no_rope_layer": 2},
    "qwen2 with stretched positions": {**QWEN2, "rope_seq_len_interpolation_factor": 4.0},
    "qwen2 with experts": {**QWEN2, "moe_config": MOE | SHARED},
    "starcoder2 with a sliding window": {**STARCODER2, "sliding_window_size": 7, "global_attn_layers": [1]},
    "starcoder2 with one key head": {**STARCODER2, "grouped_query": False, "multi_query": True},
}


def asked(seed=0, items=12):
    """(sequences, groups): choices after contexts, some that begin alike, one that is another's beginning."""
    draw = np.random.default_rng(seed)
    sequences, groups = [], []
    for group in range(items):
        context = draw.integers(0, 96, int(draw.integers(1, 30)))
        choices = [draw.integers(0, 96, int(draw.integers(1, 9))) for _ in range(int(draw.integers(1, 5)))]
        choices.append(np.concatenate([choices[0], draw.integers(0, 96, 3)]))
        for choice in choices:
            sequences.append(TokenSpan(np.concatenate([context, choice]), len(context)))
            groups.append(group)
    return sequences, groups


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_gives_what_each_sequence_alone_gives(family):
    model = make_random_model(FAMILIES[family], weight_std=0.25)
    sequences, groups = asked()
    counted = []
    found = compute_token_logprobs(model, sequences, groups=groups, batch_tokens=200, on_batch=counted.append)
    for sequence, values in zip(sequences, found, strict=True):
        np.testing.assert_allclose(
            values, compute_reference_logprobs(model, sequence.tokens)[sequence.first_predicted - 1 :], rtol=0, atol=1e-4
        )
    assert sum(counted) < sum(len(sequence.tokens) - 1 for sequence in sequences) * 0.7


@pytest.mark.parametrize("width", [8, 64, 512])
def test_what_shares_a_row_changes_rounding_only(width, monkeypatch):
    model = make_random_model(FAMILIES["qwen2 with a window and layers without rope"], weight_std=0.25)
    sequences, groups = asked(1)
    expected = compute_token_logprobs(model, sequences)
    monkeypatch.setitem(MIN_TREE_ROW_WIDTH, "cpu", width)
    for found, alone in zip(compute_token_logprobs(model, sequences, groups=groups), expected, strict=True):
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-4)


def test_a_token_has_the_same_experts_however_it_is_packed(monkeypatch):
    model = make_random_model(FAMILIES["qwen2 with experts"], weight_std=0.25)
    chosen = []
    for layer in model.body.layers:
        layer.mlp.router.register_forward_hook(lambda _module, given, logits: chosen.append((given[0], logits.topk(2)[1])))
    sequences, groups = asked(2, items=4)

    def experts(**how):
        chosen.clear()
        compute_token_logprobs(model, sequences, **how)
        places = torch.cat([given for given, _ in chosen]).round(decimals=3)
        routes = torch.cat([route.sort(-1)[0] for _, route in chosen])
        return {(tuple(place.tolist()), tuple(route.tolist())) for place, route in zip(places, routes, strict=True)}

    one = {route for _, route in experts(groups=groups)}
    monkeypatch.setitem(MIN_TREE_ROW_WIDTH, "cpu", 512)
    assert {route for _, route in experts(groups=groups)} == one == {route for _, route in experts()}


def test_the_number_of_threads_changes_no_bit():
    model = make_random_model(LLAMA, weight_std=0.25)
    sequences, groups = asked(3, items=60)
    alone = compute_token_logprobs(model, sequences, groups=groups)
    torch.set_num_threads(3)
    try:
        several = compute_token_logprobs(model, sequences, groups=groups)
    finally:
        torch.set_num_threads(1)
    assert all((one == other).all() for one, other in zip(alone, several, strict=True))


def test_the_drawing_in_the_docstring_is_what_is_built():
    drawing = " ".join(prefix_tree.__doc__.split())
    sequences = [TokenSpan(np.array([ord(token) for token in text]), 3) for text in ("ABCc", "ABDEe", "AFGg")]
    (tree,) = build_trees(range(3), sequences)
    nodes, letters = np.arange(len(tree.tokens)), [chr(token) for token in tree.tokens]
    rows = [("tokens", letters), ("depths", tree.depths), ("subtree_end", tree.subtree_end)]
    rows += [(letters[q], np.where((nodes <= q) & (q < tree.subtree_end), "x", ".")) for q in nodes]
    for name, values in rows:
        assert f" {name} {' '.join(map(str, values))} " in drawing
    assert [chr(target) for target in tree.targets] == ["c", "E", "e", "g"]


tokens = st.lists(st.integers(0, 2), min_size=2, max_size=12)


@settings(deadline=None)
@given(st.lists(tokens, min_size=1, max_size=30))
def test_every_node_of_a_tree_sees_exactly_what_stands_before_it(drawn):
    sequences = [TokenSpan(np.array(each), 1) for each in drawn]
    seen = []
    for tree in build_trees(range(len(sequences)), sequences):
        assert len(tree.tokens) <= MAX_TREE_NODES
        nodes = np.arange(len(tree.tokens))
        sees = (nodes[None] <= nodes[:, None]) & (nodes[:, None] < tree.subtree_end[None])
        start = 0
        for owner, count in tree.sequence_counts:
            for row, target, place in zip(
                tree.output_nodes[start : start + count], tree.targets[start:], range(count), strict=False
            ):
                before = tree.tokens[sees[row]].tolist()
                assert before == drawn[owner][: place + 1]
                assert target == drawn[owner][place + 1]
                assert tree.depths[row] == place
            start += count
            seen.append(owner)
        paths = {tuple(tree.tokens[sees[node]]) for node in nodes}
        assert len(paths) == len(nodes)  # nothing is computed twice
    assert sorted(seen) == list(range(len(drawn)))


@settings(deadline=None)
@given(st.lists(st.integers(2, 70), min_size=1, max_size=40), st.integers(1, 300), st.sampled_from(["cpu", "cuda"]))
def test_every_tree_is_in_one_batch_and_batches_stay_in_their_budget(lengths, places, device):
    sequences = [TokenSpan(np.arange(length), 1) for length in lengths]
    trees = [tree for index in range(len(sequences)) for tree in build_trees([index], sequences)]
    packer = TreePacker(trees, one_tree_per_row=False, device=device)
    done, shapes = [], set()
    while packer:
        batch = packer.take_batch(places)
        done += batch.tree_indices
        shapes.add(batch.tokens.shape[1])
        assert batch.tokens.size <= max(places, batch.tokens.shape[1])
        assert batch.input_tokens == sum(len(trees[index].tokens) for index in batch.tree_indices)
    assert sorted(done) == list(range(len(trees)))
    assert device == "cpu" or shapes == {512}


def test_what_was_given_back_is_taken_again():
    sequences = [TokenSpan(np.arange(length), 1) for length in (5, 9, 9, 30)]
    packer = TreePacker([tree for n in range(4) for tree in build_trees([n], sequences)], one_tree_per_row=True, device="cpu")
    first = packer.take_batch(64)
    packer.return_batch(first)
    again = packer.take_batch(64)
    assert again.tree_indices == first.tree_indices == [3, 1]
    assert packer.take_batch(8).tree_indices == [2]
    assert packer.take_batch(8).tree_indices == [0]
    assert not packer

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.inference.loglikelihood import NotFiniteError
from scoring.tiers.perplexity_metric import (
    TokenStream,
    compute_clustered_stderr,
    compute_perplexity,
    cut_windows,
    score_slice,
    summarise_slices,
)
from support.models.tiny_llama_items import compute_reference_logprobs, load_tiny_llama

pytestmark = pytest.mark.scoring

BOS, EOS = 300, 301
"""No byte has these ids."""


@pytest.fixture(scope="module")
def model():
    return load_tiny_llama()


def stream(*texts, bos=BOS, eos=EOS):
    documents = [[*([bos] if bos else []), *text.encode(), *([eos] if eos else [])] for text in texts]
    lengths = [len(document) for document in documents]
    return TokenStream(
        tokens=np.array([token for document in documents for token in document], dtype=np.int32),
        document_starts=np.cumsum([0, *lengths[:-1]]),
        document_bytes=np.array([len(text.encode()) for text in texts]),
    )


TEXTS = ("The loss falls at every step.", "x", "Training data: ünïcode, and a longer document than the window is.", "end")


def by_hand(model, tokens, seq_len):
    """{place in the stream: nll}, window by window."""
    found = {}
    for start in range(0, len(tokens) - 1, seq_len):
        window = tokens[start : start + seq_len + 1]
        for offset, logprob in enumerate(compute_reference_logprobs(model, window)):
            assert start + 1 + offset not in found
            found[start + 1 + offset] = -logprob
    return found


def scored(model, stream_, **more):
    options = {"seq_len": 16, "special_ids": (BOS, EOS), "isolate_documents": False, "name": "s", **more}
    return score_slice(model, stream_, **options)


def test_a_slice_equals_the_straightforward_loop(model):
    s = stream(*TEXTS)
    entry, table = scored(model, s)
    nll = by_hand(model, s.tokens, 16)
    assert sorted(nll) == list(range(1, len(s.tokens)))
    assert entry["tokens"] == len(nll)
    assert entry["nll_sum"] == pytest.approx(sum(nll.values()), abs=1e-3)
    assert entry["ppl"] == pytest.approx(math.exp(sum(nll.values()) / len(nll)), rel=1e-5)
    assert entry["bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert entry["bits_per_byte"] == pytest.approx(sum(nll.values()) / math.log(2) / entry["bytes"], rel=1e-5)
    assert entry["windows"] == math.ceil(len(nll) / 16)
    assert entry["documents"] == len(TEXTS)
    text_only = {place: value for place, value in nll.items() if s.tokens[place] not in {BOS, EOS}}
    assert entry["without_special_targets"]["tokens"] == len(text_only) == entry["bytes"]
    assert entry["without_special_targets"]["nll_sum"] == pytest.approx(sum(text_only.values()), abs=1e-3)
    rows = table.to_pylist()
    for row in rows:
        if row["kind"] == "window":
            places = range(row["index"] * 16 + 1, min(row["index"] * 16 + 17, len(s.tokens)))
        else:
            end = [*s.document_starts, len(s.tokens)][row["index"] + 1]
            places = range(max(1, s.document_starts[row["index"]]), end)
        assert (row["start"], row["tokens"]) == (places[0], len(places))
        assert row["nll_sum"] == pytest.approx(sum(nll[place] for place in places), abs=1e-4)
        assert row["special_tokens"] == sum(s.tokens[place] in {BOS, EOS} for place in places)


def test_isolated_documents_see_nothing_of_each_other(model):
    s = stream(*TEXTS)
    entry, _ = scored(model, s, isolate_documents=True)
    alone = [scored(model, stream(text))[0] for text in TEXTS]
    assert entry["tokens"] == sum(one["tokens"] for one in alone) == len(s.tokens) - len(TEXTS)
    assert entry["nll_sum"] == pytest.approx(sum(one["nll_sum"] for one in alone), abs=1e-3)
    assert entry["nll_sum"] != pytest.approx(scored(model, s)[0]["nll_sum"], abs=0.1)


@given(length=st.integers(0, 200), seq_len=st.integers(1, 70), cuts=st.sets(st.integers(1, 199)))
def test_every_token_but_the_first_is_predicted_exactly_once(length, seq_len, cuts):
    predicted = [place for start, stop in cut_windows(length, seq_len) for place in range(start + 1, stop)]
    assert predicted == list(range(1, length))
    edges = [0, *sorted(cut for cut in cuts if cut < length)]
    within = [place for start, stop in cut_windows(length, seq_len, edges) for place in range(start + 1, stop)]
    assert within == [place for place in range(length) if place not in edges]


def test_the_standard_error_is_that_of_resampled_documents():
    draw = np.random.default_rng(0)
    tokens = draw.integers(20, 400, 200)
    nll = tokens * draw.normal(3, 0.4, 200)
    picks = draw.integers(0, 200, (4000, 200))
    bootstrap = (nll[picks].sum(1) / tokens[picks].sum(1)).std(ddof=1)
    assert compute_clustered_stderr(nll, tokens) == pytest.approx(bootstrap, rel=0.05)


def test_one_document_has_no_standard_error(model):
    assert scored(model, stream("only one"))[0]["nll_per_token_stderr"] is None


def test_the_tier_is_the_sum_of_all_tokens_not_a_mean_of_means():
    slices = {"long": compute_perplexity(3000.0, 1000, 4000), "short": compute_perplexity(10.0, 2, 10)}
    whole = summarise_slices(slices)
    assert whole["ppl"] == pytest.approx(math.exp(3010 / 1002))
    assert whole["tokens"] == 1002
    assert whole["slices"] == 2
    assert whole["bits_per_byte"] == pytest.approx(3010 / math.log(2) / 4010)


def test_a_perplexity_that_overflows_is_said():
    with pytest.raises(NotFiniteError, match="1000 nats"):
        compute_perplexity(1e6, 1000, 1)

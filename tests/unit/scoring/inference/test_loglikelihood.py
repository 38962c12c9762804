import numpy as np
import pytest
import torch

from scoring.inference import loglikelihood
from scoring.inference.loglikelihood import NotFiniteError, compute_token_logprobs
from scoring.inference.prefix_tree import TokenSpan
from support.models.tiny_llama_items import compute_reference_logprobs, load_reference_tokens, load_tiny_llama

pytestmark = pytest.mark.scoring


@pytest.fixture(scope="module")
def model():
    return load_tiny_llama()


def stretches(count=30, seed=0):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(2, 60, count)
    return [TokenSpan(draw.integers(0, 256, n), int(draw.integers(1, n))) for n in lengths]


def test_every_token_gets_its_own_predecessors_and_no_others(model):
    asked = stretches()
    for stretch, found in zip(asked, compute_token_logprobs(model, asked), strict=True):
        expected = compute_reference_logprobs(model, stretch.tokens)[stretch.first_predicted - 1 :]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert found.dtype == np.float64


def test_the_sum_of_a_row_is_that_of_nanotron(model):
    import json  # noqa: PLC0415  only here

    from support.models.tiny_llama_items import REFERENCE_FOLDER  # noqa: PLC0415  only here

    expected = json.loads((REFERENCE_FOLDER / "reference.json").read_text())["sum_logprob_per_row"]
    found = compute_token_logprobs(model, [TokenSpan(row, 1) for row in load_reference_tokens()])
    np.testing.assert_allclose([values.sum() for values in found], expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("batch_tokens", [1, 500, 100_000])
def test_the_batch_size_moves_numbers_by_rounding_only(model, batch_tokens):
    asked = stretches()
    for found, expected in zip(
        compute_token_logprobs(model, asked, batch_tokens=batch_tokens), compute_token_logprobs(model, asked), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_the_same_question_gets_the_same_bits_again(model):
    first, second = (compute_token_logprobs(model, stretches()) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_logits_of_all_places_never_exist_at_once(model, monkeypatch):
    monkeypatch.setitem(loglikelihood.MAX_LOGIT_VALUES, "cpu", 4 * model.vocab_size)
    seen, whole = [], model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: seen.append(hidden.shape[0]) or whole(hidden))
    stretch = TokenSpan(np.arange(50), 40)
    found = compute_token_logprobs(model, [stretch])
    assert seen == [4] * 8  # 10 rows, and what they are padded with
    np.testing.assert_allclose(found[0], compute_reference_logprobs(model, stretch.tokens)[39:], rtol=0, atol=1e-5)


def test_progress_counts_every_input_token_once(model):
    counted = []
    asked = stretches()
    compute_token_logprobs(model, asked, batch_tokens=200, on_batch=counted.append)
    assert len(counted) > 3
    assert sum(counted) == sum(len(stretch.tokens) - 1 for stretch in asked)


@pytest.mark.parametrize(("length", "first"), [(1, 1), (5, 0), (5, 5), (0, 0)])
def test_a_token_that_nothing_predicts_is_refused(model, length, first):
    with pytest.raises(ValueError, match="none to predict"):
        compute_token_logprobs(model, [TokenSpan(np.zeros(length, dtype=np.int64), first)])


def test_a_log_likelihood_that_is_not_finite_is_an_error(model, monkeypatch):
    whole = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: torch.full_like(whole(hidden), torch.nan))
    with pytest.raises(NotFiniteError, match="sequence 0"):
        compute_token_logprobs(model, [TokenSpan(np.arange(5), 1)])

"""Padding rows of the vocabulary, from the command line to the tier file: in the softmax as nanotron has them, or masked."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from scoring.data.tokenizer_cache import resolve_tokenizer
from scoring.model.loader import load_causal_lm
from suites.contract.paths import DataPaths
from support.models.nanotron_fixtures import BYTE_TOKENIZER, find_checkpoint
from support.runs.scoring_jobs import get_results_folder, make_score_arguments, run_scoring_in_process, write_suites

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

PADDED = find_checkpoint("llama_tied_bf16_tp2_padvocab", 20)


def scored(folder, switch):
    folder.mkdir(exist_ok=True)
    write_suites(folder)
    more = () if switch == "in_softmax" else ("--padded-vocab", switch)
    assert run_scoring_in_process(make_score_arguments(folder, *more, checkpoint=PADDED)) == 0
    document = json.loads((get_results_folder(folder, 20) / "tier2_ppl.json").read_text())
    return document, pq.read_table(get_results_folder(folder, 20) / "items" / "ours.parquet").to_pylist()


@torch.inference_mode()
def by_formula(folder, text, rows):
    """Sum of NLL of a text's document with a softmax over the first ``rows`` rows of the head."""
    tokenizer = resolve_tokenizer(str(BYTE_TOKENIZER), DataPaths(folder / "data"))
    ends = [[] if token is None else [token] for token in (tokenizer.bos_id, tokenizer.eos_id)]
    ids = torch.tensor([[*ends[0], *tokenizer.encode([text])[0], *ends[1]]])
    model = load_causal_lm(PADDED, device="cpu")
    predicted = model.logits(model.hidden_states(ids))[0, :-1, :rows].double().log_softmax(-1)
    return -float(predicted.gather(-1, ids[0, 1:, None]).sum())


@pytest.mark.parametrize("switch", ["in_softmax", "masked"])
def test_the_switch_is_recorded_and_does_what_it_says(switch, tmp_path):
    document, _ = scored(tmp_path, switch)
    assert document["padded_vocab"] == switch
    real = resolve_tokenizer(str(BYTE_TOKENIZER), DataPaths(tmp_path / "data")).vocab_size
    assert real < 512
    expected = by_formula(tmp_path, "The loss falls at every step.", 512 if switch == "in_softmax" else real)
    assert document["slices"]["prose"]["nll_sum"] == pytest.approx(expected, abs=1e-3)


def test_both_are_kept_apart_and_masking_never_lowers_a_probability(tmp_path):
    (plain, plain_rows), (masked, masked_rows) = (scored(tmp_path / name, name) for name in ("in_softmax", "masked"))
    for name in ("prose", "code"):
        assert masked["slices"][name]["nll_sum"] < plain["slices"][name]["nll_sum"]
    for one, other in zip(plain_rows, masked_rows, strict=True):
        assert all(b >= a for a, b in zip(one["ll"], other["ll"], strict=True))
    again, _ = scored(tmp_path / "in_softmax", "masked")  # parts of the other switch are no parts of this one
    assert again["slices"] == masked["slices"]

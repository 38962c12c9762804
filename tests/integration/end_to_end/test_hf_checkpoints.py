"""Hugging Face checkpoints by the command line: tiers 2 to 4 are those of a plain loop over transformers."""

import json

import pyarrow.parquet as pq
import pytest

from support.models import plain_tiers
from support.models.hf_models import make_hf_model, save_hf_model
from support.models.hf_to_nanotron import write_hf_checkpoint
from support.models.small_llama import VOCAB, write_bpe_tokenizer
from support.runs.scoring_jobs import run_scoring_in_process

pytestmark = pytest.mark.scoring

PADDED_VOCAB = VOCAB + 16
"""Rows of the head: the tokenizer has fewer."""
IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    plain_tiers.set_one_thread()
    folder = tmp_path_factory.mktemp("tokenizer")
    write_bpe_tokenizer(folder)
    return folder


def write_model(name, folder, tokenizer_folder):
    """A model of ``folder``'s name with its tokenizer beside it."""
    model = make_hf_model(name, vocab_size=PADDED_VOCAB, **IDS)
    save_hf_model(model, folder, max_shard_size="100KB")
    for path in tokenizer_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return model


def score(folder, checkpoint, *more):
    """The folder of published results."""
    suites = [argument for suite in plain_tiers.write_suites(folder) for argument in ("--suite", suite)]
    arguments = ["score", "--checkpoint", str(checkpoint), *suites, "--results", str(folder / "results")]
    arguments += ["--eval-data", str(folder / "data"), "--seq-len", str(plain_tiers.SEQ_LEN), "--device", "cpu", *more]
    assert run_scoring_in_process(arguments) == 0
    (tier2,) = (folder / "results").rglob("tier2_ppl.json")
    return tier2.parent


def read_json(path):
    return json.loads(path.read_text())


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "qwen2", "neox", "gemma2", "mistral", "bloom")]


@pytest.mark.parametrize("name", ["gpt2", *SLOW])
def test_all_tiers_are_those_of_a_plain_loop(name, tmp_path, tokenizer_folder):
    model = write_model(name, tmp_path / "models" / name, tokenizer_folder)
    published = score(tmp_path, tmp_path / "models" / name)
    assert published.name == name, "a model without a step is named after its folder"
    plain_tiers.compare_with_plain_loop(published, model, tokenizer_folder)
    head = read_json(published / "tier2_ppl.json")
    assert head["backend"] == ("direct" if name in {"llama", "qwen2"} else "transformers")
    assert head["checkpoint"]["tokens_seen"] is None
    run = read_json(published / "run.json")
    assert run["outcome"] == "scored"
    assert run["model"]["files"] > 1


@pytest.mark.slow
def test_transformers_and_this_decoder_give_one_number(tmp_path, tokenizer_folder):
    """The same Llama by both, and as nanotron has it: the tier files have the same scores."""
    model = write_model("llama", tmp_path / "models" / "llama", tokenizer_folder)
    nanotron = write_hf_checkpoint(
        model, tmp_path / "ckpts" / "100", tokenizer=tokenizer_folder, seq_len=plain_tiers.SEQ_LEN, tp=2
    )
    published = []
    for number, (checkpoint, backend) in enumerate(
        [(tmp_path / "models" / "llama", "direct"), (tmp_path / "models" / "llama", "transformers"), (nanotron, "direct")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        published.append(score(folder, checkpoint, "--backend", backend))
    ours, theirs, converted = (
        {tier: read_json(folder / f"{tier}.json") for tier in ("tier2_ppl", "tier3_cf", "tier4_sft_native")}
        for folder in published
    )
    # One decoder, one order of sums: not a bit differs.
    for tier, section in (("tier2_ppl", "slices"), ("tier3_cf", "tasks"), ("tier4_sft_native", "prompts")):
        assert ours[tier]["summary"] == converted[tier]["summary"]
        assert ours[tier][section] == converted[tier][section]
    assert theirs["tier2_ppl"]["backend"] == "transformers"
    assert theirs["tier2_ppl"]["summary"]["nll_per_token"] == pytest.approx(
        ours["tier2_ppl"]["summary"]["nll_per_token"], abs=1e-5
    )
    assert theirs["tier4_sft_native"]["summary"] == ours["tier4_sft_native"]["summary"]
    picks = [pq.read_table(folder / "items" / "ours.parquet").column("pick_acc").to_pylist() for folder in published]
    assert picks[0] == picks[1] == picks[2]

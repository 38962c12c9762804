"""A model of Hugging Face beside a nanotron run with another tokenizer, by the daemon alone: scored once, compared, shown."""

import json
import math

import pytest

from suites.contract.comparison import read_comparison_document
from suites.contract.paths import report_html_path
from suites.contract.stage_summary import read_stage_document, stage_summary_path
from support.models import plain_tiers
from support.models.hf_models import compute_plain_logprobs, make_hf_model, save_hf_model
from support.models.small_llama import VOCAB, write_bpe_tokenizer
from support.runs.two_stages import TwoStagesRun

pytestmark = pytest.mark.scoring

SEQ_LEN = 128
"""The model's own context length, which is not the stage's."""
DOCUMENTS = [f"Document {number} says what the others do not say. " * (1 + number % 5) for number in range(14)]


def compute_plain_bits(model, tokenizer):
    """Document -> bits of its text by a plain loop over windows; the tokens of BOS and EOS are no text."""
    stream, owners = [], []
    for number, text in enumerate(DOCUMENTS):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        stream += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        owners += [None, *([number] * len(ids)), None]
    bits = dict.fromkeys(range(len(DOCUMENTS)), 0.0)
    for start in range(0, len(stream) - 1, SEQ_LEN):
        logprobs = compute_plain_logprobs(model, stream[start : start + SEQ_LEN + 1])
        for owner, value in zip(owners[start + 1 :], logprobs, strict=False):
            if owner is not None:
                bits[owner] -= float(value) / math.log(2)
    return bits


def test_a_model_with_another_tokenizer_is_scored_once_and_compared_by_text(tmp_path):
    plain_tiers.set_one_thread()
    model, folder = (
        make_hf_model("llama, biases", vocab_size=VOCAB + 16, bos_token_id=0, eos_token_id=1),
        tmp_path / "models" / "tiny",
    )
    save_hf_model(model, folder)
    write_bpe_tokenizer(folder)
    settings = {
        "report": {"page": True, "compare": True},
        "references": {"tiny": {"checkpoint": str(folder), "tokens": "1.5B"}},
    }
    run = TwoStagesRun(tmp_path / "run", steps={"stage1": [20, 60]}, settings=settings)
    (run.root / "plain.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    run.write_checkpoint("stage1", 20, like="llama_gqa_tp1/20")
    run.write_checkpoint("stage1", 60)
    stage_json, page = stage_summary_path(run.results / "stage1"), report_html_path(run.results)

    def is_done(states):
        if set(states.values()) != {"scored"} or len(states) < 3 or not page.exists() or not stage_json.exists():
            return False
        document = read_stage_document(stage_json)
        return bool(document.request.references) and "1500000000" in page.read_text(encoding="utf-8")

    run.start_daemon()
    try:
        run.wait_for_states(is_done, seconds=240.0)
    finally:
        assert run.stop_daemon() == 0
    assert run.count_runs() == {"stage1/step_20": 1, "stage1/step_60": 1, "stage1/reference_tiny": 1}
    scored = run.read_tier_file("stage1/reference_tiny", "tier2_ppl.json")
    assert (scored["seq_len"], scored["backend"], scored["checkpoint"]["source_stage"]) == (
        SEQ_LEN,
        "transformers",
        "reference:tiny",
    )
    compared = read_comparison_document(run.results / "stage1" / "by_checkpoint" / "step_60" / "compare.json")
    (against,) = compared.references
    assert [refusal.name for refusal in against.refusals] == ["ppl", "shout"]  # shout is one document
    entries = {entry.name: entry for entry in against.entries}
    effect = entries["plain"].effects["bits_per_byte"]
    bits = compute_plain_bits(model, plain_tiers.open_tokenizer(folder))
    # The stage's tokenizer puts no BOS before a text, so its stream's first token, and document, are left out.
    first = len(DOCUMENTS) - effect.n
    assert first in {0, 1}
    byte_count = sum(len(text.encode()) for text in DOCUMENTS[first:])
    assert effect.baseline == pytest.approx(sum(bits[number] for number in range(first, len(DOCUMENTS))) / byte_count, abs=1e-4)
    assert entries["ours"].effects["bpb"].n == 6
    crossings = {crossing.metric: crossing for crossing in read_stage_document(stage_json).crossings if crossing.name == "plain"}
    assert (crossings["bits_per_byte"].reference, crossings["bits_per_byte"].newest_step) == ("reference:tiny", 60)

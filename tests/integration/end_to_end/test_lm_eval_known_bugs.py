"""Where lm-evaluation-harness is wrong, by a plain forward pass of the transformers model."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from support.lm_eval import environment as lm_eval_env
from support.lm_eval import run as lm_eval_side
from support.models.hf_to_nanotron import write_hf_checkpoint
from support.models.small_llama import SEQ_LEN, TEXT_FOLDER, score_suite, write_small_llama, write_suite

pytestmark = pytest.mark.scoring


class Both(NamedTuple):
    model: Any
    tokenizer: Any
    folder: Path
    checkpoint: Path
    runs: dict
    rows: list
    text: str


def plain_loglik(model, tokens, count):
    """Sum of log p of the last ``count`` tokens: one forward pass, nothing shared with anybody."""
    with torch.inference_mode():
        logprobs = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    places = range(len(tokens) - count, len(tokens))
    return math.fsum(float(logprobs[place - 1, tokens[place]]) for place in places)


def one_token_trap(tokenizer):
    """Two items that share context + choice[:-1], split in different places; every word is one token."""
    rows = [
        {"context": "import in the", "choices": [" self", " value"], "gold": 0},
        {"context": "import in", "choices": [" the self", " the value"], "gold": 1},
    ]
    for row in rows:
        for choice in row["choices"]:
            assert len(tokenizer.encode(row["context"] + choice)) == 5  # <s> and four words
    return rows


def windowed_loglik(model, tokens):
    """Of every token but the first, in whole windows; a shorter last one is filled up with what comes before it."""
    total, done = 0.0, 1
    while done < len(tokens):
        count = min(SEQ_LEN, len(tokens) - done)
        total += plain_loglik(model, tokens[max(0, done + count - SEQ_LEN - 1) : done + count], count)
        done += count
    return total


def text_of(tokenizer, count):
    """Real text of exactly ``count`` tokens."""
    for path in sorted(TEXT_FOLDER.glob("*.py")):
        ids = tokenizer.encode(path.read_text(errors="replace"), add_special_tokens=False)[:count]
        text = tokenizer.decode(ids)
        if len(ids) == count and tokenizer.encode(text, add_special_tokens=False) == ids:
            return text
    raise AssertionError(f"no file of the standard library begins with {count} tokens that stay the same")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The model, its checkpoint, and what lm-evaluation-harness says, all runs in one process."""
    python, folder = lm_eval_env.ensure_lm_eval_python(), tmp_path_factory.mktemp("traps")
    model = write_small_llama(folder / "hf")
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    rows = one_token_trap(tokenizer)
    (folder / "trap.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}"}
    # its delimiter is a space; the choices here bring their own
    asked |= {"doc_to_target": "gold", "target_delimiter": "", "metric_list": [{"metric": "acc"}]}
    trap = [lm_eval_side.write_task_file(folder, "trap", folder / "trap.jsonl", **asked)]
    text = text_of(tokenizer, 3 * SEQ_LEN)  # whole windows: it gives a shorter last one context from the window before
    (folder / "text.jsonl").write_text(json.dumps({"text": text}) + "\n")
    asked = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    asked["metric_list"] = [{"metric": metric} for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte")]
    rolling = [lm_eval_side.write_task_file(folder, "text", folder / "text.jsonl", **asked)]
    exact = {"softmax_dtype": "float64"}
    runs = lm_eval_side.run_lm_eval(
        python,
        folder / "hf",
        folder,
        {
            "shared": (trap, {}),
            "alone": (trap, {"logits_cache": False}),
            "twice": (rolling, exact),
            "once": (rolling, {**exact, "add_bos_token": False}),
        },
    )
    checkpoint = write_hf_checkpoint(model, folder / "ckpts" / "100", tokenizer=folder / "hf", seq_len=SEQ_LEN)
    return Both(model, tokenizer, folder, checkpoint, runs, rows, text)


def test_where_it_shares_logits_between_different_splits_ours_are_the_models(both):
    model, tokenizer, folder, checkpoint, runs, rows, _ = both
    found = {
        name: [lm_eval_side.get_loglikelihoods(record) for record in runs[name].samples["here_trap"]]
        for name in ("shared", "alone")
    }
    right = [
        [
            plain_loglik(model, tokenizer.encode(row["context"] + choice), len(tokenizer.encode(choice)) - 1)
            for choice in row["choices"]
        ]
        for row in rows
    ]
    source = {"data_files": str(folder / "trap.jsonl"), "adapter": "multiple_choice"}
    published = score_suite(folder, checkpoint, write_suite(folder, "tier3_cf", "trap_suite", {"trap": source}))
    ours = pq.read_table(published / "items" / "trap.parquet")["ll"].to_pylist()
    print("numbers", json.dumps({"right": right, "ours": ours, **found}))
    np.testing.assert_allclose(ours, right, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["alone"], right, rtol=0, atol=1e-4)
    assert np.abs(np.subtract(found["shared"], right)).max() > 0.01


def test_rolling_perplexity_agrees_once_the_second_bos_is_taken_out(both):
    model, tokenizer, folder, checkpoint, runs, _, text = both
    source = {"data_files": str(folder / "text.jsonl"), "eos": False}
    published = score_suite(folder, checkpoint, write_suite(folder, "tier2_ppl", "text_suite", {"text": source}))
    ours = json.loads((published / "tier2_ppl.json").read_text())["slices"]["text"]
    assert ours["tokens"] == 3 * SEQ_LEN
    found = {name: float(runs[name].samples["here_text"][0]["filtered_resps"][0]) for name in ("twice", "once")}
    ids, bos = tokenizer.encode(text, add_special_tokens=False), tokenizer.bos_token_id
    right = windowed_loglik(model, [bos, *ids])
    # Read as it comes, the text begins with <s><s>: the model is asked for the second, and every window is one token off.
    doubled = windowed_loglik(model, [bos, bos, *ids])
    print("numbers", json.dumps({"right": right, "ours": -ours["nll_sum"], "doubled": doubled, **found}))
    assert -ours["nll_sum"] == pytest.approx(right, abs=1e-4)
    assert found["once"] == pytest.approx(right, abs=1e-4)
    assert ours["bits_per_byte"] == pytest.approx(runs["once"].results["results"]["here_text"]["bits_per_byte,none"], abs=1e-6)
    assert ours["bytes"] == len(text.encode())
    assert found["twice"] == pytest.approx(doubled, abs=1e-4)
    assert abs(found["twice"] - right) > 1

"""Evaluations as they are published, without a model: from arrays, with the scorer's own summaries and rows."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scoring.tiers import cloze_metric as choice
from scoring.tiers import instructions
from scoring.tiers import perplexity_metric as perplexity
from suites.contract.comparison import EvaluationRef
from suites.contract.paths import EvaluationPaths

REAL_RESULTS = Path(__file__).resolve().parents[2] / "data" / "scored"
"""Steps 20, 40 and 60 of a real run on real text: see tests/data/README.md."""
TIER_FILE_HEAD = {
    "schema": 1,
    "suite_digest": "5" * 64,
    "tokenizer": {"id": "t", "digest": "d"},
    "dtype": "bfloat16",
    "seq_len": 2048,
    "backend": "direct",
    "padded_vocab": "in_softmax",
    "scorer_version": 1,
}


def find_real_results(step, stage="stage1"):
    return EvaluationPaths(REAL_RESULTS / stage, f"step_{step}")


def make_evaluation_ref(paths, **known):
    return EvaluationRef(results=str(paths.root), stage=paths.root.name, directory=paths.directory, **known)


def publish_sample_results(paths, *, slices=None, tasks=None, prompts=None, step=100, source=None, fingerprint=None, **head):
    """Write the tier files and rows of one evaluation.

    Args:
        paths: of the evaluation.
        slices: name -> (tokens [D], nll [D]), or with the bytes [D] and keys of the texts [D].
        tasks: name -> (right [n] bool, subjects or None); or (right, subjects, right by plain acc).
        prompts: name -> (category, [(check, kind, passed)]).
        step: of the checkpoint.
        source: stage of the checkpoint; by default the suites' own.
        fingerprint: of its content.
        head: whatever else the heads say.
    """
    (paths.folder / "items").mkdir(parents=True, exist_ok=True)
    who = {"path": f"/ckpts/{step}", "source_stage": source or paths.root.name, "fingerprint": fingerprint or f"{step:064x}"}
    common = {**TIER_FILE_HEAD, "stage": paths.root.name, "step": step, "checkpoint": {**who, "tokens_seen": step * 1000}, **head}
    if slices:
        entries = {name: _slice(paths, name, *arrays) for name, arrays in slices.items()}
        _write(paths, "tier2_ppl", {**common, "summary": perplexity.summarise_slices(entries), "slices": entries})
    if tasks:
        entries = {name: _task(paths, name, *arrays) for name, arrays in tasks.items()}
        _write(paths, "tier3_cf", {**common, "summary": choice.summarise_tasks(entries), "tasks": entries})
    if prompts:
        entries = {name: _prompt(category, checks) for name, (category, checks) in prompts.items()}
        found = {
            "summary": instructions.summarise_prompts(entries),
            "by_category": instructions.summarise_categories(entries),
            "prompts": entries,
        }
        _write(paths, "tier4_sft_native", {**common, "chat_template": {"sha256": "c"}, "data_key": "k", **found})
        lines = [
            json.dumps({"name": name, "prompt_tokens": [1, 2, len(name)], "messages": [{"content": name}]}) + "\n"
            for name in prompts
        ]
        paths.generations.write_text("".join(lines))
    return paths


def _prompt(category, checks):
    told = [dict(zip(("check", "kind", "passed"), check, strict=True)) for check in checks]
    of_kind = {kind: [check["passed"] for check in told if check["kind"] == kind] for kind in ("format", "clean")}
    shares = {kind: all(passed) if passed else None for kind, passed in of_kind.items()}
    return {"category": category, "passed": all(check["passed"] for check in told), **shares, "checks": told}


def edit_tier_file(paths, tier, change):
    """Change a published tier file: ``change`` is given the document."""
    document = json.loads(paths.tier_json(tier).read_text())
    change(document)
    paths.tier_json(tier).write_text(json.dumps(document))


def _write(paths, tier, document):
    paths.tier_json(tier).write_text(json.dumps({"tier": tier, **document}))


def _slice(paths, name, tokens, nll, *texts):
    byte_counts, text_keys = texts or (None, None)
    count = len(tokens)
    rows = {
        "kind": ["document"] * count,
        "index": np.arange(count),
        "start": np.cumsum(tokens) - tokens,
        "tokens": np.asarray(tokens),
        "nll_sum": np.asarray(nll, dtype=float),
        "special_tokens": np.zeros(count, dtype=int),
        "special_nll_sum": np.zeros(count),
        "bytes": 4 * np.asarray(tokens) if byte_counts is None else np.asarray(byte_counts),
        "key": [f"document {index}" for index in range(count)],
        "text_key": [f"text {index}" for index in range(count)] if text_keys is None else text_keys,
    }
    pq.write_table(pa.Table.from_pydict(rows, schema=perplexity.SLICE_ROW_SCHEMA), paths.items_parquet(name))
    return perplexity.summarise_slice(rows, rows) | {"isolate_documents": False, "data_key": f"data of {name}"}


def _task(paths, name, right, subjects=None, right_by_acc=None):
    right = np.asarray(right)
    by_acc = right if right_by_acc is None else np.asarray(right_by_acc)
    rows = [
        {
            "index": index,
            "id": str(index),
            "subject": None if subjects is None else subjects[index],
            "gold": 1,
            "ll": [-1.0, -2.0],
            "ll_uncond": None,
            "tokens": [1, 1],
            "chars": [1, 1],
            "chars_with_space": [2, 2],
            "bytes": [2, 2],
            "truncated": False,
            **{f"pick_{metric}": int(by_acc[index] if metric == "acc" else right[index]) for metric in choice.CLOZE_METRICS},
            "pick_acc_uncond": None,
            "key": f"item {index}",
            "text_key": f"text {index}",
        }
        for index in range(len(right))
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=choice.TASK_ROW_SCHEMA), paths.items_parquet(name))
    return choice.summarise_task(rows, primary_metric="acc_per_char") | {"format": "ours", "data_key": f"data of {name}"}

"""Results in other programs' forms, beside the tier files: lm-evaluation-harness 0.4.13's JSON.

    exports/lm-eval/<model>/results_<when>.json              figures, configuration, hashes
    exports/lm-eval/<model>/samples_<task>_<when>.jsonl      a line an item, or a document

``<model>`` is the checkpoint's path as lm-evaluation-harness writes a local model's, ``<when>`` the moment when the
last part was scored: exporting the same parts again writes the same files. What is not known here is null;
whether a choice was also the greedy one is not, so it reads "None".
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from scoring import SCORER_VERSION
from scoring.data.cloze_items import EXAMPLES_FILE, Example
from scoring.runtime import provenance
from scoring.tiers import cloze_metric as choice
from scoring.tiers.base import About, Exporter, Scored
from suites.common.atomic_files import publish, publish_json
from suites.contract.scoring_request import Request, merge_suites

Json = dict[str, Any]

LM_EVAL = "lm-eval"

_ITS_NAME = {"social_i_qa": "social_iqa"}
"""Tasks that lm-evaluation-harness calls otherwise."""

_ITS_VERSION: Mapping[str, Any] = {"social_iqa": 0.0, "commonsense_qa": "Yaml"}
"""Of its task files where it is not 1.0."""

_UNKNOWN = (
    *("upper_git_hash", "tokenizer_pad_token", "tokenizer_eos_token", "tokenizer_bos_token", "eot_token_id"),
    *("system_instruction", "system_instruction_sha", "fewshot_as_multiturn", "chat_template", "chat_template_sha"),
)

_OF_DOCUMENTS = {
    "nll_per_token": ("tokens", "weighted_mean"),
    "token_perplexity": ("tokens", "weighted_perplexity"),
    "bits_per_byte": ("bytes", "bits_per_byte"),
    "byte_perplexity": ("bytes", "weighted_perplexity"),
}
"""A slice's metric -> what a document's log-likelihood is divided by, and lm-evaluation-harness's word for adding them up."""


class _Task(msgspec.Struct, frozen=True, kw_only=True):
    """What one name of ``results`` says."""

    name: str
    figures: Json
    config: Json
    version: Any
    higher_is_better: dict[str, bool]
    samples: list[Json]


def lm_eval(request: Request, about: About, documents: Mapping[str, Json], scored: Mapping[str, Sequence[Scored]]) -> None:
    """Write results and samples of tiers 2 and 3; tier 4's checks have no like there. OSError where that cannot be done."""
    scored = {tier: each for tier, each in scored.items() if tier in {"tier2_ppl", "tier3_cf"}}
    if not scored:
        return
    tasks: list[_Task] = []
    groups: dict[str, list[str]] = {}
    figures_of_groups: Json = {}
    for each in (one for of_tier in scored.values() for one in of_tier):
        entry = documents[each.work.tier]["slices" if each.work.tier == "tier2_ppl" else "tasks"][each.work.name]
        definition = merge_suites(request.suites)[each.work.tier][each.work.name]
        found = [_slice(each, entry, definition)] if each.work.tier == "tier2_ppl" else list(_tasks(each, entry, definition))
        tasks += found
        if found[0].name != (name := _name(each)):
            groups[name] = [task.name for task in found]
            figures_of_groups[name] = _group(name, entry)
    ended = max(part.meta["at"] for of_tier in scored.values() for one in of_tier for part in one.parts)
    when = datetime.fromtimestamp(ended).isoformat(timespec="microseconds").replace(":", "-")  # noqa: DTZ006  as it names its files
    document = {
        "results": {task.name: task.figures for task in tasks} | figures_of_groups,
        **({"groups": figures_of_groups} if groups else {}),
        "group_subtasks": groups,
        "configs": {task.name: task.config for task in tasks},
        "versions": {task.name: task.version for task in tasks} | dict.fromkeys(groups, "2"),
        "n-shot": dict.fromkeys([*(task.name for task in tasks), *groups], 0),
        "higher_is_better": {task.name: task.higher_is_better for task in tasks} | {name: {"acc": True} for name in groups},
        "n-samples": {task.name: dict.fromkeys(("original", "effective"), len(task.samples)) for task in tasks},
        "task_hashes": {task.name: _hash("".join(map(_hashes, task.samples))) for task in tasks},
        **_run(request, about, [part.meta for of_tier in scored.values() for one in of_tier for part in one.parts]),
    }
    folder = request.paths.exports / LM_EVAL / document["model_name_sanitized"][-200:]
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        lines = "".join(json.dumps(sample, ensure_ascii=False, allow_nan=False) + "\n" for sample in task.samples)
        publish(folder / f"samples_{task.name}_{when}.jsonl", lines.encode())
    publish_json(folder / f"results_{when}.json", document)


def _run(request: Request, about: About, parts: Sequence[Mapping[str, Any]]) -> Json:
    """What does not depend on the task."""
    head = {"stage": request.stage, "source_stage": request.source_stage, "step": request.step, "scorer_version": SCORER_VERSION}
    head |= {"fingerprint": request.fingerprint, "tokens_seen": about.tokens_seen, "tokenizer": about.tokenizer}
    return {
        "config": {
            "model": "nanotron",
            "model_args": {"pretrained": request.checkpoint, "dtype": about.identity.dtype, "max_length": request.seq_len},
            "model_name": request.checkpoint,  # where leaderboards look for it
            "model_num_parameters": about.weights,
            "model_dtype": f"torch.{about.identity.dtype}",
            "model_revision": request.directory,
            "model_sha": request.fingerprint,
            "batch_size": None,
            "batch_sizes": [],
            "device": request.device,
            "use_cache": None,
            "limit": None,
            "bootstrap_iters": 0,
            "gen_kwargs": {},
            **dict.fromkeys(("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")),  # nothing here is drawn
        },
        "git_hash": provenance.git_commit(),
        "date": min(part["at"] - part["seconds"] for part in parts),
        "pretty_env_info": "\n".join(f"{name} {found}" for name, found in provenance.versions().items()),
        "transformers_version": _version("transformers"),
        "lm_eval_version": None,
        **dict.fromkeys(_UNKNOWN),
        "max_length": request.seq_len,
        "model_source": "nanotron",
        "model_name": request.checkpoint,
        "model_name_sanitized": re.sub(r'["<>:/|\\?*\[\]]+', "__", request.checkpoint),
        "total_evaluation_time_seconds": str(math.fsum(part["seconds"] for part in parts)),
        "checkpoint_watcher": head,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _figures(name: str, count: int, values: Mapping[str, Any], metrics: Sequence[str]) -> Json:
    figures: Json = {"name": name, "alias": name, "sample_len": count}
    for metric in metrics:
        error = values.get(f"{metric}_stderr")
        figures |= {f"{metric},none": values[metric], f"{metric}_stderr,none": "N/A" if error is None else error}
    return figures


def _tasks(each: Scored, entry: Json, definition: Json) -> Iterator[_Task]:
    """The task, or one for each of its subjects, as lm-evaluation-harness has mmlu."""
    examples = {example.index: example for example in _examples(each.work.entry.folder / EXAMPLES_FILE)}
    metrics = [metric for metric in choice.METRICS if entry[metric] is not None]
    rows, name = each.table().to_pylist(), _name(each)
    taken = _ITS_VERSION.get(name, 1.0) if each.work.format == "lm_eval" else SCORER_VERSION
    subjects: dict[str, str | None] = {
        f"{name}_{re.sub('[^0-9A-Za-z_]', '_', subject)}": subject for subject in entry.get("by_subject", ())
    }
    if {row["subject"] for row in rows} != set(subjects.values()):  # an item without a subject, or two whose names would be one
        subjects = {name: None}
    for task, subject in subjects.items():
        values = entry if subject is None else entry["by_subject"][subject]
        samples = [_sample(row, examples[row["index"]], metrics) for row in rows if subject is None or row["subject"] == subject]
        yield _Task(
            name=task,
            figures=_figures(task, len(samples), values, metrics),
            config=_config(task, each, definition, "multiple_choice", dict.fromkeys(metrics, True)),
            version=taken,
            higher_is_better=dict.fromkeys(metrics, True),
            samples=[{"doc_id": number, **sample} for number, sample in enumerate(samples)],
        )


def _name(each: Scored) -> str:
    return _ITS_NAME.get(each.work.name, each.work.name) if each.work.format == "lm_eval" else each.work.name


def _examples(file: Path) -> Iterator[Example]:
    with file.open("rb") as lines:
        for line in lines:
            yield msgspec.json.decode(line, type=Example)


def _sample(row: Json, example: Example, metrics: Sequence[str]) -> Json:
    document = {"id": example.id, "subject": example.subject, "choices": example.choices, "gold": example.gold}
    answers = [[str(value), "None"] for value in row["ll"]]
    return {
        "doc": document,
        "target": str(row["gold"]),
        "arguments": {
            f"gen_args_{n}": {"arg_0": context, "arg_1": continuation} for n, (context, continuation) in enumerate(example.pairs)
        },
        "resps": [[answer] for answer in answers],
        "filtered_resps": answers,
        "filter": "none",
        "metrics": list(metrics),
        **_hashed(document, example.pairs[0][0], str(row["gold"])),
        **{metric: float(row[f"pick_{metric}"] == row["gold"]) for metric in metrics},
    }


def _slice(each: Scored, entry: Json, definition: Json) -> _Task:
    """A slice is a rolling log-likelihood; its samples are documents, whose text is not kept."""
    values = {"nll_per_token": entry["nll_per_token"], "nll_per_token_stderr": entry["nll_per_token_stderr"]}
    values["token_perplexity"] = entry["ppl"]
    if entry["bits_per_byte"] is not None:
        values |= {"bits_per_byte": entry["bits_per_byte"], "byte_perplexity": 2 ** entry["bits_per_byte"]}
    metrics = [metric for metric in values if not metric.endswith("_stderr")]
    samples = []
    for row in each.table().to_pylist():
        if row["kind"] == "document":
            document = {"document": row["index"], "tokens": row["tokens"], "bytes": row["bytes"]}
            answer = str(-row["nll_sum"])
            samples.append(
                {
                    "doc_id": row["index"],
                    "doc": document,
                    "target": "",
                    "arguments": {"gen_args_0": {"arg_0": ""}},
                    "resps": [[answer]],
                    "filtered_resps": [answer],
                    "filter": "none",
                    "metrics": metrics,
                    **_hashed(document, "", ""),
                    **{metric: [-row["nll_sum"], row[_OF_DOCUMENTS[metric][0]]] for metric in metrics},
                }
            )
    lower = dict.fromkeys(metrics, False)
    return _Task(
        name=each.work.name,
        figures=_figures(each.work.name, len(samples), values, metrics),
        config=_config(each.work.name, each, definition, "loglikelihood_rolling", lower),
        version=SCORER_VERSION,
        higher_is_better=lower,
        samples=samples,
    )


def _config(task: str, each: Scored, definition: Json, output: str, metrics: Mapping[str, bool]) -> Json:
    kept = {"dataset_path": definition.get("hf_dataset"), "dataset_name": definition.get("hf_config")}
    if "data_files" in definition:
        kept["dataset_kwargs"] = {"data_files": definition["data_files"]}
    return {
        "task": task,
        **kept,
        "test_split": definition.get("split"),
        "output_type": output,
        "num_fewshot": 0,
        "repeats": 1,
        "metric_list": [
            {"metric": name, "aggregation": _OF_DOCUMENTS.get(name, ("", "mean"))[1], "higher_is_better": up}
            for name, up in metrics.items()
        ],
        "metadata": {
            "version": SCORER_VERSION,
            "format": each.work.format,
            "data_key": each.work.data_key,
            "definition": definition,
        },
    }


def _group(name: str, entry: Json) -> Json:
    """Weighted by size, with lm-evaluation-harness's pooled standard error."""
    parts = list(entry["by_subject"].values())
    metrics = [metric for metric in choice.METRICS if entry["micro"][metric] is not None]
    values = {metric: entry["micro"][metric] for metric in metrics}
    for metric in metrics:
        errors = [(part[f"{metric}_stderr"], part["examples"]) for part in parts]
        if all(error is not None for error, _ in errors):
            size = sum(count for _, count in errors)
            pooled = math.fsum((count - 1) * error**2 * count for error, count in errors) / (size - len(errors))
            values[f"{metric}_stderr"] = math.sqrt(pooled / size)
    counts = {f"{metric},none": entry["examples"] for metric in metrics}
    return {**_figures(name, entry["examples"], values, metrics), "sample_count": counts}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _hashed(document: Json, prompt: str, target: str) -> Json:
    return {
        "doc_hash": _hash(json.dumps(document, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(target),
    }


def _hashes(sample: Json) -> str:
    return str(sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"])


EXPORTS: Mapping[str, Exporter] = {LM_EVAL: lm_eval}
"""What ``--export`` takes."""

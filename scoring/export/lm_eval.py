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
from scoring.tiers.base import Exporter, RunInfo, ScoredItem
from suites.common.atomic_files import write_atomically, write_json_atomically
from suites.contract.scoring_request import ScoringRequest, merge_suites

Json = dict[str, Any]

LM_EVAL_FOLDER = "lm-eval"

_LM_EVAL_TASK_NAMES = {"social_i_qa": "social_iqa"}
"""Tasks that lm-evaluation-harness calls otherwise."""

_LM_EVAL_TASK_VERSIONS: Mapping[str, Any] = {"social_iqa": 0.0, "commonsense_qa": "Yaml"}
"""Of its task files where it is not 1.0."""

_NULL_FIELDS = (
    *("upper_git_hash", "tokenizer_pad_token", "tokenizer_eos_token", "tokenizer_bos_token", "eot_token_id"),
    *("system_instruction", "system_instruction_sha", "fewshot_as_multiturn", "chat_template", "chat_template_sha"),
)

_DOCUMENT_METRICS = {
    "nll_per_token": ("tokens", "weighted_mean"),
    "token_perplexity": ("tokens", "weighted_perplexity"),
    "bits_per_byte": ("bytes", "bits_per_byte"),
    "byte_perplexity": ("bytes", "weighted_perplexity"),
}
"""A slice's metric -> what a document's log-likelihood is divided by, and lm-evaluation-harness's word for adding them up."""


class _TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one name of ``results`` says."""

    name: str
    figures: Json
    config: Json
    version: Any
    higher_is_better: dict[str, bool]
    samples: list[Json]


def export_lm_eval(
    request: ScoringRequest, run_info: RunInfo, documents: Mapping[str, Json], scored: Mapping[str, Sequence[ScoredItem]]
) -> None:
    """Write results and samples of tiers 2 and 3; tier 4's checks have no like there. OSError where that cannot be done."""
    scored = {tier: item for tier, item in scored.items() if tier in {"tier2_ppl", "tier3_cf"}}
    if not scored:
        return
    tasks: list[_TaskResult] = []
    groups: dict[str, list[str]] = {}
    group_figures: Json = {}
    for item in (scored_item for tier_items in scored.values() for scored_item in tier_items):
        entry = documents[item.work_item.tier]["slices" if item.work_item.tier == "tier2_ppl" else "tasks"][item.work_item.name]
        definition = merge_suites(request.suites)[item.work_item.tier][item.work_item.name]
        item_results = (
            [_build_slice_result(item, entry, definition)]
            if item.work_item.tier == "tier2_ppl"
            else list(_build_task_results(item, entry, definition))
        )
        tasks += item_results
        if item_results[0].name != (name := _get_task_name(item)):
            groups[name] = [task.name for task in item_results]
            group_figures[name] = _build_group_figures(name, entry)
    ended_at = max(part.meta["at"] for tier_items in scored.values() for scored_item in tier_items for part in scored_item.parts)
    timestamp = datetime.fromtimestamp(ended_at).isoformat(timespec="microseconds").replace(":", "-")  # noqa: DTZ006  as it names its files
    document = {
        "results": {task.name: task.figures for task in tasks} | group_figures,
        **({"groups": group_figures} if groups else {}),
        "group_subtasks": groups,
        "configs": {task.name: task.config for task in tasks},
        "versions": {task.name: task.version for task in tasks} | dict.fromkeys(groups, "2"),
        "n-shot": dict.fromkeys([*(task.name for task in tasks), *groups], 0),
        "higher_is_better": {task.name: task.higher_is_better for task in tasks} | {name: {"acc": True} for name in groups},
        "n-samples": {task.name: dict.fromkeys(("original", "effective"), len(task.samples)) for task in tasks},
        "task_hashes": {task.name: _sha256_hex("".join(map(_join_sample_hashes, task.samples))) for task in tasks},
        **_build_run_metadata(
            request,
            run_info,
            [part.meta for tier_items in scored.values() for scored_item in tier_items for part in scored_item.parts],
        ),
    }
    folder = request.paths.exports / LM_EVAL_FOLDER / document["model_name_sanitized"][-200:]
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        lines = "".join(json.dumps(sample, ensure_ascii=False, allow_nan=False) + "\n" for sample in task.samples)
        write_atomically(folder / f"samples_{task.name}_{timestamp}.jsonl", lines.encode())
    write_json_atomically(folder / f"results_{timestamp}.json", document)


def _build_run_metadata(request: ScoringRequest, run_info: RunInfo, parts: Sequence[Mapping[str, Any]]) -> Json:
    """What does not depend on the task."""
    head = {"stage": request.stage, "source_stage": request.source_stage, "step": request.step, "scorer_version": SCORER_VERSION}
    head |= {"fingerprint": request.fingerprint, "tokens_seen": run_info.tokens_seen, "tokenizer": run_info.tokenizer}
    return {
        "config": {
            "model": "nanotron",
            "model_args": {"pretrained": request.checkpoint, "dtype": run_info.identity.dtype, "max_length": request.seq_len},
            "model_name": request.checkpoint,  # where leaderboards look for it
            "model_num_parameters": run_info.parameter_count,
            "model_dtype": f"torch.{run_info.identity.dtype}",
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
        "git_hash": provenance.read_git_commit(),
        "date": min(part["at"] - part["seconds"] for part in parts),
        "pretty_env_info": "\n".join(
            f"{name} {package_version}" for name, package_version in provenance.collect_versions().items()
        ),
        "transformers_version": _find_package_version("transformers"),
        "lm_eval_version": None,
        **dict.fromkeys(_NULL_FIELDS),
        "max_length": request.seq_len,
        "model_source": "nanotron",
        "model_name": request.checkpoint,
        "model_name_sanitized": re.sub(r'["<>:/|\\?*\[\]]+', "__", request.checkpoint),
        "total_evaluation_time_seconds": str(math.fsum(part["seconds"] for part in parts)),
        "checkpoint_watcher": head,
    }


def _find_package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _build_figures(name: str, count: int, values: Mapping[str, Any], metrics: Sequence[str]) -> Json:
    figures: Json = {"name": name, "alias": name, "sample_len": count}
    for metric in metrics:
        error = values.get(f"{metric}_stderr")
        figures |= {f"{metric},none": values[metric], f"{metric}_stderr,none": "N/A" if error is None else error}
    return figures


def _build_task_results(scored_item: ScoredItem, entry: Json, definition: Json) -> Iterator[_TaskResult]:
    """The task, or one for each of its subjects, as lm-evaluation-harness has mmlu."""
    examples = {example.index: example for example in _read_examples(scored_item.work_item.entry.folder / EXAMPLES_FILE)}
    metrics = [metric for metric in choice.CLOZE_METRICS if entry[metric] is not None]
    rows, name = scored_item.concat_rows().to_pylist(), _get_task_name(scored_item)
    task_version = _LM_EVAL_TASK_VERSIONS.get(name, 1.0) if scored_item.work_item.format == "lm_eval" else SCORER_VERSION
    subjects: dict[str, str | None] = {
        f"{name}_{re.sub('[^0-9A-Za-z_]', '_', subject)}": subject for subject in entry.get("by_subject", ())
    }
    if {row["subject"] for row in rows} != set(subjects.values()):  # an item without a subject, or two whose names would be one
        subjects = {name: None}
    for task, subject in subjects.items():
        values = entry if subject is None else entry["by_subject"][subject]
        samples = [
            _build_task_sample(row, examples[row["index"]], metrics)
            for row in rows
            if subject is None or row["subject"] == subject
        ]
        yield _TaskResult(
            name=task,
            figures=_build_figures(task, len(samples), values, metrics),
            config=_build_task_config(task, scored_item, definition, "multiple_choice", dict.fromkeys(metrics, True)),
            version=task_version,
            higher_is_better=dict.fromkeys(metrics, True),
            samples=[{"doc_id": number, **sample} for number, sample in enumerate(samples)],
        )


def _get_task_name(scored_item: ScoredItem) -> str:
    return (
        _LM_EVAL_TASK_NAMES.get(scored_item.work_item.name, scored_item.work_item.name)
        if scored_item.work_item.format == "lm_eval"
        else scored_item.work_item.name
    )


def _read_examples(file: Path) -> Iterator[Example]:
    with file.open("rb") as lines:
        for line in lines:
            yield msgspec.json.decode(line, type=Example)


def _build_task_sample(row: Json, example: Example, metrics: Sequence[str]) -> Json:
    document = {"id": example.id, "subject": example.subject, "choices": example.choices, "gold": example.gold}
    answers = [[str(value), "None"] for value in row["ll"]]
    return {
        "doc": document,
        "target": str(row["gold"]),
        "arguments": {
            f"gen_args_{index}": {"arg_0": context, "arg_1": continuation}
            for index, (context, continuation) in enumerate(example.pairs)
        },
        "resps": [[answer] for answer in answers],
        "filtered_resps": answers,
        "filter": "none",
        "metrics": list(metrics),
        **_build_sample_hashes(document, example.pairs[0][0], str(row["gold"])),
        **{metric: float(row[f"pick_{metric}"] == row["gold"]) for metric in metrics},
    }


def _build_slice_result(scored_item: ScoredItem, entry: Json, definition: Json) -> _TaskResult:
    """A slice is a rolling log-likelihood; its samples are documents, whose text is not kept."""
    values = {"nll_per_token": entry["nll_per_token"], "nll_per_token_stderr": entry["nll_per_token_stderr"]}
    values["token_perplexity"] = entry["ppl"]
    if entry["bits_per_byte"] is not None:
        values |= {"bits_per_byte": entry["bits_per_byte"], "byte_perplexity": 2 ** entry["bits_per_byte"]}
    metrics = [metric for metric in values if not metric.endswith("_stderr")]
    samples = []
    for row in scored_item.concat_rows().to_pylist():
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
                    **_build_sample_hashes(document, "", ""),
                    **{metric: [-row["nll_sum"], row[_DOCUMENT_METRICS[metric][0]]] for metric in metrics},
                }
            )
    higher_is_better = dict.fromkeys(metrics, False)
    return _TaskResult(
        name=scored_item.work_item.name,
        figures=_build_figures(scored_item.work_item.name, len(samples), values, metrics),
        config=_build_task_config(scored_item.work_item.name, scored_item, definition, "loglikelihood_rolling", higher_is_better),
        version=SCORER_VERSION,
        higher_is_better=higher_is_better,
        samples=samples,
    )


def _build_task_config(
    task: str, scored_item: ScoredItem, definition: Json, output_type: str, metrics: Mapping[str, bool]
) -> Json:
    dataset = {"dataset_path": definition.get("hf_dataset"), "dataset_name": definition.get("hf_config")}
    if "data_files" in definition:
        dataset["dataset_kwargs"] = {"data_files": definition["data_files"]}
    return {
        "task": task,
        **dataset,
        "test_split": definition.get("split"),
        "output_type": output_type,
        "num_fewshot": 0,
        "repeats": 1,
        "metric_list": [
            {"metric": name, "aggregation": _DOCUMENT_METRICS.get(name, ("", "mean"))[1], "higher_is_better": higher_is_better}
            for name, higher_is_better in metrics.items()
        ],
        "metadata": {
            "version": SCORER_VERSION,
            "format": scored_item.work_item.format,
            "data_key": scored_item.work_item.data_key,
            "definition": definition,
        },
    }


def _build_group_figures(name: str, entry: Json) -> Json:
    """Weighted by size, with lm-evaluation-harness's pooled standard error."""
    parts = list(entry["by_subject"].values())
    metrics = [metric for metric in choice.CLOZE_METRICS if entry["micro"][metric] is not None]
    values = {metric: entry["micro"][metric] for metric in metrics}
    for metric in metrics:
        errors = [(part[f"{metric}_stderr"], part["examples"]) for part in parts]
        if all(error is not None for error, _ in errors):
            total_examples = sum(count for _, count in errors)
            pooled_variance = math.fsum((count - 1) * error**2 * count for error, count in errors) / (
                total_examples - len(errors)
            )
            values[f"{metric}_stderr"] = math.sqrt(pooled_variance / total_examples)
    counts = {f"{metric},none": entry["examples"] for metric in metrics}
    return {**_build_figures(name, entry["examples"], values, metrics), "sample_count": counts}


def _sha256_hex(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _build_sample_hashes(document: Json, prompt: str, target: str) -> Json:
    return {
        "doc_hash": _sha256_hex(json.dumps(document, indent=2, ensure_ascii=False)),
        "prompt_hash": _sha256_hex(prompt),
        "target_hash": _sha256_hex(target),
    }


def _join_sample_hashes(sample: Json) -> str:
    return str(sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"])


EXPORTERS: Mapping[str, Exporter] = {LM_EVAL_FOLDER: export_lm_eval}
"""What ``--export`` takes."""

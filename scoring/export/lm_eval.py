"""Results as lm-evaluation-harness 0.4.13 writes them, beside the tier files.

    exports/lm-eval/<model>/results_<time>.json              figures, configuration, hashes
    exports/lm-eval/<model>/samples_<task>_<time>.jsonl      a line for each item or document

``<model>`` is the checkpoint's path in lm-evaluation-harness's spelling, ``<time>`` the end of the last scored part: exporting
the same parts again writes the same files. Unknown fields are null, or "None" for whether a choice was the greedy one.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from scoring import SCORER_VERSION
from scoring.data.cloze_items import EXAMPLES_FILE, Example
from scoring.inference.bits_per_byte import add_bits_per_byte
from scoring.runtime import provenance
from scoring.tiers.base import Exporter, RunInfo, ScoredItem
from scoring.tiers.cloze_metric import CLOZE_METRICS
from suites.common.atomic_files import write_atomically, write_json_atomically
from suites.contract.scoring_request import ScoringRequest, merge_suites
from suites.contract.tier_files import TIER4, TIER_SECTIONS

Json = dict[str, Any]

LM_EVAL_FOLDER = "lm-eval"

_LM_EVAL_TASK_NAMES = {"social_i_qa": "social_iqa"}
"""Tasks with another name in lm-evaluation-harness."""

_LM_EVAL_TASK_VERSIONS: Mapping[str, Any] = {"social_iqa": 0.0, "commonsense_qa": "Yaml"}
"""Versions of its task files that are not 1.0."""

_NULL_FIELDS = (
    *("upper_git_hash", "tokenizer_pad_token", "tokenizer_eos_token", "tokenizer_bos_token", "eot_token_id"),
    *("system_instruction", "system_instruction_sha", "fewshot_as_multiturn", "chat_template", "chat_template_sha"),
)


class _DocumentMetric(NamedTuple):
    """How documents make a slice's metric."""

    column: str  # what a document's log-likelihood is divided by
    aggregation: str  # lm-evaluation-harness's name of the sum


_DOCUMENT_METRICS = {
    "nll_per_token": _DocumentMetric("tokens", "weighted_mean"),
    "token_perplexity": _DocumentMetric("tokens", "weighted_perplexity"),
    "bits_per_byte": _DocumentMetric("bytes", "bits_per_byte"),
    "byte_perplexity": _DocumentMetric("bytes", "weighted_perplexity"),
}

_MEAN = _DocumentMetric("items", "mean")


class _TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """One name of ``results``: a slice, a task or a subject of a task."""

    name: str
    figures: Json
    config: Json
    version: Any
    higher_is_better: dict[str, bool]
    samples: list[Json]


def export_lm_eval(
    request: ScoringRequest, run_info: RunInfo, documents: Mapping[str, Json], scored: Mapping[str, Sequence[ScoredItem]]
) -> None:
    """Write results and samples of tiers 2 and 3.

    lm-evaluation-harness has nothing like tier 4. Raises OSError.
    """
    items = [item for tier, tier_items in scored.items() if tier != TIER4 for item in tier_items]
    if not items:
        return
    tasks: list[_TaskResult] = []
    groups: dict[str, list[str]] = {}
    group_figures: Json = {}
    for item in items:
        work_item = item.work_item
        entry = documents[work_item.tier][TIER_SECTIONS[work_item.tier]][work_item.name]
        definition = merge_suites(request.suites)[work_item.tier][work_item.name]
        build_results = _build_slice_results if work_item.tier == "tier2_ppl" else _build_task_results
        item_results = list(build_results(item, entry, definition))
        tasks += item_results
        # A task with subjects is a group: its results are its subjects.
        if item_results[0].name != (name := _get_task_name(item)):
            groups[name] = [task.name for task in item_results]
            group_figures[name] = _build_group_figures(name, entry)
    parts = [part.meta for item in items for part in item.parts]
    ended_at = max(part["at"] for part in parts)
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
        "task_hashes": {task.name: _hash_samples(task.samples) for task in tasks},
        **_build_run_metadata(request, run_info, parts),
    }
    folder = request.paths.exports / LM_EVAL_FOLDER / document["model_name_sanitized"][-200:]
    folder.mkdir(parents=True, exist_ok=True)
    # Tools look for the results file: it comes last.
    for task in tasks:
        lines = "".join(json.dumps(sample, ensure_ascii=False, allow_nan=False) + "\n" for sample in task.samples)
        write_atomically(folder / f"samples_{task.name}_{timestamp}.jsonl", lines.encode())
    write_json_atomically(folder / f"results_{timestamp}.json", document)


def _build_run_metadata(request: ScoringRequest, run_info: RunInfo, parts: Sequence[Mapping[str, Any]]) -> Json:
    """The fields of the results file that do not depend on tasks."""
    head = {"stage": request.stage, "source_stage": request.source_stage, "step": request.step, "scorer_version": SCORER_VERSION}
    head |= {"fingerprint": request.fingerprint, "tokens_seen": run_info.tokens_seen, "tokenizer": run_info.tokenizer["id"]}
    head |= request.describe_average()
    versions = provenance.collect_versions()
    return {
        "config": {
            "model": "nanotron",
            "model_args": {"pretrained": request.checkpoint, "dtype": run_info.identity.dtype, "max_length": request.seq_len},
            "model_name": request.checkpoint,  # leaderboards read it here
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
            **dict.fromkeys(("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")),  # scoring is not random
        },
        "git_hash": provenance.read_git_commit(),
        "date": min(part["at"] - part["seconds"] for part in parts),
        "pretty_env_info": "\n".join(f"{name} {version}" for name, version in versions.items()),
        "transformers_version": versions.get("transformers"),
        "lm_eval_version": None,
        **dict.fromkeys(_NULL_FIELDS),
        "max_length": request.seq_len,
        "model_source": "nanotron",
        "model_name": request.checkpoint,
        "model_name_sanitized": re.sub(r'["<>:/|\\?*\[\]]+', "__", request.checkpoint),
        "total_evaluation_time_seconds": str(math.fsum(part["seconds"] for part in parts)),
        "checkpoint_watcher": head,
    }


def _build_figures(name: str, count: int, values: Mapping[str, Any], metrics: Iterable[str]) -> Json:
    figures: Json = {"name": name, "alias": name, "sample_len": count}
    for metric in metrics:
        error = values.get(f"{metric}_stderr")
        figures |= {f"{metric},none": values[metric], f"{metric}_stderr,none": "N/A" if error is None else error}
    return figures


def _build_task_results(scored_item: ScoredItem, entry: Json, definition: Json) -> Iterator[_TaskResult]:
    """The task, or each of its subjects, as lm-evaluation-harness has mmlu."""
    with (scored_item.work_item.entry.folder / EXAMPLES_FILE).open("rb") as lines:
        examples = {example.index: example for example in map(msgspec.json.Decoder(Example).decode, lines)}
    higher_is_better = {metric: True for metric in CLOZE_METRICS if entry[metric] is not None} | {"bpb": False}
    rows, name = add_bits_per_byte(scored_item.concat_rows()).to_pylist(), _get_task_name(scored_item)
    subjects: dict[str, str | None] = {
        f"{name}_{re.sub('[^0-9A-Za-z_]', '_', subject)}": subject for subject in entry.get("by_subject", ())
    }
    # An item without a subject, or two subjects with one name: then the task is not divided.
    if {row["subject"] for row in rows} != set(subjects.values()):
        subjects = {name: None}
    for task, subject in subjects.items():
        task_rows = [row for row in rows if subject is None or row["subject"] == subject]
        samples = [
            _build_task_sample(number, row, examples[row["index"]], higher_is_better) for number, row in enumerate(task_rows)
        ]
        values = entry if subject is None else entry["by_subject"][subject]
        yield _TaskResult(
            name=task,
            figures=_build_figures(task, len(samples), values, higher_is_better),
            config=_build_task_config(task, scored_item, definition, "multiple_choice", higher_is_better),
            version=_LM_EVAL_TASK_VERSIONS.get(name, 1.0) if scored_item.work_item.format == "lm_eval" else SCORER_VERSION,
            higher_is_better=higher_is_better,
            samples=samples,
        )


def _get_task_name(scored_item: ScoredItem) -> str:
    """lm-evaluation-harness's name of a task in its format, else ours."""
    name = scored_item.work_item.name
    return _LM_EVAL_TASK_NAMES.get(name, name) if scored_item.work_item.format == "lm_eval" else name


def _build_task_sample(number: int, row: Json, example: Example, metrics: Iterable[str]) -> Json:
    document = {"id": example.id, "subject": example.subject, "choices": example.choices, "gold": example.gold}
    return _build_sample(
        number,
        document,
        target=str(row["gold"]),
        arguments=[{"arg_0": pair.context, "arg_1": pair.continuation} for pair in example.pairs],
        answers=[[str(value), "None"] for value in row["ll"]],
        values={metric: row["bpb"] if metric == "bpb" else float(row[f"pick_{metric}"] == row["gold"]) for metric in metrics},
    )


def _build_slice_results(scored_item: ScoredItem, entry: Json, definition: Json) -> Iterator[_TaskResult]:
    """A slice as a rolling log-likelihood. Its samples are documents, whose texts are not stored."""
    name = scored_item.work_item.name
    values = {metric: entry[metric] for metric in ("nll_per_token", "nll_per_token_stderr")} | {"token_perplexity": entry["ppl"]}
    if entry["bits_per_byte"] is not None:
        values |= {"bits_per_byte": entry["bits_per_byte"], "byte_perplexity": 2 ** entry["bits_per_byte"]}
    higher_is_better = {metric: False for metric in values if metric in _DOCUMENT_METRICS}
    samples = []
    for row in scored_item.concat_rows().to_pylist():
        if row["kind"] == "document":
            document = {"document": row["index"], "tokens": row["tokens"], "bytes": row["bytes"]}
            # A document's share of a metric: its log-likelihood, and its tokens or bytes.
            sums = {metric: [-row["nll_sum"], row[_DOCUMENT_METRICS[metric].column]] for metric in higher_is_better}
            answers = [str(-row["nll_sum"])]
            sample = _build_sample(row["index"], document, target="", arguments=[{"arg_0": ""}], answers=answers, values=sums)
            samples.append(sample)
    yield _TaskResult(
        name=name,
        figures=_build_figures(name, len(samples), values, higher_is_better),
        config=_build_task_config(name, scored_item, definition, "loglikelihood_rolling", higher_is_better),
        version=SCORER_VERSION,
        higher_is_better=higher_is_better,
        samples=samples,
    )


def _build_sample(
    doc_id: int, document: Json, *, target: str, arguments: list[dict[str, str]], answers: list[Any], values: Json
) -> Json:
    """A line of a samples file. ``answers`` has an element for each of ``arguments``, ``values`` one for each metric."""
    return {
        "doc_id": doc_id,
        "doc": document,
        "target": target,
        "arguments": {f"gen_args_{index}": argument for index, argument in enumerate(arguments)},
        "resps": [[answer] for answer in answers],
        "filtered_resps": answers,
        "filter": "none",
        "metrics": list(values),
        "doc_hash": _sha256_hex(json.dumps(document, indent=2, ensure_ascii=False)),
        "prompt_hash": _sha256_hex(arguments[0]["arg_0"]),
        "target_hash": _sha256_hex(target),
        **values,
    }


def _build_task_config(
    task: str, scored_item: ScoredItem, definition: Json, output_type: str, higher_is_better: Mapping[str, bool]
) -> Json:
    local_files = {"dataset_kwargs": {"data_files": definition["data_files"]}} if "data_files" in definition else {}
    return {
        "task": task,
        "dataset_path": definition.get("hf_dataset"),
        "dataset_name": definition.get("hf_config"),
        **local_files,
        "test_split": definition.get("split"),
        "output_type": output_type,
        "num_fewshot": 0,
        "repeats": 1,
        "metric_list": [
            {"metric": name, "aggregation": _DOCUMENT_METRICS.get(name, _MEAN).aggregation, "higher_is_better": is_better}
            for name, is_better in higher_is_better.items()
        ],
        "metadata": {
            "version": SCORER_VERSION,
            "format": scored_item.work_item.format,
            "data_key": scored_item.work_item.data_key,
            "definition": definition,
        },
    }


def _build_group_figures(name: str, entry: Json) -> Json:
    """Means weighted by size, with lm-evaluation-harness's pooled standard error."""
    parts = list(entry["by_subject"].values())
    metrics = [metric for metric in (*CLOZE_METRICS, "bpb") if entry["micro"][metric] is not None]
    values = {metric: entry["micro"][metric] for metric in metrics}
    for metric in metrics:
        errors = [part[f"{metric}_stderr"] for part in parts]
        if None in errors:
            continue
        counts = [part["examples"] for part in parts]
        weighted = math.fsum((count - 1) * error**2 * count for error, count in zip(errors, counts, strict=True))
        values[f"{metric}_stderr"] = math.sqrt(weighted / (sum(counts) - len(counts)) / sum(counts))
    sample_count = {f"{metric},none": entry["examples"] for metric in metrics}
    return {**_build_figures(name, entry["examples"], values, metrics), "sample_count": sample_count}


def _sha256_hex(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _hash_samples(samples: Iterable[Json]) -> str:
    return _sha256_hex("".join(sample[key] for sample in samples for key in ("doc_hash", "prompt_hash", "target_hash")))


EXPORTERS: Mapping[str, Exporter] = {LM_EVAL_FOLDER: export_lm_eval}
"""The values of ``--export``."""

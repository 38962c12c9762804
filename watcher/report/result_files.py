"""One evaluation's results on disk, for the report.

A missing or broken file becomes a line of text, never an exception. Numbers are the tier files' own. Only the standard errors
of a tier's totals are derived here, from those of its independent slices or tasks.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from suites.common.documents import may_be_folder, read_json
from suites.common.formatting import describe_error
from suites.contract.paths import TIER_FILES, EvaluationPaths
from watcher.status.reader import JsonObject, as_finite, as_list, as_object

ENTRY_SECTIONS = {"tier2_ppl": "slices", "tier3_cf": "tasks", "tier4_sft_native": "by_category"}
"""Tier -> key of the entries in its file."""

"""Largest tier file that is read; real ones have less than a megabyte."""


class FigureValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A figure and its standard error, if known."""

    value: float
    error: float | None = None


class TierFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one tier file."""

    fingerprint: str = ""
    suite_digest: str = ""
    suites: tuple[str, ...] = ()
    assume: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Key of model_config.json that is not implemented -> what it was taken for."""
    settings: Mapping[str, str] = msgspec.field(default_factory=dict)
    """What comparable figures share: tokenizer, dtype, seq_len, backend, padded_vocab."""
    totals: Mapping[str, FigureValue] = msgspec.field(default_factory=dict)
    entries: Mapping[str, Mapping[str, FigureValue]] = msgspec.field(default_factory=dict)
    """Slice, task or category -> metric -> figure."""
    at_chance: tuple[str, ...] = ()
    """Tasks whose accuracy is no better than guesses."""
    data_keys: Mapping[str, str] = msgspec.field(default_factory=dict)
    primary_metrics: Mapping[str, str] = msgspec.field(default_factory=dict)


class ResultFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of one evaluation's results folder."""

    tiers: Mapping[str, TierFigures] = msgspec.field(default_factory=dict)
    tokens_seen: int | None = None
    stage: str = ""
    source: str = ""
    step: int | None = None
    checkpoint: str = ""
    run: JsonObject = msgspec.field(default_factory=dict)
    """run.json; empty if it is missing or unreadable."""
    errors: tuple[str, ...] = ()
    """One line for each file that could not be read."""


def list_result_folders(root: Path) -> list[str]:
    """Names of the evaluation folders in a stage's folder of results, sorted.

    Empty if the stage has no results. Raises OSError if they cannot be listed.
    """
    folder = EvaluationPaths(root, "any").folder.parent
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if may_be_folder(entry) and not entry.name.startswith("."))
    except FileNotFoundError:
        return []


def read_result_files(paths: EvaluationPaths) -> ResultFiles:
    """Read the results folder of one evaluation."""
    errors: list[str] = []
    documents = {tier: document for tier in TIER_FILES if (document := _read_document(paths.tier_json(tier), errors))}
    tiers: dict[str, TierFigures] = {}
    for tier, document in documents.items():
        # Another program's numbers may mean something else, so they are not shown as ours.
        if not isinstance(document.get("checkpoint"), dict) or "schema" not in document:
            errors.append(f"{paths.tier_json(tier).name}: written by another program")
            continue
        tiers[tier] = _parse_tier(tier, document)
        if not tiers[tier].totals:
            errors.append(f"{paths.tier_json(tier).name}: has no figures")
    # All tier files of a folder name the same checkpoint.
    first_document: JsonObject = next((documents[tier] for tier in tiers), {})
    checkpoint = as_object(first_document.get("checkpoint"))
    return ResultFiles(
        tiers=tiers,
        tokens_seen=_parse_int(checkpoint.get("tokens_seen")),
        stage=_parse_text(first_document.get("stage")),
        source=_parse_text(checkpoint.get("source_stage")),
        step=_parse_int(first_document.get("step")),
        checkpoint=_parse_text(checkpoint.get("path")),
        run=_read_document(paths.run_json, errors),
        errors=tuple(errors),
    )


def _read_document(path: Path, errors: list[str]) -> JsonObject:
    """The JSON object at ``path``; empty if there is none.

    A file that holds something else adds a line to ``errors``.
    """
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        errors.append(f"{path.name}: {describe_error(error).removeprefix(f'{path}: ')}")
        return {}
    if document is not None and not isinstance(document, dict):
        errors.append(f"{path.name}: not a JSON object")
    return as_object(document)


def _parse_tier(tier: str, document: JsonObject) -> TierFigures:
    fields_by_entry = {str(entry): as_object(fields) for entry, fields in as_object(document.get(ENTRY_SECTIONS[tier])).items()}
    entries = {entry: _parse_entry(tier, fields) for entry, fields in fields_by_entry.items()}
    data_keys = {entry: fields.get("data_key", document.get("data_key")) for entry, fields in fields_by_entry.items()}
    primary_metrics = {entry: fields.get("primary_metric") for entry, fields in fields_by_entry.items()}
    totals = _parse_numbers(as_object(document.get("summary")))
    # The file has no errors for its totals.
    _add_total_errors(tier, totals, entries)
    return TierFigures(
        fingerprint=_parse_text(as_object(document.get("checkpoint")).get("fingerprint")),
        suite_digest=_parse_text(document.get("suite_digest")),
        suites=tuple(map(str, as_list(document.get("suites")))),
        assume={str(key): str(choice) for key, choice in as_object(document.get("assume")).items()},
        settings={
            "tokenizer": _parse_text(as_object(document.get("tokenizer")).get("digest")),
            **{key: _parse_text(document.get(key)) for key in ("dtype", "seq_len", "backend", "padded_vocab")},
        },
        totals=totals,
        entries=entries,
        at_chance=tuple(entry for entry, fields in fields_by_entry.items() if fields.get("at_chance") is True),
        data_keys={entry: str(key) for entry, key in data_keys.items() if key},
        primary_metrics={entry: str(metric) for entry, metric in primary_metrics.items() if metric},
    )


def _parse_numbers(fields: JsonObject) -> dict[str, FigureValue]:
    """Metric -> number, with ``METRIC_stderr`` as its error."""
    numbers = {str(name): _parse_float(value) for name, value in fields.items() if not str(name).endswith("_stderr")}
    return {
        name: FigureValue(number, _parse_float(fields.get(f"{name}_stderr")))
        for name, number in numbers.items()
        if number is not None
    }


def _parse_entry(tier: str, fields: JsonObject) -> dict[str, FigureValue]:
    """The numbers of a slice, task or category, with standard errors.

    ppl = exp(nll) has its error by the delta method, primary that of its own metric, and a rate the binomial one.
    """
    numbers = _parse_numbers(fields)
    if tier == "tier2_ppl" and "nll_per_token" in numbers:
        _set_ppl_error(numbers, numbers["nll_per_token"].error)
    if tier == "tier3_cf":
        _set_error(numbers, "primary", _parse_float(fields.get(f"{fields.get('primary_metric')}_stderr")))
    if tier == "tier4_sft_native" and "prompts" in numbers:
        for rate in ("pass", "format", "clean"):
            _set_binomial_error(numbers, rate, numbers["prompts"].value)
    return numbers


def _add_total_errors(tier: str, totals: dict[str, FigureValue], entries: Mapping[str, Mapping[str, FigureValue]]) -> None:
    """Give the totals their standard errors.

    Slices and tasks are treated as drawn independently. NLL a token is a mean weighted by tokens:
    sqrt(sum((tokens_i * se_i)^2)) / sum(tokens). The tasks' mean is unweighted: sqrt(sum(se_i^2)) / n. A share of prompts has
    the binomial error. A total has none if a part has none.
    """
    if tier == "tier2_ppl" and "nll_per_token" in totals:
        parts = [(entry.get("tokens"), entry.get("nll_per_token")) for entry in entries.values()]
        weighted_errors = [(t.value, n.error) for t, n in parts if t is not None and n is not None and n.error is not None]
        tokens = math.fsum(count for count, _ in weighted_errors)
        # An error that leaves out a slice would be too small.
        if weighted_errors and len(weighted_errors) == len(parts) and tokens > 0:
            error = math.sqrt(math.fsum((count * stderr) ** 2 for count, stderr in weighted_errors)) / tokens
            _set_error(totals, "nll_per_token", error)
            _set_ppl_error(totals, error)
    if tier == "tier3_cf":
        for metric in ("primary", "acc", "acc_norm", "bpb"):
            errors = [number.error for entry in entries.values() if (number := entry.get(metric)) and number.error is not None]
            if errors and len(errors) == len(entries):
                _set_error(totals, metric, math.sqrt(math.fsum(stderr**2 for stderr in errors)) / len(errors))
    if tier == "tier4_sft_native":
        prompts = math.fsum(entry["prompts"].value for entry in entries.values() if "prompts" in entry)
        for rate in ("all_checks_pass_rate", "chat_clean_rate"):  # the rates over all prompts
            _set_binomial_error(totals, rate, prompts)


def _set_error(numbers: dict[str, FigureValue], metric: str, error: float | None) -> None:
    if metric in numbers:
        numbers[metric] = FigureValue(numbers[metric].value, error)


def _set_ppl_error(numbers: dict[str, FigureValue], nll_error: float | None) -> None:
    if "ppl" in numbers:
        _set_error(numbers, "ppl", None if nll_error is None else nll_error * numbers["ppl"].value)


def _set_binomial_error(numbers: dict[str, FigureValue], rate: str, count: float) -> None:
    """Set the standard error of a share of ``count`` independent prompts.

    It is sqrt(p (1 - p) / (n - 1)), and None for fewer than two prompts.
    """
    if rate in numbers:
        share = numbers[rate].value
        is_defined = count > 1 and 0 <= share <= 1
        _set_error(numbers, rate, math.sqrt(share * (1 - share) / (count - 1)) if is_defined else None)


def _parse_float(value: object) -> float | None:
    number = as_finite(value)
    return None if number is None else float(number)


def _parse_int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _parse_text(value: object) -> str:
    return "" if value is None else str(value)

"""One evaluation's results as they lie on disk, for the report: whatever is missing or broken is said, never raised.

Numbers are taken from tier files as they are; only the standard errors of a tier's totals, which the files do not hold, are
derived here, from those of its independent slices or tasks.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.common.atomic_files import read_json
from suites.common.formatting import describe_error
from suites.contract.paths import TIER_FILES, EvaluationPaths

ENTRY_SECTIONS = {"tier2_ppl": "slices", "tier3_cf": "tasks", "tier4_sft_native": "by_category"}
"""Tier -> where its file has its entries."""

MAX_FILE_BYTES = 64_000_000
"""Bytes of a tier file that are read, at most: ours have less than one million."""

JsonObject = Mapping[str, Any]


class FigureValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A figure and its standard error, where there is one."""

    value: float
    error: float | None = None


class TierFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One tier file."""

    fingerprint: str = ""
    suite_digest: str = ""
    suites: tuple[str, ...] = ()
    settings: Mapping[str, str] = msgspec.field(default_factory=dict)
    """What comparable numbers have in common: tokenizer, dtype, seq_len, backend."""
    totals: Mapping[str, FigureValue] = msgspec.field(default_factory=dict)
    entries: Mapping[str, Mapping[str, FigureValue]] = msgspec.field(default_factory=dict)
    """Slice, task or category -> metric -> figure."""
    data_keys: Mapping[str, str] = msgspec.field(default_factory=dict)
    primary_metrics: Mapping[str, str] = msgspec.field(default_factory=dict)


class ResultFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in one evaluation's folder."""

    tiers: Mapping[str, TierFigures] = msgspec.field(default_factory=dict)
    tokens_seen: int | None = None
    stage: str = ""
    source: str = ""
    step: int | None = None
    checkpoint: str = ""
    run: JsonObject = msgspec.field(default_factory=dict)
    """run.json; empty where there is none that can be read."""
    troubles: tuple[str, ...] = ()
    """What could not be read, a line each."""


def read_result_files(paths: EvaluationPaths) -> ResultFiles:
    """Read everything in the folder of one evaluation."""
    errors: list[str] = []
    documents = {tier: document for tier in TIER_FILES if (document := _read_document(paths.tier_json(tier), errors))}
    tiers: dict[str, TierFigures] = {}
    for name, document in documents.items():
        if not isinstance(document.get("checkpoint"), dict) or "schema" not in document:
            errors.append(f"{paths.tier_json(name).name}: written by another program")
            continue
        tiers[name] = _parse_tier(name, document)
        if not tiers[name].totals:
            errors.append(f"{paths.tier_json(name).name}: has no figures")
    first_document = next((document for name, document in documents.items() if name in tiers), {})
    checkpoint = as_json_object(first_document.get("checkpoint"))
    return ResultFiles(
        tiers=tiers,
        tokens_seen=_parse_int(checkpoint.get("tokens_seen")),
        stage=_parse_text(first_document.get("stage")),
        source=_parse_text(checkpoint.get("source_stage")),
        step=_parse_int(first_document.get("step")),
        checkpoint=_parse_text(checkpoint.get("path")),
        run=_read_document(paths.run_json, errors),
        troubles=tuple(errors),
    )


def _read_document(path: Path, errors: list[str]) -> dict[str, Any]:
    """The JSON object at ``path``; empty where there is none, with a line in ``errors`` where something else is there."""
    try:
        if path.exists() and path.stat().st_size > MAX_FILE_BYTES:
            errors.append(f"{path.name}: too large to be ours")
            return {}
        document = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        errors.append(f"{path.name}: {describe_error(error).removeprefix(f'{path}: ')}")
        return {}
    if document is not None and not isinstance(document, dict):
        errors.append(f"{path.name}: not a JSON object")
    return document if isinstance(document, dict) else {}


def as_json_object(value: object) -> dict[str, Any]:
    """``value`` where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def parse_finite(value: object) -> float | None:
    """A JSON number as a float; None for anything else, infinities and numbers too large for a float among it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _parse_tier(name: str, document: JsonObject) -> TierFigures:
    raw = {str(entry): as_json_object(fields) for entry, fields in as_json_object(document.get(ENTRY_SECTIONS[name])).items()}
    entries = {entry: dict(_parse_numbers(fields)) for entry, fields in raw.items()}
    for entry, fields in raw.items():
        _derive_errors(name, fields, entries[entry])
    totals = dict(_parse_numbers(as_json_object(document.get("summary"))))
    tokenizer = as_json_object(document.get("tokenizer"))
    suites = document.get("suites")
    return TierFigures(
        fingerprint=_parse_text(as_json_object(document.get("checkpoint")).get("fingerprint")),
        suite_digest=_parse_text(document.get("suite_digest")),
        suites=tuple(map(str, suites)) if isinstance(suites, list) else (),
        settings={
            "tokenizer": _parse_text(tokenizer.get("digest")),
            **{key: _parse_text(document.get(key)) for key in ("dtype", "seq_len", "backend", "padded_vocab")},
        },
        totals=_add_total_errors(name, totals, entries),
        entries=entries,
        data_keys={
            entry: _parse_text(key) for entry, fields in raw.items() if (key := fields.get("data_key", document.get("data_key")))
        },
        primary_metrics={
            entry: _parse_text(fields["primary_metric"]) for entry, fields in raw.items() if fields.get("primary_metric")
        },
    )


def _parse_numbers(fields: JsonObject) -> Iterator[tuple[str, FigureValue]]:
    for name, value in fields.items():
        number = parse_finite(value)
        if number is not None and not str(name).endswith("_stderr"):
            yield str(name), FigureValue(number, parse_finite(fields.get(f"{name}_stderr")))


def _derive_errors(tier: str, fields: JsonObject, numbers: dict[str, FigureValue]) -> None:
    """Errors that follow from those in the file: of ppl = exp(nll) by the delta method, of primary by the metric that it is."""
    if tier == "tier2_ppl" and "ppl" in numbers and "nll_per_token" in numbers:
        error = numbers["nll_per_token"].error
        numbers["ppl"] = FigureValue(numbers["ppl"].value, None if error is None else error * numbers["ppl"].value)
    if tier == "tier4_sft_native" and "prompts" in numbers:
        count = numbers["prompts"].value
        for rate in ("pass", "format", "clean"):
            if rate in numbers:
                numbers[rate] = FigureValue(numbers[rate].value, _compute_binomial_stderr(numbers[rate].value, count))
    if tier == "tier3_cf" and "primary" in numbers:
        numbers["primary"] = FigureValue(
            numbers["primary"].value, parse_finite(fields.get(f"{fields.get('primary_metric')}_stderr"))
        )


def _add_total_errors(
    tier: str, totals: dict[str, FigureValue], entries: Mapping[str, Mapping[str, FigureValue]]
) -> dict[str, FigureValue]:
    """The totals with their standard errors, over slices or tasks drawn independently of each other.

    NLL a token is a mean weighted by tokens: sqrt(sum((tokens_i * se_i)^2)) / sum(tokens). The tasks' mean is unweighted:
    sqrt(sum(se_i^2)) / n. A share of prompts has the binomial one. None where one of the parts has no error.
    """
    if tier == "tier2_ppl" and "nll_per_token" in totals:
        parts = [(entry.get("tokens"), entry.get("nll_per_token")) for entry in entries.values()]
        weighted_errors = [(t.value, n.error) for t, n in parts if t is not None and n is not None and n.error is not None]
        tokens = math.fsum(count for count, _ in weighted_errors)
        if weighted_errors and len(weighted_errors) == len(parts) and tokens > 0:
            error = math.sqrt(math.fsum((count * stderr) ** 2 for count, stderr in weighted_errors)) / tokens
            totals["nll_per_token"] = FigureValue(totals["nll_per_token"].value, error)
            if "ppl" in totals:
                totals["ppl"] = FigureValue(totals["ppl"].value, error * totals["ppl"].value)
    if tier == "tier3_cf":
        for metric in ("primary", "acc", "acc_norm"):
            errors = [number.error for entry in entries.values() if (number := entry.get(metric)) is not None]
            known_errors = [error for error in errors if error is not None]
            if metric in totals and known_errors and len(known_errors) == len(entries):
                error = math.sqrt(math.fsum(stderr**2 for stderr in known_errors)) / len(known_errors)
                totals[metric] = FigureValue(totals[metric].value, error)
    if tier == "tier4_sft_native":
        prompts = math.fsum(entry["prompts"].value for entry in entries.values() if "prompts" in entry)
        for rate in ("all_checks_pass_rate", "chat_clean_rate"):  # those that are over all prompts
            if rate in totals:
                totals[rate] = FigureValue(totals[rate].value, _compute_binomial_stderr(totals[rate].value, prompts))
    return totals


def _compute_binomial_stderr(share: float, count: float) -> float | None:
    """Standard error of a share of ``count`` independent prompts: sqrt(p (1 - p) / (n - 1)); None for fewer than two."""
    return math.sqrt(share * (1 - share) / (count - 1)) if count > 1 and 0 <= share <= 1 else None


def _parse_int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _parse_text(value: object) -> str:
    return "" if value is None else str(value)

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
from suites.common.formatting import plainly
from suites.contract.paths import TIER_FILES, EvaluationPaths

SECTIONS = {"tier2_ppl": "slices", "tier3_cf": "tasks", "tier4_sft_native": "by_category"}
"""Tier -> where its file has its entries."""

LARGEST = 64_000_000
"""Bytes of a tier file that are read, at most: ours have less than one million."""

Json = Mapping[str, Any]


class Number(msgspec.Struct, frozen=True, omit_defaults=True):
    """A figure and its standard error, where there is one."""

    value: float
    error: float | None = None


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """One tier file."""

    fingerprint: str = ""
    suite_digest: str = ""
    suites: tuple[str, ...] = ()
    settings: Mapping[str, str] = msgspec.field(default_factory=dict)
    """What comparable numbers have in common: tokenizer, dtype, seq_len, backend."""
    totals: Mapping[str, Number] = msgspec.field(default_factory=dict)
    entries: Mapping[str, Mapping[str, Number]] = msgspec.field(default_factory=dict)
    """Slice, task or category -> metric -> figure."""
    data_keys: Mapping[str, str] = msgspec.field(default_factory=dict)
    primary_metrics: Mapping[str, str] = msgspec.field(default_factory=dict)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in one evaluation's folder."""

    tiers: Mapping[str, Tier] = msgspec.field(default_factory=dict)
    tokens_seen: int | None = None
    stage: str = ""
    source: str = ""
    step: int | None = None
    checkpoint: str = ""
    run: Json = msgspec.field(default_factory=dict)
    """run.json; empty where there is none that can be read."""
    troubles: tuple[str, ...] = ()
    """What could not be read, a line each."""


def look(paths: EvaluationPaths) -> Found:
    """Read everything in the folder of one evaluation."""
    troubles: list[str] = []
    documents = {tier: document for tier in TIER_FILES if (document := mapping_in(paths.tier(tier), troubles))}
    tiers: dict[str, Tier] = {}
    for name, document in documents.items():
        if not isinstance(document.get("checkpoint"), dict) or "schema" not in document:
            troubles.append(f"{paths.tier(name).name}: written by another program")
            continue
        tiers[name] = _tier(name, document)
        if not tiers[name].totals:
            troubles.append(f"{paths.tier(name).name}: has no figures")
    head = next((document for name, document in documents.items() if name in tiers), {})
    checkpoint = mapping(head.get("checkpoint"))
    return Found(
        tiers=tiers,
        tokens_seen=_whole(checkpoint.get("tokens_seen")),
        stage=_text(head.get("stage")),
        source=_text(checkpoint.get("source_stage")),
        step=_whole(head.get("step")),
        checkpoint=_text(checkpoint.get("path")),
        run=mapping_in(paths.run, troubles),
        troubles=tuple(troubles),
    )


def mapping_in(path: Path, troubles: list[str]) -> dict[str, Any]:
    """The JSON object at ``path``; empty where there is none, with a line in ``troubles`` where something else is there."""
    try:
        if path.exists() and path.stat().st_size > LARGEST:
            troubles.append(f"{path.name}: too large to be ours")
            return {}
        document = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        troubles.append(f"{path.name}: {plainly(error).removeprefix(f'{path}: ')}")
        return {}
    if document is not None and not isinstance(document, dict):
        troubles.append(f"{path.name}: not a JSON object")
    return document if isinstance(document, dict) else {}


def mapping(value: object) -> dict[str, Any]:
    """``value`` where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def finite(value: object) -> float | None:
    """A JSON number as a float; None for anything else, infinities and numbers too large for a float among it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _tier(name: str, document: Json) -> Tier:
    raw = {str(entry): mapping(found) for entry, found in mapping(document.get(SECTIONS[name])).items()}
    entries = {entry: dict(_numbers(found)) for entry, found in raw.items()}
    for entry, found in raw.items():
        _derive(name, found, entries[entry])
    totals = dict(_numbers(mapping(document.get("summary"))))
    tokenizer = mapping(document.get("tokenizer"))
    suites = document.get("suites")
    return Tier(
        fingerprint=_text(mapping(document.get("checkpoint")).get("fingerprint")),
        suite_digest=_text(document.get("suite_digest")),
        suites=tuple(map(str, suites)) if isinstance(suites, list) else (),
        settings={
            "tokenizer": _text(tokenizer.get("digest")),
            **{key: _text(document.get(key)) for key in ("dtype", "seq_len", "backend", "padded_vocab")},
        },
        totals=_with_errors(name, totals, entries),
        entries=entries,
        data_keys={entry: _text(key) for entry, found in raw.items() if (key := found.get("data_key", document.get("data_key")))},
        primary_metrics={entry: _text(found["primary_metric"]) for entry, found in raw.items() if found.get("primary_metric")},
    )


def _numbers(found: Json) -> Iterator[tuple[str, Number]]:
    for name, value in found.items():
        number = finite(value)
        if number is not None and not str(name).endswith("_stderr"):
            yield str(name), Number(number, finite(found.get(f"{name}_stderr")))


def _derive(tier: str, found: Json, numbers: dict[str, Number]) -> None:
    """Errors that follow from those in the file: of ppl = exp(nll) by the delta method, of primary by the metric that it is."""
    if tier == "tier2_ppl" and "ppl" in numbers and "nll_per_token" in numbers:
        error = numbers["nll_per_token"].error
        numbers["ppl"] = Number(numbers["ppl"].value, None if error is None else error * numbers["ppl"].value)
    if tier == "tier4_sft_native" and "prompts" in numbers:
        count = numbers["prompts"].value
        for rate in ("pass", "format", "clean"):
            if rate in numbers:
                numbers[rate] = Number(numbers[rate].value, _binomial(numbers[rate].value, count))
    if tier == "tier3_cf" and "primary" in numbers:
        numbers["primary"] = Number(numbers["primary"].value, finite(found.get(f"{found.get('primary_metric')}_stderr")))


def _with_errors(tier: str, totals: dict[str, Number], entries: Mapping[str, Mapping[str, Number]]) -> dict[str, Number]:
    """The totals with their standard errors, over slices or tasks drawn independently of each other.

    NLL a token is a mean weighted by tokens: sqrt(sum((tokens_i * se_i)^2)) / sum(tokens). The tasks' mean is unweighted:
    sqrt(sum(se_i^2)) / n. A share of prompts has the binomial one. None where one of the parts has no error.
    """
    if tier == "tier2_ppl" and "nll_per_token" in totals:
        parts = [(entry.get("tokens"), entry.get("nll_per_token")) for entry in entries.values()]
        known = [(t.value, n.error) for t, n in parts if t is not None and n is not None and n.error is not None]
        tokens = math.fsum(count for count, _ in known)
        if known and len(known) == len(parts) and tokens > 0:
            error = math.sqrt(math.fsum((count * each) ** 2 for count, each in known)) / tokens
            totals["nll_per_token"] = Number(totals["nll_per_token"].value, error)
            if "ppl" in totals:
                totals["ppl"] = Number(totals["ppl"].value, error * totals["ppl"].value)
    if tier == "tier3_cf":
        for metric in ("primary", "acc", "acc_norm"):
            errors = [number.error for entry in entries.values() if (number := entry.get(metric)) is not None]
            given = [error for error in errors if error is not None]
            if metric in totals and given and len(given) == len(entries):
                error = math.sqrt(math.fsum(each**2 for each in given)) / len(given)
                totals[metric] = Number(totals[metric].value, error)
    if tier == "tier4_sft_native":
        prompts = math.fsum(entry["prompts"].value for entry in entries.values() if "prompts" in entry)
        for rate in ("all_checks_pass_rate", "chat_clean_rate"):  # those that are over all prompts
            if rate in totals:
                totals[rate] = Number(totals[rate].value, _binomial(totals[rate].value, prompts))
    return totals


def _binomial(share: float, count: float) -> float | None:
    """Standard error of a share of ``count`` independent prompts: sqrt(p (1 - p) / (n - 1)); None for fewer than two."""
    return math.sqrt(share * (1 - share) / (count - 1)) if count > 1 and 0 <= share <= 1 else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return "" if value is None else str(value)

"""Adds to published results what follows from their rows: bits per byte and chance levels of tasks.

No model and no GPU is needed. An evaluation's files are written once: where they have the figures, nothing changes. What a file
was before lies in ``EvaluationPaths.underived_folder``.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from scoring.compare.published import list_evaluations
from scoring.compare.rows import MAX_ROWS_BYTES
from scoring.inference.bits_per_byte import LOG_LIKELIHOOD_COLUMNS, NEEDED_COLUMNS, add_bits_per_byte
from scoring.runtime.parts import convert_write_errors, encode_parquet
from scoring.tiers.derived_figures import derive_entry, summarise_bits
from suites.common.atomic_files import write_atomically
from suites.common.documents import parse_json, read_content
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import strip_control_characters
from suites.contract.comparison import read_comparison_document
from suites.contract.paths import EvaluationPaths
from suites.contract.stage_summary import SUMMARY_FILE, read_stage_document, stage_summary_path
from suites.contract.tier_files import TIER_SECTIONS, get_fingerprint

TIER = "tier3_cf"

_DAMAGE = (OSError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError)
"""What damaged rows and entries raise."""


class Derivation(msgspec.Struct, kw_only=True):
    """What was done for one evaluation."""

    evaluation: str
    written: list[str] = msgspec.field(default_factory=list)
    """Names of files."""
    refused: list[str] = msgspec.field(default_factory=list)
    """Lines on what cannot be derived."""


def derive_results(results: Path) -> Iterator[Derivation]:
    """Derive every evaluation below a results folder that has a tier 3 file.

    Raises UserError: data missing without evaluations, cannot write for a disk that refuses.
    """
    refs = list_evaluations(results) if results.is_dir() else []
    if not refs:
        hint = "use the results folder of a watcher, or of one of its stages"
        raise UserError("no evaluation in this folder", location=results, hint=hint, code=ExitCode.DATA_MISSING)
    for ref in refs:
        derivation = Derivation(evaluation=f"{ref.stage}/{ref.directory}")
        if ref.paths.tier_json(TIER).exists():
            with convert_write_errors(ref.paths.folder):
                _derive_evaluation(ref.paths, derivation)
        yield derivation


def remove_outdated_documents(results: Path, changed: Collection[str]) -> list[Path]:
    """Remove the comparisons and summaries that read a changed evaluation; the paths of those removed.

    Their requests did not change, so the watcher would keep them. ``changed`` are names of evaluations, as in a Derivation.
    """
    refs = list_evaluations(results)
    removed = []
    summaries = {stage_summary_path(Path(ref.results)): None for ref in refs}
    for path in (*(ref.paths.compare_json for ref in refs), *summaries):
        try:
            read = _list_read_evaluations(path)
        except UserError:
            # The watcher makes a damaged one again by itself.
            continue
        if read & set(changed):
            with convert_write_errors(path):
                path.unlink()
            removed.append(path)
    return removed


def _list_read_evaluations(path: Path) -> set[str]:
    """The evaluations that a compare.json or stage.json was made from; none where there is no file."""
    if path.name == SUMMARY_FILE:
        summary = read_stage_document(path)
        read = () if summary is None else (*summary.request.evaluations, *summary.request.earlier_ends)
    else:
        comparison = read_comparison_document(path)
        request = None if comparison is None else comparison.request
        read = () if request is None else (request.candidate, request.bridge or request.candidate, *request.earlier)
    return {f"{ref.stage}/{ref.directory}" for ref in read}


def _derive_evaluation(paths: EvaluationPaths, derivation: Derivation) -> None:
    path = paths.tier_json(TIER)
    try:
        content = read_content(path)
        document = parse_json(content, path)
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        derivation.refused.append(f"{path}: not readable: {reason}; score it again: watcher retry --force")
        return
    section = document.get(TIER_SECTIONS[TIER]) if isinstance(document, dict) else None
    if not isinstance(section, dict) or get_fingerprint(document) is None or not isinstance(document.get("summary"), dict):
        derivation.refused.append(f"{path}: written by another program; nothing is derived from it")
        return
    entries: dict[str, Any] = {}
    replacements: dict[Path, _Replacement] = {}
    for name, entry in section.items():
        try:
            rows_path = paths.items_parquet(_check_name(name))
            original = read_content(rows_path, MAX_ROWS_BYTES)
            rows = pq.read_table(pa.BufferReader(original))
            entries[name] = _derive_from_rows(entry, rows)
            if not set(LOG_LIKELIHOOD_COLUMNS) <= set(rows.column_names):
                replacements[rows_path] = _Replacement(original, encode_parquet(add_bits_per_byte(rows)))
        except _DAMAGE as error:
            entries[name] = entry
            derivation.refused.append(f"{path}: bits per byte of {name} cannot be derived: {_describe(error, paths)}")
    if len(derivation.refused) < len(section):
        try:
            derived = {**document, TIER_SECTIONS[TIER]: entries, "summary": {**document["summary"], **summarise_bits(entries)}}
            text = json.dumps(derived, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            if derived != document:
                replacements[path] = _Replacement(content, text.encode())
        except _DAMAGE as error:
            reason = f"damaged figures ({_describe(error, paths)})"
            derivation.refused.append(f"{path}: nothing is derived: {reason}; score it again: watcher retry --force")
            return
    kept_folder = paths.underived_folder(str(get_fingerprint(document)), hashlib.sha256(content).hexdigest())
    _replace_files(paths, replacements, kept_folder)
    derivation.written += [str(file.relative_to(paths.folder)) for file in replacements]


class _Replacement(NamedTuple):
    original: bytes
    content: bytes


def _check_name(name: str) -> str:
    if "/" in name:
        raise ValueError("a name with a slash has no rows")
    return name


def _derive_from_rows(entry: Any, rows: pa.Table) -> dict[str, Any]:
    """The entry with its derived figures. Raises what a damaged row or entry raises."""
    if missing := [column for column in ("subject", *NEEDED_COLUMNS) if column not in rows.column_names]:
        raise ValueError(f"the rows have no {', '.join(missing)}")
    items = rows.select([column for column in ("index", "subject", *NEEDED_COLUMNS) if column in rows.column_names]).to_pylist()
    if len(items) != entry["examples"]:
        raise ValueError(f"{len(items)} rows for {entry['examples']} items")
    return derive_entry(entry, items)


def _describe(error: Exception, paths: EvaluationPaths) -> str:
    if isinstance(error, FileNotFoundError):
        return f"it has no rows in {paths.items_parquet('any').parent.name}/"
    text = str(error) if isinstance(error, OSError | ValueError) else repr(error)
    return strip_control_characters(" ".join(text.split()))


def _replace_files(paths: EvaluationPaths, replacements: Mapping[Path, _Replacement], kept_folder: Path) -> None:
    """Keep the originals, then write: rows first, since whoever sees figures in the tier file must find them there."""
    for file, replacement in replacements.items():
        copy = kept_folder / file.relative_to(paths.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, replacement.original)
    for file, replacement in replacements.items():
        # A job that publishes meanwhile writes these figures itself.
        if file.read_bytes() != replacement.original:
            hint = "run the command again when no job scores it"
            raise UserError("changed while it was derived", location=file, hint=hint, code=ExitCode.TEMPORARY)
        write_atomically(file, replacement.content)

"""``python -m scoring cache``: what the data cache holds, whether it is whole, and taking away what nobody needs."""

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from scoring.data.cache_entries import LEASE_SECONDS, find_damage
from suites.common.atomic_files import is_creator_dead, is_process_gone, read_json_object
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import format_bytes
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import ScoringRequest, SuiteInRequest, read_scoring_request
from suites.definitions.data_cache import CACHE_ENTRY_KINDS, META_FILE, compute_entry_key, extract_key_fields, read_complete_meta
from suites.definitions.local_data import hash_data_files
from suites.definitions.suite import SliceDefinition, TaskDefinition, load_suite
from suites.definitions.tokenizer_files import compute_tokenizer_digest

DAY_SECONDS = 86400.0
"""Seconds in which something that was used, or a left-over, may still be somebody's."""

_TIER_BY_SECTION = {"ppl_slices": "tier2_ppl", "cf_tasks": "tier3_cf"}


class CacheEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of the cache that is, or should be, an entry."""

    tier: str
    name: str
    folder: Path
    meta: dict[str, Any] | None
    """None where it is not whole."""
    bytes: int
    last_used: float
    """Unix time of its last use, to within an hour."""


class RemovableItem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that gc takes away."""

    path: Path
    reason: str
    bytes: int


def list_entries(data: DataPaths) -> Iterator[CacheEntry]:
    """Every entry, slices first, by name and key."""
    for section, tier in _TIER_BY_SECTION.items():
        for folder in sorted((data.eval_data / section).glob("*/*")):
            if folder.is_dir() and not folder.name.startswith("."):
                meta = read_complete_meta(folder)
                last_used = (folder / META_FILE if meta is not None else folder).stat().st_mtime
                yield CacheEntry(
                    tier=tier,
                    name=folder.parent.name,
                    folder=folder,
                    meta=meta,
                    bytes=_measure_bytes(folder),
                    last_used=last_used,
                )


def _measure_bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def find_leftovers(data: DataPaths, now: float) -> Iterator[RemovableItem]:
    """What killed builders left: private folders and leases whose maker is gone, or that are older than a day."""
    tokenizers = data.eval_data / "tokenizers"
    folders = [
        folder for section in _TIER_BY_SECTION for depth in ("*", "*/[!.]*") for folder in (data.eval_data / section).glob(depth)
    ]
    for path in sorted(path for folder in (*folders, tokenizers, tokenizers / "by_id") for path in folder.glob(".*")):
        try:
            age_seconds = now - _get_newest_mtime(path)
        except FileNotFoundError:  # its maker has just finished
            continue
        is_set_aside = path.name.endswith(".replaced")  # other hosts may still have it mapped, whoever put it aside
        if path.suffix == ".lease" and path.is_file() and not path.stat().st_size and age_seconds > LEASE_SECONDS:
            yield RemovableItem(path=path, reason="a lease that nobody wrote a name into", bytes=0)
        elif (is_creator_dead(path.name) or _is_holder_dead(path)) and not is_set_aside:
            yield RemovableItem(path=path, reason="its maker is gone", bytes=_measure_bytes(path))
        elif age_seconds > DAY_SECONDS:
            yield RemovableItem(path=path, reason="older than a day", bytes=_measure_bytes(path))


def _is_holder_dead(path: Path) -> bool:
    """Whether a lease names a process of this host that does not exist."""
    if path.suffix != ".lease" or not path.is_file():
        return False
    fields = dict(line.partition("=")[::2] for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return fields.get("host") == os.uname().nodename and fields.get("pid", "").isdigit() and is_process_gone(int(fields["pid"]))


def _get_newest_mtime(path: Path) -> float:
    return max(item.stat().st_mtime for item in (path, *path.rglob("*")))


def find_unreferenced(data: DataPaths, suites: Iterable[SuiteInRequest], now: float) -> Iterator[RemovableItem]:
    """Entries that none of these suites needs and nobody used for a day; tokenizers that no entry and no id needs."""
    needed: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for suite in suites:
        for name, definition in suite.definition.items():
            needed.setdefault((suite.tier, name), []).append(definition)
    digests: set[Any] = set()
    for entry in list_entries(data):
        definitions = needed.get((entry.tier, entry.name), [])
        reason = "not whole" if entry.meta is None else _explain_unneeded(entry.folder, entry.tier, entry.meta, definitions)
        if reason and now - entry.last_used > DAY_SECONDS:
            yield RemovableItem(path=entry.folder, reason=reason, bytes=entry.bytes)
        elif entry.meta is not None:
            digests.add(str(entry.meta["tokenizer"]["digest"]).removesuffix("-slow"))
    tokenizers = data.eval_data / "tokenizers"
    for pointer in tokenizers.glob("by_id/*.json"):
        digests.add(read_json_object(pointer).get("digest"))  # a torn pointer points nowhere
    for copy in sorted(tokenizers.glob("[!.]*")):
        if copy.name not in digests and copy.name != "by_id" and now - _get_newest_mtime(copy) > DAY_SECONDS:
            yield RemovableItem(path=copy, reason="no entry and no id needs this tokenizer", bytes=_measure_bytes(copy))


def _explain_unneeded(folder: Path, tier: str, meta: dict[str, Any], definitions: list[dict[str, Any]]) -> str:
    kind, definition_type = CACHE_ENTRY_KINDS[tier]
    digest = str(meta["tokenizer"]["digest"])
    for definition in definitions:
        typed: SliceDefinition | TaskDefinition = msgspec.convert(definition, definition_type)
        key_fields = extract_key_fields(typed)
        if typed.data_files is not None:
            try:
                files = hash_data_files(typed.data_files)
            except UserError:  # not there now: what was made of them may be all that is left
                return ""
            key_fields["data_files"] = [file.digest for file in files]
        if compute_entry_key(kind, key_fields, digest) == folder.name:
            return ""
    return "no suite needs it" if not definitions else "no suite needs it any more: the definition or its files changed"


@click.group("cache")
def cache() -> None:
    """The data cache: what it holds, whether it is whole, and what can go."""


eval_data_option = click.option(
    "--eval-data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="The data cache."
)


@cache.command("list")
@eval_data_option
def list_(eval_data: Path) -> None:
    """Every entry: size, last use, and what is in it."""
    total, now = 0, time.time()
    for entry in list_entries(DataPaths(eval_data)):
        total += entry.bytes
        summary = "not whole: it is built anew when it is needed"
        if entry.meta is not None:
            unit = "tokens" if entry.tier == "tier2_ppl" else "examples"
            source, tokenizer = entry.meta["source"], entry.meta["tokenizer"]["identifier"]
            source_name = source.get("hf_dataset") or f"{len(source.get('data_files', ()))} local files"
            revision = f"@{source['revision'][:12]}" if source.get("revision") else ""
            summary = f"{entry.meta[unit]:,} {unit} of {source_name}{revision}, tokenizer {tokenizer}"
        used = (
            f"used {(now - entry.last_used) / DAY_SECONDS:.0f} days ago" if now - entry.last_used > DAY_SECONDS else "used today"
        )
        click.echo(f"{entry.name}/{entry.folder.name}: {format_bytes(entry.bytes)}, {used}: {summary}")
    leftover_bytes = sum(item.bytes for item in find_leftovers(DataPaths(eval_data), now))
    click.echo(
        f"{format_bytes(total)} in all{f'; {format_bytes(leftover_bytes)} left over, which gc removes' if leftover_bytes else ''}"
    )


@cache.command()
@eval_data_option
def verify(eval_data: Path) -> None:
    """Read every byte of every entry and tokenizer, and compare it with its sha256. Exits 66 where something is damaged."""
    data, damaged_count, intact_count = DataPaths(eval_data), 0, 0
    for entry in list_entries(data):
        damages = find_damage(entry.folder)
        damaged_count, intact_count = damaged_count + bool(damages), intact_count + (not damages)
        for line in damages:
            click.echo(line)
    for copy in sorted((eval_data / "tokenizers").glob("[!.]*")):
        if copy.name == "by_id":
            continue
        is_intact = compute_tokenizer_digest(copy) == copy.name
        damaged_count, intact_count = damaged_count + (not is_intact), intact_count + is_intact
        if not is_intact:
            click.echo(f"{copy}: its files are not those that its name says")
    click.echo(
        f"{intact_count} whole, {damaged_count} damaged{'; prefill makes them anew once they are removed' if damaged_count else ''}"
    )
    sys.exit(int(ExitCode.DATA_MISSING if damaged_count else ExitCode.SCORED))


@cache.command()
@eval_data_option
@click.option("--suite", "suites", multiple=True, help="A suite's name or file that is still used; may be repeated.")
@click.option(
    "--request", "requests", multiple=True, type=click.Path(path_type=Path), help="A REQUEST.json whose data is still used."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def gc(eval_data: Path, *, suites: tuple[str, ...], requests: tuple[Path, ...], dry_run: bool) -> None:
    """Remove what killed builders left and, where --suite or --request say what is still used, every other entry.

    What was used within a day stays, whatever the suites say: a job may be about to read it.
    """
    data, now = DataPaths(eval_data), time.time()
    try:
        read_requests: list[ScoringRequest] = [read_scoring_request(path) for path in requests]
        suites_in_use = [load_suite(suite, os.environ).to_request() for suite in suites]
    except UserError as problem:
        click.echo(f"scoring: {problem}", err=True)
        sys.exit(int(problem.code))
    suites_in_use += [suite for request in read_requests for suite in request.suites]
    removable = [*find_leftovers(data, now), *(find_unreferenced(data, suites_in_use, now) if suites_in_use else ())]
    for item in removable:
        if not dry_run:
            _remove(item.path)
        click.echo(f"{'would remove' if dry_run else 'removed'} {item.path}: {item.reason} ({format_bytes(item.bytes)})")
    freed = format_bytes(sum(item.bytes for item in removable))
    click.echo(f"{freed} {'would be freed' if dry_run else 'freed'}")
    if not suites_in_use:
        click.echo("entries were left alone: name the suites that are still used, with --suite or --request")


def _remove(path: Path) -> None:
    """An entry is renamed first, so that nobody finds half of it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    renamed = path if path.name.startswith(".") else path.with_name(f".{path.name}.removed")
    if renamed != path:
        path.rename(renamed)
    shutil.rmtree(renamed, ignore_errors=True)

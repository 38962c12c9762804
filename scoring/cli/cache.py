"""``python -m scoring cache``: lists, verifies and cleans the data cache."""

import itertools
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
from suites.common.atomic_files import is_creator_dead, is_process_gone
from suites.common.documents import read_json_object
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import format_bytes
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import SuiteInRequest, read_scoring_request
from suites.contract.tier_files import TIER4
from suites.definitions.data_cache import (
    CACHE_ENTRY_KINDS,
    META_FILE,
    compute_entry_key,
    compute_prompts_key,
    extract_key_fields,
    read_complete_meta,
)
from suites.definitions.local_data import hash_data_files
from suites.definitions.suite import SliceDefinition, TaskDefinition, load_suite
from suites.definitions.tokenizer_files import read_tokenizer_copy

DAY_SECONDS = 86400.0
"""Seconds after its last use in which an entry or a temporary file may still be in use."""

_TIER_BY_SECTION = {"ppl_slices": "tier2_ppl", "cf_tasks": "tier3_cf", "sft_prompts": TIER4}


class CacheEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the cache, complete or not."""

    tier: str
    name: str
    folder: Path
    meta: dict[str, Any] | None
    """None where the entry is not complete."""
    bytes: int
    last_used: float
    """Unix time of its last use, to within an hour."""


class RemovableItem(msgspec.Struct, frozen=True, kw_only=True):
    """A file or folder that gc removes."""

    path: Path
    reason: str
    bytes: int


def list_entries(data: DataPaths) -> Iterator[CacheEntry]:
    """Yield all entries, slices first, by name and key."""
    for section, tier in _TIER_BY_SECTION.items():
        for folder in sorted((data.eval_data / section).glob("*/[!.]*/")):
            meta = read_complete_meta(folder)
            yield CacheEntry(
                tier=tier,
                name=folder.parent.name,
                folder=folder,
                meta=meta,
                bytes=_measure_bytes(folder),
                last_used=(folder / META_FILE if meta is not None else folder).stat().st_mtime,
            )


def list_tokenizers(data: DataPaths) -> list[Path]:
    """Return the folders of the cached tokenizers, by digest."""
    return sorted(copy for copy in (data.eval_data / "tokenizers").glob("[!.]*") if copy.name != "by_id")


def _measure_bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def find_leftovers(data: DataPaths, now: float) -> Iterator[RemovableItem]:
    """Yield temporary folders and leases that no process uses.

    Their process is gone, or they are older than a day.
    """
    # Beside the entries of a name, inside them, and the same for tokenizers.
    patterns = [f"{section}/{depth}/.*" for section in _TIER_BY_SECTION for depth in ("*", "*/[!.]*")]
    patterns += ["tokenizers/.*", "tokenizers/by_id/.*"]
    for path in sorted(path for pattern in patterns for path in data.eval_data.glob(pattern)):
        try:
            age_seconds = now - _get_newest_mtime(path)
        except FileNotFoundError:  # its builder has just finished
            continue
        is_replaced_entry = path.name.endswith(".replaced")  # another host may still have it mapped
        # An owner writes its name at once: an empty lease is of one that was killed in between.
        reason = ""
        if path.suffix == ".lease" and path.is_file() and not path.stat().st_size and age_seconds > LEASE_SECONDS:
            reason = "lease without an owner"
        elif (is_creator_dead(path.name) or _is_holder_dead(path)) and not is_replaced_entry:
            reason = "its process is gone"
        elif age_seconds > DAY_SECONDS:
            reason = "older than a day"
        if reason:
            yield RemovableItem(path=path, reason=reason, bytes=_measure_bytes(path))


def _is_holder_dead(path: Path) -> bool:
    """Whether this is a lease of a dead process of this host."""
    if path.suffix != ".lease" or not path.is_file():
        return False
    fields = dict(line.partition("=")[::2] for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return fields.get("host") == os.uname().nodename and fields.get("pid", "").isdigit() and is_process_gone(int(fields["pid"]))


def _get_newest_mtime(path: Path) -> float:
    return max(item.stat().st_mtime for item in (path, *path.rglob("*")))


def find_unreferenced(data: DataPaths, suites: Iterable[SuiteInRequest], now: float) -> Iterator[RemovableItem]:
    """Yield entries and tokenizers that these suites do not need.

    What was used within a day is left out.
    """
    # One name may have several definitions, in suites of different stages.
    needed: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for suite in suites:
        # The prompts of a suite are one entry.
        entries_of_suite = {suite.name: suite.definition} if suite.tier == TIER4 else suite.definition
        for name, definition in entries_of_suite.items():
            needed.setdefault((suite.tier, name), []).append(definition)
    digests: set[Any] = set()
    for entry in list_entries(data):
        definitions = needed.get((entry.tier, entry.name), [])
        reason = "not complete" if entry.meta is None else _explain_unneeded(entry.folder, entry.tier, entry.meta, definitions)
        if reason and now - entry.last_used > DAY_SECONDS:
            yield RemovableItem(path=entry.folder, reason=reason, bytes=entry.bytes)
        elif entry.meta is not None:
            digests.add(str(entry.meta["tokenizer"]["digest"]))
    # A tokenizer stays for the entries that were made with it, and for the ids that resolve to it.
    for pointer in data.eval_data.glob("tokenizers/by_id/*.json"):
        digests.add(read_json_object(pointer).get("digest"))
    for copy in list_tokenizers(data):
        if copy.name not in digests and now - _get_newest_mtime(copy) > DAY_SECONDS:
            yield RemovableItem(path=copy, reason="no entry and no id needs this tokenizer", bytes=_measure_bytes(copy))


def _explain_unneeded(folder: Path, tier: str, meta: dict[str, Any], definitions: list[dict[str, Any]]) -> str:
    """Return why no definition needs this entry, or an empty text."""
    digest = str(meta["tokenizer"]["digest"])
    if tier == TIER4:
        is_needed = any(compute_prompts_key(definition, digest) == folder.name for definition in definitions)
        return "" if is_needed else "no suite needs it"
    kind, definition_type = CACHE_ENTRY_KINDS[tier]
    for definition in definitions:
        # The key covers the content of local files, so it is computed from the files as they are now.
        typed: SliceDefinition | TaskDefinition = msgspec.convert(definition, definition_type)
        key_fields = extract_key_fields(typed)
        if typed.data_files is not None:
            try:
                files = hash_data_files(typed.data_files)
            except UserError:  # the files are gone: the entry may be all that is left of them
                return ""
            key_fields["data_files"] = [file.digest for file in files]
        if compute_entry_key(kind, key_fields, digest) == folder.name:
            return ""
    return "no suite needs it" if not definitions else "no suite needs it: the definition or its files changed"


@click.group("cache")
def cache() -> None:
    """List, verify and clean the data cache."""


eval_data_option = click.option(
    "--eval-data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Folder of the data cache."
)


@cache.command("list")
@eval_data_option
def list_(eval_data: Path) -> None:
    """List all entries with their size, last use and content."""
    data, total, now = DataPaths(eval_data), 0, time.time()
    for entry in list_entries(data):
        total += entry.bytes
        summary = "not complete; the next job or prefill builds it"
        if entry.meta is not None:
            unit = {"tier2_ppl": "tokens", TIER4: "prompts"}.get(entry.tier, "examples")
            source, tokenizer = entry.meta["source"], entry.meta["tokenizer"]["id"]
            source_name = source.get("hf_dataset") or source.get("suite") or f"{len(source.get('data_files', ()))} local files"
            revision = f"@{source['revision'][:12]}" if source.get("revision") else ""
            summary = f"{entry.meta[unit]:,} {unit} of {source_name}{revision}, tokenizer {tokenizer}"
        unused_days = (now - entry.last_used) / DAY_SECONDS
        used = f"used {unused_days:.0f} days ago" if unused_days > 1 else "used today"
        click.echo(f"{entry.name}/{entry.folder.name}: {format_bytes(entry.bytes)}, {used}: {summary}")
    leftover_bytes = sum(item.bytes for item in find_leftovers(data, now))
    leftovers = f"; gc can remove {format_bytes(leftover_bytes)} of killed builders" if leftover_bytes else ""
    click.echo(f"{format_bytes(total)} in total{leftovers}")


@cache.command("verify")
@eval_data_option
def verify_cache(eval_data: Path) -> None:
    """Compare all entries and tokenizers with their sha256.

    Exits 66 where one is damaged.
    """
    data, damaged_count, intact_count = DataPaths(eval_data), 0, 0
    # One after the other, so that damage is printed when it is found: a large cache takes hours.
    entry_damages = (find_damage(entry.folder) for entry in list_entries(data))
    for damages in itertools.chain(entry_damages, map(_find_tokenizer_damage, list_tokenizers(data))):
        damaged_count, intact_count = damaged_count + bool(damages), intact_count + (not damages)
        for line in damages:
            click.echo(line)
    hint = "; remove what is damaged and run prefill" if damaged_count else ""
    click.echo(f"{intact_count} intact, {damaged_count} damaged{hint}")
    sys.exit(int(ExitCode.DATA_MISSING if damaged_count else ExitCode.SCORED))


def _find_tokenizer_damage(copy: Path) -> list[str]:
    return [f"{copy}: its files do not have the digest of its name"] if read_tokenizer_copy(copy) is None else []


@cache.command()
@eval_data_option
@click.option("--suite", "suites", multiple=True, help="Name or file of a suite that is still used. Repeatable.")
@click.option("--request", "requests", multiple=True, type=click.Path(path_type=Path), help="REQUEST.json that is still used.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed.")
def gc(eval_data: Path, *, suites: tuple[str, ...], requests: tuple[Path, ...], dry_run: bool) -> None:
    """Remove temporary files and entries that are not used.

    Temporary files are those of killed builders. --suite and --request name what is used: without them all entries stay.
    Every entry stays for a day after its last use.
    """
    data, now = DataPaths(eval_data), time.time()
    try:
        suites_in_use = [suite for path in requests for suite in read_scoring_request(path).suites]
        suites_in_use += [load_suite(suite, os.environ).to_request() for suite in suites]
    except UserError as error:
        click.echo(f"scoring: {error}", err=True)
        sys.exit(int(error.code))
    # Without a list of what is in use, no entry can be called unused.
    removable = [*find_leftovers(data, now), *(find_unreferenced(data, suites_in_use, now) if suites_in_use else ())]
    for item in removable:
        if not dry_run:
            _remove(item.path)
        click.echo(f"{'would remove' if dry_run else 'removed'} {item.path}: {item.reason} ({format_bytes(item.bytes)})")
    click.echo(f"{format_bytes(sum(item.bytes for item in removable))} {'would be freed' if dry_run else 'freed'}")
    if not suites_in_use:
        click.echo("entries were kept; give --suite or --request to remove those that are not used")


def _remove(path: Path) -> None:
    """Remove a file or folder.

    An entry is renamed first, so that no job reads half of it.
    """
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    renamed = path if path.name.startswith(".") else path.with_name(f".{path.name}.removed")
    if renamed != path:
        path.rename(renamed)
    shutil.rmtree(renamed, ignore_errors=True)

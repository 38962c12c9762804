"""``python -m scoring cache``: what the data cache holds, whether it is whole, and taking away what nobody needs."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from scoring.data.cache_entries import LEASE_SECONDS, damage
from suites.common.atomic_files import maker_is_dead, process_is_gone, read_json
from suites.common.errors import Exit, Problem
from suites.common.formatting import size
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import Request, SuiteInRequest, read_request
from suites.definitions.data_cache import KINDS, META, entry_key, made_of, whole
from suites.definitions.local_data import data_files
from suites.definitions.suite import SliceDefinition, TaskDefinition, load_suite
from suites.definitions.tokenizer_files import tokenizer_digest

DAY = 86400.0
"""Seconds in which something that was used, or a left-over, may still be somebody's."""

_TIER_OF = {"ppl_slices": "tier2_ppl", "cf_tasks": "tier3_cf"}


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of the cache that is, or should be, an entry."""

    tier: str
    name: str
    folder: Path
    meta: dict[str, Any] | None
    """None where it is not whole."""
    bytes: int
    used: float
    """Unix time of its last use, to within an hour."""


class Waste(msgspec.Struct, frozen=True, kw_only=True):
    """Something that gc takes away."""

    path: Path
    why: str
    bytes: int


def entries(data: DataPaths) -> Iterator[Entry]:
    """Every entry, slices first, by name and key."""
    for section, tier in _TIER_OF.items():
        for folder in sorted((data.eval_data / section).glob("*/*")):
            if folder.is_dir() and not folder.name.startswith("."):
                meta = whole(folder)
                used = (folder / META if meta is not None else folder).stat().st_mtime
                yield Entry(tier=tier, name=folder.parent.name, folder=folder, meta=meta, bytes=_bytes(folder), used=used)


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def lost(data: DataPaths, now: float) -> Iterator[Waste]:
    """What killed builders left: private folders and leases whose maker is gone, or that are older than a day."""
    tokenizers = data.eval_data / "tokenizers"
    places = [place for section in _TIER_OF for depth in ("*", "*/[!.]*") for place in (data.eval_data / section).glob(depth)]
    for path in sorted(path for place in (*places, tokenizers, tokenizers / "by_id") for path in place.glob(".*")):
        try:
            age = now - _newest(path)
        except FileNotFoundError:  # its maker has just finished
            continue
        kept_aside = path.name.endswith(".replaced")  # other hosts may still have it mapped, whoever put it aside
        if path.suffix == ".lease" and path.is_file() and not path.stat().st_size and age > LEASE_SECONDS:
            yield Waste(path=path, why="a lease that nobody wrote a name into", bytes=0)
        elif (maker_is_dead(path.name) or _holder_is_dead(path)) and not kept_aside:
            yield Waste(path=path, why="its maker is gone", bytes=_bytes(path))
        elif age > DAY:
            yield Waste(path=path, why="older than a day", bytes=_bytes(path))


def _holder_is_dead(path: Path) -> bool:
    """Whether a lease names a process of this host that does not exist."""
    if path.suffix != ".lease" or not path.is_file():
        return False
    said = dict(line.partition("=")[::2] for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return said.get("host") == os.uname().nodename and said.get("pid", "").isdigit() and process_is_gone(int(said["pid"]))


def _newest(path: Path) -> float:
    return max(each.stat().st_mtime for each in (path, *path.rglob("*")))


def unreferenced(data: DataPaths, suites: Iterable[SuiteInRequest], now: float) -> Iterator[Waste]:
    """Entries that none of these suites needs and nobody used for a day; tokenizers that no entry and no id needs."""
    needed: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for suite in suites:
        for name, definition in suite.definition.items():
            needed.setdefault((suite.tier, name), []).append(definition)
    digests: set[Any] = set()
    for entry in entries(data):
        definitions = needed.get((entry.tier, entry.name), [])
        why = "not whole" if entry.meta is None else _needless(entry.folder, entry.tier, entry.meta, definitions)
        if why and now - entry.used > DAY:
            yield Waste(path=entry.folder, why=why, bytes=entry.bytes)
        elif entry.meta is not None:
            digests.add(str(entry.meta["tokenizer"]["digest"]).removesuffix("-slow"))
    tokenizers = data.eval_data / "tokenizers"
    for pointer in tokenizers.glob("by_id/*.json"):
        with contextlib.suppress(ValueError):  # a torn pointer points nowhere
            found = read_json(pointer)
            digests.add(found.get("digest") if isinstance(found, dict) else None)
    for copy in sorted(tokenizers.glob("[!.]*")):
        if copy.name not in digests and copy.name != "by_id" and now - _newest(copy) > DAY:
            yield Waste(path=copy, why="no entry and no id needs this tokenizer", bytes=_bytes(copy))


def _needless(folder: Path, tier: str, meta: dict[str, Any], definitions: list[dict[str, Any]]) -> str:
    kind, type_ = KINDS[tier]
    digest = str(meta["tokenizer"]["digest"])
    for definition in definitions:
        typed: SliceDefinition | TaskDefinition = msgspec.convert(definition, type_)
        decides = made_of(typed)
        if typed.data_files is not None:
            try:
                files = data_files(typed.data_files)
            except Problem:  # not there now: what was made of them may be all that is left
                return ""
            decides["data_files"] = [file.mark for file in files]
        if entry_key(kind, decides, digest) == folder.name:
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
    for entry in entries(DataPaths(eval_data)):
        total += entry.bytes
        held = "not whole: it is built anew when it is needed"
        if entry.meta is not None:
            holds = "tokens" if entry.tier == "tier2_ppl" else "examples"
            source, tokenizer = entry.meta["source"], entry.meta["tokenizer"]["identifier"]
            where = source.get("hf_dataset") or f"{len(source.get('data_files', ()))} local files"
            revision = f"@{source['revision'][:12]}" if source.get("revision") else ""
            held = f"{entry.meta[holds]:,} {holds} of {where}{revision}, tokenizer {tokenizer}"
        used = f"used {(now - entry.used) / DAY:.0f} days ago" if now - entry.used > DAY else "used today"
        click.echo(f"{entry.name}/{entry.folder.name}: {size(entry.bytes)}, {used}: {held}")
    left = sum(waste.bytes for waste in lost(DataPaths(eval_data), now))
    click.echo(f"{size(total)} in all{f'; {size(left)} left over, which gc removes' if left else ''}")


@cache.command()
@eval_data_option
def verify(eval_data: Path) -> None:
    """Read every byte of every entry and tokenizer, and compare it with its sha256. Exits 66 where something is damaged."""
    data, bad, good = DataPaths(eval_data), 0, 0
    for entry in entries(data):
        found = damage(entry.folder)
        bad, good = bad + bool(found), good + (not found)
        for line in found:
            click.echo(line)
    for copy in sorted((eval_data / "tokenizers").glob("[!.]*")):
        if copy.name == "by_id":
            continue
        fits = tokenizer_digest(copy) == copy.name
        bad, good = bad + (not fits), good + fits
        if not fits:
            click.echo(f"{copy}: its files are not those that its name says")
    click.echo(f"{good} whole, {bad} damaged{'; prefill makes them anew once they are removed' if bad else ''}")
    sys.exit(int(Exit.DATA_MISSING if bad else Exit.SCORED))


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
        asked: list[Request] = [read_request(path) for path in requests]
        used = [load_suite(suite, os.environ).in_request() for suite in suites]
    except Problem as problem:
        click.echo(f"scoring: {problem}", err=True)
        sys.exit(int(problem.code))
    used += [suite for request in asked for suite in request.suites]
    found = [*lost(data, now), *(unreferenced(data, used, now) if used else ())]
    for waste in found:
        if not dry_run:
            _remove(waste.path)
        click.echo(f"{'would remove' if dry_run else 'removed'} {waste.path}: {waste.why} ({size(waste.bytes)})")
    freed = size(sum(waste.bytes for waste in found))
    click.echo(f"{freed} {'would be freed' if dry_run else 'freed'}")
    if not used:
        click.echo("entries were left alone: name the suites that are still used, with --suite or --request")


def _remove(path: Path) -> None:
    """An entry is renamed first, so that nobody finds half of it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = path if path.name.startswith(".") else path.with_name(f".{path.name}.removed")
    if aside != path:
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)

"""What lies on disk, with the journal ignored: published results, attempts, and what was left behind. Reads only."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from suites.checkpoint.completeness import take_fingerprint
from suites.common.atomic_files import maker_is_dead, read_json
from suites.common.errors import Problem
from suites.contract.exit_record import ExitRecord, of_the_run, read_exit_records
from suites.contract.paths import TIER_FILES, EvaluationPaths, StatePaths
from suites.contract.scoring_request import Request, TierRequirement, read_request, required_names
from suites.contract.tier_files import judge_tier_file
from watcher.observe.checkpoints import marks_of

Tiers = Mapping[str, TierRequirement]
"""As in ``StagePlan.tiers``."""

UNTOUCHED = 86_400.0
"""Seconds after which a private file of another host is taken for left behind."""

NO_HEARTBEAT = 600.0
"""Seconds after which a lease is: ten times as long as it lasts without a heartbeat."""

_PRIVATE = re.compile(r"\..+\.[A-Za-z0-9-]+\.\d+\.[0-9a-f]{8}(?:\.[a-z]+)?")

_OF = re.compile(rb'"fingerprint": "([0-9a-f]{16,})"')

_FOOTER = 8
"""Bytes at a parquet file's end: the length of its footer, and PAR1."""


class TierSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One tier file on its own terms: of the checkpoint and the suite that it names itself."""

    kind: str
    """``valid``, ``invalid`` or ``foreign``."""
    why: str = ""
    fingerprint: str = ""
    digest: str = ""
    step: int | None = None
    source: str = ""
    checkpoint: str = ""


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint's folder now."""

    fingerprint: str | None = None
    """None: gone, or not whole."""
    marks: str | None = None
    gone: bool = False


class AttemptFound(msgspec.Struct, frozen=True, kw_only=True):
    """The folder of one attempt."""

    folder: Path
    request: Request | None
    claim: str = ""
    exits: tuple[ExitRecord, ...] = ()
    """Of the attempt as a whole (``exit_record.of_the_run``)."""
    tasks_ended: int = 0
    """How many tasks of an array left a record; with a task that left none nothing is said of the whole."""
    age: float = 0.0
    """Seconds since something was made in it."""

    @property
    def end(self) -> str:
        """How it ended, in words."""
        if self.exits:
            return f"ended with {self.exits[-1].code}"
        of = 1 if self.request is None else self.request.tasks
        return f"{self.tasks_ended} of its {of} tasks left an end" if self.tasks_ended else "no end recorded"


class LeftOver(msgspec.Struct, frozen=True):
    """A file that nobody is using any more."""

    key: str
    path: Path
    words: str


def tier_files(paths: EvaluationPaths, tiers: Tiers) -> dict[str, TierSeen]:
    """Tier -> its published file, for those that are there. ``tiers``: today's, which say what a whole one names."""
    return {tier: _tier_file(paths.tier(tier), tier, tiers) for tier in TIER_FILES if paths.tier(tier).exists()}


def _tier_file(path: Path, tier: str, tiers: Tiers) -> TierSeen:
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        return TierSeen(kind="invalid", why=str(error))
    head = document.get("checkpoint") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(head, dict):
        return TierSeen(kind="foreign", why=f"{path}: written by another program")
    fingerprint, digest = str(head.get("fingerprint")), str(document.get("suite_digest"))
    names = required_names(tiers, tier, digest)
    verdict = judge_tier_file(path, tier=tier, fingerprint=fingerprint, suite_digest=digest, names=names)
    step = document.get("step")
    return TierSeen(
        kind=verdict.kind,
        why=verdict.why,
        fingerprint=fingerprint,
        digest=digest,
        step=step if isinstance(step, int) else None,
        source=str(head.get("source_stage", "")),
        checkpoint=str(head.get("path", "")),
    )


def result_folders(results: Path, stage: str) -> list[str]:
    """The directories among a stage's results. Raises OSError where they cannot be listed; none is fine."""
    folder = EvaluationPaths(results, stage, "any").folder.parent
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        return []


def content(folder: str) -> Content:
    """What a checkpoint's folder holds now. Marks first: what moves after them is another content."""
    marks = marks_of(folder)
    try:
        return Content(fingerprint=take_fingerprint(Path(folder)), marks=marks)
    except Problem:
        return Content(gone=not Path(folder).exists())


def attempts(paths: StatePaths, now: float) -> dict[str, AttemptFound]:
    """Run id -> what its folder holds. Raises OSError where they cannot be listed; no folder is fine."""
    try:
        names = sorted(entry.name for entry in os.scandir(paths.attempts) if entry.is_dir())
    except FileNotFoundError:
        return {}
    return {name: _attempt(paths, name, now) for name in names}


def _attempt(paths: StatePaths, run_id: str, now: float) -> AttemptFound:
    place = paths.attempt(run_id)
    try:
        request: Request | None = read_request(place.request)
    except Problem:
        request = None
    claim = place.claim.read_text(encoding="utf-8", errors="replace").strip() if place.claim.exists() else ""
    age = max(0.0, now - place.folder.stat().st_mtime)
    records = read_exit_records(place.folder)
    return AttemptFound(
        folder=place.folder,
        request=request,
        claim=claim,
        exits=of_the_run(records, 1 if request is None else request.tasks),
        tasks_ended=len({record.task for record in records}),
        age=age,
    )


def left_over(key: str, paths: EvaluationPaths, wanted: frozenset[str], now: float) -> Iterator[LeftOver]:
    """Leases, parts of contents that nobody wants any more, and private files of makers who are gone.

    ``wanted``: fingerprints. To be asked only of what is not being scored.
    """
    for path in sorted(paths.parts.glob("*.lease")):
        if _age(path, now) > NO_HEARTBEAT:
            yield LeftOver(key, path, "a lease whose owner is gone")
    for path in sorted(paths.parts.glob("*.parquet")):
        of = part_of(path)
        if of is not None and of not in wanted:
            yield LeftOver(key, path, f"a part of another content of the checkpoint ({of[:12]})")
    for folder in (paths.folder, paths.parts, paths.items("any").parent):
        yield from private_files(key, folder, now)


def private_files(key: str, folder: Path, now: float) -> Iterator[LeftOver]:
    """Files that were being written when their writer was killed."""
    for path in sorted(folder.glob(".*")):
        if _PRIVATE.fullmatch(path.name) and path.is_file() and (maker_is_dead(path.name) or _age(path, now) > UNTOUCHED):
            yield LeftOver(key, path, "half written, and its writer is gone")


def part_of(path: Path) -> str | None:
    """The fingerprint that a finished part is of, from the end of its file: the login node reads no parquet."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _FOOTER))
            length = int.from_bytes(file.read(4), "little")
            file.seek(max(0, size - _FOOTER - length))
            found = _OF.search(file.read(length))
    except OSError:
        return None
    return None if found is None else found[1].decode()


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except OSError:  # it went away: nobody's worry
        return 0.0

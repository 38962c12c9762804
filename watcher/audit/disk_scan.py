"""Results, attempts and leftovers on disk, ignoring the journal. Reads only."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from suites.checkpoint.completeness import compute_fingerprint
from suites.common.atomic_files import is_creator_dead
from suites.common.documents import DamagedDocument, may_be_folder, open_without_blocking, read_json, read_line
from suites.common.errors import UserError
from suites.contract.averages import AverageStep, compute_average_fingerprint
from suites.contract.exit_record import ExitRecord, combine_exit_records, read_exit_records
from suites.contract.paths import TIER_FILES, EvaluationPaths, StatePaths
from suites.contract.scoring_request import ScoringRequest, TierRequirement, read_scoring_request, required_names
from suites.contract.tier_files import check_tier_file
from watcher.averages.members import join_mtimes
from watcher.observe.checkpoints import encode_mtimes

TierDefinitions = Mapping[str, TierRequirement]
"""As in ``StageRequirements.tiers``."""

ABANDONED_FILE_SECONDS = 86_400.0
"""Seconds after which a private file of another host counts as left behind."""

DEAD_LEASE_SECONDS = 600.0
"""Seconds after which a lease counts as dead: ten times its duration without a heartbeat."""

_TEMPORARY_FILE_NAME = re.compile(r"\..+\.[A-Za-z0-9-]+\.\d+\.[0-9a-f]{8}(?:\.[a-z]+)?")

_PART_FINGERPRINT = re.compile(rb'"fingerprint": "([0-9a-f]{16,})"')

_PARQUET_TAIL_BYTES = 8
"""Bytes at a parquet file's end: the length of its footer, and PAR1."""


class TierFileState(msgspec.Struct, frozen=True, kw_only=True):
    """One tier file, checked against the checkpoint and suite that it names."""

    kind: str
    """``valid``, ``invalid`` or ``foreign``."""
    reason: str = ""
    fingerprint: str = ""
    digest: str = ""
    step: int | None = None
    source: str = ""
    checkpoint: str = ""
    average: tuple[AverageStep, ...] = ()
    """Members of an average; empty: it is the checkpoint itself."""

    @property
    def inspected(self) -> str:
        """The key of its checkpoint's state: its folder, or for an average its fingerprint."""
        return self.fingerprint if self.average else self.checkpoint


class CheckpointState(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint's folder now."""

    fingerprint: str | None = None
    """None: deleted or incomplete."""
    mtimes: str | None = None
    is_deleted: bool = False


class AttemptFolder(msgspec.Struct, frozen=True, kw_only=True):
    """The folder of one attempt."""

    folder: Path
    request: ScoringRequest | None
    claim: str = ""
    exit_records: tuple[ExitRecord, ...] = ()
    """Of all tasks together (``exit_record.combine_exit_records``)."""
    tasks_ended: int = 0
    """Number of array tasks with a record; while one has none, the attempt has no common end."""
    age_seconds: float = 0.0
    """Seconds since a file was created in it."""

    @property
    def outcome(self) -> str:
        """How the attempt ended."""
        if self.exit_records:
            return f"ended with {self.exit_records[-1].code}"
        task_count = 1 if self.request is None else self.request.tasks
        return f"{self.tasks_ended} of {task_count} tasks left an exit record" if self.tasks_ended else "no end recorded"


class LeftoverFile(msgspec.Struct, frozen=True):
    """A file that nothing uses any more."""

    key: str
    path: Path
    reason: str


def read_tier_files(paths: EvaluationPaths, tiers: TierDefinitions) -> dict[str, TierFileState]:
    """Tier -> its published file; ``tiers``: requirements of the current suites."""
    return {
        tier: _read_tier_file(paths.tier_json(tier), tier, tiers)
        for tier in TIER_FILES
        if os.path.lexists(paths.tier_json(tier)) or os.path.islink(paths.folder)  # noqa: PTH114  a circle holds nothing
    }


def _read_tier_file(path: Path, tier: str, tiers: TierDefinitions) -> TierFileState:
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        return TierFileState(kind="invalid", reason=str(error))
    # Without our head the file is somebody else's, and not a broken one of ours.
    checkpoint_head = document.get("checkpoint") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(checkpoint_head, dict):
        return TierFileState(kind="foreign", reason=f"{path}: written by another program")
    fingerprint, digest = str(checkpoint_head.get("fingerprint")), str(document.get("suite_digest"))
    names = required_names(tiers, tier, digest)
    # The file is checked against itself, since the journal may be what is wrong.
    verdict = check_tier_file(path, tier=tier, fingerprint=fingerprint, suite_digest=digest, names=names)
    step = document.get("step")
    return TierFileState(
        kind=verdict.kind,
        reason=verdict.reason,
        fingerprint=fingerprint,
        digest=digest,
        step=step if isinstance(step, int) else None,
        source=str(checkpoint_head.get("source_stage", "")),
        checkpoint=str(checkpoint_head.get("path", "")),
        average=_read_members(checkpoint_head.get("average")),
    )


def _read_members(value: object) -> tuple[AverageStep, ...]:
    try:
        return msgspec.convert(value or (), tuple[AverageStep, ...])
    except msgspec.ValidationError:
        return ()


def combine_states(members: Sequence[AverageStep], states: Mapping[str, CheckpointState]) -> CheckpointState:
    """The state of an average: complete where every member is, deleted where one is."""
    member_states = [states[member.checkpoint] for member in members]
    fingerprints = [state.fingerprint for state in member_states if state.fingerprint is not None]
    contents = zip(fingerprints, (member.weight for member in members), strict=False)
    return CheckpointState(
        fingerprint=compute_average_fingerprint(contents) if len(fingerprints) == len(members) else None,
        mtimes=join_mtimes(state.mtimes for state in member_states),
        is_deleted=any(state.is_deleted for state in member_states),
    )


def read_checkpoint_state(folder: str) -> CheckpointState:
    """State of a checkpoint folder; mtimes are read before the content."""
    mtimes = encode_mtimes(folder)
    try:
        return CheckpointState(fingerprint=compute_fingerprint(Path(folder)), mtimes=mtimes)
    except UserError:
        return CheckpointState(is_deleted=not os.path.lexists(folder))
    except (OSError, ValueError):  # a path that is none
        return CheckpointState()


def scan_attempts(paths: StatePaths, now: float) -> dict[str, AttemptFolder]:
    """Run id -> content of its folder. OSError."""
    try:
        names = sorted(entry.name for entry in os.scandir(paths.attempts) if may_be_folder(entry))
    except FileNotFoundError:
        return {}
    return {name: _scan_attempt(paths, name, now) for name in names}


def _scan_attempt(paths: StatePaths, run_id: str, now: float) -> AttemptFolder:
    attempt_paths = paths.attempt(run_id)
    try:
        # An attempt without a readable request may still have a claim that counts.
        request: ScoringRequest | None = read_scoring_request(attempt_paths.request)
    except UserError:
        request = None
    claim = ""
    with contextlib.suppress(OSError, DamagedDocument):
        claim = read_line(attempt_paths.claim)
    age_seconds = max(0.0, now - attempt_paths.folder.lstat().st_mtime)
    records = read_exit_records(attempt_paths.folder)
    return AttemptFolder(
        folder=attempt_paths.folder,
        request=request,
        claim=claim,
        exit_records=combine_exit_records(records, 1 if request is None else request.tasks),
        tasks_ended=len({record.task for record in records}),
        age_seconds=age_seconds,
    )


def find_leftover_files(
    key: str, paths: EvaluationPaths, needed_fingerprints: frozenset[str], now: float
) -> Iterator[LeftoverFile]:
    """Dead leases, parts of other content, and files of dead writers.

    ``needed_fingerprints``: contents whose parts are kept. Only for evaluations that are not being scored.
    """
    for path in sorted(paths.parts.glob("*.lease")):
        if _measure_age_seconds(path, now) > DEAD_LEASE_SECONDS:
            yield LeftoverFile(key, path, "a lease whose owner is dead")
    for path in sorted(paths.parts.glob("*.parquet")):
        fingerprint = read_part_fingerprint(path)
        if fingerprint is not None and fingerprint not in needed_fingerprints:
            yield LeftoverFile(key, path, f"a part of other checkpoint content ({fingerprint[:12]})")
    for folder in (paths.folder, paths.parts, paths.items_parquet("any").parent):
        yield from find_temporary_files(key, folder, now)


def find_temporary_files(key: str, folder: Path, now: float) -> Iterator[LeftoverFile]:
    """Files that were being written when their writer was killed."""
    for path in sorted(folder.glob(".*")):
        if (
            _TEMPORARY_FILE_NAME.fullmatch(path.name)
            and path.is_file()
            and (is_creator_dead(path.name) or _measure_age_seconds(path, now) > ABANDONED_FILE_SECONDS)
        ):
            yield LeftoverFile(key, path, "half-written, and its writer is dead")


def read_part_fingerprint(path: Path) -> str | None:
    """Fingerprint of a finished part, from the end of its file.

    The login node has no parquet library.
    """
    try:
        with open_without_blocking(path) as file:
            # The footer holds the metadata, so the rows are never read.
            file_bytes = file.seek(0, os.SEEK_END)
            file.seek(max(0, file_bytes - _PARQUET_TAIL_BYTES))
            footer_bytes = int.from_bytes(file.read(4), "little")
            file.seek(max(0, file_bytes - _PARQUET_TAIL_BYTES - footer_bytes))
            match = _PART_FINGERPRINT.search(file.read(footer_bytes))
    except OSError:
        return None
    return None if match is None else match[1].decode()


def _measure_age_seconds(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except OSError:  # it is gone, which is fine
        return 0.0

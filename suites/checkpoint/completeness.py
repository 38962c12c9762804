"""A nanotron checkpoint on disk: is it whole, which one is it, and what does it say of its run.

Nanotron writes without fsync and without rename, from many ranks at once, and writes some directories
twice, so no single file proves that a checkpoint is complete. ``inspect_checkpoint`` weighs all of them:

1. the folder's name is a step;
2. config.yaml, checkpoint_metadata.json and model_config.json parse and agree on that step;
3. every tensor that model_config.json implies has all its files, for the tp and pp of this save;
4. each file is as long as its header says, and the shards make up the whole tensor;
5. no rewrite is under way: config.yaml, which is written first, is not newer than model_config.json,
   which is written last, and nothing has been written for a settle time, by the file server's clock.
"""

import enum
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from suites.checkpoint import shard_headers as shards
from suites.checkpoint.architecture import Architecture, ParameterSpec, UnscorableCheckpoint
from suites.checkpoint.metadata import CheckpointMetadata, TrainingConfig, read_checkpoint_metadata, read_training_config
from suites.checkpoint.shard_files import METADATA_FILES, CheckpointListing, ShardSelection, list_files, select_shards
from suites.checkpoint.shard_headers import IncompleteFile, Shard
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error, describe_permission_error, format_duration

__all__ = [
    "CheckpointShards",
    "Completeness",
    "Inspection",
    "TrainingConfig",
    "compute_fingerprint",
    "inspect_checkpoint",
    "list_scoring_files",
    "list_steps",
    "open_checkpoint_shards",
    "read_mtimes",
    "read_training_config",
]

QUIET_SECONDS = 600.0
"""Seconds without a write after which a save is taken for interrupted, or a torn file for left behind."""

_STEP_PATTERN = re.compile(r"0|[1-9]\d{0,17}", re.ASCII)


class Completeness(enum.StrEnum):
    """What a checkpoint's folder is worth."""

    COMPLETE = "complete"
    NOT_YET = "not_yet"
    """Being written, settling, or a file is missing or torn."""
    INTERRUPTED = "interrupted"
    """A rewrite that stopped, or a copy that lost its times: a person has to say which."""
    UNSCORABLE = "unscorable"
    """Whole, but it can never be scored."""
    UNREADABLE = "unreadable"
    GONE = "gone"


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict on one folder, and what it says of its run as far as it could be read."""

    kind: Completeness
    reason: str
    """One line: what, and which file."""
    folder: Path
    step: int | None = None
    fingerprint: str | None = None
    """Only where COMPLETE."""
    newest_mtime: float | None = None
    """Of the files that matter for scoring, unix time."""
    quiet: float | None = None
    """Seconds without a write, where that is long for a checkpoint that is not whole."""
    tokens_seen: int | None = None
    train_steps: int | None = None
    seq_len: int | None = None
    tokenizer: str | None = None
    started_from: str | None = None
    """The checkpoint, or folder of checkpoints, that the run began with."""
    ignored: tuple[str, ...] = ()
    """Files under model/ of other topologies, and left-overs."""

    @property
    def detail(self) -> str:
        """``reason``, and for how long nothing has been written: another text at every look."""
        return (
            self.reason if self.quiet is None else f"{self.reason}; nothing was written there for {format_duration(self.quiet)}"
        )


class CheckpointShards(msgspec.Struct, frozen=True, kw_only=True):
    """A whole checkpoint, ready to be loaded: every tensor with its checked shards."""

    architecture: Architecture
    training_config: TrainingConfig
    tensors: Mapping[str, tuple[Shard, ...]]
    """Nanotron's parameter name -> its shards, in order of tp rank."""
    fingerprint: str
    size_bytes: int
    """Bytes of the model files."""
    tp: int
    pp: int
    ignored: tuple[str, ...]


def list_steps(checkpoints_folder: Path) -> dict[int, Path]:
    """The step folders in ``checkpoints_folder``, in order of their steps.

    Raises FileNotFoundError where there is no such folder, and OSError where it cannot be listed: that is
    not the same as having no checkpoints.
    """
    with os.scandir(checkpoints_folder) as entries:
        step_folders = {
            int(entry.name): Path(entry.path) for entry in entries if _STEP_PATTERN.fullmatch(entry.name) and entry.is_dir()
        }
    return dict(sorted(step_folders.items()))


def read_mtimes(folder: Path) -> tuple[int, ...] | None:
    """(mtime in ns, size) of config.yaml and of model_config.json: they move with every rewrite. None if one is missing."""
    mtimes_and_sizes: list[int] = []
    for name in ("config.yaml", "model_config.json"):
        try:
            file_stat = (folder / name).stat()
        except OSError:
            return None
        mtimes_and_sizes += [file_stat.st_mtime_ns, file_stat.st_size]
    return tuple(mtimes_and_sizes)


def compute_fingerprint(folder: Path) -> str:
    """SHA-256 over names, sizes and mtimes of the files that scores depend on.

    Raises Problem (CHANGED) where one is missing or torn: the checkpoint is being rewritten or removed.
    """
    try:
        listing = list_files(folder)
        return _hash_fingerprint(listing, _select_files(read_checkpoint_metadata(folder), listing))
    except (IncompleteFile, UnscorableCheckpoint, OSError) as error:
        raise _make_changed_error(folder, error) from error


def _make_changed_error(folder: Path, error: Exception) -> UserError:
    hint = "it is scored again when it is complete again"
    return UserError(f"changed or vanished: {describe_error(error)}", location=folder, hint=hint, code=ExitCode.CHANGED)


def list_scoring_files(folder: Path) -> dict[str, int]:
    """Relative name -> bytes of every file that scores depend on: those of the fingerprint.

    Raises Problem (CHANGED) as ``compute_fingerprint`` does.
    """
    try:
        listing = list_files(folder)
        return {
            name: size
            for name, (size, _) in _get_file_stats(listing, _select_files(read_checkpoint_metadata(folder), listing)).items()
        }
    except (IncompleteFile, UnscorableCheckpoint, OSError) as error:
        raise _make_changed_error(folder, error) from error


def open_checkpoint_shards(folder: Path) -> CheckpointShards:
    """Every tensor of a checkpoint with its checked shards. Times are not looked at.

    Raises Torn where a file is missing or not whole, Refused where it can never be scored, OSError where
    it cannot be read.
    """
    listing = list_files(folder)
    documents = read_checkpoint_metadata(folder)
    return _check_shards(folder, listing, documents, _select_files(documents, listing))


def inspect_checkpoint(folder: Path, *, now: float, settle_seconds: float, forced: bool = False) -> Inspection:
    """Judge a folder. Never raises for what it holds.

    ``now`` is the file server's clock (unix time), ``settle_seconds`` the seconds without a write that are waited
    for. ``forced`` takes an interrupted rewrite, a copy without times or files from the future for whole.
    """
    inspector = _Inspector(folder, now, settle_seconds, forced)
    try:
        return inspector.inspect()
    except IncompleteFile as error:
        return inspector.make_inspection(Completeness.NOT_YET, str(error))
    except UnscorableCheckpoint as error:
        return inspector.make_inspection(Completeness.UNSCORABLE, str(error))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not folder.is_dir():
            return inspector.make_inspection(Completeness.GONE, f"{folder}: no such folder")
        return inspector.make_inspection(Completeness.NOT_YET, f"{error.filename}: vanished while it was looked at")
    except PermissionError as error:
        return inspector.make_inspection(Completeness.UNREADABLE, describe_permission_error(error))
    except OSError as error:
        return inspector.make_inspection(Completeness.NOT_YET, f"cannot be read now: {describe_error(error)}")


class _Inspector:
    """One inspection: what was found so far, so that every verdict says as much as is known."""

    def __init__(self, folder: Path, now: float, settle_seconds: float, forced: bool) -> None:
        self.folder, self.now, self.settle_seconds, self.forced = folder, now, settle_seconds, forced
        self.listing: CheckpointListing | None = None
        self.documents: CheckpointMetadata | None = None
        self.ignored: tuple[str, ...] = ()

    @property
    def quiet_seconds(self) -> float:
        """Seconds since the newest write."""
        return self.now - self.listing.newest_mtime if self.listing is not None else 0.0

    def make_inspection(self, kind: Completeness, reason: str, fingerprint: str | None = None) -> Inspection:
        training_config = self.documents.training_config if self.documents is not None else TrainingConfig()
        return Inspection(
            kind=kind,
            reason=" ".join(reason.split()),
            folder=self.folder,
            step=training_config.step,
            fingerprint=fingerprint,
            newest_mtime=self.listing.newest_mtime if self.listing is not None else None,
            quiet=self.quiet_seconds
            if kind in {Completeness.NOT_YET, Completeness.INTERRUPTED} and self.quiet_seconds > QUIET_SECONDS
            else None,
            tokens_seen=self.documents.tokens_seen if self.documents is not None else None,
            train_steps=training_config.train_steps,
            seq_len=training_config.seq_len,
            tokenizer=training_config.tokenizer,
            started_from=training_config.started_from,
            ignored=self.ignored,
        )

    def inspect(self) -> Inspection:
        if not _STEP_PATTERN.fullmatch(self.folder.name) and not self.forced:
            message = f"{self.folder.name!r} is not the number of a step"
            raise UnscorableCheckpoint(message)
        self.listing = list_files(self.folder)
        for name in METADATA_FILES:
            if name not in self.listing.metadata_files:
                message = f"{name} is not there"
                raise IncompleteFile(message)
        self.documents = read_checkpoint_metadata(self.folder)
        rewrite = self._check_write_order()
        if rewrite is not None and rewrite.kind is Completeness.NOT_YET:
            return rewrite
        selection = _select_files(self.documents, self.listing)
        self.ignored = selection.ignored
        if rewrite is not None:
            return rewrite
        if self.quiet_seconds < self.settle_seconds and not (self.forced and self.quiet_seconds < -QUIET_SECONDS):
            if self.quiet_seconds < 0:
                future_reason = f"its newest file is dated {format_duration(-self.quiet_seconds)} in the future"
                return self.make_inspection(Completeness.NOT_YET, future_reason)
            message = f"settling: written to {format_duration(self.quiet_seconds)} ago, {format_duration(self.settle_seconds)} without a write are waited for"
            return self.make_inspection(Completeness.NOT_YET, message)
        if _STEP_PATTERN.fullmatch(self.folder.name):
            self.documents.require_step(int(self.folder.name))
        checkpoint_shards = _check_shards(self.folder, self.listing, self.documents, selection)
        return self.make_inspection(Completeness.COMPLETE, "complete", checkpoint_shards.fingerprint)

    def _check_write_order(self) -> Inspection | None:
        if self.forced or self.listing is None:
            return None
        config_mtime_ns, model_config_mtime_ns = (
            self.listing.metadata_files[name][1] for name in ("config.yaml", "model_config.json")
        )
        if config_mtime_ns <= model_config_mtime_ns:
            return None
        lag = format_duration((config_mtime_ns - model_config_mtime_ns) / 1e9)
        if self.quiet_seconds > QUIET_SECONDS:
            reason = f"interrupted rewrite, or a copy that lost its times: config.yaml is {lag} newer than model_config.json"
            return self.make_inspection(Completeness.INTERRUPTED, reason)
        return self.make_inspection(Completeness.NOT_YET, f"being rewritten: config.yaml is {lag} newer than model_config.json")


def _select_files(documents: CheckpointMetadata, listing: CheckpointListing) -> ShardSelection:
    selection = select_shards(documents.architecture.parameters(), listing.model_files, tp=documents.tp, pp=documents.pp)
    if selection.missing is not None:
        raise IncompleteFile(selection.missing)
    return selection


def _check_shards(
    folder: Path, listing: CheckpointListing, documents: CheckpointMetadata, selection: ShardSelection
) -> CheckpointShards:
    if selection.surplus:
        suffix = f" and {len(selection.surplus) - 1} more" if len(selection.surplus) > 1 else ""
        message = f"holds a tensor that model_config.json does not imply: {selection.surplus[0]}{suffix}"
        raise UnscorableCheckpoint(message)
    parameters: dict[str, ParameterSpec] = {parameter.name: parameter for parameter in documents.architecture.parameters()}
    return CheckpointShards(
        architecture=documents.architecture,
        training_config=documents.training_config,
        tensors={name: shards.read_shards(parameters[name], files, folder) for name, files in selection.files.items()},
        fingerprint=_hash_fingerprint(listing, selection),
        size_bytes=sum(listing.model_files[file][0] for files in selection.files.values() for file in files),
        tp=documents.tp,
        pp=documents.pp,
        ignored=selection.ignored,
    )


def _get_file_stats(listing: CheckpointListing, selection: ShardSelection) -> dict[str, tuple[int, int]]:
    """Relative name -> (size, mtime in ns) of the files that scores depend on."""
    return {**listing.metadata_files} | {file: listing.model_files[file] for files in selection.files.values() for file in files}


def _hash_fingerprint(listing: CheckpointListing, selection: ShardSelection) -> str:
    file_stats = _get_file_stats(listing, selection)
    digest = hashlib.sha256()
    for name in sorted(file_stats):
        size, mtime_ns = file_stats[name]
        digest.update(f"{name}\0{size}\0{mtime_ns}\n".encode())
    return digest.hexdigest()

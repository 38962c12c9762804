"""Whether a checkpoint folder is complete, partial or damaged; its fingerprint.

Nanotron writes without fsync and without rename, from many ranks at once, and writes some directories
twice, so no single file proves that a checkpoint is complete. ``inspect_checkpoint`` checks all of them:

1. it is known which step the folder should be: the caller says it, or the folder's name;
2. config.yaml, checkpoint_metadata.json and model_config.json parse and agree on that step;
3. every tensor that model_config.json implies has all its files, for the tp and pp of this save;
4. each file is as long as its header says, and the shards make up the whole tensor;
5. no rewrite is under way: config.yaml, which is written first, is not newer than model_config.json,
   which is written last, and nothing has been written for a settle time, by the file server's clock.

A Hugging Face checkpoint has config.json, safetensors that agree with their index, and trainer_state.json where the Trainer
wrote it: with the step, and not older than config.json. Everything else is the same.
"""

import enum
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from suites.checkpoint.contents import CheckpointFolder, CheckpointKind, CheckpointShards
from suites.checkpoint.folder_kind import open_folder
from suites.checkpoint.layout import guess_step
from suites.checkpoint.metadata import CheckpointMetadata, TrainingConfig
from suites.checkpoint.model_config_reader import UnimplementedKey, UnscorableCheckpoint
from suites.checkpoint.shard_files import CheckpointListing, FileStat, ShardSelection
from suites.checkpoint.shard_headers import IncompleteFile
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error, describe_permission_error, format_duration

QUIET_SECONDS = 600.0
"""Seconds without a write after which a save counts as interrupted, and a torn file as abandoned."""


class Completeness(enum.StrEnum):
    """State of a checkpoint's folder."""

    COMPLETE = "complete"
    NOT_YET = "not_yet"
    """Being written, settling, or a file is missing or torn."""
    INTERRUPTED = "interrupted"
    """A rewrite that stopped, or a copy that lost its times: only a person knows which."""
    UNSCORABLE = "unscorable"
    """It can never be scored, complete or not."""
    UNREADABLE = "unreadable"
    GONE = "gone"


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one folder, with facts from its documents."""

    kind: Completeness
    reason: str
    """One line that names the file."""
    folder: Path
    step: int | None = None
    fingerprint: str | None = None
    """Only of a COMPLETE checkpoint."""
    newest_mtime: float | None = None
    """Unix time of the newest write to the files that scores depend on."""
    quiet: float | None = None
    """Seconds without a write, of an incomplete checkpoint that is quiet for longer than ``QUIET_SECONDS``."""
    tokens_seen: int | None = None
    train_steps: int | None = None
    seq_len: int | None = None
    tokenizer: str | None = None
    vocab_size: int | None = None
    """Rows of the embedding, with padding."""
    run_name: str | None = None
    started_from: str | None = None
    """The checkpoint, or folder of checkpoints, that the run started from."""
    unimplemented: tuple[UnimplementedKey, ...] = ()
    """Keys of model_config.json without a meaning here, unless the stage's ``assume`` gives them one."""
    ignored: tuple[str, ...] = ()
    """Model files that belong to other topologies, to killed saves, or to nothing that is read."""
    checkpoint_kind: CheckpointKind = CheckpointKind.NANOTRON

    @property
    def detail(self) -> str:
        """``reason`` with the time since the last write."""
        return self.reason if self.quiet is None else f"{self.reason}; no write for {format_duration(self.quiet)}"


def compute_fingerprint(folder: Path) -> str:
    """SHA-256 over names, sizes and mtimes of all files that affect scores.

    Raises UserError (CHANGED) where one is missing or torn: the checkpoint is being rewritten or removed.
    """
    return _hash_file_stats(_read_scoring_stats(folder))


def list_scoring_files(folder: Path) -> dict[str, int]:
    """Relative name -> bytes of every file that the fingerprint covers.

    Raises UserError (CHANGED) as ``compute_fingerprint`` does.
    """
    return {name: file_stat.size_bytes for name, file_stat in _read_scoring_stats(folder).items()}


def _read_scoring_stats(folder: Path) -> dict[str, FileStat]:
    try:
        reader = open_folder(folder)
        listing = reader.list_files()
        return _get_scoring_stats(listing, reader.select_files(reader.read_metadata(), listing))
    except (IncompleteFile, UnscorableCheckpoint, OSError) as error:
        message, hint = f"changed or vanished: {describe_error(error)}", "it is scored again once it is complete"
        raise UserError(message, location=folder, hint=hint, code=ExitCode.CHANGED) from error


def open_checkpoint_shards(folder: Path, *, as_stored: bool = False) -> CheckpointShards:
    """Every tensor of a checkpoint with its checked shards, whatever the mtimes.

    ``as_stored`` as in ``folder_kind.open_folder``.
    Raises IncompleteFile where a file is missing or torn, UnscorableCheckpoint where the checkpoint can never be
    scored, OSError where it cannot be read.
    """
    reader = open_folder(folder, as_stored=as_stored)
    listing = reader.list_files()
    metadata = reader.read_metadata()
    selection = reader.select_files(metadata, listing)
    return CheckpointShards(
        architecture=metadata.architecture,
        training_config=metadata.training_config,
        tensors=reader.read_shards(metadata, listing, selection),
        fingerprint=_hash_file_stats(_get_scoring_stats(listing, selection)),
        size_bytes=sum(listing.model_files[file].size_bytes for file in _list_used_files(selection)),
        tp=metadata.tp,
        pp=metadata.pp,
        ep=metadata.ep,
        ignored=selection.ignored,
    )


def inspect_checkpoint(
    folder: Path,
    *,
    now: float,
    settle_seconds: float,
    forced: bool = False,
    step: int | None = None,
    any_step: bool = False,
) -> Inspection:
    """The state of a checkpoint folder. Raises nothing, whatever the folder holds.

    ``now`` is the file server's clock (unix time). A checkpoint is complete after ``settle_seconds`` without a write.
    ``forced`` accepts an interrupted rewrite, a copy without times, files from the future, and another step in a folder whose
    name is no step. ``step``: which step it should be; None: the one of its name. ``any_step``: it stands for a model of any
    step, whatever its name.
    """
    # Whatever may pass by itself is NOT_YET; only what no further write can change is UNSCORABLE.
    named_step = guess_step(folder.name)
    is_free = any_step or (forced and named_step is None)
    expected_step = None if is_free else named_step if step is None else step
    inspector = _Inspector(folder, now, settle_seconds, forced, expected_step)
    if expected_step is None and not is_free:
        return inspector.make_inspection(Completeness.UNSCORABLE, f"{folder.name!r} is not a step number")
    try:
        return inspector.inspect()
    except IncompleteFile as error:
        return inspector.make_inspection(Completeness.NOT_YET, str(error))
    except UnscorableCheckpoint as error:
        return inspector.make_inspection(Completeness.UNSCORABLE, str(error))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not os.path.isdir(folder):  # noqa: PTH112  Path.is_dir may raise
            return inspector.make_inspection(Completeness.GONE, f"{folder}: {_describe_missing_folder(folder)}")
        return inspector.make_inspection(Completeness.NOT_YET, f"{error.filename}: disappeared during the check")
    except PermissionError as error:
        return inspector.make_inspection(Completeness.UNREADABLE, describe_permission_error(error))
    except OSError as error:
        return inspector.make_inspection(Completeness.NOT_YET, f"cannot be read now: {describe_error(error)}")
    except Exception as error:  # noqa: BLE001  one folder must not end the inspection of all others
        reason = f"cannot be inspected: {type(error).__name__}: {describe_error(error)[:200]}"
        return inspector.make_inspection(Completeness.UNREADABLE, reason)


def _describe_missing_folder(folder: Path) -> str:
    if os.path.islink(folder):  # noqa: PTH114
        return f"a link to {os.path.realpath(folder)}, which is not there"
    return "not a folder" if os.path.lexists(folder) else "no such folder"


class _Inspector:
    """One inspection.

    Keeps what it has read, so that every result says as much as is known.
    """

    def __init__(self, folder: Path, now: float, settle_seconds: float, forced: bool, step: int | None) -> None:
        self.folder, self.now, self.settle_seconds, self.forced = folder, now, settle_seconds, forced
        self.step = step
        self.listing: CheckpointListing | None = None
        self.metadata: CheckpointMetadata | None = None
        self.ignored: tuple[str, ...] = ()
        self.checkpoint_kind = CheckpointKind.NANOTRON

    @property
    def quiet_seconds(self) -> float:
        """Seconds since the newest write."""
        return self.now - self.listing.newest_mtime if self.listing is not None else 0.0

    def make_inspection(self, kind: Completeness, reason: str, fingerprint: str | None = None) -> Inspection:
        training_config = self.metadata.training_config if self.metadata is not None else TrainingConfig()
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
            tokens_seen=self.metadata.tokens_seen if self.metadata is not None else None,
            train_steps=training_config.train_steps,
            seq_len=training_config.seq_len,
            tokenizer=training_config.tokenizer,
            vocab_size=self.metadata.architecture.vocab if self.metadata is not None else None,
            run_name=training_config.run_name,
            started_from=training_config.started_from,
            unimplemented=self.metadata.architecture.unimplemented if self.metadata is not None else (),
            ignored=self.ignored,
            checkpoint_kind=self.checkpoint_kind,
        )

    def inspect(self) -> Inspection:
        reader = open_folder(self.folder)
        self.checkpoint_kind = reader.kind
        self.listing = reader.list_files()
        if (missing := reader.find_missing_document(self.listing, forced=self.forced)) is not None:
            raise IncompleteFile(f"{missing} is missing")
        self.metadata = reader.read_metadata()
        # A rewrite in progress says nothing reliable of its shards; an interrupted one still names its unused files.
        rewrite = None if self.forced else self._check_write_order(reader, self.listing)
        if rewrite is not None and rewrite.kind is Completeness.NOT_YET:
            return rewrite
        selection = reader.select_files(self.metadata, self.listing)
        self.ignored = selection.ignored
        if rewrite is not None:
            return rewrite
        # No save has a final marker that proves it: only quiet tells that it has ended.
        quiet_seconds = self.quiet_seconds
        if quiet_seconds < self.settle_seconds and not (self.forced and quiet_seconds < -QUIET_SECONDS):
            settle_time = format_duration(self.settle_seconds)
            reason = f"settling: last write {format_duration(quiet_seconds)} ago, complete after {settle_time} without one"
            if quiet_seconds < 0:
                reason = f"the newest file is dated {format_duration(-quiet_seconds)} in the future"
            return self.make_inspection(Completeness.NOT_YET, reason)
        if self.step is not None:
            reader.require_step(self.metadata, self.step)
        # The headers of shards are read last: they cost one open for each.
        reader.read_shards(self.metadata, self.listing, selection)
        fingerprint = _hash_file_stats(_get_scoring_stats(self.listing, selection))
        return self.make_inspection(Completeness.COMPLETE, "complete", fingerprint)

    def _check_write_order(self, reader: CheckpointFolder, listing: CheckpointListing) -> Inspection | None:
        """An inspection where the document that is written first is newer than the one that is written last."""
        order = reader.get_write_order(listing)
        if order is None:
            return None
        first, last = (listing.metadata_files[name] for name in order)
        if first.mtime_ns <= last.mtime_ns:
            return None
        difference = f"{order[0]} is {format_duration((first.mtime_ns - last.mtime_ns) / 1e9)} newer than {order[1]}"
        if self.quiet_seconds > QUIET_SECONDS:
            reason = f"interrupted rewrite, or a copy that lost its times: {difference}"
            return self.make_inspection(Completeness.INTERRUPTED, reason)
        return self.make_inspection(Completeness.NOT_YET, f"being rewritten: {difference}")


def _list_used_files(selection: ShardSelection) -> list[str]:
    """The model files that hold tensors, each once."""
    return list(dict.fromkeys(file for files in selection.files.values() for file in files))


def _get_scoring_stats(listing: CheckpointListing, selection: ShardSelection) -> dict[str, FileStat]:
    """Relative name -> stat of the files that scores depend on."""
    return {**listing.metadata_files} | {file: listing.model_files[file] for file in _list_used_files(selection)}


def _hash_file_stats(file_stats: Mapping[str, FileStat]) -> str:
    lines = "".join(f"{name}\0{size_bytes}\0{mtime_ns}\n" for name, (size_bytes, mtime_ns) in sorted(file_stats.items()))
    return hashlib.sha256(lines.encode()).hexdigest()

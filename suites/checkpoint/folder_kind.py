"""Which kind of checkpoint a folder holds, by what is in it."""

import os
from pathlib import Path

from suites.checkpoint.contents import CheckpointFolder, CheckpointKind
from suites.checkpoint.hf_folder import (
    CONFIG_FILE,
    INDEX_FILE,
    SINGLE_FILE,
    TRAINER_STATE_FILE,
    HuggingFaceFolder,
    has_hf_weights,
    is_trainer_folder_name,
)
from suites.checkpoint.metadata import CheckpointMetadata, TrainingConfig, read_training_config
from suites.checkpoint.model_config_reader import UnscorableCheckpoint
from suites.checkpoint.nanotron_folder import NanotronFolder
from suites.checkpoint.shard_headers import IncompleteFile
from suites.checkpoint.unsupported_weights import is_unsupported
from suites.common.errors import UserError
from suites.common.formatting import describe_error

MARKER_FILES = ("config.yaml", "model_config.json", CONFIG_FILE)
"""Files of which a checkpoint of any kind has one."""

_MTIME_FILES = (("config.yaml", ("model_config.json",)), (CONFIG_FILE, (TRAINER_STATE_FILE, INDEX_FILE, SINGLE_FILE)))
"""The file that a save of a kind writes first, and those of which the first one there is written last."""


def detect_kind(names: frozenset[str], folder_name: str) -> CheckpointKind:
    """The kind of a folder with these entries; by its name where nothing in it tells yet."""
    # What a Nanotron save begins with, or has alone.
    if names & {"model_config.json", "checkpoint_metadata.json", "model"} or (
        "config.yaml" in names and not has_hf_weights(names)
    ):
        return CheckpointKind.NANOTRON
    if CONFIG_FILE in names or SINGLE_FILE in names or is_unsupported(names) or is_trainer_folder_name(folder_name):
        return CheckpointKind.HF
    return CheckpointKind.NANOTRON


def list_names(folder: Path) -> frozenset[str]:
    """The entries of a folder. OSError."""
    return frozenset(path.name for path in folder.iterdir())


def open_folder(folder: Path, *, as_stored: bool = False) -> CheckpointFolder:
    """The reader of a checkpoint's folder. Raises OSError where it cannot be listed.

    ``as_stored``: with a Hugging Face checkpoint's tensors as its files have them, also where this project's decoder knows them.
    """
    names = list_names(folder)
    if detect_kind(names, folder.name) is CheckpointKind.HF:
        return HuggingFaceFolder(folder, names, as_stored=as_stored)
    return NanotronFolder(folder)


def read_checkpoint_metadata(folder: Path) -> CheckpointMetadata:
    """The documents of a checkpoint of any kind.

    Raises IncompleteFile where one is missing, empty or does not parse, UnscorableCheckpoint where its values can
    never be scored, OSError where one cannot be read.
    """
    return open_folder(folder).read_metadata()


def read_run_settings(folder: Path) -> TrainingConfig:
    """What a checkpoint, complete or not, says of its training run.

    Raises UserError where its documents cannot be read.
    """
    try:
        reader = open_folder(folder)
        if isinstance(reader, HuggingFaceFolder):
            return reader.read_metadata().training_config
    except (OSError, IncompleteFile, UnscorableCheckpoint) as error:
        raise UserError(describe_error(error), location=folder, hint="give a complete checkpoint") from error
    return read_training_config(folder / "config.yaml")


def read_mtimes(folder: Path) -> tuple[int, ...] | None:
    """(mtime in ns, size) of the document that a save writes first, then the same of the one that it writes last.

    None where one is missing.
    Every rewrite of a checkpoint changes them. The four numbers stand in the journal as a list.
    """
    for first_name, last_names in _MTIME_FILES:
        try:
            first = (folder / first_name).stat()
            last = next(file_stat for name in last_names if (file_stat := _stat_if_there(folder / name)) is not None)
        except (OSError, ValueError, StopIteration):  # a NUL in the path
            continue
        return tuple(number for file_stat in (first, last) for number in (file_stat.st_mtime_ns, file_stat.st_size))
    return None


def _stat_if_there(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None

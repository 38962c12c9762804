"""Opens the checkpoint of a request: the content that was found complete, with the meaning that the request gives its keys."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from suites.checkpoint.completeness import compute_fingerprint, open_checkpoint_shards
from suites.checkpoint.contents import CheckpointShards
from suites.checkpoint.model_config_reader import UnscorableCheckpoint
from suites.checkpoint.shard_headers import IncompleteFile
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error

_HINT_CHANGED = "it is scored again when it is complete again"

HINT_ASSUME = "name the key in the stage's assume in watcher.yaml, or in --assume"

_HINT_CANNOT_SCORE = "use a complete checkpoint of a supported architecture"


class CheckpointSource(NamedTuple):
    """A checkpoint that is read, with its weight in an average."""

    folder: Path
    contents: CheckpointShards
    weight: float = 1.0


def open_expected_checkpoint(folder: Path, expected_fingerprint: str | None, *, as_stored: bool = False) -> CheckpointShards:
    """Open a checkpoint whose content must be the expected one.

    Without a fingerprint any content is accepted. ``as_stored`` as in ``folder_kind.open_folder``.
    Raises UserError: CHANGED if the content is not the expected one; CANNOT_SCORE if the checkpoint is unreadable or unsupported.
    """
    try:
        contents = open_checkpoint_shards(folder, as_stored=as_stored)
    except UnscorableCheckpoint as error:
        raise make_cannot_score_error(folder, str(error)) from error
    except (IncompleteFile, OSError) as error:
        # It was complete when a fingerprint was computed, so it has changed since.
        if expected_fingerprint is not None:
            raise make_changed_error(folder, f"changed or vanished: {describe_error(error)}") from error
        raise make_cannot_score_error(folder, describe_error(error)) from error
    if expected_fingerprint is not None and contents.fingerprint != expected_fingerprint:
        raise make_changed_error(folder, "changed since it was found complete")
    return contents


def assume_keys(contents: CheckpointShards, assume: Mapping[str, str], folder: Path) -> CheckpointShards:
    """The contents with an architecture whose keys are all implemented, ignored or applied."""
    try:
        return msgspec.structs.replace(contents, architecture=contents.architecture.assume(assume))
    except UnscorableCheckpoint as error:
        raise make_cannot_score_error(folder, str(error), HINT_ASSUME) from error


def refuse_other_architectures(sources: Sequence[CheckpointSource]) -> None:
    """Raise UserError (cannot score) for a member whose architecture is not the last one's.

    Their tp x pp may differ: it says how the tensors are stored, and not what they are.
    """
    last = sources[-1]
    for source in sources[:-1]:
        facts, last_facts = (
            {**msgspec.structs.asdict(each.contents.architecture), "mup": each.contents.training_config.mup}
            for each in (source, last)
        )
        different = next((name for name, value in facts.items() if value != last_facts[name]), None)
        if different is not None:
            message = f"cannot be averaged with {last.folder.name}: {different} is {facts[different]} and {last_facts[different]}"
            raise make_cannot_score_error(source.folder, message, "average checkpoints of one architecture")


def refuse_rewritten_checkpoint(folder: Path, contents: CheckpointShards) -> None:
    """Raise UserError (CHANGED) if a checkpoint changed since it was opened."""
    if compute_fingerprint(folder) != contents.fingerprint:
        raise make_changed_error(folder, "was rewritten while it was loaded")


def make_changed_error(folder: Path, message: str) -> UserError:
    """The error of a checkpoint that is not the one that was found complete."""
    return UserError(message, location=folder, hint=_HINT_CHANGED, code=ExitCode.CHANGED)


def make_cannot_score_error(folder: Path, message: str, hint: str = _HINT_CANNOT_SCORE) -> UserError:
    """The error of a checkpoint that cannot be scored as it is."""
    return UserError(message, location=folder, hint=hint, code=ExitCode.CANNOT_SCORE)

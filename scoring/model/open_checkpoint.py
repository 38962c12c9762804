"""Opens the checkpoint of a request: the content that was found complete, with the meaning that the request gives its keys."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from suites.checkpoint.architecture import ParameterSpec
from suites.checkpoint.completeness import compute_fingerprint, open_checkpoint_shards
from suites.checkpoint.contents import CheckpointShards
from suites.checkpoint.model_config_reader import UnscorableCheckpoint
from suites.checkpoint.shard_headers import IncompleteFile
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error, format_names

_HINT_CHANGED = "it is scored again when it is complete again"

HINT_ASSUME = "name the key in the stage's assume in watcher.yaml, or in --assume"

_HINT_CANNOT_SCORE = "use a complete checkpoint of a supported architecture"

_HINT_AVERAGE = "average checkpoints of one architecture"

_MAX_VALUE_CHARACTERS = 80

_WITHOUT_EFFECT = re.compile(
    r"(?:.*\.)?(?:transformers_version|_name_or_path|_commit_hash|architectures|(?:torch_)?dtype|use_cache|(?:bos|eos)_token_id|return_dict"
    r"|output_.*|id2label.*|label2id.*|problem_type|summary_.*|initializer_range|.*dropout|.*_pdrop|router_aux_loss_coef)"
)
"""Keys of config.json that change no number of a model that is scored."""


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
        stored, last_stored = facts.pop("stored_parameters"), last_facts.pop("stored_parameters")
        difference = _describe_difference(facts, last_facts) or _describe_other_tensors(stored, last_stored)
        if difference:
            raise _make_cannot_average_error(source, last, difference)


def refuse_other_configs(sources: Sequence[CheckpointSource], configs: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError (cannot score) for a member whose config says something else than the last one's.

    ``configs``: the members' config.json with the defaults of transformers, which alone knows what its keys mean.
    """
    *others, last_facts = (
        {name: value for name, value in _flatten_config(config) if not _WITHOUT_EFFECT.fullmatch(name)} for config in configs
    )
    for source, facts in zip(sources[:-1], others, strict=True):
        if difference := _describe_difference(facts, last_facts):
            raise _make_cannot_average_error(source, sources[-1], difference)


def _flatten_config(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(``rope_parameters.rope_theta``, value); keys without a value are left out."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten_config(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _describe_difference(facts: Mapping[str, Any], last_facts: Mapping[str, Any]) -> str:
    """The first name with two values, and both; empty without one."""
    name = next((name for name in {**facts, **last_facts} if facts.get(name) != last_facts.get(name)), None)
    return "" if name is None else f"{name} is {_describe_value(facts.get(name))} and {_describe_value(last_facts.get(name))}"


def _describe_value(value: Any) -> str:
    return str(value)[:_MAX_VALUE_CHARACTERS]


def _describe_other_tensors(stored: Sequence[ParameterSpec], last_stored: Sequence[ParameterSpec]) -> str:
    """Which tensors differ; empty where none does."""
    shapes, last_shapes = ({parameter.name: parameter.shape for parameter in each} for each in (stored, last_stored))
    if lacking := [name for name in last_shapes if name not in shapes]:
        return f"lacks {format_names(lacking, limit=1)}"
    if surplus := [name for name in shapes if name not in last_shapes]:
        return f"also has {format_names(surplus, limit=1)}"
    return _describe_difference(shapes, last_shapes)


def _make_cannot_average_error(source: CheckpointSource, last: CheckpointSource, difference: str) -> UserError:
    return make_cannot_score_error(source.folder, f"cannot be averaged with {last.folder.name}: {difference}", _HINT_AVERAGE)


def refuse_rewritten_checkpoint(folder: Path, contents: CheckpointShards) -> None:
    """Raise UserError (CHANGED) if a checkpoint changed since it was opened."""
    if compute_fingerprint(folder) != contents.fingerprint:
        raise make_changed_error(folder, "was rewritten while it was loaded")


def make_changed_error(folder: Path, message: str) -> UserError:
    """The error of a checkpoint that is not the one that was found complete."""
    return UserError(message, location=folder, hint=_HINT_CHANGED, code=ExitCode.CHANGED)


def make_cannot_score_error(folder: Path, message: str, hint: str = _HINT_CANNOT_SCORE) -> UserError:
    """The error of a checkpoint that cannot be scored as it is."""
    # Errors of the file system begin with the path, which is the location already.
    return UserError(message.removeprefix(f"{folder}: "), location=folder, hint=hint, code=ExitCode.CANNOT_SCORE)

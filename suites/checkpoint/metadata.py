"""The three documents of a nanotron checkpoint: config.yaml, checkpoint_metadata.json and model_config.json.

Nanotron truncates and rewrites them in place, so an empty or torn one is a file being written, until the
caller knows better.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from suites.checkpoint.architecture import Architecture, UnscorableCheckpoint, parse_architecture
from suites.checkpoint.shard_headers import IncompleteFile
from suites.common.atomic_files import open_without_blocking
from suites.common.errors import UserError
from suites.common.formatting import describe_error

MAX_DOCUMENT_BYTES = 1 << 23

MAX_RANKS = 1 << 16

MAX_NESTING_DEPTH = 64

MAX_NUMBER_DIGITS = 4000

MAX_MERGED_KEYS = 10_000

_NUMBER_PATTERN = re.compile(r"[-+0-9a-fA-Fx_:.]+")

_MERGE_TAG = "tag:yaml.org,2002:merge"

_PARSE_ERRORS = (  # all that PyYAML's constructors and json were seen to raise for odd input
    yaml.YAMLError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
)

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a config.yaml says of its run. None where it does not say."""

    step: int | None = None
    tokenizer: str | None = None
    seq_len: int | None = None
    """In training at ``step``: where the data stages have sequence lengths of their own, that of the stage it lies in."""
    train_steps: int | None = None
    started_from: str | None = None
    """Where the weights came from: another run's checkpoints, one of them, or the model that it was initialised with."""
    mup: bool = False
    """Attention is scaled by 1 / head_dim. Recorded nowhere else."""


class CheckpointMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The documents of one checkpoint, parsed."""

    training_config: TrainingConfig
    architecture: Architecture
    tp: int
    pp: int
    saved_step: int | None
    """metas.last_train_step."""
    tokens_seen: int | None

    def require_step(self, step: int) -> None:
        """Refused where config.yaml and the metadata do not both say that they are of the step ``step``."""
        if (self.training_config.step, self.saved_step) != (step, step):
            message = (
                f"the folder is named {step}, but config.yaml has general.step {self.training_config.step} "
                f"and checkpoint_metadata.json metas.last_train_step {self.saved_step}"
            )
            raise UnscorableCheckpoint(message)


def read_training_config(path: Path) -> TrainingConfig:
    """The facts of a config.yaml, a checkpoint's or the one that a training is started with.

    Raises Problem where it cannot be read or is no training config.
    """
    try:
        return _extract_training_config(_parse_document(path, _parse_yaml_bounded))
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})", location=path, hint="give the path of nanotron's training config"
        ) from error
    except IncompleteFile as error:
        raise UserError(str(error), location=path, hint="give the path of nanotron's training config") from error


def read_checkpoint_metadata(folder: Path) -> CheckpointMetadata:
    """All three. Torn where one is missing, empty or does not parse; Refused where they can never be scored."""
    config = _parse_document(folder / "config.yaml", _parse_yaml_bounded)
    metadata = _parse_document(folder / "checkpoint_metadata.json", json.loads)
    model_config = _parse_document(folder / "model_config.json", json.loads)
    training_config = _extract_training_config(config)
    metas = _get_mapping(metadata, "metas")
    if not metas:
        message = "checkpoint_metadata.json: no metas in it"
        raise IncompleteFile(message)
    return CheckpointMetadata(
        training_config=training_config,
        architecture=parse_architecture(model_config),
        tp=_parse_rank_count(metadata.get("tp"), "checkpoint_metadata.json: tp"),
        pp=_parse_rank_count(_get_mapping(config, "parallelism").get("pp"), "config.yaml: parallelism.pp"),
        saved_step=_as_count(metas.get("last_train_step")),
        tokens_seen=_compute_tokens_seen(metas, _as_count(_get_mapping(config, "tokens").get("sequence_length"))),
    )


def _parse_yaml_bounded(content: bytes) -> Any:
    depth = 0
    for event in yaml.parse(
        content, Loader=_Loader
    ):  # the C loader recurses without a limit of its own, and would take the process with it
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_NESTING_DEPTH:
            message = f"nested more than {MAX_NESTING_DEPTH} deep"
            raise ValueError(message)
        if (
            isinstance(event, yaml.ScalarEvent)
            and len(event.value) > MAX_NUMBER_DIGITS
            and _NUMBER_PATTERN.fullmatch(event.value)
        ):
            message = f"a number of {len(event.value)} digits"  # 1:1:1... takes time by the square of its length
            raise ValueError(message)
    loader = _Loader(content)
    try:
        node = loader.get_single_node()
        _MergeCounter().count_keys(node)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


class _MergeCounter:
    """Counts what a document's ``<<: *other`` come to; ValueError for one that explodes."""

    def __init__(self) -> None:
        self.key_counts: dict[int, int] = {}
        self.copied_keys = 0

    def count_keys(self, node: Any) -> int:
        """Of a mapping, or of all mappings in a list, with what is merged into them."""
        if id(node) in self.key_counts or not isinstance(node, yaml.CollectionNode):
            return self.key_counts.get(id(node), 0)
        self.key_counts[id(node)] = 0  # in a circle nothing is merged twice
        if isinstance(node, yaml.SequenceNode):
            self.key_counts[id(node)] = sum(map(self.count_keys, node.value))
            return self.key_counts[id(node)]
        for key, value in node.value:
            self.count_keys(key)
            value_keys = self.count_keys(value)
            is_merge = key.tag == _MERGE_TAG
            self.key_counts[id(node)] += value_keys if is_merge else 1
            self.copied_keys += value_keys if is_merge else 0
        if self.copied_keys > MAX_MERGED_KEYS:
            message = f"its merges copy more than {MAX_MERGED_KEYS} keys"
            raise ValueError(message)
        return self.key_counts[id(node)]


def _parse_document(path: Path, parser: Callable[[bytes], Any]) -> dict[str, Any]:
    try:
        with open_without_blocking(path) as file:
            content = file.read(min(os.fstat(file.fileno()).st_size, MAX_DOCUMENT_BYTES) + 1)  # read(n) allocates n at once
    except FileNotFoundError as error:
        message = f"{path.name} is not there"
        raise IncompleteFile(message) from error
    if not content.strip():
        message = f"{path.name} is empty"
        raise IncompleteFile(message)
    if len(content) > MAX_DOCUMENT_BYTES:
        message = f"{path.name} has more than {MAX_DOCUMENT_BYTES} bytes"
        raise UnscorableCheckpoint(message)
    try:
        document = parser(content)
    except _PARSE_ERRORS as error:
        message = f"torn {path.name}: {describe_error(error)[:160]}"
        raise IncompleteFile(message) from error
    if not isinstance(document, dict):
        message = f"torn {path.name}: it holds no mapping"
        raise IncompleteFile(message)
    return document


def _extract_training_config(config: Mapping[str, Any]) -> TrainingConfig:
    step = _as_count(_get_mapping(config, "general").get("step"))
    tokens = _get_mapping(config, "tokens")
    return TrainingConfig(
        step=step,
        tokenizer=_as_text(_get_mapping(config, "tokenizer").get("tokenizer_name_or_path")),
        seq_len=_find_stage_seq_len(config, step or 0) or _as_count(tokens.get("sequence_length")),
        train_steps=_as_count(tokens.get("train_steps")),
        started_from=_find_started_from(config),
        mup=_get_mapping(_get_mapping(config, "model"), "init_method").get("use_mup") is True,
    )


def _find_stage_seq_len(config: Mapping[str, Any], step: int) -> int | None:
    """Sequence length of the last data stage that had begun by ``step``; None where the stages do not say."""
    stages = config.get("data_stages")
    started_stages = []
    for stage in stages if isinstance(stages, list) else []:
        start = _as_count(stage.get("start_training_step")) if isinstance(stage, dict) else None
        if start is not None and start <= max(step, 1):
            started_stages.append((start, _as_count(stage.get("sequence_length"))))
    return max(started_stages, key=lambda stage: stage[0])[1] if started_stages else None


def _find_started_from(config: Mapping[str, Any]) -> str | None:
    checkpoints = _get_mapping(config, "checkpoints")
    resume_path, checkpoints_path = (
        _as_text(checkpoints.get("resume_checkpoint_path")),
        _as_text(checkpoints.get("checkpoints_path")),
    )
    if resume_path is not None and not (checkpoints_path is not None and Path(resume_path).is_relative_to(checkpoints_path)):
        return resume_path
    # a run that was restarted resumes from its own checkpoints, which says nothing of where it began
    return _as_text(_get_mapping(_get_mapping(config, "model"), "init_method").get("path"))


def _compute_tokens_seen(metas: Mapping[str, Any], seq_len: int | None) -> int | None:
    total = _as_count(metas.get("consumed_tokens_total"))
    if total is not None:
        return total
    samples = _as_count(metas.get("consumed_train_samples"))
    return samples * seq_len if samples is not None and seq_len is not None else None


def _get_mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _as_text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _as_count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 62 else None


def _parse_rank_count(value: object, name: str) -> int:
    count = _as_count(value)
    if count is None:
        message = f"{name} is missing or no number"
        raise IncompleteFile(message)
    if not 0 < count <= MAX_RANKS:
        message = f"{name} is {count}"
        raise UnscorableCheckpoint(message)
    return count

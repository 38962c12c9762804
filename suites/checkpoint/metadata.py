"""config.yaml, checkpoint_metadata.json and model_config.json of a nanotron checkpoint, parsed.

Nanotron truncates and rewrites them in place, so an empty or torn one counts as a file that is being written.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from suites.checkpoint.architecture import Architecture, parse_architecture
from suites.checkpoint.model_config_reader import UnscorableCheckpoint
from suites.checkpoint.shard_headers import IncompleteFile
from suites.common.documents import (
    AmbiguousDocument,
    DamagedDocument,
    OversizedDocument,
    RepeatedKeyError,
    check_yaml_limits,
    parse_json,
    read_content,
    refuse_repeated_names,
)
from suites.common.errors import UserError
from suites.common.formatting import describe_error

MAX_DOCUMENT_BYTES = 1 << 23

MAX_JSON_BYTES = 1 << 26
"""Bytes of an index of 100,000 tensors, or of a trainer's log of a million steps."""

MAX_RANKS = 1 << 16

MAX_MERGED_KEYS = 10_000

_MERGE_TAG = "tag:yaml.org,2002:merge"

_TEXT_TAG = "tag:yaml.org,2002:str"

_PARSE_ERRORS = (  # all that fuzzing has made PyYAML's constructors and json raise
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


_TOKENIZER_KEYS = frozenset({"tokenizer_name_or_path", "tokenizer_revision", "tokenizer_max_length"})
"""Keys of nanotron's ``tokenizer:`` section. The longest text is none of scoring's business: nothing is truncated."""


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a training run from its config.yaml.

    None where it has no such setting.
    """

    step: int | None = None
    tokenizer: str | None = None
    seq_len: int | None = None
    """Sequence length at ``step``: the data stage's where it has one, else the run's."""
    train_steps: int | None = None
    started_from: str | None = None
    """Source of the first weights: another run's checkpoints, one of them, or the model of ``init_method``."""
    run_name: str | None = None
    """``general.run``, else ``general.project``."""
    mup: bool = False
    """Whether attention is scaled by 1 / head_dim. No other document records it."""


class CheckpointMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The documents of one checkpoint, parsed."""

    training_config: TrainingConfig
    architecture: Architecture
    tp: int
    pp: int
    ep: int
    """Expert-parallel ranks: 1 where nothing is said."""
    saved_step: int | None
    """``metas.last_train_step`` of checkpoint_metadata.json, or ``global_step`` of trainer_state.json."""
    tokens_seen: int | None
    model_document: str = "model_config.json"
    """The document that describes the architecture."""


def read_training_config(path: Path) -> TrainingConfig:
    """The settings in a config.yaml of a checkpoint or a training.

    Raises UserError where the file cannot be read or is no training config.
    """
    try:
        return _extract_training_config(_parse_document(path, _parse_yaml_bounded))
    except (OSError, IncompleteFile, UnscorableCheckpoint) as error:
        message = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
        raise UserError(message, location=path, hint="give the path of nanotron's training config") from error


def read_nanotron_metadata(folder: Path) -> CheckpointMetadata:
    """The three documents of a nanotron checkpoint.

    Raises IncompleteFile where one is missing, empty or does not parse, UnscorableCheckpoint where its values can
    never be scored, OSError where one cannot be read.
    """
    config = _parse_document(folder / "config.yaml", _parse_yaml_bounded)
    metadata = _parse_document(folder / "checkpoint_metadata.json", _parse_json)
    model_config = _parse_document(folder / "model_config.json", _parse_json)
    metas = _get_mapping(metadata, "metas")
    if not metas:
        raise IncompleteFile("checkpoint_metadata.json has no metas")
    return CheckpointMetadata(
        training_config=_extract_training_config(config),
        architecture=parse_architecture(model_config),
        tp=_parse_rank_count(metadata.get("tp"), "checkpoint_metadata.json: tp"),
        pp=_parse_rank_count(_get_mapping(config, "parallelism").get("pp"), "config.yaml: parallelism.pp"),
        ep=_parse_rank_count(
            _get_mapping(config, "parallelism").get("expert_parallel_size") or 1, "config.yaml: parallelism.expert_parallel_size"
        ),
        saved_step=_as_count(metas.get("last_train_step")),
        tokens_seen=_compute_tokens_seen(metas, _as_count(_get_mapping(config, "tokens").get("sequence_length"))),
    )


def read_json_document(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint. Raises as ``read_nanotron_metadata`` does."""
    return _parse_document(path, _parse_json, MAX_JSON_BYTES)


def _parse_yaml_bounded(content: bytes) -> Any:
    check_yaml_limits(content)
    # The nodes are counted before the loader builds objects: merges can grow exponentially.
    loader = _Loader(content)
    try:
        node = loader.get_single_node()
        _KeyCounter().count_keys(node)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _parse_json(content: bytes) -> Any:
    try:
        return parse_json(content, "")
    except AmbiguousDocument as error:
        raise RepeatedKeyError(error.reason) from error
    except DamagedDocument as error:
        raise ValueError(error.reason.removeprefix("not JSON: ")) from error


class _KeyCounter:
    """Counts the keys of a document, and those that its ``<<: *other`` copy.

    Raises ValueError for too many copies, and RepeatedKeyError.
    """

    def __init__(self) -> None:
        self.key_counts: dict[int, int] = {}
        self.copied_keys = 0

    def count_keys(self, node: Any) -> int:
        """Keys of all mappings in ``node``, with the merged ones."""
        if id(node) in self.key_counts or not isinstance(node, yaml.CollectionNode):
            return self.key_counts.get(id(node), 0)
        self.key_counts[id(node)] = 0  # so that an alias in a circle counts once
        if isinstance(node, yaml.SequenceNode):
            self.key_counts[id(node)] = sum(map(self.count_keys, node.value))
            return self.key_counts[id(node)]
        refuse_repeated_names(key.value for key, _ in node.value if key.tag == _TEXT_TAG)
        for key, value in node.value:
            self.count_keys(key)
            value_keys = self.count_keys(value)
            is_merge = key.tag == _MERGE_TAG
            self.key_counts[id(node)] += value_keys if is_merge else 1
            self.copied_keys += value_keys if is_merge else 0
        if self.copied_keys > MAX_MERGED_KEYS:
            raise ValueError(f"its merges copy more than {MAX_MERGED_KEYS} keys")
        return self.key_counts[id(node)]


def _parse_document(path: Path, parser: Callable[[bytes], Any], max_bytes: int = MAX_DOCUMENT_BYTES) -> dict[str, Any]:
    try:
        content = read_content(path, max_bytes)
    except FileNotFoundError as error:
        raise IncompleteFile(f"{path.name} is missing") from error
    except OversizedDocument as error:
        raise UnscorableCheckpoint(f"{path.name} is {error.reason}") from error
    except DamagedDocument as error:
        raise IncompleteFile(f"{path.name}: {error.reason}") from error
    # Empty and torn files are saves in progress.
    if not content.strip():
        raise IncompleteFile(f"{path.name} is empty")
    try:
        document = parser(content)
    except RepeatedKeyError as error:  # no repetition tells which of the two values the training used
        raise UnscorableCheckpoint(f"{path.name}: {error}; keep the one that the training used") from error
    except _PARSE_ERRORS as error:
        raise IncompleteFile(f"torn {path.name}: {describe_error(error)[:160]}") from error
    if not isinstance(document, dict):
        raise IncompleteFile(f"torn {path.name}: not a mapping")
    return document


def _extract_training_config(config: Mapping[str, Any]) -> TrainingConfig:
    general = _get_mapping(config, "general")
    step = _as_count(general.get("step"))
    tokens = _get_mapping(config, "tokens")
    return TrainingConfig(
        step=step,
        tokenizer=_find_tokenizer(_get_mapping(config, "tokenizer")),
        seq_len=_find_stage_seq_len(config, step or 0) or _as_count(tokens.get("sequence_length")),
        train_steps=_as_count(tokens.get("train_steps")),
        started_from=_find_started_from(config),
        run_name=_as_text(general.get("run")) or _as_text(general.get("project")),
        mup=_get_mapping(_get_mapping(config, "model"), "init_method").get("use_mup") is True,
    )


def _find_tokenizer(section: Mapping[str, Any]) -> str | None:
    """The tokenizer's folder, or its hub id with ``@REVISION``."""
    # A key of a fork may change the ids: without its meaning the scores would be of other texts.
    unknown = next((key for key, value in section.items() if value is not None and key not in _TOKENIZER_KEYS), None)
    if unknown is not None:
        raise UnscorableCheckpoint(f"config.yaml: tokenizer.{unknown} is not supported")
    name, revision = _as_text(section.get("tokenizer_name_or_path")), section.get("tokenizer_revision")
    # As in transformers, a revision of a folder means nothing.
    if name is None or revision is None or name.startswith(("/", ".", "~")):
        return name
    return f"{name}@{revision}"


def _find_stage_seq_len(config: Mapping[str, Any], step: int) -> int | None:
    """Sequence length of the last data stage that had started by ``step``.

    None where no stage says so.
    """
    stages = config.get("data_stages")
    last_start, seq_len = -1, None
    for stage in stages if isinstance(stages, list) else []:
        start = _as_count(stage.get("start_training_step")) if isinstance(stage, dict) else None
        if start is not None and last_start < start <= max(step, 1):
            last_start, seq_len = start, _as_count(stage.get("sequence_length"))
    return seq_len


def _find_started_from(config: Mapping[str, Any]) -> str | None:
    checkpoints = _get_mapping(config, "checkpoints")
    resume_path = _as_text(checkpoints.get("resume_checkpoint_path"))
    checkpoints_path = _as_text(checkpoints.get("checkpoints_path"))
    # A restarted run resumes from its own checkpoints, which does not tell where it started.
    if resume_path is not None and not (checkpoints_path is not None and Path(resume_path).is_relative_to(checkpoints_path)):
        return resume_path
    return _as_text(_get_mapping(_get_mapping(config, "model"), "init_method").get("path"))


def _compute_tokens_seen(metas: Mapping[str, Any], seq_len: int | None) -> int | None:
    # A save without a token count records samples.
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
        raise IncompleteFile(f"{name} is missing or not a number")
    if not 0 < count <= MAX_RANKS:
        raise UnscorableCheckpoint(f"{name} is {count}")
    return count

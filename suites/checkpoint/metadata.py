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

from suites.checkpoint.architecture import Architecture, Refused, understand
from suites.checkpoint.shard_headers import Torn
from suites.common.atomic_files import open_now
from suites.common.errors import Problem
from suites.common.formatting import plainly

LARGEST_DOCUMENT = 1 << 23

MOST_RANKS = 1 << 16

DEEPEST_NESTING = 64

LONGEST_NUMBER = 4000

MOST_MERGED = 10_000

_NUMBER = re.compile(r"[-+0-9a-fA-Fx_:.]+")

_MERGE = "tag:yaml.org,2002:merge"

_NOT_A_DOCUMENT = (  # all that PyYAML's constructors and json were seen to raise for odd input
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


class Facts(msgspec.Struct, frozen=True, kw_only=True):
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


class Documents(msgspec.Struct, frozen=True, kw_only=True):
    """The documents of one checkpoint, parsed."""

    facts: Facts
    architecture: Architecture
    tp: int
    pp: int
    saved_step: int | None
    """metas.last_train_step."""
    tokens_seen: int | None

    def refuse_other_step(self, name: int) -> None:
        """Refused where config.yaml and the metadata do not both say that they are of the step ``name``."""
        if (self.facts.step, self.saved_step) != (name, name):
            message = (
                f"the folder is named {name}, but config.yaml has general.step {self.facts.step} "
                f"and checkpoint_metadata.json metas.last_train_step {self.saved_step}"
            )
            raise Refused(message)


def read_training_config(path: Path) -> Facts:
    """The facts of a config.yaml, a checkpoint's or the one that a training is started with.

    Raises Problem where it cannot be read or is no training config.
    """
    try:
        return _facts(_parse(path, _yaml))
    except OSError as error:
        raise Problem(
            f"cannot be read ({error.strerror})", where=path, todo="give the path of nanotron's training config"
        ) from error
    except Torn as error:
        raise Problem(str(error), where=path, todo="give the path of nanotron's training config") from error


def read_documents(folder: Path) -> Documents:
    """All three. Torn where one is missing, empty or does not parse; Refused where they can never be scored."""
    config = _parse(folder / "config.yaml", _yaml)
    metadata = _parse(folder / "checkpoint_metadata.json", json.loads)
    model_config = _parse(folder / "model_config.json", json.loads)
    facts = _facts(config)
    metas = _mapping(metadata, "metas")
    if not metas:
        message = "checkpoint_metadata.json: no metas in it"
        raise Torn(message)
    return Documents(
        facts=facts,
        architecture=understand(model_config),
        tp=_ranks(metadata.get("tp"), "checkpoint_metadata.json: tp"),
        pp=_ranks(_mapping(config, "parallelism").get("pp"), "config.yaml: parallelism.pp"),
        saved_step=_count(metas.get("last_train_step")),
        tokens_seen=_tokens_seen(metas, _count(_mapping(config, "tokens").get("sequence_length"))),
    )


def _yaml(raw: bytes) -> Any:
    depth = 0
    for event in yaml.parse(
        raw, Loader=_Loader
    ):  # the C loader recurses without a limit of its own, and would take the process with it
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_NESTING:
            message = f"nested more than {DEEPEST_NESTING} deep"
            raise ValueError(message)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST_NUMBER and _NUMBER.fullmatch(event.value):
            message = f"a number of {len(event.value)} digits"  # 1:1:1... takes time by the square of its length
            raise ValueError(message)
    loader = _Loader(raw)
    try:
        node = loader.get_single_node()
        _Merges().keys(node)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


class _Merges:
    """Counts what a document's ``<<: *other`` come to; ValueError for one that explodes."""

    def __init__(self) -> None:
        self.known: dict[int, int] = {}
        self.copied = 0

    def keys(self, node: Any) -> int:
        """Of a mapping, or of all mappings in a list, with what is merged into them."""
        if id(node) in self.known or not isinstance(node, yaml.CollectionNode):
            return self.known.get(id(node), 0)
        self.known[id(node)] = 0  # in a circle nothing is merged twice
        if isinstance(node, yaml.SequenceNode):
            self.known[id(node)] = sum(map(self.keys, node.value))
            return self.known[id(node)]
        for key, value in node.value:
            self.keys(key)
            size = self.keys(value)
            merges = key.tag == _MERGE
            self.known[id(node)] += size if merges else 1
            self.copied += size if merges else 0
        if self.copied > MOST_MERGED:
            message = f"its merges copy more than {MOST_MERGED} keys"
            raise ValueError(message)
        return self.known[id(node)]


def _parse(path: Path, parser: Callable[[bytes], Any]) -> dict[str, Any]:
    try:
        with open_now(path) as file:
            raw = file.read(min(os.fstat(file.fileno()).st_size, LARGEST_DOCUMENT) + 1)  # read(n) allocates n at once
    except FileNotFoundError as error:
        message = f"{path.name} is not there"
        raise Torn(message) from error
    if not raw.strip():
        message = f"{path.name} is empty"
        raise Torn(message)
    if len(raw) > LARGEST_DOCUMENT:
        message = f"{path.name} has more than {LARGEST_DOCUMENT} bytes"
        raise Refused(message)
    try:
        document = parser(raw)
    except _NOT_A_DOCUMENT as error:
        message = f"torn {path.name}: {plainly(error)[:160]}"
        raise Torn(message) from error
    if not isinstance(document, dict):
        message = f"torn {path.name}: it holds no mapping"
        raise Torn(message)
    return document


def _facts(config: Mapping[str, Any]) -> Facts:
    step = _count(_mapping(config, "general").get("step"))
    tokens = _mapping(config, "tokens")
    return Facts(
        step=step,
        tokenizer=_text(_mapping(config, "tokenizer").get("tokenizer_name_or_path")),
        seq_len=_stage_seq_len(config, step or 0) or _count(tokens.get("sequence_length")),
        train_steps=_count(tokens.get("train_steps")),
        started_from=_started_from(config),
        mup=_mapping(_mapping(config, "model"), "init_method").get("use_mup") is True,
    )


def _stage_seq_len(config: Mapping[str, Any], step: int) -> int | None:
    """Sequence length of the last data stage that had begun by ``step``; None where the stages do not say."""
    stages = config.get("data_stages")
    begun = []
    for stage in stages if isinstance(stages, list) else []:
        start = _count(stage.get("start_training_step")) if isinstance(stage, dict) else None
        if start is not None and start <= max(step, 1):
            begun.append((start, _count(stage.get("sequence_length"))))
    return max(begun, key=lambda stage: stage[0])[1] if begun else None


def _started_from(config: Mapping[str, Any]) -> str | None:
    checkpoints = _mapping(config, "checkpoints")
    resumed, own = _text(checkpoints.get("resume_checkpoint_path")), _text(checkpoints.get("checkpoints_path"))
    if resumed is not None and not (own is not None and Path(resumed).is_relative_to(own)):
        return resumed
    # a run that was restarted resumes from its own checkpoints, which says nothing of where it began
    return _text(_mapping(_mapping(config, "model"), "init_method").get("path"))


def _tokens_seen(metas: Mapping[str, Any], seq_len: int | None) -> int | None:
    total = _count(metas.get("consumed_tokens_total"))
    if total is not None:
        return total
    samples = _count(metas.get("consumed_train_samples"))
    return samples * seq_len if samples is not None and seq_len is not None else None


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 62 else None


def _ranks(value: object, name: str) -> int:
    count = _count(value)
    if count is None:
        message = f"{name} is missing or no number"
        raise Torn(message)
    if not 0 < count <= MOST_RANKS:
        message = f"{name} is {count}"
        raise Refused(message)
    return count

"""Reads the folder of a Hugging Face checkpoint: config.json, and safetensors in one file or in shards with an index.

transformers writes config.json first, then the weights, then their index. Its Trainer adds the tokenizer and optimizer.pt, and
trainer_state.json last; safetensors writes a temporary file and renames it. So any write in the folder counts as a save.
"""

import errno
import functools
import itertools
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suites.checkpoint import hf_config
from suites.checkpoint.architecture import ParameterSpec
from suites.checkpoint.contents import CheckpointKind
from suites.checkpoint.hf_tensors import StoredTensor, map_tensors
from suites.checkpoint.metadata import CheckpointMetadata, TrainingConfig, read_json_document
from suites.checkpoint.model_config_reader import UnscorableCheckpoint
from suites.checkpoint.shard_files import MAX_ENTRIES, CheckpointListing, FileStat, ShardSelection
from suites.checkpoint.shard_headers import BYTES_PER_ELEMENT, IncompleteFile, Shard, read_tensor_headers
from suites.checkpoint.unsupported_weights import describe_adapter, describe_unsupported_weights
from suites.common.formatting import format_names

CONFIG_FILE = "config.json"

TRAINER_STATE_FILE = "trainer_state.json"

INDEX_FILE = "model.safetensors.index.json"

SINGLE_FILE = "model.safetensors"

VOCABULARY_FILES = frozenset(
    {
        *("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json"),
        *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model"),
    }
)
"""Files of which a tokenizer has at least one."""

_DOCUMENT_FILES = (CONFIG_FILE, TRAINER_STATE_FILE, INDEX_FILE)

_TRAINER_FOLDER_NAME = re.compile(r"checkpoint-[0-9]{1,18}", re.ASCII)

_SHARD_FILE_NAME = re.compile(r"model-[0-9]{1,9}-of-[0-9]{1,9}\.safetensors", re.ASCII)

_FILE_NAME = re.compile(r"[^/\\]+\.safetensors")


def is_trainer_folder_name(name: str) -> bool:
    """Whether transformers' Trainer names its checkpoints so: ``checkpoint-500``."""
    return _TRAINER_FOLDER_NAME.fullmatch(name) is not None


def has_hf_weights(names: frozenset[str]) -> bool:
    """Whether a folder with these entries holds safetensors as transformers names them."""
    return CONFIG_FILE in names and (SINGLE_FILE in names or INDEX_FILE in names)


class HuggingFaceFolder:
    """As ``contents.CheckpointFolder``; it reads documents and headers once."""

    kind = CheckpointKind.HF

    def __init__(self, path: Path, names: frozenset[str], *, as_stored: bool = False) -> None:
        """``names``: the folder's entries. ``as_stored``: describe the tensors as the files have them, whatever the model."""
        self.path, self._names, self._as_stored = path, names, as_stored

    def list_files(self) -> CheckpointListing:
        """Documents and *.safetensors; the newest write to any file of the folder."""
        documents, weights, newest_mtime_ns = {}, {}, 0
        with os.scandir(self.path) as entries:
            children = list(itertools.islice(entries, MAX_ENTRIES + 1))
        if len(children) > MAX_ENTRIES:
            raise UnscorableCheckpoint(f"has more than {MAX_ENTRIES} files; no model has")
        for entry in children:
            try:
                entry_stat = entry.stat()
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ELOOP}:
                    raise
                continue  # removed since it was listed, or a link to nothing
            if not stat.S_ISREG(entry_stat.st_mode):
                continue
            file_stat = FileStat(entry_stat.st_size, entry_stat.st_mtime_ns)
            # A temporary file that grows, or the optimizer's, belongs to a save that has not ended.
            newest_mtime_ns = max(newest_mtime_ns, file_stat.mtime_ns)
            if entry.name in _DOCUMENT_FILES:
                documents[entry.name] = file_stat
            elif entry.name.endswith(".safetensors"):
                weights[entry.name] = file_stat
        return CheckpointListing(documents, weights, self.path.stat().st_mtime_ns, newest_mtime_ns)

    def find_missing_document(self, listing: CheckpointListing, *, forced: bool) -> str | None:
        """config.json, or trainer_state.json of a folder that the Trainer names so."""
        if CONFIG_FILE not in listing.metadata_files:
            self._refuse_unsupported_weights()
            return CONFIG_FILE
        is_missing = not forced and is_trainer_folder_name(self.path.name) and TRAINER_STATE_FILE not in listing.metadata_files
        return TRAINER_STATE_FILE if is_missing else None

    def get_write_order(self, listing: CheckpointListing) -> tuple[str, str] | None:
        """The Trainer writes config.json first and trainer_state.json last; nothing is known of other saves."""
        return (CONFIG_FILE, TRAINER_STATE_FILE) if TRAINER_STATE_FILE in listing.metadata_files else None

    def read_metadata(self) -> CheckpointMetadata:
        """The documents, and the architecture by config.json and the files' headers."""
        config = self._config
        hf_config.refuse_unscorable_config(config)
        state = self._read_trainer_state()
        training_config = TrainingConfig(
            step=None if state is None else state.step,
            tokenizer=str(self.path) if VOCABULARY_FILES & self._names else None,
            seq_len=hf_config.read_context_length(config),
            train_steps=None if state is None else state.train_steps,
        )
        known = None if self._as_stored else hf_config.parse_known_architecture(config)
        if known is not None and map_tensors(known, self._stored_tensors) is not None:
            architecture = known
        else:
            parameters = [ParameterSpec(name, tensor.header.shape, sharded=False) for name, tensor in self._weights.items()]
            architecture = hf_config.describe_stored_architecture(config, parameters)
        return CheckpointMetadata(
            training_config=training_config,
            architecture=architecture,
            tp=1,
            pp=1,
            ep=1,
            saved_step=training_config.step,
            tokens_seen=None if state is None else state.tokens_seen,
            model_document=CONFIG_FILE,
        )

    def select_files(self, metadata: CheckpointMetadata, listing: CheckpointListing) -> ShardSelection:  # noqa: ARG002  as the protocol has it
        """The weight files; others that lie beside them are ignored."""
        files = {name: (tensor.file,) for name, tensor in self._stored_tensors.items()}
        used = {tensor.file for tensor in self._stored_tensors.values()}
        if replaced := sorted(used - set(listing.model_files)):
            raise IncompleteFile(f"{replaced[0]} is being replaced")
        return ShardSelection(files, None, (), tuple(sorted(set(listing.model_files) - used)))

    def require_step(self, metadata: CheckpointMetadata, step: int) -> None:
        """trainer_state.json, where it is there, must name ``step``."""
        if metadata.saved_step is not None and metadata.saved_step != step:
            raise UnscorableCheckpoint(
                f"it should be step {step}, but {TRAINER_STATE_FILE} has global_step {metadata.saved_step}"
            )

    def read_shards(
        self,
        metadata: CheckpointMetadata,
        listing: CheckpointListing,  # noqa: ARG002  as the protocol has it
        selection: ShardSelection,  # noqa: ARG002
    ) -> Mapping[str, tuple[Shard, ...]]:
        """The architecture's tensors, or those of the files where only transformers knows it."""
        if not metadata.architecture.stored_parameters:
            mapped = map_tensors(metadata.architecture, self._stored_tensors)
            if mapped is not None:
                return mapped
        return {name: tensor.to_whole_shard() for name, tensor in self._weights.items()}

    @functools.cached_property
    def _config(self) -> Mapping[str, Any]:
        return read_json_document(self.path / CONFIG_FILE)

    def _read_trainer_state(self) -> hf_config.TrainerState | None:
        if TRAINER_STATE_FILE not in self._names:
            return None
        state = hf_config.parse_trainer_state(read_json_document(self.path / TRAINER_STATE_FILE))
        if state.step is None:
            raise IncompleteFile(f"{TRAINER_STATE_FILE} has no global_step")
        return state

    @property
    def _weights(self) -> dict[str, StoredTensor]:
        """Tensors of floating types; the others are buffers, such as masks."""
        return {name: tensor for name, tensor in sorted(self._stored_tensors.items()) if tensor.header.dtype in BYTES_PER_ELEMENT}

    @functools.cached_property
    def _stored_tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor in the weight files. Raises IncompleteFile where index and files disagree."""
        if message := describe_adapter(self.path, self._names):  # transformers would add it to the weights
            raise UnscorableCheckpoint(message)
        if {SINGLE_FILE, INDEX_FILE} <= self._names:
            raise UnscorableCheckpoint(f"holds {SINGLE_FILE} and {INDEX_FILE}: remove the one that is not the model")
        if INDEX_FILE in self._names:
            return self._read_indexed_tensors()
        if SINGLE_FILE in self._names:
            tensors = {name: StoredTensor(SINGLE_FILE, header) for name, header in self._read_headers(SINGLE_FILE).items()}
            if not tensors:  # DeepSpeed's ZeRO-3 has it so for a moment
                raise IncompleteFile(f"{SINGLE_FILE} holds no tensor")
            return tensors
        self._refuse_unsupported_weights()
        has_shards = any(_SHARD_FILE_NAME.fullmatch(name) for name in self._names)
        raise IncompleteFile(f"{INDEX_FILE if has_shards else SINGLE_FILE} is missing")

    def _read_headers(self, file: str) -> dict[str, Any]:
        try:
            return read_tensor_headers(self.path / file, file)
        except FileNotFoundError as error:
            raise IncompleteFile(f"{file} is missing") from error

    def _read_indexed_tensors(self) -> dict[str, StoredTensor]:
        """The tensors of all shards; the index must name each where it is, and no other."""
        weight_map = read_json_document(self.path / INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise IncompleteFile(f"{INDEX_FILE} has no weight_map")
        files = sorted({file for file in weight_map.values() if isinstance(file, str) and _FILE_NAME.fullmatch(file)})
        if bad := [name for name, file in weight_map.items() if file not in files]:
            raise UnscorableCheckpoint(
                f"{INDEX_FILE}: {bad[0][:120]} is in {str(weight_map[bad[0]])[:60]!r}, which is no such file"
            )
        if missing := [file for file in files if file not in self._names]:
            raise IncompleteFile(f"{format_names(missing, limit=3)} missing, which {INDEX_FILE} names")
        tensors: dict[str, StoredTensor] = {}
        # Old and new shards may lie beside each other while a save replaces them, so that a disagreement may pass by itself.
        for file in files:
            headers = self._read_headers(file)
            for name, header in headers.items():
                if name in tensors:
                    raise IncompleteFile(f"{name} is in {tensors[name].file} and in {file}")
                if weight_map.get(name) != file:
                    where = weight_map.get(name, "no file")
                    raise IncompleteFile(f"{file} holds {name}, which {INDEX_FILE} has in {where}")
                tensors[name] = StoredTensor(file, header)
        if absent := sorted(set(weight_map) - set(tensors)):
            raise IncompleteFile(f"{weight_map[absent[0]]} lacks {format_names(absent, limit=2)}, which {INDEX_FILE} has in it")
        return tensors

    def _refuse_unsupported_weights(self) -> None:
        """Raise UnscorableCheckpoint where the folder holds weights in a form that is not read."""
        if message := describe_unsupported_weights(self.path, self._names):
            raise UnscorableCheckpoint(message)

"""What a reader of checkpoint folders gives: metadata, files, and tensors with their shards.

A folder is a nanotron checkpoint (``nanotron_folder``) or a Hugging Face one (``hf_folder``); ``folder_kind`` says which.
"""

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from suites.checkpoint.architecture import Architecture
from suites.checkpoint.metadata import CheckpointMetadata, TrainingConfig
from suites.checkpoint.shard_files import CheckpointListing, ShardSelection
from suites.checkpoint.shard_headers import Shard


class CheckpointKind(enum.StrEnum):
    """What wrote a checkpoint's folder."""

    NANOTRON = "nanotron"
    HF = "hf"
    """transformers: save_pretrained, Trainer, TRL."""


class CheckpointShards(msgspec.Struct, frozen=True, kw_only=True):
    """A complete checkpoint, ready to load: every tensor with its checked shards."""

    architecture: Architecture
    training_config: TrainingConfig
    tensors: Mapping[str, tuple[Shard, ...]]
    """Parameter name of ``architecture`` -> shards, which cover its tensor once."""
    fingerprint: str
    size_bytes: int
    """Of all model files."""
    tp: int = 1
    pp: int = 1
    ep: int = 1
    ignored: tuple[str, ...]

    @property
    def file_count(self) -> int:
        """How many model files hold the tensors."""
        return len({shard.file for shards in self.tensors.values() for shard in shards})


class CheckpointFolder(Protocol):
    """Reads one folder of one kind.

    Its methods raise IncompleteFile for what may pass by itself, UnscorableCheckpoint for what no further write can change, and
    OSError.
    """

    @property
    def path(self) -> Path:
        """The folder."""

    @property
    def kind(self) -> CheckpointKind:
        """Of which kind it is."""

    def list_files(self) -> CheckpointListing:
        """Documents and model files that are there."""

    def find_missing_document(self, listing: CheckpointListing, *, forced: bool) -> str | None:
        """The first document that a complete checkpoint of this kind must have; None where all are there.

        ``forced``: a person says that it is complete.
        """

    def get_write_order(self, listing: CheckpointListing) -> tuple[str, str] | None:
        """The document that a save writes first, and the one that it writes last; None where they tell nothing."""

    def read_metadata(self) -> CheckpointMetadata:
        """The documents, parsed."""

    def select_files(self, metadata: CheckpointMetadata, listing: CheckpointListing) -> ShardSelection:
        """Which model files hold the tensors. Raises IncompleteFile where one is missing."""

    def require_step(self, metadata: CheckpointMetadata, step: int) -> None:
        """Raise UnscorableCheckpoint where the documents name another step."""

    def read_shards(
        self, metadata: CheckpointMetadata, listing: CheckpointListing, selection: ShardSelection
    ) -> Mapping[str, tuple[Shard, ...]]:
        """The tensors with their checked shards."""

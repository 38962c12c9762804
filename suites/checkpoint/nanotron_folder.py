"""Reads the folder of a nanotron checkpoint."""

from collections.abc import Mapping
from pathlib import Path

from suites.checkpoint.contents import CheckpointKind
from suites.checkpoint.metadata import CheckpointMetadata, read_nanotron_metadata
from suites.checkpoint.model_config_reader import UnscorableCheckpoint
from suites.checkpoint.shard_files import METADATA_FILES, CheckpointListing, ShardSelection, list_files, select_shards
from suites.checkpoint.shard_headers import IncompleteFile, Shard, read_shards
from suites.common.formatting import format_names


class NanotronFolder:
    """As ``contents.CheckpointFolder``; it keeps nothing of what it read."""

    kind = CheckpointKind.NANOTRON

    def __init__(self, path: Path) -> None:
        self.path = path

    def list_files(self) -> CheckpointListing:
        """Documents, and everything under model/."""
        return list_files(self.path)

    def find_missing_document(self, listing: CheckpointListing, *, forced: bool) -> str | None:  # noqa: ARG002  all three are needed
        """The first of the three documents that is not there."""
        return next((name for name in METADATA_FILES if name not in listing.metadata_files), None)

    def get_write_order(self, listing: CheckpointListing) -> tuple[str, str]:  # noqa: ARG002  as the protocol has it
        """config.yaml comes first, and model_config.json last."""
        return "config.yaml", "model_config.json"

    def read_metadata(self) -> CheckpointMetadata:
        """The three documents."""
        return read_nanotron_metadata(self.path)

    def select_files(self, metadata: CheckpointMetadata, listing: CheckpointListing) -> ShardSelection:
        """The files of this save's tp, pp and ep."""
        ranks = {"tp": metadata.tp, "pp": metadata.pp, "ep": metadata.ep}
        selection = select_shards(metadata.architecture.parameters(), listing.model_files, **ranks)
        if selection.missing is not None:
            raise IncompleteFile(selection.missing + _name_unimplemented_keys(metadata))
        return selection

    def require_step(self, metadata: CheckpointMetadata, step: int) -> None:
        """config.yaml and checkpoint_metadata.json must both name ``step``."""
        if (metadata.training_config.step, metadata.saved_step) != (step, step):
            raise UnscorableCheckpoint(
                f"it should be step {step}, but config.yaml has general.step {metadata.training_config.step} "
                f"and checkpoint_metadata.json metas.last_train_step {metadata.saved_step}"
            )

    def read_shards(
        self,
        metadata: CheckpointMetadata,
        listing: CheckpointListing,  # noqa: ARG002  as the protocol has it
        selection: ShardSelection,
    ) -> Mapping[str, tuple[Shard, ...]]:
        """Every tensor's shards in the order of their tp ranks; one open for each."""
        if selection.surplus:
            surplus = format_names(selection.surplus, limit=1)
            message = f"holds a tensor that model_config.json does not imply: {surplus}{_name_unimplemented_keys(metadata)}"
            raise UnscorableCheckpoint(message)
        parameters = {parameter.name: parameter for parameter in metadata.architecture.parameters()}
        return {name: read_shards(parameters[name], files, self.path) for name, files in selection.files.items()}


def _name_unimplemented_keys(metadata: CheckpointMetadata) -> str:
    """Keys that may explain why a tensor is missing or surplus."""
    keys = ", ".join(f"{key.name} {key.value}" for key in metadata.architecture.unimplemented)
    return f" (model_config.json has {keys}, which is not implemented)" if keys else ""

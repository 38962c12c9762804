"""What a tier does: plan work, score parts, build its document.

The rest of the job (leases, model, fence, publication) is the same for all tiers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import pyarrow as pa

from scoring.model.backends import LoadedModel
from scoring.runtime.parts import FinishedPart, Part, RunIdentity
from scoring.runtime.stop import StopRequest
from scoring.tiers.canary import CanarySample
from scoring.tokenizers.tokenizer import Tokenizer
from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import ScoringRequest


class JobContext(msgspec.Struct, frozen=True, kw_only=True):
    """What all work of a run shares."""

    request: ScoringRequest
    identity: RunIdentity
    tokenizer: Tokenizer
    stop: StopRequest


class WorkItem(msgspec.Struct, frozen=True, kw_only=True):
    """One slice, one task, or all prompts of tier 4."""

    tier: str
    name: str
    definition: dict[str, Any]
    data_key: str
    """sha256 (hex) of what is scored."""
    entry: Any
    """The tier's data: SliceEntry, TaskEntry or PreparedPrompts. Only the tier that made it reads it."""
    parts: list[Part]
    format: str = "ours"
    estimated_tokens: int = 0
    """A rough number of tokens to compute, for sharing the time of a run among parts."""

    def estimate_part_tokens(self, part: Part) -> int:
        """The share of ``estimated_tokens`` of one part."""
        item_count = self.parts[-1].stop
        if not item_count or part.stop is None:
            return self.estimated_tokens
        return self.estimated_tokens * (part.stop - part.start) // item_count


class ScoredItem(msgspec.Struct, frozen=True, kw_only=True):
    """A work item with all its parts scored."""

    work_item: WorkItem
    parts: Sequence[FinishedPart]

    def concat_rows(self) -> pa.Table:
        """The rows of all parts, in order; null where a part of before lacks a column."""
        return pa.concat_tables([finished_part.rows for finished_part in self.parts], promote_options="default")


class PartScores(NamedTuple):
    """What scoring one part gives."""

    entry: dict[str, Any] | None
    """Figures of the part that are no sums over rows; None for tiers without such figures."""
    rows: pa.Table


class Tier(Protocol):
    """One tier. It has no state of its own."""

    @property
    def section(self) -> str:
        """The document's key that holds an entry for each name."""

    def plan_work(self, definitions: Mapping[str, dict[str, Any]], context: JobContext) -> Iterator[WorkItem]:
        """Work items in the suites' order, from name -> definition.

        Prepares missing data. Raises UserError where that fails.
        """

    def sample_for_canary(self, work_item: WorkItem, seq_len: int) -> CanarySample:
        """Rows for the canary, should this be the first work item."""

    def score_part(
        self, work_item: WorkItem, part: Part, model: LoadedModel, context: JobContext, on_batch: Callable[[int], None]
    ) -> PartScores:
        """Score one part; ``on_batch`` gets each batch's input tokens."""

    def build_sections(self, scored_items: Sequence[ScoredItem]) -> dict[str, Any]:
        """The document after its head: ``summary``, the section, other keys."""

    def encode_files(self, paths: EvaluationPaths, scored_items: Sequence[ScoredItem]) -> Iterator[tuple[Path, bytes]]:
        """Path and bytes of the files published before the document: rows, answers."""


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the head of every tier file has besides the request."""

    identity: RunIdentity
    tokenizer: Mapping[str, Any]
    """``Tokenizer.describe``."""
    tokens_seen: int | None
    parameter_count: int | None = None
    """Parameters of the checkpoint."""
    canary: dict[str, Any] | None = None
    """``CanaryResult`` as plain JSON."""


Exporter = Callable[[ScoringRequest, RunInfo, Mapping[str, dict[str, Any]], Mapping[str, Sequence[ScoredItem]]], None]
"""Writes tier documents (tier -> document), made of scored items (tier -> items), in another format."""

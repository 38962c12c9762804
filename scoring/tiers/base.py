"""What a tier is to the job: which work it has, how a part of it is scored, what its document says, what else is published.

``registry.py`` names the tiers; whoever adds one writes a ``Tier`` and a line there. The rest of the job (leases, the
model, the fence, publication) is the same for all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pyarrow as pa

from scoring.data.tokenizer import Tokenizer
from scoring.model.backends import LoadedModel
from scoring.runtime.parts import FinishedPart, Part, RunIdentity
from scoring.runtime.stop import StopRequest
from scoring.tiers.canary import CanarySample
from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import ScoringRequest


class JobContext(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all work of a run."""

    request: ScoringRequest
    identity: RunIdentity
    tokenizer: Tokenizer
    stop: StopRequest


class WorkItem(msgspec.Struct, frozen=True, kw_only=True):
    """What is planned, scored and published together: a slice, a task, or all prompts of tier 4."""

    tier: str
    name: str
    definition: dict[str, Any]
    data_key: str
    """sha256 (hex) of what is scored."""
    entry: Any
    """The tier's own: a SliceEntry, a TaskEntry ..."""
    parts: list[Part]
    format: str = "ours"
    estimated_tokens: int = 0
    """About how many are to be computed: what a part of it takes of the time, compared with others."""

    def estimate_part_tokens(self, part: Part) -> int:
        """Of ``estimated_tokens``, those of one part."""
        item_count = self.parts[-1].stop
        return (
            self.estimated_tokens
            if not item_count or part.stop is None
            else self.estimated_tokens * (part.stop - part.start) // item_count
        )


class ScoredItem(msgspec.Struct, frozen=True, kw_only=True):
    """Work with all its parts."""

    work_item: WorkItem
    parts: Sequence[FinishedPart]

    def concat_rows(self) -> pa.Table:
        """The rows of all parts, in order."""
        return pa.concat_tables([finished_part.rows for finished_part in self.parts])


class Tier(Protocol):
    """One tier. Stateless: everything is in its arguments."""

    @property
    def section(self) -> str:
        """Where its document has an entry for each name of its suites."""
        ...

    def plan_work(self, definitions: Mapping[str, dict[str, Any]], context: JobContext) -> Iterator[WorkItem]:
        """Its work, in the suites' order, from name -> definition. Makes the data that is missing; Problem where it cannot."""
        ...

    def sample_for_canary(self, work_item: WorkItem, seq_len: int) -> CanarySample:
        """Rows for the canary, should this work be the request's first."""
        ...

    def score_part(
        self, work_item: WorkItem, part: Part, model: LoadedModel, context: JobContext, on_batch: Callable[[int], None]
    ) -> tuple[dict[str, Any] | None, pa.Table]:
        """(figures that are no sums over rows, rows) of one part. ``on_batch`` is called with the input tokens of each batch."""
        ...

    def build_sections(self, scored_items: Sequence[ScoredItem]) -> dict[str, Any]:
        """What the document says after its head: ``summary``, the section, and whatever else the tier has to say."""
        ...

    def encode_files(self, paths: EvaluationPaths, scored_items: Sequence[ScoredItem]) -> Iterator[tuple[Path, bytes]]:
        """What is published before the document: rows, answers."""
        ...


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the head of every tier file says besides the request."""

    identity: RunIdentity
    tokenizer: str
    """As it was asked for: a path or an id."""
    tokens_seen: int | None
    parameter_count: int | None = None
    """How many the checkpoint has."""
    canary: dict[str, Any] | None = None
    """What ``canary`` found."""


Exporter = Callable[[ScoringRequest, RunInfo, Mapping[str, dict[str, Any]], Mapping[str, Sequence[ScoredItem]]], None]
"""Takes tier -> document and tier -> what it is made of; writes them in another form."""

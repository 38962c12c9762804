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
from scoring.model.backends import Loaded
from scoring.runtime.parts import Finished, Identity, Part
from scoring.runtime.stop import Stop
from scoring.tiers.canary import Sample
from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import Request


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all work of a run."""

    request: Request
    identity: Identity
    tokenizer: Tokenizer
    stop: Stop


class Work(msgspec.Struct, frozen=True, kw_only=True):
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
    tokens: int = 0
    """About how many are to be computed: what a part of it takes of the time, compared with others."""

    def size(self, part: Part) -> int:
        """Of ``tokens``, those of one part."""
        last = self.parts[-1].stop
        return self.tokens if not last or part.stop is None else self.tokens * (part.stop - part.start) // last


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """Work with all its parts."""

    work: Work
    parts: Sequence[Finished]

    def table(self) -> pa.Table:
        """The rows of all parts, in order."""
        return pa.concat_tables([finished.rows for finished in self.parts])


class Tier(Protocol):
    """One tier. Stateless: everything is in its arguments."""

    @property
    def section(self) -> str:
        """Where its document has an entry for each name of its suites."""
        ...

    def works(self, names: Mapping[str, dict[str, Any]], given: Given) -> Iterator[Work]:
        """Its work, in the suites' order, from name -> definition. Makes the data that is missing; Problem where it cannot."""
        ...

    def sample(self, work: Work, seq_len: int) -> Sample:
        """Rows for the canary, should this work be the request's first."""
        ...

    def score(
        self, work: Work, part: Part, model: Loaded, given: Given, between: Callable[[int], None]
    ) -> tuple[dict[str, Any] | None, pa.Table]:
        """(figures that are no sums over rows, rows) of one part. ``between`` is called with the input tokens of each batch."""
        ...

    def assemble(self, scored: Sequence[Scored]) -> dict[str, Any]:
        """What the document says after its head: ``summary``, the section, and whatever else the tier has to say."""
        ...

    def files(self, paths: EvaluationPaths, scored: Sequence[Scored]) -> Iterator[tuple[Path, bytes]]:
        """What is published before the document: rows, answers."""
        ...


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What the head of every tier file says besides the request."""

    identity: Identity
    tokenizer: str
    """As it was asked for: a path or an id."""
    tokens_seen: int | None
    weights: int | None = None
    """How many the checkpoint has."""
    canary: dict[str, Any] | None = None
    """What ``canary`` found."""


Exporter = Callable[[Request, About, Mapping[str, dict[str, Any]], Mapping[str, Sequence[Scored]]], None]
"""Takes tier -> document and tier -> what it is made of; writes them in another form."""

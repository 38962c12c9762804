"""Tier 2: perplexity."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from scoring.data import cache
from scoring.model.backends import Loaded
from scoring.runtime import parts
from scoring.runtime.parts import Part
from scoring.tiers import perplexity_metric as perplexity
from scoring.tiers.base import Given, Scored, Work
from scoring.tiers.cached_data import _entry, _rows
from scoring.tiers.canary import Sample, of_stream
from suites.contract.paths import EvaluationPaths


class Perplexity:
    """Tier 2: a slice is one part."""

    section = "slices"

    def works(self, names: Mapping[str, dict[str, Any]], given: Given) -> Iterator[Work]:
        """A slice each."""
        for name, definition in names.items():
            entry: cache.SliceEntry = _entry("tier2_ppl", name, definition, given)
            yield Work(
                tier="tier2_ppl",
                name=name,
                definition=definition,
                data_key=entry.data_key,
                entry=entry,
                parts=parts.plan("tier2_ppl", name, definition, entry.data_key, given.identity),
                tokens=len(entry.tokens),
            )

    def sample(self, work: Work, seq_len: int) -> Sample:
        """Stretches of the slice."""
        return of_stream(work.entry.tokens.numpy(), seq_len)

    def score(
        self, work: Work, part: Part, model: Loaded, given: Given, between: Callable[[int], None]
    ) -> tuple[dict[str, Any] | None, pa.Table]:
        """The slice's entry, and its windows and documents."""
        entry, ends = work.entry, (given.tokenizer.bos_id, given.tokenizer.eos_id)
        stream = perplexity.Stream(
            tokens=entry.tokens.numpy(),
            document_starts=entry.document_starts.numpy(),
            document_bytes=entry.document_bytes.numpy(),
        )
        return perplexity.score(
            model,
            stream,
            seq_len=given.request.seq_len,
            special={token for token in ends if token is not None},
            isolate_documents=bool(work.definition.get("isolate_documents")),
            name=part.name,
            between=between,
        )

    def assemble(self, scored: Sequence[Scored]) -> dict[str, Any]:
        """``slices``."""
        entries = {each.work.name: {**each.parts[0].meta["entry"], "data_key": each.work.data_key} for each in scored}
        return {"summary": perplexity.summary(entries), self.section: entries}

    def files(self, paths: EvaluationPaths, scored: Sequence[Scored]) -> Iterator[tuple[Path, bytes]]:
        """items/<slice>.parquet."""
        return _rows(paths, scored)

"""Tier 2: perplexity."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from scoring.data import cache
from scoring.model.backends import LoadedModel
from scoring.runtime import parts
from scoring.runtime.parts import Part
from scoring.tiers import perplexity_metric
from scoring.tiers.base import JobContext, ScoredItem, WorkItem
from scoring.tiers.cached_data import encode_item_rows, ensure_cached_entry
from scoring.tiers.canary import CanarySample, sample_stream
from suites.contract.paths import EvaluationPaths


class Perplexity:
    """Tier 2: a slice is one part."""

    section = "slices"

    def plan_work(self, definitions: Mapping[str, dict[str, Any]], context: JobContext) -> Iterator[WorkItem]:
        """A slice each."""
        for name, definition in definitions.items():
            entry: cache.SliceEntry = ensure_cached_entry("tier2_ppl", name, definition, context)
            yield WorkItem(
                tier="tier2_ppl",
                name=name,
                definition=definition,
                data_key=entry.data_key,
                entry=entry,
                parts=parts.plan_parts("tier2_ppl", name, definition, entry.data_key, context.identity),
                estimated_tokens=len(entry.tokens),
            )

    def sample_for_canary(self, work_item: WorkItem, seq_len: int) -> CanarySample:
        """Stretches of the slice."""
        return sample_stream(work_item.entry.tokens.numpy(), seq_len)

    def score_part(
        self, work_item: WorkItem, part: Part, model: LoadedModel, context: JobContext, on_batch: Callable[[int], None]
    ) -> tuple[dict[str, Any] | None, pa.Table]:
        """The slice's entry, and its windows and documents."""
        entry, bos_and_eos = work_item.entry, (context.tokenizer.bos_id, context.tokenizer.eos_id)
        stream = perplexity_metric.TokenStream(
            tokens=entry.tokens.numpy(),
            document_starts=entry.document_starts.numpy(),
            document_bytes=entry.document_bytes.numpy(),
        )
        return perplexity_metric.score_slice(
            model,
            stream,
            seq_len=context.request.seq_len,
            special_ids={token for token in bos_and_eos if token is not None},
            isolate_documents=bool(work_item.definition.get("isolate_documents")),
            name=part.name,
            on_batch=on_batch,
        )

    def build_sections(self, scored_items: Sequence[ScoredItem]) -> dict[str, Any]:
        """``slices``."""
        entries = {
            scored_item.work_item.name: {**scored_item.parts[0].meta["entry"], "data_key": scored_item.work_item.data_key}
            for scored_item in scored_items
        }
        return {"summary": perplexity_metric.summarise_slices(entries), self.section: entries}

    def encode_files(self, paths: EvaluationPaths, scored_items: Sequence[ScoredItem]) -> Iterator[tuple[Path, bytes]]:
        """items/<slice>.parquet."""
        return encode_item_rows(paths, scored_items)

"""Tier 2: perplexity."""

from collections.abc import Callable, Sequence
from typing import Any

from scoring.model.backends import LoadedModel
from scoring.runtime.parts import Part
from scoring.tiers import perplexity_metric
from scoring.tiers.base import JobContext, PartScores, ScoredItem, WorkItem
from scoring.tiers.cached_data import CachedDataTier, get_text_coverage
from scoring.tiers.canary import CanarySample, sample_stream


class Perplexity(CachedDataTier):
    """Tier 2. A part is one slice."""

    tier = "tier2_ppl"
    section = "slices"

    def sample_for_canary(self, work_item: WorkItem, seq_len: int) -> CanarySample:
        """Rows spread over the slice."""
        return sample_stream(work_item.entry.tokens.numpy(), seq_len)

    def score_part(
        self, work_item: WorkItem, part: Part, model: LoadedModel, context: JobContext, on_batch: Callable[[int], None]
    ) -> PartScores:
        """The slice's entry, and the rows of its windows and documents."""
        entry, bos_and_eos = work_item.entry, (context.tokenizer.bos_id, context.tokenizer.eos_id)
        stream = perplexity_metric.TokenStream(
            tokens=entry.tokens.numpy(),
            document_starts=entry.document_starts.numpy(),
            document_bytes=entry.document_bytes.numpy(),
            document_texts=None if entry.document_texts is None else entry.document_texts.numpy(),
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
        """``summary`` and ``slices``."""
        entries, notes = {}, []
        for scored_item in scored_items:
            work_item = scored_item.work_item
            coverage = get_text_coverage(work_item.entry.meta)
            entries[work_item.name] = {
                **scored_item.parts[0].meta["entry"],
                **coverage._asdict(),
                "separator": work_item.entry.meta["separator"],
                "data_key": work_item.data_key,
            }
            notes.append(coverage.describe(work_item.name, "bits per byte divides by the bytes of the others"))
        summary = perplexity_metric.summarise_slices(entries)
        return {"summary": summary, "notes": [note for note in notes if note is not None], self.section: entries}

"""Tier 3: cloze tasks."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scoring.inference.bits_per_byte import add_bits_per_byte
from scoring.model.backends import LoadedModel
from scoring.runtime.parts import Part, encode_parquet
from scoring.tiers import cloze_metric
from scoring.tiers.base import JobContext, PartScores, ScoredItem, WorkItem
from scoring.tiers.cached_data import CachedDataTier, get_text_coverage
from scoring.tiers.canary import CanarySample, sample_texts
from suites.contract.paths import EvaluationPaths
from suites.definitions.suite import get_primary_metric


class Cloze(CachedDataTier):
    """Tier 3. A part is a range of a task's items."""

    tier = "tier3_cf"
    section = "tasks"

    def sample_for_canary(self, work_item: WorkItem, seq_len: int) -> CanarySample:
        """The right choices after their contexts."""
        pairs = [item.requests[item.gold] for item in work_item.entry.items]
        return sample_texts([[*pair.context, *pair.continuation] for pair in pairs], seq_len)

    def score_part(
        self, work_item: WorkItem, part: Part, model: LoadedModel, context: JobContext, on_batch: Callable[[int], None]
    ) -> PartScores:
        """The rows of the part's items."""
        items = work_item.entry.items[part.start : part.stop]
        rows = cloze_metric.score_items(model, items, seq_len=context.request.seq_len, name=part.name, on_batch=on_batch)
        return PartScores(None, rows)

    def build_sections(self, scored_items: Sequence[ScoredItem]) -> dict[str, Any]:
        """``summary`` and ``tasks``."""
        entries, notes = {}, []
        for scored_item in scored_items:
            work_item = scored_item.work_item
            metric = get_primary_metric(str(work_item.definition["adapter"]), work_item.format)
            figures = cloze_metric.summarise_task(scored_item.concat_rows().to_pylist(), primary_metric=metric)
            coverage = get_text_coverage(work_item.entry.meta)
            style = {"format": work_item.format, "delimiter": work_item.definition.get("delimiter", " ")}
            entries[work_item.name] = {**figures, **style, **coverage._asdict(), "data_key": work_item.data_key}
            notes.append(coverage.describe(work_item.name, "its choices are scored without them"))
            if repeated_count := work_item.entry.meta.get("repeated"):
                notes.append(f"{work_item.name}: {repeated_count} items repeat another one, and count each")
        summary = cloze_metric.summarise_tasks(entries)
        return {"summary": summary, "notes": [note for note in notes if note is not None], self.section: entries}

    def encode_files(self, paths: EvaluationPaths, scored_items: Sequence[ScoredItem]) -> Iterator[tuple[Path, bytes]]:
        """items/<name>.parquet of every task, with bits per byte."""
        for scored_item in scored_items:
            yield paths.items_parquet(scored_item.work_item.name), encode_parquet(add_bits_per_byte(scored_item.concat_rows()))

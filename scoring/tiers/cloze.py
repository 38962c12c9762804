"""Tier 3: cloze tasks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from scoring.data import cache
from scoring.model.backends import LoadedModel
from scoring.runtime import parts
from scoring.runtime.parts import Part
from scoring.tiers import cloze_metric
from scoring.tiers.base import JobContext, ScoredItem, WorkItem
from scoring.tiers.cached_data import encode_item_rows, ensure_cached_entry
from scoring.tiers.canary import CanarySample, sample_texts
from suites.contract.paths import EvaluationPaths
from suites.definitions.suite import get_primary_metric


class Cloze:
    """Tier 3: a stretch of a task's items is a part."""

    section = "tasks"

    def plan_work(self, definitions: Mapping[str, dict[str, Any]], context: JobContext) -> Iterator[WorkItem]:
        """A task each."""
        for name, definition in definitions.items():
            entry: cache.TaskEntry = ensure_cached_entry("tier3_cf", name, definition, context)
            yield WorkItem(
                tier="tier3_cf",
                name=name,
                definition=definition,
                data_key=entry.data_key,
                entry=entry,
                parts=parts.plan_parts(
                    "tier3_cf",
                    name,
                    definition,
                    entry.data_key,
                    context.identity,
                    items=entry.meta["examples"],
                    get_range_key=entry.stored.compute_range_key,
                ),
                format=entry.format,
                estimated_tokens=entry.stored.token_count,
            )

    def sample_for_canary(self, work_item: WorkItem, seq_len: int) -> CanarySample:
        """Right choices after their contexts."""
        pairs = [item.requests[item.gold] for item in work_item.entry.items]
        return sample_texts([[*pair.context, *pair.continuation] for pair in pairs], seq_len)

    def score_part(
        self, work_item: WorkItem, part: Part, model: LoadedModel, context: JobContext, on_batch: Callable[[int], None]
    ) -> tuple[dict[str, Any] | None, pa.Table]:
        """The items' rows."""
        items = work_item.entry.items[part.start : part.stop]
        return None, cloze_metric.score_items(model, items, seq_len=context.request.seq_len, name=part.name, on_batch=on_batch)

    def build_sections(self, scored_items: Sequence[ScoredItem]) -> dict[str, Any]:
        """``tasks``."""
        entries = {}
        for scored_item in scored_items:
            work_item = scored_item.work_item
            metric = get_primary_metric(str(work_item.definition["adapter"]), work_item.format)
            figures = cloze_metric.summarise_task(scored_item.concat_rows().to_pylist(), primary_metric=metric)
            entries[work_item.name] = {**figures, "format": work_item.format, "data_key": work_item.data_key}
        return {"summary": cloze_metric.summarise_tasks(entries), self.section: entries}

    def encode_files(self, paths: EvaluationPaths, scored_items: Sequence[ScoredItem]) -> Iterator[tuple[Path, bytes]]:
        """items/<task>.parquet."""
        return encode_item_rows(paths, scored_items)

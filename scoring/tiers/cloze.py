"""Tier 3: cloze tasks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from scoring.data import cache
from scoring.model.backends import Loaded
from scoring.runtime import parts
from scoring.runtime.parts import Part
from scoring.tiers import cloze_metric as choice
from scoring.tiers.base import Given, Scored, Work
from scoring.tiers.cached_data import _entry, _rows
from scoring.tiers.canary import Sample, of_texts
from suites.contract.paths import EvaluationPaths
from suites.definitions.suite import primary_metric


class Cloze:
    """Tier 3: a stretch of a task's items is a part."""

    section = "tasks"

    def works(self, names: Mapping[str, dict[str, Any]], given: Given) -> Iterator[Work]:
        """A task each."""
        for name, definition in names.items():
            entry: cache.TaskEntry = _entry("tier3_cf", name, definition, given)
            yield Work(
                tier="tier3_cf",
                name=name,
                definition=definition,
                data_key=entry.data_key,
                entry=entry,
                parts=parts.plan(
                    "tier3_cf",
                    name,
                    definition,
                    entry.data_key,
                    given.identity,
                    items=entry.meta["examples"],
                    key_of=entry.stored.key_of,
                ),
                format=entry.format,
                tokens=entry.stored.tokens,
            )

    def sample(self, work: Work, seq_len: int) -> Sample:
        """Right choices after their contexts."""
        pairs = [item.requests[item.gold] for item in work.entry.items]
        return of_texts([[*pair.context, *pair.continuation] for pair in pairs], seq_len)

    def score(
        self, work: Work, part: Part, model: Loaded, given: Given, between: Callable[[int], None]
    ) -> tuple[dict[str, Any] | None, pa.Table]:
        """The items' rows."""
        items = work.entry.items[part.start : part.stop]
        return None, choice.score(model, items, seq_len=given.request.seq_len, name=part.name, between=between)

    def assemble(self, scored: Sequence[Scored]) -> dict[str, Any]:
        """``tasks``."""
        entries = {}
        for each in scored:
            work = each.work
            metric = primary_metric(str(work.definition["adapter"]), work.format)
            figures = choice.summarise(each.table().to_pylist(), primary_metric=metric)
            entries[work.name] = {**figures, "format": work.format, "data_key": work.data_key}
        return {"summary": choice.summary(entries), self.section: entries}

    def files(self, paths: EvaluationPaths, scored: Sequence[Scored]) -> Iterator[tuple[Path, bytes]]:
        """items/<task>.parquet."""
        return _rows(paths, scored)

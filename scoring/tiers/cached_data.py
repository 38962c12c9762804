"""Tiers whose work items are entries of the data cache."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from scoring.data import cache
from scoring.data.cache_entries import EntryProgress
from scoring.runtime import parts
from scoring.tiers.base import JobContext, ScoredItem, WorkItem
from scoring.tokenizers.unknown_text import TextCoverage
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import DataPaths, EvaluationPaths
from suites.contract.scoring_request import ScoringRequest

DATA_LOG_INTERVAL_SECONDS = 10.0
"""Seconds between two log lines about one entry in preparation."""

_log = structlog.get_logger()


class CachedDataTier:
    """Tiers 2 and 3: cached data in, parquet rows out."""

    tier: str

    def plan_work(self, definitions: Mapping[str, dict[str, Any]], context: JobContext) -> Iterator[WorkItem]:
        """One work item a slice or task.

        A slice is one part; a task is split by its items.
        """
        for name, definition in definitions.items():
            entry = _ensure_entry(self.tier, name, definition, context)
            # A task that gains items keeps the parts of its earlier items: their key is that of their range.
            task = entry if isinstance(entry, cache.TaskEntry) else None
            yield WorkItem(
                tier=self.tier,
                name=name,
                definition=definition,
                data_key=entry.data_key,
                entry=entry,
                parts=parts.plan_parts(
                    self.tier,
                    name,
                    definition,
                    entry.data_key,
                    context.identity,
                    items=None if task is None else task.meta["examples"],
                    get_range_key=None if task is None else task.stored.compute_range_key,
                ),
                format="ours" if task is None else task.format,
                estimated_tokens=len(entry.tokens) if isinstance(entry, cache.SliceEntry) else entry.stored.token_count,
            )

    def encode_files(self, paths: EvaluationPaths, scored_items: Sequence[ScoredItem]) -> Iterator[tuple[Path, bytes]]:
        """items/<name>.parquet of every slice or task."""
        for scored_item in scored_items:
            yield paths.items_parquet(scored_item.work_item.name), parts.encode_parquet(scored_item.concat_rows())


def _ensure_entry(tier: str, name: str, definition: dict[str, Any], context: JobContext) -> cache.SliceEntry | cache.TaskEntry:
    request, last_logged = context.request, time.monotonic()

    def report_progress(progress: EntryProgress) -> None:
        nonlocal last_logged
        context.stop.check()  # building an entry can take hours, so it is a place to stop
        if time.monotonic() - last_logged > DATA_LOG_INTERVAL_SECONDS:
            last_logged = time.monotonic()
            _log.info("preparing", name=progress.name, done=progress.done, of=progress.total)

    context.stop.check()
    entry = cache.ensure_entry(
        tier,
        name,
        definition,
        tokenizer=context.tokenizer,
        data=DataPaths(Path(request.eval_data)),
        offline=request.offline,
        progress=report_progress,
        suites=[suite.suite_option for suite in request.suites],
    )
    _refuse_changed_data(tier, name, entry.meta, request)
    return entry


def get_text_coverage(meta: Mapping[str, Any]) -> TextCoverage:
    """How much of an entry's text has tokens."""
    return TextCoverage(**{field: meta[field] for field in TextCoverage._fields})


def _refuse_changed_data(tier: str, name: str, meta: Mapping[str, Any], request: ScoringRequest) -> None:
    """Raise UserError (changed) where local files differ from the request's."""
    recorded = next((suite.data[name] for suite in request.suites if suite.tier == tier and name in suite.data), None)
    current = tuple((file["kind"], file["size"], file["sha256"]) for file in meta["source"].get("data_files", ()))
    if recorded is not None and recorded != current:
        hint = "score it again; a new request records the new content"
        raise UserError("data files changed after the request", location=f"{tier}, {name}", hint=hint, code=ExitCode.CHANGED)

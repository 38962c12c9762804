"""The data-cache entry of a slice or task."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from scoring.data import cache
from scoring.data.cache_entries import EntryProgress
from scoring.runtime import parts
from scoring.tiers.base import JobContext, ScoredItem
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import DataPaths, EvaluationPaths
from suites.contract.scoring_request import ScoringRequest

DATA_LOG_INTERVAL_SECONDS = 10.0
"""Seconds between two lines of the log about data that is being prepared."""

_log = structlog.get_logger()


def ensure_cached_entry(tier: str, name: str, definition: dict[str, Any], context: JobContext) -> Any:
    """The data of one slice or task, made first where it is missing. Says in the log, now and then, how far that is."""
    request, last_logged = context.request, time.monotonic()

    def report_progress(progress: EntryProgress) -> None:
        nonlocal last_logged
        context.stop.check()
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


def _refuse_changed_data(tier: str, name: str, meta: Mapping[str, Any], request: ScoringRequest) -> None:
    """Problem (changed) where local files do not hold any more what the request was made for."""
    requested = next((suite.data[name] for suite in request.suites if suite.tier == tier and name in suite.data), None)
    if requested is None:
        return
    current = [(file["kind"], file["size"], file["sha256"]) for file in meta["source"]["data_files"]]
    if current != [tuple(requested_file) for requested_file in requested]:
        hint = "it is scored with what they hold by then"
        raise UserError(
            "its data files changed since it was asked for", location=f"{tier}, {name}", hint=hint, code=ExitCode.CHANGED
        )


def encode_item_rows(paths: EvaluationPaths, scored_items: Sequence[ScoredItem]) -> Iterator[tuple[Path, bytes]]:
    """Path and parquet bytes of every item's rows."""
    for scored_item in scored_items:
        yield paths.items_parquet(scored_item.work_item.name), parts.encode_parquet(scored_item.concat_rows())

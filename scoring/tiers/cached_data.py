"""The data-cache entry of a slice or task."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from scoring.data import cache
from scoring.runtime import parts
from scoring.tiers.base import Given, Scored
from suites.common.errors import Exit, Problem
from suites.contract.paths import DataPaths, EvaluationPaths
from suites.contract.scoring_request import Request

SAY_EVERY = 10.0
"""Seconds between two lines of the log about data that is being prepared."""

_log = structlog.get_logger()


def _entry(tier: str, name: str, definition: dict[str, Any], given: Given) -> Any:
    """The data of one slice or task, made first where it is missing. Says in the log, now and then, how far that is."""
    request, said = given.request, time.monotonic()

    def tell(what: str, done: int, of: int, *_documents_and_bytes: int) -> None:
        nonlocal said
        given.stop.check()
        if time.monotonic() - said > SAY_EVERY:
            said = time.monotonic()
            _log.info("preparing", name=what, done=done, of=of)

    given.stop.check()
    entry = cache.ensure_entry(
        tier,
        name,
        definition,
        tokenizer=given.tokenizer,
        data=DataPaths(Path(request.eval_data)),
        offline=request.offline,
        progress=tell,
        suites=[suite.given for suite in request.suites],
    )
    _refuse_other_data(tier, name, entry.meta, request)
    return entry


def _refuse_other_data(tier: str, name: str, meta: Mapping[str, Any], request: Request) -> None:
    """Problem (changed) where local files do not hold any more what the request was made for."""
    asked = next((suite.data[name] for suite in request.suites if suite.tier == tier and name in suite.data), None)
    if asked is None:
        return
    found = [(file["kind"], file["size"], file["sha256"]) for file in meta["source"]["data_files"]]
    if found != [tuple(mark) for mark in asked]:
        todo = "it is scored with what they hold by then"
        raise Problem("its data files changed since it was asked for", where=f"{tier}, {name}", todo=todo, code=Exit.CHANGED)


def _rows(paths: EvaluationPaths, scored: Sequence[Scored]) -> Iterator[tuple[Path, bytes]]:
    for each in scored:
        yield paths.items(each.work.name), parts.parquet(each.table())

"""The tiers that are scored here, by name; and tiers 2 and 3, whose work is an entry of the data cache."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog

from scoring import cache, choice, parts, perplexity
from scoring.backends import Loaded
from scoring.canary import Sample, of_stream, of_texts
from scoring.instructions import Instructions
from scoring.parts import Part
from scoring.tier import Given, Scored, Tier, Work
from suites.contract import Request
from suites.paths import DataPaths, EvaluationPaths
from suites.problem import Exit, Problem
from suites.schema import primary_metric

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


TIERS: Mapping[str, Tier] = {"tier2_ppl": Perplexity(), "tier3_cf": Cloze(), "tier4_sft_native": Instructions()}

"""Filling the data cache: every entry that suites need, several at a time, each in a process of its own.

What is finished stays: started again after whatever ended it, prefill goes on with the entries that are missing.
"""

import multiprocessing
import os
import queue
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import msgspec
import structlog

from scoring.data import cache
from scoring.data.prefill_progress import Shown
from scoring.data.tokenizer import Tokenizer, resolve_tokenizer
from scoring.runtime.stop import Stop
from suites.common.atomic_files import publish_json
from suites.common.errors import Exit, Problem
from suites.common.formatting import size
from suites.contract.encoding import canonical
from suites.contract.paths import AttemptPaths, DataPaths
from suites.contract.scoring_request import Request, SuiteInRequest
from suites.definitions.data_cache import KINDS

SCHEMA = 1

MOST_JOBS = 4
"""Without --jobs: more at once only wait for the same network, and a login node is not ours alone."""

_TELL_EVERY = 0.5


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that some suite needs."""

    tier: str
    name: str
    definition: dict[str, Any]


class How(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all entries of a run."""

    eval_data: str
    tokenizer: str
    use_fast: bool
    refresh: bool


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one entry."""

    line: str = ""
    problem: tuple[str, str, str, int] | None = None
    """what, where, todo, code: a Problem, which does not travel between processes."""


def wanted(suites: Iterable[SuiteInRequest]) -> list[Wanted]:
    """Each entry once, however many suites need it, in the suites' order."""
    found: dict[str, Wanted] = {}
    for suite in suites:
        if suite.tier in KINDS:
            for name, definition in suite.definition.items():
                entry = Wanted(tier=suite.tier, name=name, definition=definition)
                found.setdefault(canonical([suite.tier, name, definition]), entry)
    return list(found.values())


def fill_request(request: Request, folder: Path, *, refresh: bool, jobs: int | None) -> Exit:
    """``fill`` for a request, and what became of it in the request's ``folder``: the watcher says those words to people."""
    how = How(eval_data=request.eval_data, tokenizer=request.tokenizer, use_fast=request.use_fast, refresh=refresh)
    problems: list[str] = []
    code = Exit.BUG
    try:
        code = fill(request.suites, how, jobs=jobs, problems=problems)
    except Problem as problem:
        problems.append(str(problem))
        code = problem.code
        raise
    finally:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        said = {"schema": SCHEMA, "run_id": request.run_id, "code": int(code), "problems": problems}
        try:
            publish_json(AttemptPaths(folder).prefilled, {**said, "why": f"{problems[0]}{more}" if problems else None})
        except OSError as error:
            structlog.get_logger().warning("how it ended is not written", path=str(folder), error=str(error))
    return code


def fill(
    suites: tuple[SuiteInRequest, ...],
    how: How,
    *,
    jobs: int | None = None,
    stop: Stop | None = None,
    problems: list[str] | None = None,
) -> Exit:
    """Make every entry that is missing; a line on stdout for each. What cannot be made is also added to ``problems``.

    An entry that cannot be made keeps no other from being made: each is one line on stderr, and the exit code is that of
    the first that trying again does not help. Raises Problem: temporary (told to stop), and what the tokenizer's says.
    """
    if stop is None:
        stop = Stop()
        stop.listen()
    data, named = DataPaths(Path(how.eval_data)), [suite.given for suite in suites]
    resolve_tokenizer(how.tokenizer, data, use_fast=how.use_fast, offline=False, suites=named)
    entries = wanted(suites)
    at_once = max(1, min(jobs or min(MOST_JOBS, len(os.sched_getaffinity(0))), len(entries)))
    codes: list[Exit] = []

    def done(made: Made) -> None:
        if made.problem is None:
            shown.line(made.line)
            return
        what, where, todo, code = made.problem
        codes.append(Exit(code))
        said = str(Problem(what, where=where, todo=todo))
        shown.complaint(f"scoring: {said}")
        if problems is not None:
            problems.append(said)

    with Shown(len(entries), interactive=sys.stderr.isatty()) as shown:
        if at_once == 1:
            for entry in entries:
                done(_make(entry, how, _throttled(shown.update, stop.check)))
        else:
            _in_processes(entries, how, jobs=at_once, update=shown.update, done=done, stop=stop)
        stop.check()
    lasting = [code for code in codes if code != Exit.TEMPORARY]
    return (lasting or codes or [Exit.SCORED])[0]


def _in_processes(
    entries: list[Wanted], how: How, *, jobs: int, update: Callable[..., None], done: Callable[[Made], None], stop: Stop
) -> None:
    context = multiprocessing.get_context("spawn")
    told, ending = context.Queue(), context.Event()
    begin = (told, ending, os.getpid())
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=begin) as pool:
        waiting: set[Future[Made]] = {pool.submit(_make_here, entry, how) for entry in entries}
        try:
            while waiting:
                stop.check()
                finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                while True:
                    try:
                        update(*told.get_nowait())
                    except queue.Empty:
                        break
                for future in finished:
                    done(future.result())
        except BrokenProcessPool as error:
            what = "a process was killed: the memory may have been too little"
            raise Problem(what, where="prefill", todo="start it again with a smaller --jobs", code=Exit.BUG) from error
        except BaseException:
            ending.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_tell: Callable[[tuple[Any, ...]], None]

_stop: Callable[[], None]


def _begin(told: Any, ending: Any, parent: int) -> None:
    """In each process of the pool, once."""
    global _tell, _stop  # a pool's initializer has no other place to leave things
    from scoring.runtime.log_setup import say_it_in_the_log  # noqa: PLC0415  only where a process begins

    say_it_in_the_log()
    own = Stop()
    own.listen()

    def stop() -> None:
        own.check()
        if ending.is_set() or os.getppid() != parent:
            raise Problem("stopped", where="prefill", todo="start it again: finished entries are kept", code=Exit.TEMPORARY)

    _tell, _stop = told.put, stop


def _make_here(entry: Wanted, how: How) -> Made:
    return _make(entry, how, _throttled(lambda *far: _tell(far), _stop))


def _throttled(update: Callable[..., None], check: Callable[[], None]) -> cache.Progress:
    last = 0.0

    def tell(name: str, done: int, of: int, documents: int, read: int) -> None:
        nonlocal last
        check()
        if time.monotonic() - last >= _TELL_EVERY or done >= of:
            last = time.monotonic()
            update(name, done, of, documents, read)

    return tell


def _make(entry: Wanted, how: How, tell: cache.Progress) -> Made:
    try:
        return Made(line=_made(entry, _tokenizer(how), how, tell))
    except Problem as problem:
        return Made(problem=(problem.what, problem.where, problem.todo, int(problem.code)))
    except Exception as error:  # noqa: BLE001  whatever it is, the other entries are made
        structlog.get_logger().exception("a bug", entry=entry.name)
        return Made(problem=(f"{type(error).__name__}: {error}", entry.name, "report it as a bug", int(Exit.BUG)))


_tokenizers: dict[How, Tokenizer] = {}


def _tokenizer(how: How) -> Tokenizer:
    """Read once a process."""
    if how not in _tokenizers:
        data = DataPaths(Path(how.eval_data))
        _tokenizers[how] = resolve_tokenizer(how.tokenizer, data, use_fast=how.use_fast, offline=False)
    return _tokenizers[how]


def _made(entry: Wanted, tokenizer: Tokenizer, how: How, tell: cache.Progress) -> str:
    made = cache.ensure_entry(
        entry.tier,
        entry.name,
        entry.definition,
        tokenizer=tokenizer,
        data=DataPaths(Path(how.eval_data)),
        offline=False,
        progress=tell,
        refresh=how.refresh,
    )
    meta = made.meta
    if entry.tier == "tier2_ppl":
        held = f"{meta['tokens']:,} tokens of {meta['documents']:,} documents ({size(meta['bytes'])})"
        return f"{entry.name}: {held}{'' if meta['reached_target'] else ', all there are'} in {made.folder}"
    return f"{entry.name}: {meta['examples']:,} items in {made.folder}"

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
from scoring.data.prefill_progress import PrefillDisplay
from scoring.data.tokenizer import Tokenizer, resolve_tokenizer
from scoring.runtime.stop import StopRequest
from suites.common.atomic_files import write_json_atomically
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import format_bytes
from suites.contract.encoding import canonical_json
from suites.contract.paths import AttemptPaths, DataPaths
from suites.contract.scoring_request import ScoringRequest, SuiteInRequest
from suites.definitions.data_cache import CACHE_ENTRY_KINDS

SCHEMA = 1

DEFAULT_MAX_JOBS = 4
"""Without --jobs: more at once only wait for the same network, and a login node is not ours alone."""

_UPDATE_INTERVAL_SECONDS = 0.5


class PrefillEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that some suite needs."""

    tier: str
    name: str
    definition: dict[str, Any]


class PrefillOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all entries of a run."""

    eval_data: str
    tokenizer: str
    use_fast: bool
    refresh: bool


class EntryResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one entry."""

    message: str = ""
    error: tuple[str, str, str, int] | None = None
    """what, where, todo, code: a Problem, which does not travel between processes."""


def list_prefill_entries(suites: Iterable[SuiteInRequest]) -> list[PrefillEntry]:
    """Each entry once, however many suites need it, in the suites' order."""
    entries_by_key: dict[str, PrefillEntry] = {}
    for suite in suites:
        if suite.tier in CACHE_ENTRY_KINDS:
            for name, definition in suite.definition.items():
                entry = PrefillEntry(tier=suite.tier, name=name, definition=definition)
                entries_by_key.setdefault(canonical_json([suite.tier, name, definition]), entry)
    return list(entries_by_key.values())


def prefill_request(request: ScoringRequest, folder: Path, *, refresh: bool, jobs: int | None) -> ExitCode:
    """``fill_data_cache`` for a request, and what became of it in the request's ``folder``: the watcher says those words to people."""
    options = PrefillOptions(eval_data=request.eval_data, tokenizer=request.tokenizer, use_fast=request.use_fast, refresh=refresh)
    problems: list[str] = []
    code = ExitCode.BUG
    try:
        code = fill_data_cache(request.suites, options, jobs=jobs, problems=problems)
    except UserError as problem:
        problems.append(str(problem))
        code = problem.code
        raise
    finally:
        suffix = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        document = {"schema": SCHEMA, "run_id": request.run_id, "code": int(code), "problems": problems}
        try:
            write_json_atomically(
                AttemptPaths(folder).prefill_json, {**document, "why": f"{problems[0]}{suffix}" if problems else None}
            )
        except OSError as error:
            structlog.get_logger().warning("how it ended is not written", path=str(folder), error=str(error))
    return code


def fill_data_cache(
    suites: tuple[SuiteInRequest, ...],
    options: PrefillOptions,
    *,
    jobs: int | None = None,
    stop: StopRequest | None = None,
    problems: list[str] | None = None,
) -> ExitCode:
    """Make every entry that is missing; a line on stdout for each. What cannot be made is also added to ``problems``.

    An entry that cannot be made keeps no other from being made: each is one line on stderr, and the exit code is that of
    the first that trying again does not help. Raises Problem: temporary (told to stop), and what the tokenizer's says.
    """
    if stop is None:
        stop = StopRequest()
        stop.listen()
    data, named = DataPaths(Path(options.eval_data)), [suite.suite_option for suite in suites]
    resolve_tokenizer(options.tokenizer, data, use_fast=options.use_fast, offline=False, suites=named)
    entries = list_prefill_entries(suites)
    process_count = max(1, min(jobs or min(DEFAULT_MAX_JOBS, len(os.sched_getaffinity(0))), len(entries)))
    codes: list[ExitCode] = []

    def report_result(result: EntryResult) -> None:
        if result.error is None:
            display.print_result(result.message)
            return
        message, location, hint, code = result.error
        codes.append(ExitCode(code))
        error_text = str(UserError(message, location=location, hint=hint))
        display.print_error(f"scoring: {error_text}")
        if problems is not None:
            problems.append(error_text)

    with PrefillDisplay(len(entries), interactive=sys.stderr.isatty()) as display:
        if process_count == 1:
            for entry in entries:
                report_result(_make_entry(entry, options, _throttle_progress(display.update, stop.check)))
        else:
            _make_in_processes(
                entries, options, jobs=process_count, update=display.update, report_result=report_result, stop=stop
            )
        stop.check()
    permanent_codes = [code for code in codes if code != ExitCode.TEMPORARY]
    return (permanent_codes or codes or [ExitCode.SCORED])[0]


def _make_in_processes(
    entries: list[PrefillEntry],
    options: PrefillOptions,
    *,
    jobs: int,
    update: Callable[..., None],
    report_result: Callable[[EntryResult], None],
    stop: StopRequest,
) -> None:
    context = multiprocessing.get_context("spawn")
    progress_queue, stop_event = context.Queue(), context.Event()
    init_arguments = (progress_queue, stop_event, os.getpid())
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_init_process, initargs=init_arguments) as pool:
        pending: set[Future[EntryResult]] = {pool.submit(_make_in_child, entry, options) for entry in entries}
        try:
            while pending:
                stop.check()
                finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                while True:
                    try:
                        update(*progress_queue.get_nowait())
                    except queue.Empty:
                        break
                for future in finished:
                    report_result(future.result())
        except BrokenProcessPool as error:
            message = "a process was killed: the memory may have been too little"
            raise UserError(
                message, location="prefill", hint="start it again with a smaller --jobs", code=ExitCode.BUG
            ) from error
        except BaseException:
            stop_event.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_send_progress: Callable[[tuple[Any, ...]], None]

_check_stop: Callable[[], None]


def _init_process(progress_queue: Any, stop_event: Any, parent_pid: int) -> None:
    """In each process of the pool, once."""
    global _send_progress, _check_stop  # a pool's initializer has no other place to leave things
    from scoring.runtime.log_setup import configure_scoring_log  # noqa: PLC0415  only where a process begins

    configure_scoring_log()
    process_stop = StopRequest()
    process_stop.listen()

    def stop() -> None:
        process_stop.check()
        if stop_event.is_set() or os.getppid() != parent_pid:
            raise UserError(
                "stopped", location="prefill", hint="start it again: finished entries are kept", code=ExitCode.TEMPORARY
            )

    _send_progress, _check_stop = progress_queue.put, stop


def _make_in_child(entry: PrefillEntry, options: PrefillOptions) -> EntryResult:
    return _make_entry(entry, options, _throttle_progress(lambda *progress: _send_progress(progress), _check_stop))


def _throttle_progress(update: Callable[..., None], check: Callable[[], None]) -> cache.ProgressCallback:
    last_update = 0.0

    def report_progress(name: str, done: int, total: int, documents: int, text_bytes: int) -> None:
        nonlocal last_update
        check()
        if time.monotonic() - last_update >= _UPDATE_INTERVAL_SECONDS or done >= total:
            last_update = time.monotonic()
            update(name, done, total, documents, text_bytes)

    return report_progress


def _make_entry(entry: PrefillEntry, options: PrefillOptions, progress: cache.ProgressCallback) -> EntryResult:
    try:
        return EntryResult(message=_obtain_entry_line(entry, _load_tokenizer_once(options), options, progress))
    except UserError as problem:
        return EntryResult(error=(problem.message, problem.location, problem.hint, int(problem.code)))
    except Exception as error:  # noqa: BLE001  whatever it is, the other entries are made
        structlog.get_logger().exception("a bug", entry=entry.name)
        return EntryResult(error=(f"{type(error).__name__}: {error}", entry.name, "report it as a bug", int(ExitCode.BUG)))


_tokenizer_cache: dict[PrefillOptions, Tokenizer] = {}


def _load_tokenizer_once(options: PrefillOptions) -> Tokenizer:
    """Read once a process."""
    if options not in _tokenizer_cache:
        data = DataPaths(Path(options.eval_data))
        _tokenizer_cache[options] = resolve_tokenizer(options.tokenizer, data, use_fast=options.use_fast, offline=False)
    return _tokenizer_cache[options]


def _obtain_entry_line(
    entry: PrefillEntry, tokenizer: Tokenizer, options: PrefillOptions, progress: cache.ProgressCallback
) -> str:
    cache_entry = cache.ensure_entry(
        entry.tier,
        entry.name,
        entry.definition,
        tokenizer=tokenizer,
        data=DataPaths(Path(options.eval_data)),
        offline=False,
        progress=progress,
        refresh=options.refresh,
    )
    meta = cache_entry.meta
    if entry.tier == "tier2_ppl":
        amount = f"{meta['tokens']:,} tokens of {meta['documents']:,} documents ({format_bytes(meta['bytes'])})"
        return f"{entry.name}: {amount}{'' if meta['reached_target'] else ', all there are'} in {cache_entry.folder}"
    return f"{entry.name}: {meta['examples']:,} items in {cache_entry.folder}"

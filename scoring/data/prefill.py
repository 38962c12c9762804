"""Fills the data cache with the entries that suites need.

Each entry is built in a process beside this one, several at a time. Finished entries stay: started again after an
interruption, prefill builds only the missing ones.
"""

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
import structlog

from scoring.data import cache
from scoring.data.cache_entries import ProgressCallback
from scoring.data.entry_processes import PrefillEntry, build_in_processes
from scoring.data.model_cache import ensure_model
from scoring.data.prefill_progress import PrefillDisplay
from scoring.data.prompt_entries import ensure_prompts
from scoring.data.tokenizer_cache import resolve_tokenizer
from scoring.runtime.stop import StopRequest
from scoring.tokenizers.tokenizer import Tokenizer
from suites.common.atomic_files import write_json_atomically
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import format_bytes
from suites.contract.encoding import canonical_json
from suites.contract.paths import AttemptPaths, DataPaths
from suites.contract.scoring_request import ScoringRequest, SuiteInRequest
from suites.contract.tier_files import TIER4
from suites.definitions.data_cache import CACHE_ENTRY_KINDS

SCHEMA = 1

DEFAULT_MAX_JOBS = 4
"""Without --jobs. More processes would wait for the same network, and a login node is shared."""


class PrefillOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a run, the same for all its entries."""

    eval_data: str
    tokenizer: str
    use_fast: bool
    refresh: bool
    model: str | None = None
    """A model of the hub that is fetched first; its tokenizer lies beside it."""

    @property
    def data(self) -> DataPaths:
        """The data cache that is filled."""
        return DataPaths(Path(self.eval_data))


def list_prefill_entries(suites: Sequence[SuiteInRequest]) -> list[PrefillEntry]:
    """The entries of all suites in their order, without duplicates."""
    entries = (
        PrefillEntry(tier=suite.tier, name=name, definition=definition)
        for suite in suites
        if suite.tier in CACHE_ENTRY_KINDS
        for name, definition in suite.definition.items()
    )
    prompts = (
        PrefillEntry(tier=suite.tier, name=suite.name, definition=suite.definition) for suite in suites if suite.tier == TIER4
    )
    unique = {canonical_json([entry.tier, entry.name, entry.definition]): entry for entry in (*entries, *prompts)}
    return list(unique.values())


def prefill_request(request: ScoringRequest, folder: Path, *, refresh: bool, jobs: int | None) -> ExitCode:
    """``fill_data_cache`` for a request.

    Writes the outcome to prefill.json in ``folder``; the watcher reads it.
    """
    options = PrefillOptions(
        eval_data=request.eval_data,
        tokenizer=request.tokenizer,
        use_fast=request.use_fast,
        refresh=refresh,
        model=request.model,
    )
    errors: list[UserError] = []
    code = ExitCode.BUG
    try:
        code = fill_data_cache(request.suites, options, jobs=jobs, errors=errors)
    except UserError as error:
        errors.append(error)
        code = error.code
        raise
    finally:
        texts = [str(error) for error in errors]
        reason = f"{texts[0]} (and {len(texts) - 1} more)" if len(texts) > 1 else next(iter(texts), None)
        document = {"schema": SCHEMA, "run_id": request.run_id, "code": int(code), "problems": texts, "reason": reason}
        try:
            write_json_atomically(AttemptPaths(folder).prefill_json, document)
        except OSError as error:
            # The exit code still says how the run ended.
            structlog.get_logger().warning("prefill.json cannot be written", path=str(folder), error=str(error))
    return code


def fill_data_cache(
    suites: tuple[SuiteInRequest, ...],
    options: PrefillOptions,
    *,
    jobs: int | None = None,
    errors: list[UserError] | None = None,
) -> ExitCode:
    """Build every missing entry, and print a line for each.

    An entry that cannot be built does not stop the others: it is a line on stderr, and its error is added to ``errors``.
    The exit code is the first that another attempt does not change, else temporary. Raises UserError: temporary (stopped),
    and those of ``resolve_tokenizer``.
    """
    errors = [] if errors is None else errors
    stop = StopRequest()
    stop.listen()
    if options.model is not None:
        click.echo(ensure_model(options.model, options.data, refresh=options.refresh), err=True)
    # The tokenizer is fetched before the processes start, which would all fetch it.
    suite_options = [suite.suite_option for suite in suites]
    tokenizer = resolve_tokenizer(
        options.tokenizer, options.data, use_fast=options.use_fast, suites=suite_options, refresh=options.refresh
    )
    for line in (tokenizer.summarize(), *tokenizer.resolved.notes):
        click.echo(f"{options.tokenizer}: {line}", err=True)
    entries = list_prefill_entries(suites)
    process_count = max(1, min(jobs or min(DEFAULT_MAX_JOBS, len(os.sched_getaffinity(0))), len(entries)))

    def report(outcome: str | UserError) -> None:
        if isinstance(outcome, UserError):
            errors.append(outcome)
            display.print_error(f"scoring: {outcome}")
        else:
            display.print_result(outcome)

    with PrefillDisplay(len(entries), interactive=sys.stderr.isatty()) as display:
        build = functools.partial(_make_entry, options)
        build_in_processes(build, entries, jobs=process_count, update=display.update, report=report, stop=stop)
        stop.check()
    codes = [error.code for error in errors]
    permanent_codes = [code for code in codes if code != ExitCode.TEMPORARY]
    return (permanent_codes or codes or [ExitCode.SCORED])[0]


def _make_entry(options: PrefillOptions, entry: PrefillEntry, progress: ProgressCallback) -> str:
    """Obtain an entry; returns the line that is printed for it. Raises nothing but UserError, which can be pickled."""
    try:
        if entry.tier == TIER4:
            return _make_prompts(entry, options)
        cached = cache.ensure_entry(
            entry.tier,
            entry.name,
            entry.definition,
            tokenizer=_load_tokenizer_once(options),
            data=options.data,
            offline=False,
            progress=progress,
            refresh=options.refresh,
        )
    except UserError:
        raise
    except Exception as error:  # its class may not survive the way to the parent process
        structlog.get_logger().exception("a bug", entry=entry.name)
        message = f"{type(error).__name__}: {error}"
        raise UserError(message, location=entry.name, hint="report it as a bug", code=ExitCode.BUG) from error
    meta = cached.meta
    if isinstance(cached, cache.TaskEntry):
        return f"{entry.name}: {meta['examples']:,} items in {cached.folder}"
    size = f"{format_bytes(meta['bytes'])}{'' if meta['reached_target'] else ', the entire source'}"
    return f"{entry.name}: {meta['tokens']:,} tokens of {meta['documents']:,} documents ({size}) in {cached.folder}"


def _make_prompts(entry: PrefillEntry, options: PrefillOptions) -> str:
    tokenizer = _load_tokenizer_once(options)
    cached = ensure_prompts(entry.name, entry.definition, tokenizer=tokenizer, data=options.data, refresh=options.refresh)
    return f"{entry.name}: {cached.meta['prompts']:,} prompts of {cached.meta['tokens']:,} tokens in {cached.folder}"


@functools.cache
def _load_tokenizer_once(options: PrefillOptions) -> Tokenizer:
    """The tokenizer, loaded once a process."""
    return resolve_tokenizer(options.tokenizer, options.data, use_fast=options.use_fast)

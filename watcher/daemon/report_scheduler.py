"""When comparisons and report.html are made, by child processes.

Each tick decides it from what is on disk, and never waits.

An evaluation's compare.json is due where it is missing or answers another request than today's: other contents, suites,
baselines or objectives. A stage's stage.json follows its comparisons. Once none is due and something is new, report.html is
written. A failure is retried with growing delays and shown in the status. Nothing here ever keeps a checkpoint from being scored.
"""

import hashlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from suites.common.atomic_files import write_atomically
from suites.common.errors import ExitCode, UserError
from suites.common.python_path import drop_other_packages
from suites.contract.comparison import CompareRequest, ComparisonDocument, read_comparison_document
from suites.contract.encoding import encode_json
from suites.contract.paths import report_html_path
from suites.contract.stage_summary import StageRequest
from watcher import __version__
from watcher.config.settings import Config
from watcher.core.actions import Alert
from watcher.core.clock import Clock, LogFn
from watcher.core.evaluation import SETTLED_STATES, EvaluationState
from watcher.daemon.background_process import BackgroundProcess, ProcessExit
from watcher.daemon.report_state import REPORT_TASK, read_report_state, shorten_list
from watcher.daemon.stage_summaries import StageSummaries
from watcher.journal.replay import JournalState
from watcher.reconcile.alerts import make_regression_alert
from watcher.reconcile.baselines import build_comparison_requests
from watcher.reconcile.stage_requests import build_stage_requests

RECHECK_SECONDS = 3600.0
"""Seconds after which compare.json files are stat'ed although the journal did not change."""


class ProcessRunner(Protocol):
    """What the scheduler needs of ``BackgroundProcess``."""

    @property
    def busy(self) -> str:
        """The name of the running child; empty without one."""

    def start(self, name: str, command: Sequence[str]) -> ProcessExit | None:
        """Start a child; returns its exit where it cannot start."""

    def poll(self) -> ProcessExit | None:
        """The exit of the child, once."""

    def close(self) -> None:
        """Terminate the child."""


class ReportScheduler:
    """Runs comparisons and the report, one child at a time."""

    def __init__(self, config: Config, runner: ProcessRunner, *, clock: Clock, log: LogFn) -> None:
        self.config = config
        self._runner, self._clock, self._log = runner, clock, log
        self._state = read_report_state(config.paths.reported_json)
        self._saved_regressions = dict(self._state.regressed)
        self._last_check: tuple[int, Config, float] | None = None
        self._compare_cache: dict[str, tuple[CompareRequest, tuple[int, int, int], bool]] = {}
        self._due_comparisons: dict[str, CompareRequest] = {}
        self._summaries = StageSummaries(_read_file_stamp)
        self._signature = ""
        self._page_signature = ""
        self._request_digests: dict[str, str] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Failures and failed objectives, for the status."""
        failures = self._state.describe_failures(self.config.python, self.config.paths.children_log, self._clock())
        regressions = [alert.message for alert in self.alerts]
        return (*failures, *shorten_list(regressions[::-1]))

    @property
    def stage_notes(self) -> dict[str, str]:
        """Stage -> which evaluations its noise still needs."""
        return self._summaries.notes

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Evaluations that fail their objectives, in the order of the stages."""
        return tuple(self._state.regressed.values())

    def run_pending(self, journal_state: JournalState, *, wait: bool = False) -> tuple[str, ...]:
        """Start or finish due work; returns warnings. Never raises.

        ``wait``: until all is done.
        """
        try:
            if wait:
                self.drain(journal_state)
            else:
                self.start_next(journal_state)
        except OSError as error:
            return (f"comparisons and report: {error}",)
        except Exception as error:  # noqa: BLE001  no defect of the report's may keep a checkpoint from being scored
            self._log("defect", message="comparisons and report", traceback=traceback.format_exc())
            return (f"comparisons and report: internal error: {error!r}; see the log",)
        return self.warnings

    def start_next(self, journal_state: JournalState) -> bool:
        """Start due work without waiting; whether a child runs. OSError."""
        finished = self._runner.poll()
        if finished is not None:
            self._record_exit(finished)
        if self._runner.busy:
            return True
        self._find_due_comparisons(journal_state)
        while (action := self._next_command(journal_state)) is not None:
            name, command = action
            self._log("child", name=name, message=" ".join(command))
            failed_start = self._runner.start(name, command)
            if failed_start is None:
                return True
            self._record_exit(failed_start)
        return False

    def drain(
        self, journal_state: JournalState, *, timeout_seconds: float = 300.0, pause: Callable[[float], None] = time.sleep
    ) -> None:
        """Do due work and wait, at most ``timeout_seconds``."""
        deadline = time.monotonic() + timeout_seconds
        while self.start_next(journal_state) and time.monotonic() < deadline:
            pause(0.05)
        self._runner.close()

    def close(self) -> None:
        """Terminate the child; the next watcher starts it again."""
        self._runner.close()

    def _find_due_comparisons(self, journal_state: JournalState) -> None:
        """Comparisons that are due, and the signature of a report made now."""
        now = self._clock()
        if self._last_check is not None:
            events, config, at = self._last_check
            if events == journal_state.event_count and config is self.config and 0 <= now - at < RECHECK_SECONDS:
                return
        self._last_check = (journal_state.event_count, self.config, now)
        requests = build_comparison_requests(self.config, journal_state) if self.config.report.compare else {}
        # A tick fixes the level first: a verdict made without it would change.
        requests = {key: request for key, request in requests.items() if not request.lacks_level}
        # The signature covers everything that the page shows, so an equal one makes no new page.
        signature = hashlib.sha256(f"{__version__}\n{self.config.stages!r}".encode(errors="replace"))
        for record in journal_state.records.values():
            if record.state in SETTLED_STATES:
                signature.update(f"\n{record.key} {record.state} {record.fingerprint} {record.since}".encode(errors="replace"))
        stamps = {key: _read_file_stamp(request.candidate.paths.compare_json) for key, request in requests.items()}
        signature.update("".join(f"\n{key} {stamp}" for key, stamp in stamps.items()).encode(errors="replace"))
        summaries = build_stage_requests(self.config, journal_state) if self.config.report.compare else {}
        signature.update(self._summaries.refresh(summaries).encode(errors="replace"))
        self._signature = signature.hexdigest()
        # With an equal signature no comparison was due, so none is read again.
        is_unchanged = self._signature == self._state.signature and not self._state.failures and not self._state.unable
        self._due_comparisons = (
            {}
            if is_unchanged
            else {key: requests[key] for key in requests if not self._is_up_to_date(key, requests[key], stamps[key])}
        )
        due_requests: dict[str, CompareRequest | StageRequest] = {**self._due_comparisons, **self._summaries.due}
        self._request_digests = {key: _digest_request(request) for key, request in due_requests.items()}
        # A failure counts for its own request only: another question deserves a try at once.
        kept_failures = {
            name: failure
            for name, failure in self._state.failures.items()
            if name == REPORT_TASK or self._request_digests.get(name) == failure.request_digest
        }
        # The alert of a comparison that is due again may no longer hold.
        regressions = {
            key: self._state.regressed[key]
            for key in requests
            if key in self._state.regressed and key not in self._due_comparisons
        }
        if kept_failures != self._state.failures or regressions != self._saved_regressions:
            self._state.failures, self._state.regressed, self._saved_regressions = kept_failures, regressions, dict(regressions)
            self._save_state()

    def _is_up_to_date(self, key: str, request: CompareRequest, stamp: tuple[int, int, int]) -> bool:
        """Whether compare.json answers ``request``; cached while both stay."""
        cached = self._compare_cache.get(key)
        if cached is None or cached[:2] != (request, stamp):
            comparison = _read_matching_comparison(request)
            cached = self._compare_cache[key] = (request, stamp, comparison is not None)
            # The document is open already, so the regression is found in the same reading.
            alert = (
                None
                if comparison is None
                else make_regression_alert(key, request.candidate.stage, comparison.get_comparison("bridge"))
            )
            self._state.regressed.pop(key, None)
            if alert is not None:
                self._state.regressed[key] = alert
        return cached[2]

    def _iter_requests(self, journal_state: JournalState) -> Iterator[tuple[str, str, Path, CompareRequest | StageRequest]]:
        """Name of the child, its command, and the request with its path: comparisons, then the stages' summaries."""
        paths = self.config.paths
        for key, request in self._due_comparisons.items():
            record = journal_state.records[key]
            yield key, "compare", paths.comparison_request(record.stage, record.directory), request
        for name, summary_request in self._summaries.due.items():
            yield name, "summarise", paths.summary_request(summary_request.stage), summary_request

    def _next_command(self, journal_state: JournalState) -> tuple[str, list[str]] | None:
        now = self._clock()
        # Comparisons before the page, which shows them.
        for name, command, path, request in self._iter_requests(journal_state) if self._state.can_compare(now) else ():
            if not self._state.is_backing_off(name, now):
                path.parent.mkdir(exist_ok=True)
                write_atomically(path, encode_json(request))
                return name, [self.config.python, "-P", "-m", "scoring", command, str(path)]
        page = report_html_path(self.config.results)
        # A deleted page is written again, even if nothing is new.
        is_current = self._signature == self._state.signature and page.exists()
        # The first job makes the results folder; until then there is nothing to show.
        is_early = not journal_state.records or (
            not page.parent.is_dir()
            and all(record.state is not EvaluationState.SCORED for record in journal_state.records.values())
        )
        if not self.config.report.page or is_current or is_early or self._state.is_backing_off(REPORT_TASK, now):
            return None
        self._page_signature = self._signature
        # The page is made by another process, so that its memory does not stay in the daemon.
        config_options = [] if self.config.source == "built-in" else ["--config", self.config.source]
        return REPORT_TASK, [sys.executable, "-P", "-m", "watcher", "report", "--html", str(page), *config_options]

    def _record_exit(self, finished: ProcessExit) -> None:
        """Remember how a child ended."""
        self._last_check = None
        name = finished.name
        if finished.code == 0 and name == REPORT_TASK:
            self._state.signature = self._page_signature
        # Exit code 0 proves nothing: the document does.
        is_unanswered = name in self._due_comparisons and _read_matching_comparison(self._due_comparisons[name]) is None
        if finished.code == 0 and (is_unanswered or self._summaries.is_unanswered(name)):
            finished = ProcessExit(name=name, code=int(ExitCode.BUG), message="it wrote no answer")
        if finished.code != 0:
            self._log("child_failed", name=name, code=finished.code, message=finished.message)
        self._state.remember_exit(finished, self._clock(), self._request_digests.get(name, ""))
        self._save_state()

    def _save_state(self) -> None:
        self._state.save(self.config.paths.reported_json)


def make_report_scheduler(config: Config, environ: Mapping[str, str], *, clock: Clock, log: LogFn) -> ReportScheduler:
    """The daemon's report scheduler."""
    return ReportScheduler(
        config, BackgroundProcess(config.paths.children_log, drop_other_packages(environ), clock=clock), clock=clock, log=log
    )


def _read_matching_comparison(request: CompareRequest) -> ComparisonDocument | None:
    """compare.json where it answers ``request``."""
    try:
        comparison = read_comparison_document(request.candidate.paths.compare_json)
    except UserError:
        return None
    return comparison if comparison is not None and comparison.request == request else None


def _digest_request(request: CompareRequest | StageRequest) -> str:
    return hashlib.sha256(encode_json(request)).hexdigest()[:16]


def _read_file_stamp(path: Path) -> tuple[int, int, int]:
    """(mtime_ns, inode, size) of a file.

    Two publications may fall into one tick of the file system's clock.
    """
    try:
        stats = path.stat()
    except OSError:
        return (0, 0, 0)
    return stats.st_mtime_ns, stats.st_ino, stats.st_size

"""Comparisons and the report, made by children of the daemon: decided at each tick from what is on disk, never waited for.

An evaluation's compare.json is wanted where it is missing or answers another question than today's: other contents, suites,
baselines or objectives. When none is wanted any more and something is new, report.html is written. What failed is put off,
longer each time, and told; nothing here ever keeps a checkpoint from being scored.
"""

import hashlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from suites.common.atomic_files import publish
from suites.common.errors import Exit, Problem
from suites.common.formatting import ago
from suites.contract.comparison import Compared, CompareRequest, read_compared
from suites.contract.encoding import encode
from suites.contract.paths import report_page
from watcher import __version__
from watcher.config.settings import Config
from watcher.core.actions import Alert
from watcher.core.evaluation import SETTLED
from watcher.daemon.background_process import Children, Ended
from watcher.journal.replay import Ledger
from watcher.reconcile.alerts import regressed
from watcher.reconcile.baselines import wanted

LOOK_AGAIN = 3600.0
"""Seconds after which compare.json files are stat'ed although the journal did not move."""

FIRST_REST, LONGEST_REST = 300.0, 86_400.0
"""Seconds until a failed comparison is tried again: doubled each time, up to a day."""

UNABLE_REST = 21_600.0
"""Seconds until a python that cannot compare at all is tried again."""

PAGE = "report"

_UNABLE = frozenset({126, 127, int(Exit.UNAVAILABLE)})

Say = Callable[..., None]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A child that failed."""

    count: int
    retry_at: float
    words: str
    asked: str = ""
    """Digest of the request that failed; another request is tried at once."""


class Reported(msgspec.Struct, kw_only=True):
    """``reported.json``: kept so that `watcher once` from cron neither starts over nor forgets a failure."""

    schema: int = 1
    signature: str = ""
    """Of everything that the last report was made of; with it, no comparison was wanted."""
    failures: dict[str, Failure] = msgspec.field(default_factory=dict)
    """Evaluation, or ``report`` -> how it failed last."""
    regressed: dict[str, Alert] = msgspec.field(default_factory=dict)
    """Evaluation -> that it fails its objectives; kept, since a settled run reads no comparison again."""
    unable: Failure | None = None
    """Why nothing can be compared on this machine."""


class Workers(Protocol):
    """What the reporter needs of ``Children``."""

    @property
    def busy(self) -> str:
        """The name of the one that runs."""

    def start(self, name: str, command: Sequence[str]) -> Ended | None:
        """Start it; its end, where it cannot be started."""

    def poll(self) -> Ended | None:
        """Its end, once."""

    def close(self) -> None:
        """Tell it to end."""


class Reporter:
    """Has comparisons and the report made, a child at a time."""

    def __init__(self, config: Config, children: Workers, *, clock: Callable[[], float], say: Say) -> None:
        self.config = config
        self._children, self._clock, self._say = children, clock, say
        self._reported = _read(config.paths.reported)
        self._before = dict(self._reported.regressed)
        self._looked: tuple[int, Config, float] | None = None
        self._known: dict[str, tuple[CompareRequest, tuple[int, int, int], bool]] = {}
        self._due: dict[str, CompareRequest] = {}
        self._signature = ""
        self._making = ""
        self._asked: dict[str, str] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, for status."""
        found = []
        if self._reported.unable is not None:
            todo = "let `python` in the config name one that has the [scoring] extra, or say report: {compare: false}"
            found.append(f"{self.config.python} cannot compare results on this machine: {self._reported.unable.words}; {todo}")
        for name, failure in self._reported.failures.items():
            rest = failure.retry_at - self._clock()
            again = f"again in {ago(rest)}" if rest > 0 else "again soon"
            about = "report.html is not written" if name == PAGE else f"{name} is not compared"
            found.append(f"{about}: {failure.words} ({again}; {self.config.paths.children_log} has more)")
        worse = [alert.words for alert in self.alerts]
        return (*_few(found), *_few(worse[::-1]))

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Evaluations that fail their objectives, told or not, in the order of the stages."""
        return tuple(self._reported.regressed.values())

    def work(self, ledger: Ledger, *, wait: bool = False) -> tuple[str, ...]:
        """Do what is due; what a person should know of it. ``wait``: until it is done. Never raises."""
        try:
            if wait:
                self.drain(ledger)
            else:
                self.step(ledger)
        except OSError as error:
            return (f"comparisons and report: {error}",)
        except Exception as error:  # noqa: BLE001  no defect of the report's may keep a checkpoint from being scored
            self._say("defect", words="comparisons and report", traceback=traceback.format_exc())
            return (f"comparisons and report: a defect of the watcher: {error!r}; its log has more",)
        return self.notes

    def step(self, ledger: Ledger) -> bool:
        """Do what is due, without waiting; whether a child runs now. Raises OSError where the state folder cannot be written."""
        ended = self._children.poll()
        if ended is not None:
            self._take(ended)
        if self._children.busy:
            return True
        self._look(ledger)
        while (action := self._next(ledger)) is not None:
            name, command = action
            self._say("child", name=name, words=" ".join(command))
            refused = self._children.start(name, command)
            if refused is None:
                return True
            self._take(refused)
        return False

    def drain(self, ledger: Ledger, *, seconds: float = 300.0, pause: Callable[[float], None] = time.sleep) -> None:
        """Do what is due and wait for it, ``seconds`` at most: for `watcher once`, which leaves nothing behind."""
        end = time.monotonic() + seconds
        while self.step(ledger) and time.monotonic() < end:
            pause(0.05)
        self._children.close()

    def close(self) -> None:
        """End what runs: it is started again when a watcher is."""
        self._children.close()

    def _look(self, ledger: Ledger) -> None:
        """Which comparisons are wanted, and what a report would be made of now."""
        now = self._clock()
        if self._looked is not None:
            events, config, at = self._looked
            if events == ledger.events and config is self.config and 0 <= now - at < LOOK_AGAIN:
                return
        self._looked = (ledger.events, self.config, now)
        asked = wanted(self.config, ledger) if self.config.report.compare else {}
        seen = hashlib.sha256(f"{__version__}\n{self.config.stages!r}".encode(errors="replace"))
        for record in ledger.records.values():
            if record.state in SETTLED:
                seen.update(f"\n{record.key} {record.state} {record.fingerprint} {record.since}".encode(errors="replace"))
        marks = {key: _mark(request.candidate.paths.compare) for key, request in asked.items()}
        seen.update("".join(f"\n{key} {mark}" for key, mark in marks.items()).encode(errors="replace"))
        self._signature = seen.hexdigest()
        settled = self._signature == self._reported.signature and not self._reported.failures and not self._reported.unable
        self._due = {} if settled else {key: asked[key] for key in asked if not self._answered(key, asked[key], marks[key])}
        self._asked = {key: _digest(request) for key, request in self._due.items()}
        kept = {
            name: failure
            for name, failure in self._reported.failures.items()
            if name == PAGE or self._asked.get(name) == failure.asked
        }
        worse = {key: self._reported.regressed[key] for key in asked if key in self._reported.regressed and key not in self._due}
        if kept != self._reported.failures or worse != self._before:
            self._reported.failures, self._reported.regressed, self._before = kept, worse, dict(worse)
            self._remember()

    def _answered(self, key: str, request: CompareRequest, mark: tuple[int, int, int]) -> bool:
        """Whether compare.json answers ``request``; it is read again only where one of the two changed."""
        known = self._known.get(key)
        if known is None or known[:2] != (request, mark):
            found = _answer(request)
            known = self._known[key] = (request, mark, found is not None)
            alert = None if found is None else regressed(key, request.candidate.stage, found.against("bridge"))
            self._reported.regressed.pop(key, None)
            if alert is not None:
                self._reported.regressed[key] = alert
        return known[2]

    def _next(self, ledger: Ledger) -> tuple[str, list[str]] | None:
        now, paths = self._clock(), self.config.paths
        unable = self._reported.unable
        able = unable is None or not now < unable.retry_at <= now + UNABLE_REST
        for key, request in self._due.items() if able else ():
            if self._rests(key, now):
                continue
            record = ledger.records[key]
            path = paths.comparison(record.stage, record.directory)
            path.parent.mkdir(exist_ok=True)
            publish(path, encode(request))
            return key, [self.config.python, "-m", "scoring", "compare", str(path)]
        page = report_page(self.config.results)
        fresh = self._signature == self._reported.signature and page.exists()
        if not self.config.report.page or fresh or not ledger.records or self._rests(PAGE, now):
            return None
        self._making = self._signature
        where = [] if self.config.source == "built-in" else ["--config", self.config.source]
        return PAGE, [sys.executable, "-m", "watcher", "report", "--html", str(page), *where]

    def _rests(self, name: str, now: float) -> bool:
        failure = self._reported.failures.get(name)
        return failure is not None and now < failure.retry_at <= now + LONGEST_REST

    def _take(self, ended: Ended) -> None:
        """Remember how a child ended."""
        self._looked = None
        name = ended.name
        if ended.code == 0 and name == PAGE:
            self._reported.signature = self._making
        if ended.code == 0 and name in self._due and _answer(self._due[name]) is None:
            ended = Ended(name=name, code=int(Exit.BUG), words="it left no answer to what it was asked")
        if ended.code == 0:
            self._reported.unable = None if name != PAGE else self._reported.unable
            self._reported.failures.pop(name, None)
            self._remember()
            return
        self._say("child_failed", name=name, code=ended.code, words=ended.words)
        if name != PAGE and (ended.code in _UNABLE or "No module named" in ended.words):
            self._reported.unable = Failure(count=1, retry_at=self._clock() + UNABLE_REST, words=ended.words)
            self._remember()
            return
        count = 1 + (self._reported.failures[name].count if name in self._reported.failures else 0)
        rest = min(FIRST_REST * 2 ** min(count - 1, 20), LONGEST_REST)
        self._reported.failures[name] = Failure(
            count=count, retry_at=self._clock() + rest, words=ended.words, asked=self._asked.get(name, "")
        )
        self._remember()

    def _remember(self) -> None:
        publish(self.config.paths.reported, encode(self._reported))


def make_reporter(config: Config, environ: Mapping[str, str], *, clock: Callable[[], float], say: Say) -> Reporter:
    """The daemon's."""
    return Reporter(config, Children(config.paths.children_log, environ, clock=clock), clock=clock, say=say)


def _few(found: list[str]) -> list[str]:
    return found[:5] + ([f"and {len(found) - 5} more of that kind"] if len(found) > 5 else [])  # noqa: PLR2004


def _answer(request: CompareRequest) -> Compared | None:
    """compare.json where it is the answer to ``request``."""
    try:
        found = read_compared(request.candidate.paths.compare)
    except Problem:
        return None
    return found if found is not None and found.request == request else None


def _digest(request: CompareRequest) -> str:
    return hashlib.sha256(encode(request)).hexdigest()[:16]


def _mark(path: Path) -> tuple[int, int, int]:
    """What changes with every publication: clocks of file systems tick in milliseconds, and two may fall into one."""
    try:
        seen = path.stat()
    except OSError:
        return (0, 0, 0)
    return seen.st_mtime_ns, seen.st_ino, seen.st_size


def _read(path: Path) -> Reported:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Reported)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):  # nothing is lost but the patience with what fails
        return Reported()

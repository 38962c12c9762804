"""Progress of prefill: bars on a terminal, lines in a log."""

import contextlib
import time
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from scoring.data.cache_entries import EntryProgress
from suites.common.formatting import format_bytes

LOG_INTERVAL_SECONDS = 10.0


class PrefillDisplay:
    """Shows the progress and the time left of each entry.

    Results go to stdout, everything else to stderr.
    """

    def __init__(self, entry_count: int, *, interactive: bool) -> None:
        self.entry_count, self.finished_count = entry_count, 0
        self._bars = _make_progress_bars() if interactive else None
        self._tasks: dict[str, TaskID] = {}
        self._start_times: dict[str, float] = {}
        self._last_logged = time.monotonic()

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def update(self, progress: EntryProgress) -> None:
        """Draw the entry's bar, or now and then write a line."""
        now = time.monotonic()
        start_time = self._start_times.setdefault(progress.name, now)
        size = format_bytes(progress.text_bytes)
        if self._bars is not None:
            if progress.name not in self._tasks:
                self._tasks[progress.name] = self._bars.add_task(progress.name, documents="", size="")
            self._bars.update(
                self._tasks[progress.name],
                completed=progress.done,
                total=progress.total,
                visible=progress.done < progress.total,
                documents=f"{progress.documents:,}",
                size=size,
            )
            return
        # After two seconds the time left can be estimated.
        if min(now - self._last_logged, 5 * (now - start_time)) >= LOG_INTERVAL_SECONDS:
            self._last_logged = now
            seconds_left = (now - start_time) * (progress.total - progress.done) / max(progress.done, 1)
            amount = f"{progress.done:,} of {progress.total:,}, {progress.documents:,} documents, {size}"
            finished = f"{self.finished_count} of {self.entry_count} entries done"
            _echo(f"{progress.name}: {amount}, {seconds_left:.0f} s left ({finished})", err=True)

    def print_result(self, text: str) -> None:
        """Print the line of a finished entry."""
        self.finished_count += 1
        self._print(text, err=False)

    def print_error(self, text: str) -> None:
        """Print the error of an entry that cannot be built."""
        self._print(text, err=True)

    def _print(self, text: str, *, err: bool) -> None:
        if self._bars is not None and self._bars.live.is_started:
            self._bars.stop()  # they are drawn again below the printed line
            _echo(text, err=err)
            self._bars.start()
        else:
            _echo(text, err=err)


def _echo(text: str, *, err: bool) -> None:
    with contextlib.suppress(OSError):  # a full disk under the log does not stop prefill
        click.echo(text, err=err)


def _make_progress_bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[documents]} documents, {task.fields[size]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

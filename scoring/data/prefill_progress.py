"""How far prefill is: bars where somebody looks on, now and then a line in the log where nobody does."""

import contextlib
import time
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from suites.common.formatting import format_bytes

LOG_INTERVAL_SECONDS = 10.0


class PrefillDisplay:
    """Documents, tokens (of a task: items), bytes and time left of each entry that is being made. Results go to stdout."""

    def __init__(self, entries: int, *, interactive: bool) -> None:
        self.entries, self.finished = entries, 0
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

    def update(self, name: str, done: int, total: int, documents: int, text_bytes: int) -> None:
        """An entry got as far as that."""
        now = time.monotonic()
        started = self._start_times.setdefault(name, now)
        if self._bars is not None:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, documents="", size="")
            task = self._tasks[name]
            self._bars.update(
                task, completed=done, total=total, visible=done < total, documents=f"{documents:,}", size=format_bytes(text_bytes)
            )
        elif (
            min(now - self._last_logged, 5 * (now - started)) >= LOG_INTERVAL_SECONDS
        ):  # two seconds in, the time left means something
            self._last_logged = now
            left_seconds = (now - started) * (total - done) / max(done, 1)
            progress_text = (
                f"{done:,} of {total:,}, {documents:,} documents, {format_bytes(text_bytes)}, {left_seconds:.0f} s left"
            )
            _echo(f"{name}: {progress_text} ({self.finished} of {self.entries} entries done)", err=True)

    def print_result(self, text: str) -> None:
        """An entry is there."""
        self.finished += 1
        self._print(text, err=False)

    def print_error(self, text: str) -> None:
        """An entry cannot be made."""
        self._print(text, err=True)

    def _print(self, text: str, *, err: bool) -> None:
        if self._bars is not None and self._bars.live.is_started:
            self._bars.stop()  # the bars are drawn again below what is printed
            _echo(text, err=err)
            self._bars.start()
        else:
            _echo(text, err=err)


def _echo(text: str, *, err: bool) -> None:
    with contextlib.suppress(OSError):  # a log without room is no reason to end
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

"""What the demo shows: training's progress, and the scores as they come in; on a terminal in place, else line by line."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

QUIET_LINE_SECONDS = 10.0
"""Seconds between two lines of progress where there is no terminal."""


class ExpectedEvaluation(NamedTuple):
    """One evaluation that must be there in the end."""

    stage: str
    source: str
    step: int

    @property
    def name(self) -> str:
        """``stage2/step_600``, the bridge's as well."""
        return f"{self.stage}/step_{self.step}"

    @property
    def bridge(self) -> bool:
        """Whether another stage's checkpoint is scored."""
        return self.stage != self.source


class PublishedScores(NamedTuple):
    """What one evaluation published."""

    ppl: Mapping[str, float]
    """Slice -> perplexity."""
    acc: Mapping[str, float]
    """Task -> its primary accuracy."""
    mean_ppl: float
    mean_acc: float


def read_scores(results: Path, expected: ExpectedEvaluation) -> PublishedScores | None:
    """The published scores; None while a tier is missing."""
    folder = results / expected.stage / "by_checkpoint" / f"step_{expected.step}"
    try:
        tier2 = json.loads((folder / "tier2_ppl.json").read_text(encoding="utf-8"))
        tier3 = json.loads((folder / "tier3_cf.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return PublishedScores(
        ppl={name: entry["ppl"] for name, entry in tier2["slices"].items()},
        acc={name: entry["primary"] for name, entry in tier3["tasks"].items()},
        mean_ppl=tier2["summary"]["ppl"],
        mean_acc=tier3["summary"]["primary"],
    )


class ProgressBoard:
    """Takes what is known; shows what is new. ``shown`` is the plan: all expected evaluations, in order."""

    def __init__(self, expected: Sequence[ExpectedEvaluation], console: Console) -> None:
        self.expected, self.console = expected, console
        self.training: dict[str, object] = {}
        self.states: Mapping[str, tuple[str, str]] = {}
        """Evaluation -> (state, reason)."""
        self.scores: dict[str, PublishedScores] = {}
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._began = time.monotonic()
        self._said: dict[str, str] = {}
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def refresh(self) -> None:
        """Show the state of things now."""
        if self._live:
            self._live.update(Group(self._progress(), self.render_table()))
            return
        for expected in self.expected:
            state, reason = self.states.get(expected.name, ("", ""))
            scores = self.scores.get(expected.name)
            if scores:
                state = f"scored: perplexity {scores.mean_ppl:.1f}, accuracy {scores.mean_acc:.3f}"
            elif state == "waiting":
                continue
            elif reason:
                state = f"{state}: {reason}"
            if state and state.split(" ago")[0] != self._said.get(expected.name):
                self._said[expected.name] = state.split(" ago")[0]
                self._line(f"{expected.name}{' (bridge)' if expected.bridge else ''} {state}")
        if time.monotonic() - self._last_line > QUIET_LINE_SECONDS:
            self._line(self._progress_text().plain)

    def print_news(self, text: str) -> None:
        """One line of news."""
        if self._live is None:
            self._line(text)
        else:
            self.console.print(text, highlight=False, markup=False)

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self.console.print(f"{self._last_line - self._began:5.0f} s  {text}", highlight=False, markup=False, soft_wrap=True)

    def _progress(self) -> Table:
        grid = Table.grid(padding=(0, 1))
        done, total = self.training.get("step", 0), self.training.get("of", 1)
        grid.add_row(ProgressBar(total=float(total), completed=float(done), width=16), self._progress_text())
        return grid

    def _progress_text(self) -> Text:
        if "step" not in self.training:
            return Text("training starts")
        words = f"training: step {self.training['step']} of {self.training.get('of', '?')}"
        if "loss" in self.training:
            words += f" ({self.training['stage']}), loss {self.training['loss']}, {self.training['tokens_per_s']} tokens/s"
        return Text(f"{words}; {len(self.scores)} of {len(self.expected)} evaluations scored")

    def render_table(self) -> Table:
        """One row an evaluation, a column a slice and a task."""
        slices = list(dict.fromkeys(name for scores in self.scores.values() for name in scores.ppl))
        tasks = list(dict.fromkeys(name for scores in self.scores.values() for name in scores.acc))
        table = Table(title="ppl: perplexity, lower is better; acc: cloze accuracy, chance is 0.25")
        table.title_justify, table.box, table.min_width = "left", SIMPLE_HEAD, 72
        table.add_column("suites", no_wrap=True)
        table.add_column("checkpoint", no_wrap=True)
        for kind, names in (("ppl", slices), ("acc", tasks)):
            for name in names:
                table.add_column(f"{kind} {name.replace('_', ' ')}", justify="right", max_width=10)
        whole = len(self.scores) == len(self.expected)
        if not whole:
            table.add_column("state")
        before = None
        for expected in self.expected:
            if before not in {None, expected.stage}:
                table.add_section()
            before = expected.stage
            scores = self.scores.get(expected.name)
            cells = [""] * (len(slices) + len(tasks))
            if scores:
                cells = [f"{scores.ppl[name]:.1f}" if name in scores.ppl else "" for name in slices]
                cells += [f"{scores.acc[name]:.3f}" if name in scores.acc else "" for name in tasks]
            state, _ = self.states.get(expected.name, ("", ""))
            checkpoint = f"{expected.source} {expected.step}{' (bridge)' if expected.bridge else ''}"
            table.add_row(expected.stage, checkpoint, *cells, *([] if whole else ["scored" if scores else state]))
        return table

"""The run's own noise for the report: read from stage.json, nothing is computed here."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from suites.common.errors import UserError
from suites.common.formatting import format_count
from suites.contract.stage_summary import FigureNoise, StageDocument, read_stage_document, stage_summary_path
from watcher.report.terminal_tables import make_table, make_text

HEADINGS = ("figure", "metric", "newest", "noise [95 %]", "signal", "SNR", "says something", "at chance")

NOT_KNOWN = "not known yet"


def read_summary(results: Path, errors: list[str]) -> StageDocument | None:
    """A stage's stage.json; a damaged one adds a line to ``errors``."""
    path = stage_summary_path(results)
    try:
        return read_stage_document(path)
    except UserError as error:
        errors.append(f"{path.name}: {error.message}")
        return None


def sort_by_signal(document: StageDocument) -> list[FigureNoise]:
    """Figures with the largest signal-to-noise first; unknown ones last."""
    return sorted(document.noise, key=lambda figure: (figure.snr is None, -(figure.snr or 0.0)))


def describe_judgement(figure: FigureNoise) -> str:
    """Whether the figure says something yet."""
    if figure.says_something is None:
        return f"{NOT_KNOWN} ({figure.unknown})" if figure.unknown else NOT_KNOWN
    return "yes" if figure.says_something else "not yet"


def build_noise_data(document: StageDocument) -> dict[str, Any]:
    """The same for the page; a row is a list."""
    rows = [
        [
            *(_name(figure), figure.metric, figure.newest, figure.noise, figure.low, figure.high, figure.signal, figure.snr),
            *(describe_judgement(figure), figure.at_chance),
        ]
        for figure in sort_by_signal(document)
    ]
    return {"window": list(document.window), "wanted": document.wanted, "rows": rows}


def _name(figure: FigureNoise) -> str:
    return figure.name or f"{figure.tier.partition('_')[0]} total"


def describe_window(document: StageDocument) -> Text:
    """From which steps the noise is known, or what it still wants."""
    if not document.window:
        return make_text(f"{NOT_KNOWN}: {document.wanted}")
    count = format_count(len(document.window), "evaluation")
    return make_text(f"the run's own noise from steps {document.window[0]} to {document.window[-1]}, {count}")


def list_noise_layouts(document: StageDocument) -> Iterator[list[Table]]:
    """The table of ``watcher report --snr``: whole, with intervals below, and as two tables."""
    yield [_build_table(document, HEADINGS, " ")]
    yield [_build_table(document, HEADINGS, "\n")]
    yield [_build_table(document, HEADINGS[:4], "\n"), _build_table(document, (*HEADINGS[:2], *HEADINGS[4:]), "\n")]


def _build_table(document: StageDocument, headings: Sequence[str], separator: str) -> Table:
    table = make_table(
        *(heading.replace(" [", f"{separator}[") for heading in headings),
        right=[heading.replace(" [", f"{separator}[") for heading in headings if heading not in {"figure", "metric"}],
    )
    for figure in sort_by_signal(document):
        cells = dict(zip(HEADINGS, _list_cells(figure), strict=True))
        parts = [[make_text(part) for part in cells[heading].replace(" [", f"{separator}[").split("\n")] for heading in headings]
        table.add_row(*(Text("\n").join(lines) for lines in parts))
    return table


def _list_cells(figure: FigureNoise) -> Iterator[str]:
    yield _name(figure)
    yield figure.metric
    yield f"{figure.newest:.4g}"
    is_known = figure.noise is not None and figure.low is not None and figure.high is not None
    yield f"{figure.noise:.2g} [{figure.low:.2g}, {figure.high:.2g}]" if is_known else NOT_KNOWN
    yield "" if figure.signal is None else f"{figure.signal:.2g}"
    yield "" if figure.snr is None else f"{figure.snr:.1f}"
    yield describe_judgement(figure)
    yield {True: "yes", False: "no", None: ""}[figure.at_chance]

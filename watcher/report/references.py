"""A stage beside other models: its newest step against each, and where its curves overtake them. Nothing is computed here."""

from collections.abc import Iterator, Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from suites.contract.comparison import BITS_PER_BYTE, GOLD_BITS, Comparison, Effect, describe_levels
from watcher.config.settings import REFERENCE_PREFIX
from watcher.report.data import TIER_LABELS, ReportedEvaluation, StageReport
from watcher.report.terminal_tables import make_table, make_text, print_layout

_METRIC_TEXTS = {BITS_PER_BYTE: "bits per byte", GOLD_BITS: "bits per byte of gold answers", "rate": ""}

_SIGNS = {"better": "▲", "worse": "▼", "hint": "~", "no_change_seen": "=", "too_few_items": "?"}

_STYLES = {"better": "green", "worse": "red"}


class ReferenceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of the newest step against each reference."""

    tier: str
    name: str
    """Empty for a tier's total."""
    key: str
    """Of the effect: ``bits_per_byte``, ``primary``, ``bpb``, ``rate``; ``nll_per_token`` where tokenizers are equal."""
    effects: tuple[Effect | None, ...]
    """A reference each: baseline is the reference, candidate the step."""
    crossings: tuple[str, ...]
    """Where the curve overtakes each of them, for people."""

    @property
    def label(self) -> str:
        """Its name for people."""
        metric = next((effect.metric for effect in self.effects if effect is not None), self.key)
        name = self.name or f"{TIER_LABELS[self.tier]} total"
        return ", ".join(filter(None, (name, _METRIC_TEXTS.get(self.key, metric.replace("_", " ")))))


class ReferenceTable(msgspec.Struct, frozen=True, kw_only=True):
    """A stage's newest compared step against the references."""

    evaluation: str
    step: int
    tokens: int | None
    names: tuple[str, ...]
    """Of the references, in the order of the columns."""
    reference_tokens: tuple[int | None, ...]
    levels: str
    rows: tuple[ReferenceRow, ...]
    refused: tuple[str, ...]
    """What is not compared, and why."""


def build_reference_table(stage: StageReport) -> ReferenceTable | None:
    """The table of a stage; None where no step is compared with a reference."""
    compared = [evaluation for evaluation in stage.iter_stage_evaluations() if evaluation.references]
    if not compared:
        return None
    newest = compared[-1]
    comparisons = newest.references
    tokens = {
        evaluation.source: evaluation.files.tokens_seen for evaluation in stage.evaluations if evaluation.role == "reference"
    }
    sources = [comparison.baseline.source_stage for comparison in comparisons]
    return ReferenceTable(
        evaluation=newest.key,
        step=newest.step,
        tokens=newest.files.tokens_seen,
        names=tuple(source.removeprefix(REFERENCE_PREFIX) for source in sources),
        reference_tokens=tuple(tokens.get(source) or None for source in sources),
        levels="; ".join(dict.fromkeys(map(describe_levels, comparisons))),
        rows=tuple(_list_rows(comparisons, sources, stage)),
        refused=tuple(
            dict.fromkeys(
                f"{source.removeprefix(REFERENCE_PREFIX)}: {refusal.name}: {refusal.reason}"
                for source, comparison in zip(sources, comparisons, strict=True)
                for refusal in comparison.refusals
            )
        ),
    )


def iter_reference_effects(comparison: Comparison) -> Iterator[tuple[tuple[str, str, str], Effect]]:
    """(tier, name, key) -> effect, totals first: those with a verdict."""
    for total in comparison.totals:
        yield from (((total.tier, "", key), total.effects[key]) for key in total.judged_keys)
    for entry in comparison.entries:
        yield from (((entry.tier, entry.name, key), entry.effects[key]) for key in entry.judged_keys)


def _list_rows(comparisons: Sequence[Comparison], sources: Sequence[str], stage: StageReport) -> Iterator[ReferenceRow]:
    effects = [dict(iter_reference_effects(comparison)) for comparison in comparisons]
    crossings = {
        (crossing.reference, crossing.tier, crossing.name, crossing.metric): crossing.describe()
        for crossing in (() if stage.summary is None else stage.summary.crossings)
    }
    for figure in dict.fromkeys(figure for each in effects for figure in each):
        yield ReferenceRow(
            tier=figure[0],
            name=figure[1],
            key=figure[2],
            effects=tuple(each.get(figure) for each in effects),
            crossings=tuple(crossings.get((source, *figure), "") for source in sources),
        )


def list_curve(stage: StageReport, figure: tuple[str, str, str]) -> list[tuple[ReportedEvaluation, float]]:
    """The stage's own values of one figure as its comparisons with references have them."""
    curve = []
    for evaluation in stage.iter_stage_evaluations():
        effect = next((dict(iter_reference_effects(each)).get(figure) for each in evaluation.references), None)
        if effect is not None:
            curve.append((evaluation, effect.candidate))
    return curve


def list_reference_lines(table: ReferenceTable) -> dict[tuple[str, str, str], list[tuple[str, float]]]:
    """(tier, name, key) -> name and value of each reference that has the figure."""
    return {
        (row.tier, row.name, row.key): [
            (name, effect.baseline) for name, effect in zip(table.names, row.effects, strict=True) if effect is not None
        ]
        for row in table.rows
    }


def print_reference_table(stage: StageReport, console: Console) -> None:
    """Print a stage's newest step against the references; nothing without any."""
    table = build_reference_table(stage)
    if table is None:
        return
    tokens = [f"{name} ({_format_tokens(count)})" for name, count in zip(table.names, table.reference_tokens, strict=True)]
    console.print(make_text(f"step {table.step} ({_format_tokens(table.tokens)}) against {', '.join(tokens)}", "bold"))

    def list_layouts() -> Iterator[list[Table]]:
        yield [_build_table(table, " ")]
        yield [_build_table(table, "\n")]
        yield [_build_narrow_table(table, number) for number in range(len(table.names))]

    print_layout(list_layouts(), console)
    console.print(make_text(f"levels of the verdicts: {table.levels}"))
    for line in table.refused:
        console.print(make_text(f"not compared: {line}"))


def _build_table(table: ReferenceTable, separator: str) -> Table:
    """The columns of all references; ``separator`` stands before an interval."""
    has_crossings = any(text for row in table.rows for text in row.crossings)
    headings = [
        heading for name in table.names for heading in (name, f"you{separator}minus {name}", *["overtaken"] * has_crossings)
    ]
    built = make_table("figure", *headings, right=table.names)
    for row in table.rows:
        cells: list[Text] = []
        for effect, crossing in zip(row.effects, row.crossings, strict=True):
            cells += [_render_value(effect), _render_change(effect, separator)]
            cells += [_make_lines(crossing.replace(" [", f"{separator}["))] * has_crossings
        built.add_row(make_text(row.label, "" if row.name else "bold"), *cells)
    return built


def _build_narrow_table(table: ReferenceTable, reference: int) -> Table:
    """The figures of one reference; its crossing stands below the change."""
    name = table.names[reference]
    has_crossings = any(row.crossings[reference] for row in table.rows)
    built = make_table("figure", name, f"you\nminus {name}" + "\novertaken" * has_crossings, right=(name,))
    for row in table.rows:
        effect, crossing = row.effects[reference], row.crossings[reference].replace(" [", "\n[")
        if effect is not None or crossing:
            label = _make_lines(row.label.replace(", ", ",\n"), "" if row.name else "bold")
            lines = [_render_change(effect, "\n"), *([_make_lines(crossing)] if crossing else [])]
            built.add_row(label, _render_value(effect), Text("\n").join(lines))
    return built


def _make_lines(text: str, style: str = "") -> Text:
    return Text("\n").join(make_text(line, style) for line in text.split("\n"))


def _render_value(effect: Effect | None) -> Text:
    return Text() if effect is None else make_text(f"{effect.baseline:.4f}")


def _render_change(effect: Effect | None, separator: str) -> Text:
    if effect is None:
        return Text()
    interval = "" if effect.low is None or effect.high is None else f"{separator}[{effect.low:+.4f}, {effect.high:+.4f}]"
    return Text(f"{_SIGNS[effect.verdict]} {effect.delta:+.4f}{interval}", style=_STYLES.get(effect.verdict, "dim"))


def _format_tokens(count: int | None) -> str:
    """``9T tokens``, or that they are unknown."""
    if not count:
        return "tokens unknown"
    unit, size = next(((unit, size) for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)) if count >= size), ("k", 10**3))
    return f"{count / size:.4g}{unit} tokens"

"""`watcher simulate`: this config for months in seconds, before a real cluster is asked for anything."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from suites.common.errors import Problem
from watcher.cli.options import config_option, environment

if TYPE_CHECKING:
    from watcher.simulate.summary import Result

_LONGEST = 3660
"""Days."""


@click.command()
@config_option
@click.option(
    "--days", type=click.FloatRange(min=1, max=_LONGEST), default=90, show_default=True, help="How long training takes."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same run.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def simulate(config: Path | None, *, days: float, seed: int, as_json: bool) -> None:
    """Run the real daemon against a simulated Slurm and training, with all their failures. Exits 1 where a promise was broken.

    Nothing of the config's own folders is read or written, and no Slurm is asked.
    """
    from watcher.config.loader import check  # noqa: PLC0415
    from watcher.simulate.simulation import simulate as run  # noqa: PLC0415

    environ = environment()
    loaded = check(config, environ if environ.get("SCRATCH") else {**environ, "SCRATCH": os.sep + "scratch"})
    if not any(stage.steps or stage.every or stage.final for stage in loaded.stages.values()):
        raise Problem("no stage has a schedule", where=loaded.source, todo="write steps, every or final")
    result = run(loaded, environ, days=days, seed=seed)
    if as_json:
        import msgspec  # noqa: PLC0415

        click.echo(json.dumps(msgspec.to_builtins(result), indent=2))
    else:
        click.echo("\n".join(lines(result)))
    sys.exit(1 if result.broken else 0)


def lines(result: "Result") -> list[str]:
    """The result for people."""
    from suites.common.formatting import ago, clean  # noqa: PLC0415

    states = ", ".join(f"{count} {state}" for state, count in result.evaluations.items())
    rate, waits = result.calls_per_minute, result.latencies.get("complete_to_scored", {})
    told = [
        f"{result.days:g} days, seed {result.seed}: {result.polls} polls, {result.restarts} times killed and started again",
        f"evaluations: {states}",
        *(f"  {clean(key)}: {clean(words)}" for key, words in result.unfinished.items()),
        f"scores: {result.scores} by {result.runs} runs, {result.gpu_hours:g} GPU hours",
        f"Slurm: {sum(result.calls.values())} commands ({_counts(result.calls)})",
        f"Slurm commands a minute: {rate['mean']:g} (mean), {rate['max']:g} (most)",
        f"failures: {_counts(result.failures) or 'none'}",
    ]
    if waits:
        told.append(f"from complete to scored: {ago(waits['p50'])} (p50), {ago(waits['p95'])} (p95)")
    told.append(f"promises looked at: {_counts(result.checked)}")
    told.append(f"broken: {len(result.broken)}")
    return told + [f"  {clean(words)}" for words in result.broken]


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted.items())

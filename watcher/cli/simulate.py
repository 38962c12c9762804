"""`watcher simulate`: months of this config in seconds."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from suites.common.errors import UserError
from watcher.cli.options import config_option, copy_environment, echo_text

if TYPE_CHECKING:
    from watcher.simulate.summary import SimulationResult

_MAX_DAYS = 3660
"""Days. Ten years: the simulation's cost grows with them."""


@click.command()
@config_option
@click.option(
    "--days", type=click.FloatRange(min=1, max=_MAX_DAYS), default=90, show_default=True, help="Duration of the training run."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal runs.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def simulate(config: Path | None, *, days: float, seed: int, as_json: bool) -> None:
    """Run the real daemon against a simulated Slurm and training run. Exits 1 on a broken invariant.

    It reads and writes nothing in the config's folders, and runs no Slurm command.
    """
    from watcher.config.loader import check_config  # noqa: PLC0415
    from watcher.simulate.simulation import run_simulation  # noqa: PLC0415

    environ = copy_environment()
    loaded = check_config(config, environ if environ.get("SCRATCH") else {**environ, "SCRATCH": os.sep + "scratch"})
    if not any(stage.steps or stage.every or stage.final for stage in loaded.stages.values()):
        raise UserError("no stage has a schedule", location=loaded.source, hint="set steps, every or final")
    result = run_simulation(loaded, environ, days=days, seed=seed)
    if as_json:
        import msgspec  # noqa: PLC0415

        click.echo(json.dumps(msgspec.to_builtins(result), indent=2))
    else:
        for line in render_simulation_summary(result):
            echo_text(line)
    sys.exit(1 if result.broken else 0)


def render_simulation_summary(result: "SimulationResult") -> list[str]:
    """The result as lines of text."""
    from suites.common.formatting import format_count, format_duration  # noqa: PLC0415

    states = ", ".join(f"{count} {state}" for state, count in result.evaluations.items())
    call_rate, latency = result.calls_per_minute, result.latencies.get("complete_to_scored", {})
    restarts = format_count(result.restarts, "kill and restart", "kills and restarts")
    output_lines = [
        f"{result.days:g} days, seed {result.seed}: {format_count(result.polls, 'poll')}, {restarts} of the daemon",
        f"evaluations: {states}",
        *(f"  {key}: {text}" for key, text in result.unfinished.items()),
        f"scores: {result.scores} from {format_count(result.runs, 'run')}, {result.gpu_hours:g} GPU hours",
        f"Slurm: {format_count(sum(result.calls.values()), 'command')} ({_format_counts(result.calls)})",
        f"Slurm commands per minute: mean {call_rate['mean']:g}, max {call_rate['max']:g}",
        f"failures: {_format_counts(result.failures) or 'none'}",
    ]
    if latency:
        median, p95 = format_duration(latency["p50"]), format_duration(latency["p95"])
        output_lines.append(f"time from complete checkpoint to scores: median {median}, p95 {p95}")
    output_lines += [f"invariants checked: {_format_counts(result.checked)}", f"broken: {len(result.broken)}"]
    return output_lines + [f"  {text}" for text in result.broken]


def _format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())

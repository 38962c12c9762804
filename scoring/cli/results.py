"""``python -m scoring compare`` and ``export``: what becomes of results that are published."""

import sys
from pathlib import Path
from typing import Literal

import click

from scoring.cli.exit_codes import run_guarded
from suites.common.errors import ExitCode
from suites.contract.comparison import CompareRequest
from suites.contract.encoding import encode_json, read_request
from suites.contract.objectives import Objectives

CurveAxis = Literal["step", "tokens"]


@click.command()
@click.argument("request_file", required=False, type=click.Path(path_type=Path), metavar="[REQUEST.json]")
@click.option("--baseline", type=click.Path(path_type=Path), help="The folder of an evaluation's results.")
@click.option("--candidate", type=click.Path(path_type=Path), help="The same, of what is judged.")
@click.option(
    "--improve", multiple=True, help="A tier (tier2, tier3, tier4), slice or task that should be better; may be repeated."
)
@click.option("--hold", multiple=True, help="One that must not be worse by more than the usual margins; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="The comparison as JSON.")
def compare(
    request_file: Path | None,
    baseline: Path | None,
    candidate: Path | None,
    *,
    improve: tuple[str, ...],
    hold: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say whether a checkpoint is better than another: paired, with errors. A REQUEST.json has compare.json written."""
    if request_file is None and not (baseline and candidate):
        raise click.UsageError("give --baseline and --candidate, or a REQUEST.json")
    if request_file is not None and (baseline or candidate or improve or hold):
        raise click.UsageError("give a REQUEST.json or the other options, not both: everything is in the request")

    def run() -> ExitCode:
        from scoring.cli import compare_output  # noqa: PLC0415  numpy and pyarrow
        from scoring.compare import compare  # noqa: PLC0415  numpy and pyarrow

        if request_file is None:
            objectives = Objectives(improve=improve, hold=hold)
            return compare_output.compare_folders(Path(str(baseline)), Path(str(candidate)), objectives, as_json=as_json)
        document = compare.run_comparison(read_request(request_file, CompareRequest))
        if as_json:
            click.echo(encode_json(document), nl=False)
        return ExitCode.SCORED

    sys.exit(run_guarded(run))


@click.command()
@click.option("--results", type=click.Path(path_type=Path), required=True, help="The results folder of a watcher.")
@click.option("--stage", "stages", multiple=True, help="Of this stage only; may be repeated.")
@click.option("--tensorboard", type=click.Path(path_type=Path), help="Write event files under this folder.")
@click.option("--wandb", type=click.Path(path_type=Path), help="Write offline runs under this folder; `wandb sync` sends them.")
@click.option("--axis", type=click.Choice(["step", "tokens"]), default="step", show_default=True, help="What curves run over.")
@click.option("--project", default="checkpoint-watcher", show_default=True, help="W&B's project.")
def export(
    results: Path, *, stages: tuple[str, ...], tensorboard: Path | None, wandb: Path | None, axis: CurveAxis, project: str
) -> None:
    """Published scores as curves for TensorBoard or W&B. What was exported before is not written again."""
    if tensorboard is None and wandb is None:
        raise click.UsageError("give --tensorboard DIR or --wandb DIR")

    def run() -> ExitCode:
        from scoring.export import points as curve_points  # noqa: PLC0415  pyarrow
        from scoring.export import tensorboard as tensorboard_export  # noqa: PLC0415  pyarrow
        from scoring.export import wandb as wandb_export  # noqa: PLC0415  pyarrow

        points = curve_points.collect_points(results.absolute(), stages)
        if tensorboard is not None:
            click.echo(
                f"{tensorboard_export.export_tensorboard(points, tensorboard.absolute(), axis)} of {len(points)} event files written"
            )
        if wandb is not None:
            click.echo(f"{wandb_export.export_wandb(points, wandb.absolute(), axis, project)} runs written")
        return ExitCode.SCORED

    sys.exit(run_guarded(run))

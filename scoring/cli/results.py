"""``python -m scoring compare``, ``summarise``, ``export`` and ``derive``, which read published results."""

import sys
from pathlib import Path
from typing import Literal

import click

from scoring.cli.exit_codes import run_guarded
from scoring.cli.options import json_option, refuse_request_with_options
from suites.common.errors import ExitCode
from suites.contract.comparison import CompareRequest
from suites.contract.encoding import encode_json, read_request
from suites.contract.objectives import Objectives
from suites.contract.stage_summary import StageRequest

CurveAxis = Literal["step", "tokens"]


@click.command()
@click.argument("request_file", required=False, type=click.Path(path_type=Path), metavar="[REQUEST.json]")
@click.option("--baseline", type=click.Path(path_type=Path), help="Results folder of the evaluation to compare with.")
@click.option("--candidate", type=click.Path(path_type=Path), help="Results folder of the evaluation to judge.")
@click.option("--improve", multiple=True, help="Tier (tier2, tier3, tier4), slice or task that should be better. Repeatable.")
@click.option("--hold", multiple=True, help="The same, that must not be worse by more than the default margins. Repeatable.")
@click.option("--items", is_flag=True, help="Also the items and prompts that only one side got right.")
@json_option
def compare(
    request_file: Path | None,
    baseline: Path | None,
    candidate: Path | None,
    *,
    improve: tuple[str, ...],
    hold: tuple[str, ...],
    items: bool,
    as_json: bool,
) -> None:
    """Compare two checkpoints with paired tests and confidence intervals.

    With a REQUEST.json it writes compare.json.
    """
    refuse_request_with_options(request_file, (baseline, candidate, improve, hold, items))
    if request_file is None and not (baseline and candidate):
        raise click.UsageError("give --baseline and --candidate, or a REQUEST.json")

    def run() -> ExitCode:
        from scoring.cli import compare_output  # noqa: PLC0415  numpy and pyarrow
        from scoring.compare import compare  # noqa: PLC0415  numpy and pyarrow

        if request_file is None:
            objectives = Objectives(improve=improve, hold=hold)
            return compare_output.compare_folders(
                Path(str(baseline)), Path(str(candidate)), objectives, as_json=as_json, with_items=items
            )
        document = compare.run_comparison(read_request(request_file, CompareRequest))
        if as_json:
            click.echo(encode_json(document), nl=False)
        return ExitCode.SCORED

    sys.exit(run_guarded(run))


@click.command()
@click.argument("request_file", type=click.Path(path_type=Path), metavar="REQUEST.json")
@json_option
def summarise(request_file: Path, *, as_json: bool) -> None:
    """Write a stage's stage.json: its noise, its signal, and what it forgot."""

    def run() -> ExitCode:
        from scoring.compare.stage_summary import run_stage_summary  # noqa: PLC0415  numpy and pyarrow

        document = run_stage_summary(read_request(request_file, StageRequest))
        if as_json:
            click.echo(encode_json(document), nl=False)
        return ExitCode.SCORED

    sys.exit(run_guarded(run))


@click.command()
@click.option("--results", type=click.Path(path_type=Path), required=True, help="The watcher's results folder.")
@click.option("--stage", "stages", multiple=True, help="Export only this stage. Repeatable.")
@click.option("--tensorboard", type=click.Path(path_type=Path), help="Write TensorBoard event files under this folder.")
@click.option("--wandb", type=click.Path(path_type=Path), help="Write offline runs under this folder, for `wandb sync`.")
@click.option("--axis", type=click.Choice(["step", "tokens"]), default="step", show_default=True, help="The curves' x axis.")
@click.option("--project", default="checkpoint-watcher", show_default=True, help="Project of the W&B runs.")
def export(
    results: Path, *, stages: tuple[str, ...], tensorboard: Path | None, wandb: Path | None, axis: CurveAxis, project: str
) -> None:
    """Write published scores as curves for TensorBoard or W&B.

    Scores that were exported before are skipped. Exits 66 where something damaged was left out.
    """
    if tensorboard is None and wandb is None:
        raise click.UsageError("give --tensorboard DIR or --wandb DIR")

    def run() -> ExitCode:
        from scoring.export import points as curve_points  # noqa: PLC0415  pyarrow
        from scoring.export import tensorboard as tensorboard_export  # noqa: PLC0415  pyarrow
        from scoring.export import wandb as wandb_export  # noqa: PLC0415  pyarrow

        damage: list[str] = []

        def warn(line: str) -> None:
            damage.append(line)
            click.echo(f"scoring: {line}", err=True)

        points = curve_points.collect_points(results.absolute(), stages, warn=warn)
        if tensorboard is not None:
            file_count = tensorboard_export.export_tensorboard(points, tensorboard.absolute(), axis)
            click.echo(f"{file_count} of {len(points)} event files written")
        if wandb is not None:
            click.echo(f"{wandb_export.export_wandb(points, wandb.absolute(), axis, project)} runs written")
        if damage:
            click.echo(f"{len(damage)} damaged files left out")
        return ExitCode.DATA_MISSING if damage else ExitCode.SCORED

    sys.exit(run_guarded(run))


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
def derive(results: Path) -> None:
    """Add to RESULTS what follows from their rows, such as bits per byte.

    Results that have everything stay as they are. Comparisons of changed results are removed, and the watcher makes them again.
    Exits 66 where something cannot be derived.
    """

    def run() -> ExitCode:
        from scoring.job.derive import derive_results, remove_outdated_documents  # noqa: PLC0415  pyarrow

        evaluation_count, refused_count = 0, 0
        changed: list[str] = []
        for derivation in derive_results(results.absolute()):
            evaluation_count += 1
            refused_count += len(derivation.refused)
            if derivation.written:
                changed.append(derivation.evaluation)
                click.echo(f"{derivation.evaluation}: wrote {', '.join(derivation.written)}")
            for line in derivation.refused:
                click.echo(line, err=True)
        if removed := remove_outdated_documents(results.absolute(), changed):
            click.echo(
                f"{len(removed)} comparisons and summaries of the scores of before are removed: "
                "a running watcher makes them again within an hour, else watcher once does"
            )
        click.echo(f"{len(changed)} of {evaluation_count} evaluations changed, {refused_count} figures not derived")
        return ExitCode.DATA_MISSING if refused_count else ExitCode.SCORED

    sys.exit(run_guarded(run))

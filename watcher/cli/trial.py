"""`watcher try`: one checkpoint scored without a config, here or as one job."""

import importlib.util
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from suites.common.errors import UserError
from watcher.cli.options import copy_environment, echo_text, json_option, make_console

if TYPE_CHECKING:
    from watcher.report.data import Report

_DEFAULT_SUITES = ("stage1_ppl_slices", "stage1_cf_core")

_OWN_FOLDER = "watcher_try"


@click.command("try")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--suite", "suites", multiple=True, help=f"Name or file of a suite. Repeatable. Default: {', '.join(_DEFAULT_SUITES)}."
)
@click.option("--quick", is_flag=True, help="256 items a task and 200,000 tokens a slice.")
@click.option("--tokenizer", metavar="PATH_OR_ID", help="Default: the checkpoint's own.")
@click.option("--python", metavar="PATH", help="Interpreter with torch. Default: this one.")
@click.option("--device", help="cpu, cuda or cuda:N. Default: cuda where there is one.")
@click.option("--results", type=click.Path(path_type=Path), default=_OWN_FOLDER, show_default=True, help="Folder of the scores.")
@click.option("--eval-data", type=click.Path(path_type=Path), help="Data cache. Default: $EVAL_DATA_DIR, then RESULTS/eval_data.")
@click.option("--slurm", "by_job", is_flag=True, help="As one job, by srun; data are made here first.")
@click.option("--account", metavar="NAME", help="Slurm's account.")
@click.option("--partition", metavar="NAME", help="Slurm's partition.")
@click.option("--gres", default="gpu:1", show_default=True, help="The job's GPUs; none: no GPU.")
@click.option("--cpus", type=click.IntRange(min=1), default=8, show_default=True, help="The job's CPUs.")
@click.option("--time", "time_limit", default="04:00:00", show_default=True, help="The job's time.")
@json_option
def try_checkpoint(
    checkpoint: Path,
    *,
    suites: tuple[str, ...],
    quick: bool,
    tokenizer: str | None,
    python: str | None,
    device: str | None,
    results: Path,
    eval_data: Path | None,
    by_job: bool,
    account: str | None,
    partition: str | None,
    gres: str,
    cpus: int,
    time_limit: str,
    as_json: bool,
) -> None:
    """Score CHECKPOINT, a folder of one step, and show its table. Needs no config.

    What was scored before is kept: the same command goes on where an earlier one ended. Exits as `python -m scoring score` does.
    """
    from suites.checkpoint.layout import CHECKPOINT_FOLDER_NAMES  # noqa: PLC0415
    from suites.contract.paths import DataPaths  # noqa: PLC0415
    from suites.definitions.data_cache import list_prefill_arguments  # noqa: PLC0415
    from suites.definitions.quick_suites import name_quick_suite  # noqa: PLC0415
    from suites.definitions.suite import load_suite  # noqa: PLC0415
    from watcher.config.run_folders import sanitize_stage_name  # noqa: PLC0415

    environ = copy_environment()
    folder = checkpoint.expanduser().absolute()
    if not folder.is_dir():
        raise UserError(
            "no such folder", location=folder, hint="give the folder of one step, which holds its config.yaml or config.json"
        )
    if not by_job and (account or partition):
        raise UserError("need --slurm", location="--account, --partition", hint="add it, or leave them out")
    chosen = [name_quick_suite(suite) if quick else suite for suite in suites or _DEFAULT_SUITES]
    for suite in chosen:  # a mistake is one line here, before any library is imported
        load_suite(suite, environ)
    interpreter = python or _find_own_python()
    # A quick look and a whole one have other scores, and neither replaces the other.
    own_results = results.expanduser().absolute() / ("quick" if quick else "whole")
    cache = (eval_data or Path(environ.get("EVAL_DATA_DIR") or results / "eval_data")).expanduser().absolute()
    named = folder.parent.parent if folder.parent.name in CHECKPOINT_FOLDER_NAMES else folder.parent
    stage = sanitize_stage_name(named.name)
    arguments = [interpreter, "-P", "-m", "scoring", "score", "--checkpoint", str(folder), "--stage", stage]
    arguments += [argument for suite in chosen for argument in ("--suite", suite)]
    arguments += ["--results", str(own_results), "--eval-data", str(cache)]
    arguments += ["--tokenizer", tokenizer] if tokenizer else []
    arguments += ["--device", device] if device else []
    if not suites:
        echo_text(f"Suites: {', '.join(chosen)}; --suite names others", err=True)
    if by_job:
        found = tokenizer or _read_tokenizer(folder)
        _run_or_exit(list_prefill_arguments(interpreter, chosen, DataPaths(cache), found), as_json=as_json)
        options = [f"--account={account}"] * bool(account) + [f"--partition={partition}"] * bool(partition)
        options += [f"--gres={gres}"] * (gres != "none") + [f"--cpus-per-task={cpus}", f"--time={time_limit}"]
        arguments = ["srun", "--job-name=watcher-try", "--ntasks=1", *options, *arguments, "--offline"]
    _run_or_exit(arguments, as_json=as_json)
    _print_scores(_read_report(own_results, stage, folder), as_json=as_json)


def _find_own_python() -> str:
    if importlib.util.find_spec("torch") is None:
        raise UserError("has no torch, which scores", location=sys.executable, hint="give --python PATH of one that has")
    return sys.executable


def _read_tokenizer(folder: Path) -> str:
    """The tokenizer that the checkpoint names. UserError where it names none."""
    from suites.checkpoint.completeness import inspect_checkpoint  # noqa: PLC0415

    inspection = inspect_checkpoint(folder, now=time.time(), settle_seconds=0.0, forced=True)
    if inspection.tokenizer is None:
        raise UserError("names no tokenizer", location=folder, hint="give --tokenizer")
    return inspection.tokenizer


def _run_or_exit(arguments: list[str], *, as_json: bool) -> None:
    """Run a child that writes to this terminal; exit as it does where it fails."""
    from suites.common.python_path import drop_other_packages  # noqa: PLC0415

    echo_text(shlex.join(arguments), err=True)
    output = subprocess.DEVNULL if as_json else None  # the document stands alone on standard output
    process = subprocess.run(arguments, env=drop_other_packages(copy_environment()), stdout=output, check=False)
    if process.returncode:
        sys.exit(process.returncode if process.returncode > 0 else 128 - process.returncode)


def _read_report(results: Path, stage: str, folder: Path) -> "Report":
    """The report of that one checkpoint."""
    import msgspec  # noqa: PLC0415

    from watcher.config.settings import Config, Stage  # noqa: PLC0415
    from watcher.journal.replay import JournalState  # noqa: PLC0415
    from watcher.report.data import build_report  # noqa: PLC0415
    from watcher.status.health import check_liveness  # noqa: PLC0415

    only_stage = Stage(name=stage, checkpoints=folder.parent, results=results)
    config = Config(
        source="watcher try",
        scratch=results,
        results=results,
        eval_data=results,
        state=results / ".watcher",
        stages={stage: only_stage},
    )
    now = time.time()
    report = build_report(config, JournalState(), check_liveness(config.paths, now), now)
    (stage_report,) = report.stages
    own = tuple(evaluation for evaluation in stage_report.evaluations if evaluation.checkpoint == str(folder))
    return msgspec.structs.replace(report, stages=(msgspec.structs.replace(stage_report, evaluations=own),))


def _print_scores(report: "Report", *, as_json: bool) -> None:
    if as_json:
        from watcher.report.tables import render_json  # noqa: PLC0415

        click.echo(render_json(report))
        return
    from watcher.report.terminal import print_evaluation  # noqa: PLC0415

    (stage,) = report.stages
    for evaluation in stage.evaluations:
        print_evaluation(evaluation, stage, make_console())
        echo_text(f"Scores: {Path(evaluation.results) / 'by_checkpoint' / evaluation.directory}")

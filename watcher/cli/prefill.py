"""`watcher prefill`: fills the data cache, locally or by a job."""

import secrets
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from suites.common.errors import ExitCode, UserError
from watcher.cli.options import config_option, copy_environment, get_stage
from watcher.config.settings import Config, Reference, Stage


@click.command()
@click.argument("target", required=False, metavar="[STAGE|reference:NAME]")
@click.option("--refresh", is_flag=True, help="Rebuild existing entries from the current data sets.")
@click.option("--tokenizer", metavar="PATH", help="Tokenizer, where neither config nor checkpoint names one.")
@click.option("--jobs", type=click.IntRange(min=1), help="Entries built at once. Default: up to four.")
@config_option
def prefill(target: str | None, *, refresh: bool, tokenizer: str | None, jobs: int | None, config: Path | None) -> None:
    """Download and tokenize the data of STAGE (default: all stages and references) into the cache. Needs a network.

    Of reference:NAME it also fetches the model, where that is one of the hub.

    It runs as a process of this terminal, or as a job with `prefill: {where: job, partition: NAME}` in the config.
    Finished entries are kept, so a second run builds only missing ones.
    """
    from suites.common.python_path import drop_other_packages  # noqa: PLC0415
    from watcher.config.loader import load_config  # noqa: PLC0415

    loaded = load_config(config, copy_environment())
    references = {reference.source: reference for reference in loaded.references.values()}
    targets = [*loaded.stages, *references] if target is None else [target]
    fills = {
        name: _plan_reference(references[name], loaded)
        if name in references
        else _plan_stage(get_stage(name, loaded), loaded, tokenizer)
        for name in targets
    }
    if loaded.prefill.get("where") == "job":
        if refresh or jobs is not None:
            hint = "omit both, or set prefill: {where: login} and run it where there is a network"
            raise UserError("a prefill job accepts neither", location="--refresh, --jobs", hint=hint)
        exit_codes = [_submit_prefill_job(name, fill, loaded) for name, fill in fills.items()]
    else:
        exit_codes = []  # a stage that fails does not keep the others from being filled
        for name, fill in fills.items():
            argv = build_prefill_argv(fill, loaded, refresh=refresh, jobs=jobs)
            click.echo(f"{name}: {shlex.join(argv)}", err=True)
            exit_codes.append(subprocess.run(argv, env=drop_other_packages(copy_environment()), check=False).returncode)
    sys.exit(next((code for code in exit_codes if code), 0))


class Fill(NamedTuple):
    """What one run of the scorer's prefill fills."""

    suites: tuple[str, ...]
    """Names or files."""
    tokenizer: str
    use_fast: bool
    results: Path
    """Where a job's logs go."""
    reference: Reference | None = None


def _plan_stage(stage: Stage, config: Config, explicit_tokenizer: str | None) -> Fill:
    return Fill(stage.suites, _find_tokenizer(stage, config, explicit_tokenizer), stage.use_fast, stage.root)


def _plan_reference(reference: Reference, config: Config) -> Fill:
    """The suites of all its stages, with its own tokenizer. UserError where it has none."""
    from suites.checkpoint.completeness import inspect_checkpoint  # noqa: PLC0415

    suites = tuple(dict.fromkeys(suite for stage in config.list_reference_stages(reference) for suite in stage.suites))
    tokenizer = reference.checkpoint
    if reference.hub_model is None:
        inspection = inspect_checkpoint(Path(reference.checkpoint), now=time.time(), settle_seconds=0.0, any_step=True)
        if inspection.tokenizer is None:
            hint = "give the folder of a complete model with its tokenizer"
            raise UserError(f"has no tokenizer ({inspection.detail})", location=reference.checkpoint, hint=hint)
        tokenizer = inspection.tokenizer
    return Fill(suites, tokenizer, use_fast=True, results=config.results, reference=reference)


def _find_tokenizer(stage: Stage, config: Config, explicit_tokenizer: str | None) -> str:
    """The stage's tokenizer, as the daemon resolves it. UserError where unknown."""
    from watcher.journal.journal import read_journal  # noqa: PLC0415
    from watcher.observe.stage_plans import StageRequirementsCache  # noqa: PLC0415

    if explicit_tokenizer:
        return explicit_tokenizer
    requirements = StageRequirementsCache(copy_environment()).get_requirements(stage, 0.0)
    tokenizer = requirements.resolve_settings(read_journal(config.paths).stage_settings.get(stage.name)).tokenizer
    tokenizer = tokenizer or _read_first_tokenizer(stage, config)
    if tokenizer is None:
        hint = "give --tokenizer, or set tokenizer or training_config of this stage"
        raise UserError("the tokenizer is unknown before the first checkpoint", location=f"stage {stage.name}", hint=hint)
    return tokenizer


def _read_first_tokenizer(stage: Stage, config: Config) -> str | None:
    """The tokenizer of the stage's lowest complete step, before any tick has read it."""
    from suites.checkpoint.completeness import Completeness, inspect_checkpoint  # noqa: PLC0415
    from suites.checkpoint.layout import list_steps  # noqa: PLC0415
    from watcher.core.clock import touch_clock  # noqa: PLC0415

    try:
        folders = list_steps(stage.checkpoints, stage.layout).steps
    except OSError:
        return None
    try:  # the file server stamped the files, and the login node's clock may differ
        server_now = touch_clock(config.paths.clock_file)
    except OSError:  # no watcher has run here yet, or it is another user's
        server_now = time.time()
    for step, folder in folders.items():
        inspection = inspect_checkpoint(folder, now=server_now, settle_seconds=config.settle, step=step)
        if inspection.kind is Completeness.COMPLETE:
            return inspection.tokenizer
    return None


def build_prefill_argv(fill: Fill, config: Config, *, refresh: bool, jobs: int | None) -> list[str]:
    """The command that fills the cache for a stage or a reference."""
    from suites.contract.paths import DataPaths  # noqa: PLC0415
    from suites.definitions.data_cache import list_prefill_arguments  # noqa: PLC0415

    data, model = DataPaths(config.eval_data), None if fill.reference is None else fill.reference.hub_model
    argv = list_prefill_arguments(config.python, fill.suites, data, fill.tokenizer, use_fast=fill.use_fast, model=model)
    argv += ["--jobs", str(jobs)] if jobs is not None else []
    return [*argv, "--refresh"] if refresh else argv


def _submit_prefill_job(target: str, fill: Fill, config: Config) -> int:
    """Submit and release a prefill job; return 0. UserError on a failure.

    No daemon follows it: its log and the cache show its outcome.
    """
    from suites.definitions.suite import load_suite  # noqa: PLC0415
    from watcher.actions.submission import prepare_prefill_attempt  # noqa: PLC0415
    from watcher.core.executor import ExecutorUnreachable, Job, JobState, SubmitKind  # noqa: PLC0415
    from watcher.core.resources import build_prefill_settings, resolve_resources  # noqa: PLC0415
    from watcher.daemon.setup import make_executor  # noqa: PLC0415
    from watcher.reconcile.prefill_job import build_prefill_request, build_reference_prefill_request  # noqa: PLC0415

    suites = tuple(load_suite(name, copy_environment()).to_request() for name in fill.suites)
    scoring_request = (
        build_prefill_request(config.stages[target], suites, fill.tokenizer, config)
        if fill.reference is None
        else build_reference_prefill_request(fill.reference, suites, fill.tokenizer, config)
    )
    run_id = f"prefill-{target.replace(':', '_')}-{secrets.token_hex(4)}"
    scoring_request = msgspec.structs.replace(scoring_request, run_id=run_id)
    attempt_paths, executor = config.paths.manual_prefill(run_id), make_executor(config, copy_environment())
    resources = resolve_resources(build_prefill_settings(config), {})
    try:
        submission = prepare_prefill_attempt(scoring_request, attempt_paths, config, "watcher prefill", resources)
    except OSError as error:
        unwritable = error.filename or attempt_paths.folder
        raise UserError(f"cannot be written ({error.strerror})", location=unwritable, hint="make it writable") from error
    outcome = executor.submit(submission)
    message, location = " ".join(outcome.message.split()), target if fill.reference else f"stage {target}"
    if outcome.kind is SubmitKind.REFUSED:
        raise UserError(f"sbatch refused the job: {message}", location=location, hint="fix prefill: or slurm: in the config")
    if outcome.job_id is None:  # after an ambiguous answer the job may exist: a second one would do the same work
        is_certain = outcome.kind is SubmitKind.LATER
        hint = "try again later" if is_certain else f"search the queue for {run_id} before trying again"
        raise UserError(f"not submitted: {message}", location=location, hint=hint, code=ExitCode.TEMPORARY)
    try:
        executor.release(Job(job_id=outcome.job_id, name=run_id, state=JobState.HELD, raw_state="HELD"))
    except ExecutorUnreachable as error:
        hint = f"run scontrol release {outcome.job_id}"
        raise UserError(f"job {outcome.job_id} is held: {error}", location=location, hint=hint) from error
    log_path = submission.stderr.with_name(submission.stderr.name.replace("%j", outcome.job_id))
    click.echo(f"{target}: job {outcome.job_id} ({run_id}) fills the cache; log: {log_path}")
    return 0

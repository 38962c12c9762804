"""`watcher prefill`: fill the data cache for the stages' suites, by a child or a job that has what the watcher lacks."""

import secrets
import subprocess
import sys
from pathlib import Path

import click
import msgspec

from suites.common.errors import Exit, Problem
from watcher.cli.options import config_option, environment, stage_named
from watcher.config.settings import Config, Stage


@click.command()
@click.argument("stage", required=False)
@click.option("--refresh", is_flag=True, help="Build also what is there anew, from the data sets as they are now.")
@click.option("--tokenizer", metavar="PATH", help="Where neither the config nor a training config or checkpoint says which.")
@click.option("--jobs", type=click.IntRange(min=1), help="Entries made at once; by default up to four.")
@config_option
def prefill(stage: str | None, *, refresh: bool, tokenizer: str | None, jobs: int | None, config: Path | None) -> None:
    """Make the data of STAGE's suites (of all stages) where there is a network; jobs then find it in the cache.

    Here, as a process of this terminal; with `prefill: {where: job, partition: NAME}` in the config, as a job there.
    Finished entries are kept: started again, it goes on with the missing ones.
    """
    from watcher.config.loader import load  # noqa: PLC0415

    loaded = load(config, environment())
    stages = [stage_named(stage, loaded)] if stage is not None else list(loaded.stages.values())
    named = {each.name: _tokenizer(each, loaded, tokenizer) for each in stages}
    if loaded.prefill.get("where") == "job":
        if refresh or jobs is not None:
            todo = "leave it out, or set prefill: {where: login} and run it where there is a network"
            raise Problem("a prefill job takes neither", where="--refresh, --jobs", todo=todo)
        codes = [_as_a_job(each, named[each.name], loaded) for each in stages]
    else:
        codes = []
        for each in stages:
            argv = command(each, loaded, tokenizer=named[each.name], refresh=refresh, jobs=jobs)
            click.echo(f"{each.name}: {' '.join(argv)}", err=True)
            codes.append(subprocess.run(argv, check=False).returncode)
    sys.exit(next((code for code in codes if code), 0))


def _tokenizer(stage: Stage, config: Config, given: str | None) -> str:
    """The stage's, as the daemon would take it. Problem (usage) where nothing says which."""
    from watcher.journal import journal as ledger  # noqa: PLC0415
    from watcher.observe.stage_plans import Plans  # noqa: PLC0415

    named = given or Plans(environment()).look(stage, 0.0).settled(ledger.read(config.paths).facts.get(stage.name)).tokenizer
    if named is None:
        todo = "give --tokenizer, or set tokenizer or training_config of that stage"
        raise Problem("no tokenizer is known before the stage's first checkpoint", where=f"stage {stage.name}", todo=todo)
    return named


def command(stage: Stage, config: Config, *, tokenizer: str, refresh: bool, jobs: int | None) -> list[str]:
    """What fills the cache for a stage."""
    argv = [config.python, "-m", "scoring", "prefill", "--eval-data", str(config.eval_data), "--tokenizer", tokenizer]
    argv += [word for suite in stage.suites for word in ("--suite", suite)]
    argv += ["--slow-tokenizer"] if not stage.use_fast else []
    argv += ["--jobs", str(jobs)] if jobs is not None else []
    return [*argv, "--refresh"] if refresh else argv


def _as_a_job(stage: Stage, tokenizer: str, config: Config) -> int:
    """Submit it; the exit code. No daemon follows such a job: its own cache and its log say what became of it."""
    from suites.definitions.suite import load_suite  # noqa: PLC0415
    from watcher.actions.submission import prepare_prefill  # noqa: PLC0415
    from watcher.core.executor import Job, JobState, SubmitKind, Unreachable  # noqa: PLC0415
    from watcher.core.resources import asked as asked_for  # noqa: PLC0415
    from watcher.core.resources import of_prefill  # noqa: PLC0415
    from watcher.daemon.setup import make_executor  # noqa: PLC0415
    from watcher.reconcile.prefill_job import request  # noqa: PLC0415

    suites = tuple(load_suite(name, environment()).in_request() for name in stage.suites)
    run_id = f"prefill-{stage.name}-{secrets.token_hex(4)}"
    asked = msgspec.structs.replace(request(stage, suites, tokenizer, config), run_id=run_id)
    place, executor = config.paths.by_hand(run_id), make_executor(config, environment())
    try:
        submission = prepare_prefill(asked, place, config, "watcher prefill", asked_for(of_prefill(config), {}))
    except OSError as error:
        todo = "make it writable"
        raise Problem(f"cannot be written ({error.strerror})", where=error.filename or place.folder, todo=todo) from error
    outcome = executor.submit(submission)
    words = " ".join(outcome.message.split())
    if outcome.kind is SubmitKind.REFUSED:
        raise Problem(f"the job was refused: {words}", where=f"stage {stage.name}", todo="mend prefill: or slurm: in the config")
    if outcome.job_id is None:
        sure = "try again later" if outcome.kind is SubmitKind.LATER else f"look for {run_id} in the queue before trying again"
        raise Problem(f"not submitted: {words}", where=f"stage {stage.name}", todo=sure, code=Exit.TEMPORARY)
    try:
        executor.release(Job(job_id=outcome.job_id, name=run_id, state=JobState.HELD, word="HELD"))
    except Unreachable as error:
        todo = f"release it: scontrol release {outcome.job_id}"
        raise Problem(f"job {outcome.job_id} is held: {error}", where=f"stage {stage.name}", todo=todo) from error
    log = str(submission.stderr).replace("%j", outcome.job_id)
    click.echo(f"{stage.name}: job {outcome.job_id} ({run_id}) fills the cache; its log: {log}")
    return 0

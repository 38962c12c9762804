"""``python -m scoring``: score a checkpoint, fill the data cache.

What needs torch is imported where it is used, after the environment says whether the network may be asked.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec
import structlog

from scoring.cli.cache import cache
from scoring.cli.exit_codes import run_guarded
from scoring.cli.results import compare, export
from scoring.cli.score_options import ScoreOptions, request_from_options
from scoring.runtime.log_setup import warn_if_unwatched
from scoring.runtime.network_namespace import NETWORK_CUT_OFF, run_in_empty_network
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import ScoringRequest, read_scoring_request
from suites.definitions.suite import load_suite

OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Score nanotron checkpoints: perplexity slices, cloze tasks and instruction probes."""


@main.command()
@click.argument("request_file", required=False, type=click.Path(path_type=Path), metavar="[REQUEST.json]")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The step's folder.")
@click.option("--suite", "suites", multiple=True, help="A suite's name or file; may be repeated.")
@click.option("--results", type=click.Path(path_type=Path), help="Where results go.")
@click.option("--eval-data", type=click.Path(path_type=Path), help="The data cache.")
@click.option("--tokenizer", help="Folder or id; by default the one in the checkpoint's config.yaml.")
@click.option("--slow-tokenizer", is_flag=True, help="The tokenizer's slow implementation where there is one.")
@click.option("--seq-len", type=click.IntRange(min=1), help="By default the one in the checkpoint's config.yaml.")
@click.option("--stage", help="The folder under --results; by default that of the checkpoint.")
@click.option("--name", help="The folder of this evaluation; by default step_<STEP>.")
@click.option("--device", help="cpu, cuda or cuda:N.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="float32 on a CPU, bfloat16 on CUDA.")
@click.option("--padded-vocab", type=click.Choice(["in_softmax", "masked"]), default="in_softmax", show_default=True)
@click.option("--backend", type=click.Choice(["direct", "nanotron", "command"]), default="direct", show_default=True)
@click.option("--command", help="Of backend command: a line for bash; by default $LIGHTEVAL_CMD.")
@click.option("--export", "exports", multiple=True, type=click.Choice(["lm-eval"]), help="Write results in another form, too.")
@click.option("--offline", is_flag=True, help="Ask no network: data and tokenizer come from the cache.")
@click.option("--processes", type=click.IntRange(min=1), default=1, help="On a CPU: how many share the work. GPUs get one each.")
def score(request_file: Path | None, processes: int, **options: Any) -> None:
    """Score one checkpoint: by a REQUEST.json, or by hand."""
    given_options = {name: value for name, value in options.items() if value not in (None, (), False)}
    options_set_by_default = {"padded_vocab", "backend"}
    if request_file is not None and set(given_options) - options_set_by_default:
        raise click.UsageError("give a REQUEST.json or options, not both: everything is in the request")
    missing_options = [
        f"--{name.replace('_', '-')}" for name in ("checkpoint", "suites", "results", "eval_data") if name not in given_options
    ]
    if request_file is None and missing_options:
        raise click.UsageError(f"give a REQUEST.json, or also {', '.join(missing_options).replace('--suites', '--suite')}")

    if "command" in given_options and given_options.get("backend") != "command":
        raise click.UsageError("--command is for --backend command")

    def run() -> ExitCode:
        request = (
            read_scoring_request(request_file) if request_file else request_from_options(ScoreOptions(**options), os.environ)
        )
        return score_request(request, processes=processes)

    sys.exit(run_guarded(run, attempt=None if request_file is None else request_file.absolute().parent))


@main.command(hidden=True)
@click.argument("number", type=int)
def work(number: int) -> None:
    """One of several processes that ``score`` starts: the request comes on stdin."""
    sys.exit(run_guarded(lambda: score_request(msgspec.json.decode(sys.stdin.buffer.read(), type=ScoringRequest), worker=number)))


def score_request(request: ScoringRequest, *, processes: int = 1, worker: int | None = None) -> ExitCode:
    """Score one request and write its run.json. Problems are told there and on stderr."""
    if request.offline:
        os.environ.update(dict.fromkeys(OFFLINE_VARIABLES, "1"))
    from scoring.runtime.stop import StopRequest  # noqa: PLC0415  light, and signals should be heard while the rest is imported

    stop = StopRequest() if worker is None else StopRequest(parent_pid=os.getppid())
    stop.listen()
    import_seconds = time.monotonic()
    import torch  # noqa: F401, PLC0415  by itself first: most of the time until the first batch

    import_seconds = time.monotonic() - import_seconds
    from scoring.job import job as job_module  # noqa: PLC0415  torch, and libraries that read the environment when they are imported

    job = job_module.ScoringJob(request, environ=os.environ, stop=stop, processes=processes, worker=worker)
    job.timings["import_torch"] = round(import_seconds, 3)
    try:
        job.score()
    except UserError as problem:
        job_module.publish_report(job, job.build_report(problem.code, problem))
        raise
    except KeyboardInterrupt:
        interruption = UserError("interrupted", location=request.evaluation, hint="start it again: finished parts are kept")
        job_module.publish_report(job, job.build_report(ExitCode.TEMPORARY, interruption))
        raise
    except Exception as error:
        job_module.publish_report(job, job.build_report(ExitCode.BUG, None, bug=f"a bug: {type(error).__name__}: {error}"))
        raise
    job_module.publish_report(job, job.build_report(ExitCode.SCORED, None))
    if worker is not None:
        return ExitCode.SCORED
    warn_if_unwatched(request)
    structlog.get_logger().info("scored", evaluation=request.evaluation, folder=str(request.paths.folder))
    return ExitCode.SCORED


@main.command()
@click.option("--request", "request_file", type=click.Path(path_type=Path), help="Everything that this REQUEST.json needs.")
@click.option("--suite", "suites", multiple=True, help="A suite's name or file; may be repeated.")
@click.option("--eval-data", type=click.Path(path_type=Path), help="The data cache.")
@click.option("--tokenizer", help="Folder or id.")
@click.option("--slow-tokenizer", is_flag=True, help="The tokenizer's slow implementation where there is one.")
@click.option("--jobs", type=click.IntRange(min=1), help="Entries made at once; by default up to four.")
@click.option("--refresh", is_flag=True, help="Build also what is there anew, from the data sets as they are now.")
def prefill(
    request_file: Path | None,
    suites: tuple[str, ...],
    eval_data: Path | None,
    tokenizer: str | None,
    *,
    slow_tokenizer: bool,
    jobs: int | None,
    refresh: bool,
) -> None:
    """Make the data that suites need, so that jobs without a network find it in the cache."""
    if request_file is None and not (suites and eval_data and tokenizer):
        raise click.UsageError("give --request, or --suite, --eval-data and --tokenizer")
    if request_file is not None and (suites or eval_data or tokenizer or slow_tokenizer):
        raise click.UsageError("give --request or the other options, not both: everything is in the request")

    def run() -> ExitCode:
        from scoring.data.prefill import PrefillOptions, fill_data_cache, prefill_request  # noqa: PLC0415  torch

        if request_file is not None:
            return prefill_request(read_scoring_request(request_file), request_file.parent, refresh=refresh, jobs=jobs)
        suites_in_request = tuple(load_suite(suite, os.environ).to_request() for suite in suites)
        options = PrefillOptions(eval_data=str(eval_data), tokenizer=str(tokenizer), use_fast=not slow_tokenizer, refresh=refresh)
        return fill_data_cache(suites_in_request, options, jobs=jobs)

    sys.exit(run_guarded(run))


@main.command()
@click.option("--offline", is_flag=True, help="What a job without a network needs.")
@click.option("--suite", "suites", multiple=True, required=True, help="A suite's name or file; may be repeated.")
@click.option("--eval-data", type=click.Path(path_type=Path), required=True, help="The data cache.")
@click.option("--tokenizer", required=True, help="Folder or id.")
@click.option("--slow-tokenizer", is_flag=True, help="The tokenizer's slow implementation where there is one.")
@click.option("--network", hidden=True, help="How far this process is cut off, said by the one that started it.")
@click.option("--json", "as_json", is_flag=True, help="What was found as JSON.")
def doctor(
    *,
    offline: bool,
    suites: tuple[str, ...],
    eval_data: Path,
    tokenizer: str,
    slow_tokenizer: bool,
    network: str | None,
    as_json: bool,
) -> None:
    """Check that the data of suites are whole in the cache, without a network. Exit 66 where anything is missing."""
    if not offline:
        raise click.UsageError("give --offline: nothing else is checked here")
    os.environ.update(dict.fromkeys(OFFLINE_VARIABLES, "1"))

    def run() -> ExitCode:
        network_state = network
        if network_state is None:
            argv = ["doctor", "--offline", "--eval-data", str(eval_data), "--tokenizer", tokenizer, "--network", NETWORK_CUT_OFF]
            argv += [argument for suite in suites for argument in ("--suite", suite)]
            argv += [argument for argument, needs in (("--slow-tokenizer", slow_tokenizer), ("--json", as_json)) if needs]
            result = run_in_empty_network(argv)
            if isinstance(result, int):
                return ExitCode(result)
            network_state = result
        from scoring.data import offline_check  # noqa: PLC0415  torch

        suites_in_request = tuple(load_suite(suite, os.environ).to_request() for suite in suites)
        needs = offline_check.OfflineCheckRequest(
            suites=suites_in_request, data=DataPaths(eval_data), tokenizer=tokenizer, use_fast=not slow_tokenizer
        )
        return offline_check.report_offline_check(offline_check.check_offline(needs, network_state), as_json=as_json)

    sys.exit(run_guarded(run))


@main.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="The step's folder.")
@click.option("--tokens", type=click.IntRange(min=1), default=1000, show_default=True, help="How many are compared.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON.")
def verify(checkpoint: Path, tokens: int, as_json: bool) -> None:
    """Compare this loader's logits with nanotron's own, on a GPU. Exit 65 where they differ, 69 where that cannot be done."""

    def run() -> ExitCode:
        from scoring.inference import verify as cross_check  # noqa: PLC0415  torch

        difference = cross_check.verify_logits(checkpoint.absolute(), tokens=tokens)
        click.echo(
            json.dumps(cross_check.build_verify_document(checkpoint, difference), indent=2) if as_json else difference.verdict
        )
        return ExitCode.SCORED if difference.agree else ExitCode.CANNOT_SCORE

    sys.exit(run_guarded(run))


for command in (cache, compare, export):
    main.add_command(command)

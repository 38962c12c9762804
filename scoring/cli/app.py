"""``python -m scoring``: the commands score, prefill, doctor and verify.

Modules that need torch are imported in the commands: the environment must first say whether the network may be used.
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
from scoring.cli.options import (
    assume_option,
    eval_data_option,
    json_option,
    parse_assumptions,
    refuse_request_with_options,
    slow_tokenizer_option,
    suite_option,
    tokenizer_option,
)
from scoring.cli.results import compare, derive, export, summarise
from scoring.cli.score_options import ScoreOptions, request_from_options
from scoring.runtime.log_setup import warn_if_unwatched
from scoring.runtime.network_namespace import NETWORK_CUT_OFF, run_in_empty_network
from suites.common.errors import ExitCode
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import ScoringRequest, read_scoring_request
from suites.definitions.suite import load_suite

OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def scoring_cli() -> None:
    """Score Nanotron checkpoints: perplexity slices, cloze tasks and instruction prompts."""


@scoring_cli.command()
@click.argument("request_file", required=False, type=click.Path(path_type=Path), metavar="[REQUEST.json]")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Folder of the checkpoint, named after its step.")
@suite_option
@click.option("--results", type=click.Path(path_type=Path), help="Folder for the results of all stages.")
@eval_data_option
@click.option("--tokenizer", help="Folder or Hub id of the tokenizer; default: the checkpoint's own.")
@slow_tokenizer_option
@click.option("--seq-len", type=click.IntRange(min=1), help="Sequence length; default: the checkpoint's own.")
@click.option("--stage", help="Folder under --results; default: the name of the checkpoint's parent folder.")
@click.option("--name", help="Folder of this evaluation; default: step_<STEP>.")
@click.option("--device", help="cpu, cuda or cuda:N; default: cuda where there is one.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Default: float32 on a CPU, bfloat16 on CUDA.")
@click.option("--padded-vocab", type=click.Choice(["in_softmax", "masked"]), default="in_softmax", show_default=True)
@assume_option
@click.option(
    "--backend", type=click.Choice(["direct", "transformers", "nanotron", "command"]), default="direct", show_default=True
)
@click.option("--command", help="Line for bash that --backend command runs; default: $LIGHTEVAL_CMD.")
@click.option("--export", "exports", multiple=True, type=click.Choice(["lm-eval"]), help="Also write results in this format.")
@click.option("--offline", is_flag=True, help="Use no network: data and tokenizer come from the cache.")
@click.option("--processes", type=click.IntRange(min=1), default=1, help="Processes on a CPU; each GPU always gets one.")
def score(request_file: Path | None, processes: int, **options: Any) -> None:
    """Score one checkpoint, by a REQUEST.json or by options."""
    given = {name for name, value in options.items() if value not in (None, (), False)}
    # These two have defaults, so they are always given.
    refuse_request_with_options(request_file, given - {"padded_vocab", "backend"})
    missing = [option for option in ("checkpoint", "suites", "results", "eval_data") if option not in given]
    if request_file is None and missing:
        names = ", ".join(f"--{option.replace('_', '-')}" for option in missing)
        raise click.UsageError(f"give a REQUEST.json, or also {names.replace('--suites', '--suite')}")
    if "command" in given and options["backend"] != "command":
        raise click.UsageError("--command needs --backend command")

    def run() -> ExitCode:
        request = (
            read_scoring_request(request_file) if request_file else request_from_options(ScoreOptions(**options), os.environ)
        )
        return score_request(request, processes=processes)

    sys.exit(run_guarded(run, attempt=None if request_file is None else request_file.absolute().parent))


@scoring_cli.command(hidden=True)
@click.argument("number", type=int)
def work(number: int) -> None:
    """Score as one of several processes of ``score``.

    The request comes on stdin.
    """
    sys.exit(run_guarded(lambda: score_request(msgspec.json.decode(sys.stdin.buffer.read(), type=ScoringRequest), worker=number)))


def score_request(request: ScoringRequest, *, processes: int = 1, worker: int | None = None) -> ExitCode:
    """Score one request and write its run.json.

    Raises UserError with the exit code.
    """
    # Before the imports: these libraries read the variables once.
    if request.offline:
        os.environ.update(dict.fromkeys(OFFLINE_VARIABLES, "1"))
    from scoring.runtime.stop import StopRequest  # noqa: PLC0415  light: signals are handled while the rest is imported

    stop = StopRequest() if worker is None else StopRequest(parent_pid=os.getppid())
    stop.listen()
    import_started = time.monotonic()
    import torch  # noqa: F401, PLC0415  timed alone: most of the time until the first batch

    import_seconds = time.monotonic() - import_started
    from scoring.job.job import ScoringJob  # noqa: PLC0415  torch, and libraries that read the environment at import

    job = ScoringJob(request, environ=os.environ, stop=stop, processes=processes, worker=worker, import_seconds=import_seconds)
    job.score()
    if worker is None:
        warn_if_unwatched(request)
        structlog.get_logger().info("scored", evaluation=request.evaluation, folder=str(request.paths.folder))
    return ExitCode.SCORED


@scoring_cli.command("prefill")
@click.option("--request", "request_file", type=click.Path(path_type=Path), help="Prefill the data of this REQUEST.json.")
@suite_option
@eval_data_option
@tokenizer_option
@slow_tokenizer_option
@click.option("--model", metavar="OWNER/NAME@REVISION", help="Fetch this model of the hub first, with its tokenizer.")
@click.option("--jobs", type=click.IntRange(min=1), help="Entries built at once; default: up to four.")
@click.option("--refresh", is_flag=True, help="Also rebuild entries that exist, from the current data sets.")
def prefill_data(
    request_file: Path | None,
    suites: tuple[str, ...],
    eval_data: Path | None,
    tokenizer: str | None,
    *,
    slow_tokenizer: bool,
    model: str | None,
    jobs: int | None,
    refresh: bool,
) -> None:
    """Download and tokenize the data of suites into the cache.

    Needs a network, so that jobs need none.
    """
    refuse_request_with_options(request_file, (suites, eval_data, tokenizer, slow_tokenizer, model))
    if request_file is None and not (suites and eval_data and (tokenizer or model)):
        raise click.UsageError("give --request, or --suite, --eval-data, and --tokenizer or --model")

    def run() -> ExitCode:
        from scoring.data.prefill import PrefillOptions, fill_data_cache, prefill_request  # noqa: PLC0415  torch

        if request_file is not None:
            return prefill_request(read_scoring_request(request_file), request_file.parent, refresh=refresh, jobs=jobs)
        suites_in_request = tuple(load_suite(suite, os.environ).to_request() for suite in suites)
        tokenizer_name = tokenizer or str(DataPaths(Path(str(eval_data))).model(str(model)))
        options = PrefillOptions(
            eval_data=str(eval_data),
            tokenizer=tokenizer_name,
            use_fast=not slow_tokenizer,
            refresh=refresh,
            model=model,
        )
        return fill_data_cache(suites_in_request, options, jobs=jobs)

    sys.exit(run_guarded(run))


@scoring_cli.command("doctor")
@click.option("--offline", is_flag=True, help="Check the data of jobs without a network (required).")
@click.option("--suite", "suites", multiple=True, required=True, help="Name or file of a suite. Repeatable.")
@click.option("--eval-data", type=click.Path(path_type=Path), required=True, help="Folder of the data cache.")
@click.option("--tokenizer", required=True, help="Folder or Hub id of the tokenizer.")
@slow_tokenizer_option
@click.option("--network", hidden=True, help="State of the network, from the process that started this one.")
@json_option
def check_offline_jobs(
    *,
    offline: bool,
    suites: tuple[str, ...],
    eval_data: Path,
    tokenizer: str,
    slow_tokenizer: bool,
    network: str | None,
    as_json: bool,
) -> None:
    """Check that the cache has all data of the suites.

    The check runs without a network. Exits 66 where something is missing.
    """
    if not offline:
        raise click.UsageError("give --offline: there is no other check")
    os.environ.update(dict.fromkeys(OFFLINE_VARIABLES, "1"))

    def run() -> ExitCode:
        network_state = network
        if network_state is None:
            # Run this command once more in an empty network namespace; check in this process only where there is none.
            argv = ["doctor", "--offline", "--eval-data", str(eval_data), "--tokenizer", tokenizer, "--network", NETWORK_CUT_OFF]
            argv += [argument for suite in suites for argument in ("--suite", suite)]
            argv += [flag for flag, is_given in (("--slow-tokenizer", slow_tokenizer), ("--json", as_json)) if is_given]
            isolated = run_in_empty_network(argv)
            if isolated.exit_code is not None:
                return ExitCode(isolated.exit_code)
            network_state = isolated.reason
        from scoring.data import offline_check  # noqa: PLC0415  torch

        suites_in_request = tuple(load_suite(suite, os.environ).to_request() for suite in suites)
        needs = offline_check.OfflineCheckRequest(
            suites=suites_in_request, data=DataPaths(eval_data), tokenizer=tokenizer, use_fast=not slow_tokenizer
        )
        return offline_check.report_offline_check(offline_check.check_offline(needs, network_state), as_json=as_json)

    sys.exit(run_guarded(run))


@scoring_cli.command("verify")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoint.")
@click.option("--tokens", type=click.IntRange(min=1), default=1000, show_default=True, help="Number of tokens to compare.")
@assume_option
@json_option
def verify_logits_with_nanotron(checkpoint: Path, tokens: int, assume: tuple[str, ...], as_json: bool) -> None:
    """Compare this loader's logits with nanotron's own, on a GPU.

    Exits 65 where they differ, 69 where nanotron or a GPU is missing.
    """

    def run() -> ExitCode:
        from scoring.inference import verify as cross_check  # noqa: PLC0415  torch

        difference = cross_check.verify_logits(checkpoint.absolute(), tokens=tokens, assume=parse_assumptions(assume))
        document = cross_check.build_verify_document(checkpoint, difference)
        click.echo(json.dumps(document, indent=2) if as_json else difference.verdict)
        return ExitCode.SCORED if difference.agree else ExitCode.CANNOT_SCORE

    sys.exit(run_guarded(run))


for command in (cache, compare, derive, export, summarise):
    scoring_cli.add_command(command)

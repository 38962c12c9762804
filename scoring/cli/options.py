"""Options that several commands share."""

from collections.abc import Iterable
from pathlib import Path

import click

from suites.checkpoint.model_config_reader import ASSUMPTIONS
from suites.common.errors import UserError

suite_option = click.option("--suite", "suites", multiple=True, help="Name or file of a suite. Repeatable.")
tokenizer_option = click.option("--tokenizer", help="Folder or Hub id of the tokenizer.")
slow_tokenizer_option = click.option(
    "--slow-tokenizer", is_flag=True, help="Ids of SentencePiece where there is a tokenizer.model."
)
eval_data_option = click.option("--eval-data", type=click.Path(path_type=Path), help="Folder of the data cache.")
assume_option = click.option(
    "--assume",
    multiple=True,
    metavar="KEY=ignored|applied",
    help="What a key of model_config.json means that is not implemented; only rope_scaling can be applied. Repeatable.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def refuse_request_with_options(request_file: Path | None, options: Iterable[object]) -> None:
    """Raise UsageError where both a REQUEST.json and options are given."""
    if request_file is not None and any(options):
        raise click.UsageError("give a REQUEST.json or options, not both: the request contains all settings")


def parse_assumptions(arguments: Iterable[str]) -> dict[str, str]:
    """Key -> choice of arguments such as ``rope_scaling=applied``. UserError for anything else."""
    assumptions: dict[str, str] = {}
    for argument in arguments:
        key, _, choice = argument.partition("=")
        if not key or choice not in ASSUMPTIONS:
            hint = f"write KEY={' or KEY='.join(ASSUMPTIONS)}"
            raise UserError(f"{argument!r} assumes nothing", location="--assume", hint=hint)
        assumptions[key] = choice
    return assumptions

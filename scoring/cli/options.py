"""Options that several commands share."""

from collections.abc import Iterable
from pathlib import Path

import click

suite_option = click.option("--suite", "suites", multiple=True, help="Name or file of a suite. Repeatable.")
tokenizer_option = click.option("--tokenizer", help="Folder or Hub id of the tokenizer.")
slow_tokenizer_option = click.option("--slow-tokenizer", is_flag=True, help="Use the slow implementation of the tokenizer.")
eval_data_option = click.option("--eval-data", type=click.Path(path_type=Path), help="Folder of the data cache.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def refuse_request_with_options(request_file: Path | None, options: Iterable[object]) -> None:
    """Raise UsageError where both a REQUEST.json and options are given."""
    if request_file is not None and any(options):
        raise click.UsageError("give a REQUEST.json or options, not both: the request contains all settings")

"""The command ``watcher``, and ``python -m watcher``."""

import sys
from pathlib import Path


def main() -> None:
    """Run the command line with the ``suites`` that lies beside this package."""
    # A folder on PYTHONPATH may hold another package of that name; later imports find the one that is loaded.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import suites  # noqa: F401, PLC0415

    del sys.path[0]
    from watcher.cli.app import main as run_command_line  # noqa: PLC0415

    run_command_line(prog_name="watcher")


if __name__ == "__main__":
    main()

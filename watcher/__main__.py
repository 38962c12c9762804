"""``python -m watcher``: the same as the command ``watcher``."""

from watcher.cli.app import main

if __name__ == "__main__":
    main(prog_name="watcher")

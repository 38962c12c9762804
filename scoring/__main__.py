"""``python -m scoring``."""

from scoring.cli.app import scoring_cli

if __name__ == "__main__":
    scoring_cli(prog_name="python -m scoring")

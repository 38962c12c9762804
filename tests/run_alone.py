"""Runs every test file in a process of its own, and each test of a command alone.

    .venv/bin/python tests/run_alone.py [FILE OR FOLDER...] [--jobs N] [--files-only] [--marker "not slow"]

A test that passes because another one imported, wrote or patched something fails here. A test function with parameters is
run with all of them. Prints a line for each failure and a last one with the counts; exit code 1 if anything failed.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

_COMMAND_PATTERN = re.compile(
    r"CliRunner|scoring_cli|watcher\.cli|run_scoring_in_process|make_score_arguments|CommandProcess"
    r'|"-m", "(?:scoring|watcher)"'
)
"""What a file has whose tests run commands."""

NO_TESTS = 5
"""pytest's exit code where the marker leaves none."""


class Ended(NamedTuple):
    """How one run of pytest ended."""

    target: str
    code: int
    seconds: float
    output: str


def find_files(paths: list[Path]) -> list[Path]:
    """The test files below ``paths``."""
    return sorted(
        {file.resolve() for path in paths for file in (path.rglob("test_*.py") if path.is_dir() else [path])},
        key=lambda file: -file.stat().st_size,  # long ones first: none is left over for one worker at the end
    )


def run_pytest(target: str, *options: str) -> Ended:
    """Run pytest in a process of its own."""
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "no:randomly",
        *options,
        target,
    ]
    started = time.monotonic()
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return Ended(target, done.returncode, time.monotonic() - started, done.stdout + done.stderr)


def list_command_tests(file: Path, marker: str) -> Iterator[str]:
    """The test functions of a file whose tests run commands."""
    if _COMMAND_PATTERN.search(file.read_text()):
        collected = run_pytest(str(file), "-m", marker, "--collect-only")
        names = [line.partition("[")[0] for line in collected.output.splitlines() if line.startswith("tests/") and "::" in line]
        yield from dict.fromkeys(names)


def main() -> int:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT / "tests/unit", ROOT / "tests/integration"])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--files-only", action="store_true", help="no test of a command alone")
    parser.add_argument("--marker", default="not slow")
    options = parser.parse_args()
    files = find_files(options.paths)
    with ThreadPoolExecutor(options.jobs) as pool:

        def run_all(targets: list[str]) -> list[Ended]:
            ended = []
            for run in pool.map(lambda target: run_pytest(target, "-m", options.marker), targets):
                ended.append(run)
                if run.code not in (0, NO_TESTS):
                    print(f"FAILED {run.target} ({run.seconds:.0f} s)", *run.output.splitlines()[-12:], sep="\n    ", flush=True)
            return ended

        runs = run_all([str(file.relative_to(ROOT)) for file in files])
        tests: list[str] = []
        if not options.files_only:
            for names in pool.map(lambda file: list(list_command_tests(file, options.marker)), files):
                tests += names
        runs += run_all(tests)
    failed_count = sum(run.code not in (0, NO_TESTS) for run in runs)
    print(f"{len(files)} files, {len(tests)} tests of commands: {failed_count} failed")
    return int(failed_count > 0)


if __name__ == "__main__":
    sys.exit(main())

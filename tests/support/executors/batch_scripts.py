"""Attempt folders for the batch scripts, and a small program that stands in for ``${python}``."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from suites.contract.encoding import encode_json
from suites.contract.exit_record import ExitRecord, read_exit_records
from suites.contract.scoring_request import ScoringRequest, SuiteInRequest
from suites.contract.shipped_files import find_shipped_file

SCORE_SCRIPT, PREFILL_SCRIPT = find_shipped_file("slurm/score.sbatch"), find_shipped_file("slurm/prefill.sbatch")

_STAND_IN = """#!/bin/bash
# Writes down how it was run, writes the expected files, and ends as the FAKE_ variables say.
for request; do :; done
folder=$(dirname -- "$request")
printf '%s\\n' "$@" >"$folder/arguments"
env >"$folder/environment"
echo run >>"$folder/runs"
trap 'echo USR1 >>"$folder/signals"; exit 75' USR1
trap 'trap "" TERM; echo TERM >>"$folder/signals"; [ -n "$FAKE_STUBBORN" ] || exit 75' TERM
if [ -z "$FAKE_FORGETS" ] && [ -e "$folder/expected.txt" ]; then
    while IFS= read -r path; do echo '{}' >"$path"; done <"$folder/expected.txt"
fi
touch "$folder/up"
while [ -n "$FAKE_WAITS" ] && ! [ -e "$folder/go" ]; do sleep 0.02; done
exit "${FAKE_CODE:-0}"
"""


class AttemptFolder(msgspec.Struct, frozen=True):
    """One attempt folder with its request and expected.txt."""

    folder: Path
    expected: tuple[Path, ...]

    @property
    def request(self) -> Path:
        return self.folder / "request.json"

    @property
    def run_count(self) -> int:
        """How often the stand-in was run."""
        path = self.folder / "runs"
        return len(path.read_text().split()) if path.exists() else 0

    @property
    def exit_record(self) -> ExitRecord:
        """The only exit record."""
        (record,) = read_exit_records(self.folder)
        return record

    def claim(self) -> str:
        return (self.folder / "claim").read_text().strip()

    def is_running(self) -> bool:
        """Whether the stand-in is running, its traps set."""
        return (self.folder / "up").exists()

    def let_end(self) -> None:
        """Let a waiting stand-in end."""
        (self.folder / "go").touch()


def write_stand_in(folder: Path) -> Path:
    """The stand-in for ``${python}``, made in ``folder``."""
    path = folder / "python3"
    path.write_text(_STAND_IN)
    path.chmod(0o755)
    return path


def make_attempt(attempts: Path, name: str, python: Path) -> AttemptFolder:
    folder = attempts / name
    folder.mkdir(parents=True)
    expected = (folder / "tier2_ppl.json", folder / "tier3_cf.json")
    suite = SuiteInRequest(name="stage1_ppl", tier="tier2_ppl", digest="0", definition={"python": {"text_field": "text"}})
    request = ScoringRequest(
        run_id=name,
        stage="stage1",
        source_stage="stage1",
        step=2000,
        directory="step_2000",
        checkpoint="/ckpts/2000",
        fingerprint="0",
        suites=(suite,),
        tokenizer="/tok",
        seq_len=64,
        results=str(attempts),
        eval_data=str(attempts),
        python=str(python),
    )
    (folder / "request.json").write_bytes(encode_json(request))
    (folder / "expected.txt").write_text("".join(f"{path}\n" for path in expected))
    return AttemptFolder(folder, expected)


def copy_non_slurm_environment(**extra: str) -> dict[str, str]:
    """Ours without any Slurm job's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | extra


def start_script(attempt: AttemptFolder, *arguments: str, script: Path = SCORE_SCRIPT, **extra: str) -> subprocess.Popen[str]:
    """The script by hand, in a session of its own; its words on stderr."""
    return subprocess.Popen(
        ["bash", str(script), str(attempt.request), *arguments],
        env=copy_non_slurm_environment(**extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_script(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, stderr) of a script; fails after 60 s."""
    _, words = process.communicate(timeout=60)
    return process.returncode, words


def wait_until(condition: Callable[[], bool], description: str, timeout_seconds: float = 60.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_seconds:g} s: {description}"
        time.sleep(0.01)

"""However a command ends, its line is where people and the watcher look for it."""

import pytest

from scoring.cli.exit_codes import run_guarded
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import AttemptPaths
from watcher.observe.attempts import read_failure_reason

pytestmark = pytest.mark.scoring


def ended(folder, error):
    def run():
        raise error

    return run_guarded(run, attempt=folder)


@pytest.mark.parametrize("task", [None, 3])
def test_a_scorer_leaves_its_line_beside_the_claim(tmp_path, monkeypatch, task):
    if task is not None:
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
    problem = UserError("No space left on device", location="/results", hint="make room", code=ExitCode.TEMPORARY)
    place = AttemptPaths(tmp_path / "eval-1")
    place.folder.mkdir()
    assert ended(place.folder, problem) == 75
    assert not place.failure_reason_json(task).exists(), "nobody's attempt: a request that a person wrote"
    place.claim.write_text("slurm:1\n")
    assert ended(place.folder, problem) == 75
    assert read_failure_reason(place.failure_reason_json(task), "eval-1", 75) == "/results: No space left on device; make room"
    assert (
        read_failure_reason(place.failure_reason_json(task), "eval-1", 65)
        == read_failure_reason(place.failure_reason_json(task), "eval-2", 75)
        == ""
    )
    assert ended(place.folder, KeyError("web")) == 70
    assert read_failure_reason(place.failure_reason_json(task), "eval-1", 70) == "KeyError: 'web'"

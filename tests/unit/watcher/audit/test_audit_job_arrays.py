"""What an audit says of job arrays: of the attempt as a whole, not of whichever task's record comes last."""

import msgspec
import pytest

from suites.common.atomic_files import write_atomically
from suites.contract.encoding import encode_json
from suites.contract.exit_record import ExitRecord
from suites.contract.scoring_request import read_scoring_request
from support.runs.watched_run import WatchedRun
from watcher.audit import audit as audit_look
from watcher.config.settings import SlurmSettings
from watcher.core.result_paths import get_evaluation_paths
from watcher.daemon.setup import read_state_id
from watcher.observe.attempts import read_attempt_files

KEY = "stage1/step_100"


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = WatchedRun(tmp_path, monkeypatch, steps=(100,), slurm=SlurmSettings(array=3))
    made.write_checkpoint("stage1", 100)
    made.tick(2, jobs=False)
    yield made
    made.close_daemon()


def leave(watched, *ends):
    """Exit records, each (task, restart, code), of the one attempt that there is."""
    (run,) = watched.run_ids()
    place = watched.config.paths.attempt(run)
    assert read_scoring_request(place.request).tasks == 3
    (place.folder / "claim").write_text("slurm:101\n")
    for task, restart, code in ends:
        about = {"run_id": run, "owner": "slurm:101", "host": "n", "start": 1.0, "end": 2.0}
        write_atomically(
            place.folder / f"exit.{task}.{restart}.json", encode_json(ExitRecord(**about, task=task, restart=restart, code=code))
        )


def find_difference(watched):
    """What the audit says of the evaluation once no job of it is in the queue."""
    watched.executor.jobs.clear()
    config = watched.config
    (finding,) = audit_look.run_audit(
        config, watched.executor, read_state_id(config.state), {}, now=watched.clock(), alive=False
    ).differences
    return finding


OUTCOMES = [
    ([(0, 0, 0), (1, 0, 0), (2, 0, 65)], "its run ended with 0"),  # one task fails, the others did the work
    ([(0, 0, 65), (1, 0, 0), (2, 0, 75)], "its run ended with 0"),
    ([(0, 0, 0), (1, 0, 75), (1, 1, 0), (2, 0, 0)], "its run ended with 0"),  # a task that was requeued
    ([(0, 0, 0), (1, 0, 0), (1, 1, 75), (2, 0, 70)], "its run ended with 0"),
    ([(0, 0, 65), (1, 0, 65), (2, 0, 65)], "its run ended with 65"),
    ([(0, 0, 75), (1, 0, 65), (2, 0, 75)], "its run ended with 75"),
    ([(0, 0, 0), (2, 0, 0)], "2 of 3 tasks left an exit record"),  # one was killed
    ([(1, 0, 75), (1, 1, 0)], "1 of 3 tasks left an exit record"),
    ([], "no end recorded"),
]


@pytest.mark.parametrize(("ends", "outcome"), OUTCOMES)
def test_of_an_attempt_in_flight(watched, ends, outcome):
    leave(watched, *ends)
    finding = find_difference(watched)
    assert finding.observed.endswith(f"; disk: {outcome}, no results")
    assert finding.amendment is None, "the next tick sees it"


@pytest.mark.parametrize(("ends", "outcome"), OUTCOMES)
def test_of_an_attempt_that_the_journal_does_not_know(watched, ends, outcome):
    leave(watched, *ends)
    (run,) = watched.run_ids()
    place = watched.config.paths.attempt(run)
    other = place.folder.with_name("eval-stage1-100-ffffffff")
    place.folder.rename(other)
    write_atomically(
        other / "request.json",
        encode_json(msgspec.structs.replace(read_scoring_request(other / "request.json"), run_id=other.name)),
    )
    config = watched.config
    findings = audit_look.run_audit(
        config, watched.executor, read_state_id(config.state), {}, now=watched.clock(), alive=False
    ).differences
    (finding,) = [each for each in findings if other.name in each.observed]
    run_outcome = outcome.removeprefix("its run ")
    how = run_outcome if run_outcome.startswith("ended") else f"claimed by slurm:101, {run_outcome}"
    assert finding.observed == f"disk: attempt {other.name} {how}"


@pytest.mark.parametrize(("ends", "outcome"), OUTCOMES)
def test_the_daemon_takes_the_same_end_for_the_end(watched, ends, outcome):
    leave(watched, *ends)
    results = get_evaluation_paths(watched.config, watched.journal_state.records[KEY])
    seen = read_attempt_files(watched.config.paths, results, watched.run_ids()[0], 3)
    assert [f"its run ended with {each.code}" for each in seen.exit_records] == [outcome] * outcome.startswith("its run")

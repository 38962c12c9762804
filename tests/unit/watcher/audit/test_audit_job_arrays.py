"""What an audit says of job arrays: of the attempt as a whole, not of whichever task's record comes last."""

import msgspec
import pytest

from suites.common.atomic_files import publish
from suites.contract.encoding import encode
from suites.contract.exit_record import ExitRecord
from suites.contract.scoring_request import read_request
from support.runs.watched_run import Watched
from watcher.audit import audit as audit_look
from watcher.config.settings import Slurm
from watcher.core.result_paths import results_of
from watcher.daemon.setup import known_id
from watcher.observe.attempts import attempt_on_disk

KEY = "stage1/step_100"


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = Watched(tmp_path, monkeypatch, steps=(100,), slurm=Slurm(array=3))
    made.checkpoint("stage1", 100)
    made.tick(2, jobs=False)
    yield made
    if made.daemon is not None:
        made.daemon.close()


def leave(watched, *ends):
    """Exit records, each (task, restart, code), of the one attempt that there is."""
    (run,) = watched.run_ids()
    place = watched.config.paths.attempt(run)
    assert read_request(place.request).tasks == 3
    (place.folder / "claim").write_text("slurm:101\n")
    for task, restart, code in ends:
        about = {"run_id": run, "owner": "slurm:101", "host": "n", "start": 1.0, "end": 2.0}
        publish(place.folder / f"exit.{task}.{restart}.json", encode(ExitRecord(**about, task=task, restart=restart, code=code)))


def told(watched):
    """What the audit says of the evaluation once no job of it is in the queue."""
    watched.executor.jobs.clear()
    config = watched.config
    (finding,) = audit_look.audit(config, watched.executor, known_id(config.state), {}, now=watched.clock(), alive=False).findings
    return finding


OUTCOMES = [
    ([(0, 0, 0), (1, 0, 0), (2, 0, 65)], "its run ended with 0"),  # one task fails, the others did the work
    ([(0, 0, 65), (1, 0, 0), (2, 0, 75)], "its run ended with 0"),
    ([(0, 0, 0), (1, 0, 75), (1, 1, 0), (2, 0, 0)], "its run ended with 0"),  # a task that was requeued
    ([(0, 0, 0), (1, 0, 0), (1, 1, 75), (2, 0, 70)], "its run ended with 0"),
    ([(0, 0, 65), (1, 0, 65), (2, 0, 65)], "its run ended with 65"),
    ([(0, 0, 75), (1, 0, 65), (2, 0, 75)], "its run ended with 75"),
    ([(0, 0, 0), (2, 0, 0)], "2 of its 3 tasks left an end"),  # one was killed
    ([(1, 0, 75), (1, 1, 0)], "1 of its 3 tasks left an end"),
    ([], "no end recorded"),
]


@pytest.mark.parametrize(("ends", "words"), OUTCOMES)
def test_of_an_attempt_in_flight(watched, ends, words):
    leave(watched, *ends)
    finding = told(watched)
    assert finding.truth.endswith(f"; disk: {words}, no results")
    assert finding.amendment is None, "the next tick sees it"


@pytest.mark.parametrize(("ends", "words"), OUTCOMES)
def test_of_an_attempt_that_the_journal_does_not_know(watched, ends, words):
    leave(watched, *ends)
    (run,) = watched.run_ids()
    place = watched.config.paths.attempt(run)
    other = place.folder.with_name("eval-stage1-100-ffffffff")
    place.folder.rename(other)
    publish(other / "request.json", encode(msgspec.structs.replace(read_request(other / "request.json"), run_id=other.name)))
    config = watched.config
    findings = audit_look.audit(config, watched.executor, known_id(config.state), {}, now=watched.clock(), alive=False).findings
    (finding,) = [each for each in findings if other.name in each.truth]
    said = words.removeprefix("its run ")
    how = said if said.startswith("ended") else f"claimed by slurm:101, {said}"
    assert finding.truth == f"disk: attempt {other.name} {how}"


@pytest.mark.parametrize(("ends", "words"), OUTCOMES)
def test_the_daemon_takes_the_same_end_for_the_end(watched, ends, words):
    leave(watched, *ends)
    results = results_of(watched.config, watched.ledger.records[KEY])
    seen = attempt_on_disk(watched.config.paths, results, watched.run_ids()[0], 3)
    assert [f"its run ended with {each.code}" for each in seen.exits] == [words] * words.startswith("its run")

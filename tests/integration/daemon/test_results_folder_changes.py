"""A stage's results folder becomes another while jobs are in flight: nothing is lost or run twice, and one line says so."""

import json
import shutil
from collections import Counter, deque

import pytest

from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import read_scoring_request
from support.runs.watched_run import make_watched_fixture
from watcher.audit.audit import run_audit

KEY = "stage1/step_100"
STEPS = (100, 200, 300)


watched = make_watched_fixture(steps=STEPS)


def say(watched, where, steps=STEPS):
    watched.configure(stage1={"steps": steps, "results": where})


def there(where, step):
    return EvaluationPaths(where / "stage1", f"step_{step}").tier_json("tier2_ppl").exists()


def line(watched):
    found = [note for note in watched.daemon.tick_runner.skips if note.evaluation == "stages.stage1.results"]
    assert len(found) <= 1
    return found[0].reason if found else ""


def runs(watched):
    return Counter(evaluation for evaluation, _ in watched.executor.runs)


def one_scored_and_one_in_flight(watched):
    old, new = watched.root / "results", watched.root / "new"
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(lambda: watched.list_states().get(KEY) == "scored")
    watched.write_checkpoint("stage1", 200)
    watched.tick_until(lambda: watched.list_states()["stage1/step_200"] == "running")
    say(watched, new)
    return old, new


@pytest.mark.parametrize("restarted", [False, True])
def test_a_job_in_flight_publishes_where_it_was_told_to_and_is_scored_by_that(watched, restarted):
    old, new = one_scored_and_one_in_flight(watched)
    if restarted:
        watched.daemon.close()
        watched.start_daemon()
    watched.write_checkpoint("stage1", 300)
    watched.tick_until(watched.are_all_scored)
    assert runs(watched) == {f"stage1/step_{step}": 1 for step in STEPS}
    assert [there(old, step) for step in STEPS] == [True, True, False]
    assert [there(new, step) for step in STEPS] == [False, False, True]
    watched.tick(3, seconds=3700.0)
    assert watched.are_all_scored(), "what lies in the folder of before is not lost"
    words = (
        f"is {new}/stage1, but results of 2 evaluations are or will be in {old}/stage1; comparisons read {new}/stage1 only. Move"
    )
    assert line(watched).startswith(words)
    status = json.loads(watched.config.paths.status_json.read_text())
    assert sum(warning.startswith("stages.stage1.results: ") for warning in status["warnings"]) == 1


def test_results_that_are_moved_along_are_found_there_and_the_line_goes(watched):
    old, new = one_scored_and_one_in_flight(watched)
    watched.tick_until(lambda: watched.list_states()["stage1/step_200"] == "scored")
    assert line(watched)
    new.mkdir(exist_ok=True)
    (old / "stage1").rename(new / "stage1")
    watched.tick(2)
    assert Counter(watched.list_states().values()) == {"scored": 2, "waiting": 1}
    assert line(watched) == ""
    assert {record.results for record in watched.journal_state.records.values() if record.results} == {str(new / "stage1")}
    watched.daemon.close()
    watched.start_daemon()
    watched.tick(2, seconds=3700.0)
    assert line(watched) == ""
    assert runs(watched) == {KEY: 1, "stage1/step_200": 1}


def test_a_folder_that_is_put_back_leaves_no_trace(watched):
    old, _ = one_scored_and_one_in_flight(watched)
    watched.tick(2)
    before = watched.journal_state.records[KEY]
    say(watched, old)
    watched.tick(3, seconds=3700.0)
    assert (line(watched), watched.journal_state.records[KEY]) == ("", before)
    assert runs(watched) == {KEY: 1, "stage1/step_200": 1}


def test_a_job_that_fails_there_is_tried_again_into_the_new_folder(watched):
    watched.executor.endings["stage1/step_200"] = deque([70])
    old, new = one_scored_and_one_in_flight(watched)
    watched.tick_until(lambda: watched.list_states()["stage1/step_200"] == "scored")
    requests = [read_scoring_request(watched.config.paths.attempt(run).request) for run in watched.run_ids()]
    assert Counter(request.results for request in requests if request.step == 200) == {
        str(old / "stage1"): 1,
        str(new / "stage1"): 1,
    }
    assert there(new, 200)
    assert "results of 1 evaluation are or will be in" in line(watched)


def test_results_that_are_gone_from_the_folder_of_before_are_lost_and_come_back(watched):
    old, _ = one_scored_and_one_in_flight(watched)
    watched.tick_until(lambda: watched.list_states()["stage1/step_200"] == "scored")
    aside = watched.root / "aside"
    (old / "stage1" / "by_checkpoint" / "step_100").rename(aside)
    watched.tick(2, seconds=3700.0)
    assert watched.list_states()[KEY] == "lost"
    assert str(old) in watched.journal_state.records[KEY].reason
    aside.rename(old / "stage1" / "by_checkpoint" / "step_100")
    watched.tick(2, seconds=3700.0)
    assert watched.list_states()[KEY] == "scored"


def test_a_folder_of_before_that_is_away_tells_nothing(watched):
    old = watched.root / "first"
    say(watched, old)
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(lambda: watched.list_states().get(KEY) == "scored")
    say(watched, watched.root / "second")
    old.rename(watched.root / "away")
    watched.tick(3, seconds=3700.0)
    assert watched.list_states()[KEY] == "scored"
    assert f"{old} is missing (unmounted?); the state of 1 result of stage1 is unknown" in watched.daemon.tick_runner.warnings


def test_an_audit_looks_where_the_results_are(watched):
    old, new = one_scored_and_one_in_flight(watched)
    watched.tick_until(lambda: watched.list_states()["stage1/step_200"] == "scored")
    found = run_audit(watched.config, watched.executor, "x", {}, now=watched.clock(), alive=False).differences
    assert [finding for finding in found if finding.key.startswith("stage1/step_")] == []
    shutil.copytree(old / "stage1", new / "stage1")
    watched.tick(2)
    assert watched.journal_state.records[KEY].results == str(new / "stage1")


def test_what_is_scored_anew_is_scored_into_the_new_folder(watched):
    old, new = one_scored_and_one_in_flight(watched)
    watched.tick_until(lambda: watched.list_states()["stage1/step_200"] == "scored")
    watched.write_checkpoint("stage1", 100, seed=1)
    watched.tick_until(lambda: runs(watched)[KEY] == 2 and watched.list_states()[KEY] == "scored")
    assert there(old, 100)
    assert there(new, 100)
    assert watched.journal_state.records[KEY].results == str(new / "stage1")

"""What the queue's answer means: empty beside a complaint, and wrappers that add lines to every command."""

import pytest

from support.fakes.slurm_daemon import FakeSlurmRun
from support.runs.watched_run import WatchedRun, make_watched_fixture
from watcher.core.executor import AnswerDoubtful

KEY = "stage1/step_100"
LINE = "squeue: error: the site says something new"

watched = make_watched_fixture(steps=(100,), checkpoints=(100,))

WRAPPER = """\
echo "CLUSTER: lab"
echo "*** Maintenance on Monday: 07:00 | all partitions ***"
echo "$(basename "$0"): error: Ignoring ControlMachine since SlurmctldHost is set." >&2
exec "$real" "$@"
"""


def doubt_empty_answers(watched, monkeypatch, hidden):
    """An answer without a record comes beside a complaint; jobs that ``hidden`` tells are in no record."""
    real = watched.executor.query_queue

    def query():
        jobs = {name: job for name, job in real().items() if not hidden()}
        if not jobs:
            raise AnswerDoubtful(LINE)
        return jobs

    monkeypatch.setattr(watched.executor, "query_queue", query)


def test_an_unknown_complaint_beside_an_empty_queue_stops_nothing_and_is_said(watched, monkeypatch):
    doubt_empty_answers(watched, monkeypatch, lambda: False)
    watched.tick()
    assert [note for note in watched.daemon.tick_runner.warnings if LINE in note] != []
    watched.tick_until(watched.are_all_scored)
    assert watched.executor.calls["submit"] == 1


def test_an_unknown_complaint_hides_no_job_in_flight(watched, monkeypatch):
    watched.executor.accounting = False
    away = []
    doubt_empty_answers(watched, monkeypatch, lambda: bool(away))
    watched.tick(2, jobs=False)
    away.append(True)
    watched.tick(30, jobs=False)
    assert watched.list_states()[KEY] == "queued"
    assert watched.list_reasons()[KEY] == f"queued: the queue is unreachable: {LINE}"
    away.clear()
    watched.tick_until(watched.are_all_scored)
    assert watched.executor.calls["submit"] == 1


def test_a_queue_that_listed_a_job_of_ours_is_doubted_once(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100, 200))
    watched.write_checkpoint("stage1", 100)
    hidden = []
    doubt_empty_answers(watched, monkeypatch, lambda: bool(hidden))
    watched.tick_until(lambda: watched.list_states()[KEY] == "scored")
    watched.write_checkpoint("stage1", 200)
    hidden.append(True)
    watched.tick(jobs=False)
    assert watched.executor.calls["submit"] == 1, "the queue listed the first job at the poll before"
    watched.tick(jobs=False)
    assert watched.executor.calls["submit"] == 2
    watched.close_daemon()


@pytest.mark.parametrize("accounting", [True, False])
def test_headings_banners_and_warnings_of_a_wrapper_neither_hide_jobs_nor_stop_the_watcher(tmp_path, accounting):
    run = FakeSlurmRun(tmp_path / "run", steps={"base": [100, 200]})
    with run.fake.state() as state:
        state["accounting"] = accounting
    run.put_before_slurm(WRAPPER, "squeue", "sacct", "sinfo", "scontrol", "scancel")
    for step in (100, 200):
        run.write_checkpoint("base", step)
    daemon = run.start_another_daemon()
    run.wait_until(lambda: len(run.read_states()) == 2 and run.is_settled())
    assert run.end_daemon(daemon) == 0
    assert run.count_scoring_runs() == {"base/step_100": 1, "base/step_200": 1}

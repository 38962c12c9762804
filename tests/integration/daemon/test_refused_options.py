"""Refusals in a site's own words: shown at once, and after three equal ones the options are blocked, not the evaluations."""

import signal
from collections import Counter, deque

import msgspec
import pytest
import yaml

from support.fakes.slurm_daemon import FakeSlurmRun
from support.faults.kill_points import KillPoint, tick_until_settled
from support.runs.watched_run import WatchedRun, make_watched_fixture
from watcher.config.settings import SlurmSettings
from watcher.core.executor import ExecutorUnreachable, JobState
from watcher.status.document import DaemonFacts, build_status

WORDS = "sbatch: error: This cluster wants a project: add --account=PROJECT"
STEPS = (100, 200, 300, 400, 500)

watched = make_watched_fixture(steps=STEPS, checkpoints=STEPS)


WANTS_A_PROJECT = """\
echo "$@" >>"$(dirname "$0")/calls"
[[ " $* " == *" --account=lab "* ]] && exec "$real" "$@"
echo "sbatch: error: This cluster wants a project: add --account=PROJECT" >&2
echo "sbatch: error: Batch job submission failed: Unspecified error" >&2
exit 1
"""


def refuse(watched, words=WORDS, count=1000):
    watched.executor.submissions = deque([f"says {words}"] * count)


def tell(watched):
    """All that status says, as one text."""
    document = build_status(
        records=watched.journal_state.records,
        skips=watched.daemon.tick_runner.skips,
        queue=watched.daemon.tick_runner.queue,
        config=watched.config,
        now=watched.clock(),
        daemon=DaemonFacts(host="h", pid=1, epoch=1, started_at=0, version="0", poll_seconds=60),
    )
    return str(document)


def submit_until_blocked(watched):
    watched.tick_until(lambda: any(skip.evaluation == "slurm" for skip in watched.daemon.tick_runner.skips), max_ticks=30)


def test_the_words_are_in_status_at_once(watched):
    refuse(watched)
    watched.tick()
    assert WORDS in tell(watched)
    for _ in range(20):
        watched.tick()
        assert WORDS in tell(watched)


def test_three_equal_answers_block_the_options_and_not_the_evaluations(watched):
    refuse(watched)
    submit_until_blocked(watched)
    assert watched.executor.calls["submit"] == 3
    assert set(watched.list_states().values()) <= {"ready", "waiting"}
    watched.tick(30)
    assert watched.executor.calls["submit"] == 3
    assert "blocked" not in watched.list_states().values()
    assert tell(watched).count("options blocked: sbatch refused ") >= len(STEPS)
    assert [alert.message.count(WORDS) for alert in watched.daemon.tick_runner.alerts if alert.id.startswith("refused ")] == [1]
    assert not watched.executor.live()


def test_one_is_tried_each_hour(watched):
    refuse(watched)
    submit_until_blocked(watched)
    watched.tick(5 * 60)
    assert 3 + 4 <= watched.executor.calls["submit"] <= 3 + 5


def test_a_submission_that_succeeds_lifts_it(watched):
    refuse(watched, count=3)
    submit_until_blocked(watched)
    watched.tick_until(watched.are_all_scored, max_ticks=120)
    assert watched.executor.calls["submit"] == 3 + len(STEPS)
    assert watched.journal_state.refused_options == {}


def test_a_change_of_the_config_lifts_it_at_once(watched):
    refuse(watched)
    submit_until_blocked(watched)
    watched.executor.submissions.clear()
    watched.config = msgspec.structs.replace(watched.config, slurm=SlurmSettings(account="project"))
    watched.daemon.reload_config(lambda: watched.config)
    watched.tick(2)
    assert watched.executor.calls["submit"] > 3
    watched.tick_until(watched.are_all_scored, max_ticks=40)
    assert "options blocked" not in tell(watched)


@pytest.mark.parametrize("how", ["restart", "kill", "once"])
def test_answers_are_counted_over_restarts(watched, how):
    refuse(watched)
    for _ in range(20):
        if how == "once":
            watched.clock.at += 60
            watched.tick_once()
        else:
            watched.tick()
            (watched.close_daemon if how == "restart" else watched.kill_daemon)()
    assert watched.executor.calls["submit"] == 3


def test_other_words_count_anew(watched):
    watched.executor.submissions = deque(f"says rule {letter}" for letter in "abababababab")
    watched.tick(12)
    assert watched.executor.calls["submit"] > 3
    refused = watched.journal_state.refused_options.values()
    assert [each.count for each in refused] == [1]


def test_nothing_is_counted_while_no_other_command_answers(watched):
    refuse(watched)
    watched.tick()
    watched.executor.unreachable = "munge down"
    watched.tick(30)
    assert watched.journal_state.refused_options == {}
    assert watched.executor.calls["submit"] == 1
    assert WORDS in tell(watched)


def test_nothing_is_counted_while_accounting_does_not_answer(watched, monkeypatch):
    def fail(*_):
        raise ExecutorUnreachable("sacct: Connection refused")

    monkeypatch.setattr(watched.executor, "query_accounting", fail)
    refuse(watched)
    watched.tick(30)
    assert watched.journal_state.refused_options == {}
    assert watched.executor.calls["submit"] == 1


def test_a_job_that_was_made_in_spite_of_the_words_is_no_refusal(watched):
    watched.executor.submissions = deque([f"says, but {WORDS}"] * len(STEPS))
    watched.tick_until(watched.are_all_scored, max_ticks=40)
    assert watched.executor.calls["submit"] == len(STEPS)
    assert sorted(evaluation for evaluation, _ in watched.executor.runs) == sorted(f"stage1/step_{step}" for step in STEPS)


def test_raised_resources_that_are_refused_are_given_up(watched):
    watched.config = msgspec.structs.replace(watched.config, slurm=SlurmSettings(mem="1000M", mem_max="9000M"))
    watched.executor.endings = {f"stage1/step_{step}": deque([JobState.OUT_OF_MEMORY]) for step in STEPS}
    watched.tick_until(lambda: any(record.raised_resources for record in watched.journal_state.records.values()), max_ticks=9)
    refuse(watched, count=1)
    watched.tick_until(watched.are_all_scored, max_ticks=60)
    reasons = [reason for record in watched.journal_state.records.values() for _, _, reason in record.history]
    assert [f"refused: {WORDS}; retrying with the config's resources" in reason for reason in reasons].count(True) == 1


@pytest.mark.parametrize("answers", [(f"says {WORDS}",) * 2, (f"says, but {WORDS}",), (f"says {WORDS}", f"says, but {WORDS}")])
def test_killed_at_every_effect_while_a_site_answers_in_its_own_words(tmp_path, answers):
    blow_at = 0
    while True:
        with pytest.MonkeyPatch.context() as monkeypatch:
            run = WatchedRun(tmp_path / str(blow_at), monkeypatch, steps=(100, 200))
            for step in (100, 200):
                run.write_checkpoint("stage1", step)
            run.executor.submissions = deque(answers)
            fuse = KillPoint(monkeypatch, run.executor, blow_at)
            killed = tick_until_settled(run, fuse)
            assert set(run.list_states().values()) == {"scored"}, fuse.effect_names
            runs = Counter(evaluation for evaluation, _ in run.executor.runs)
            assert runs == {"stage1/step_100": 1, "stage1/step_200": 1}, fuse.effect_names
            assert not run.executor.live_at_once
            assert not run.executor.live()
            run.daemon.close()
        if not killed:
            break
        blow_at += 1
    assert blow_at > 20


def test_a_real_daemon_shows_the_words_and_goes_on_once_the_config_has_the_option(tmp_path):
    run = FakeSlurmRun(tmp_path / "run", steps={"base": [100, 200]})
    folder = run.put_before_slurm(WANTS_A_PROJECT, "sbatch")
    for step in (100, 200):
        run.write_checkpoint("base", step)
    daemon = run.start_another_daemon()
    text = run.state / "status.txt"
    run.wait_until(
        lambda: text.exists() and "This cluster wants a project: add --account=PROJECT" in " ".join(text.read_text().split())
    )
    run.wait_until(lambda: "3 times in a row" in " ".join(text.read_text().split()))
    assert len((folder / "calls").read_text().splitlines()) == 3
    assert "blocked" not in run.read_states().values()
    settings = yaml.safe_load(run.config.read_text())
    settings["slurm"]["account"] = "lab"
    run.config.write_text(yaml.safe_dump(settings))
    daemon.send_signal(signal.SIGHUP)
    run.wait_until(run.is_settled)
    assert run.end_daemon(daemon) == 0
    assert run.count_scoring_runs() == {"base/step_100": 1, "base/step_200": 1}

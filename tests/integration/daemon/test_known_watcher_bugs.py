"""nel-watch's six failures, each met by name: a marker taken for completion, a failed listing taken for none, and so on."""

import os

import pytest

from support.models.nanotron_checkpoint import make_tiny_checkpoint_arguments, set_times, write_checkpoint_stepwise, write_latest
from support.runs.watched_run import make_watched_fixture
from watcher.core.executor import JobState
from watcher.journal.journal import read_journal

watched = make_watched_fixture(steps=(100,))


def test_nel_watch_detection_1_a_marker_written_first_is_not_completion(watched):
    folder = watched.ckpts / "stage1" / "100"
    for written in write_checkpoint_stepwise(folder, **make_tiny_checkpoint_arguments(100)):
        if written.name == "model_config.json" and written.stat().st_size:
            break
        for path in folder.rglob("*"):
            os.utime(path, (watched.clock() - 300,) * 2)
        watched.touch("stage1")
        watched.tick()
        assert not watched.executor.jobs, f"submitted after {written.name} was written"
    set_times(folder, watched.clock() - 300)
    write_latest(folder.parent, 100)
    watched.tick_until(lambda: watched.list_states()["stage1/step_100"] == "scored", max_ticks=15)


def test_nel_watch_detection_5_a_failed_listing_is_not_no_checkpoints(watched, monkeypatch):
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(lambda: watched.list_states()["stage1/step_100"] == "scored", max_ticks=10)
    real = os.scandir

    def fails(path="."):
        if str(path).startswith(str(watched.ckpts)):
            raise OSError(5, "Input/output error", str(path))
        return real(path)

    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", fails)
        watched.touch("stage1")
        watched.tick(3)
        said = watched.list_reasons()[str(watched.ckpts / "stage1")]
        assert "cannot list: Input/output error" in said
        assert watched.list_states() == {"stage1/step_100": "scored"}
    watched.tick(2)
    assert watched.list_states() == {"stage1/step_100": "scored"}
    assert len(watched.executor.runs) == 1


def test_nel_watch_submission_3_death_between_submitting_and_recording_submits_once(watched):
    watched.write_checkpoint("stage1", 100)
    watched.start_daemon()
    real = watched.executor.submit

    class Dead(BaseException):
        pass

    def dies(submission):
        real(submission)
        raise Dead

    watched.executor.submit = dies
    with pytest.raises(Dead):
        watched.tick()
    watched.executor.submit = real
    watched.kill_daemon()
    watched.tick_until(lambda: watched.list_states()["stage1/step_100"] == "scored", max_ticks=15)
    assert len(watched.executor.jobs) == 1
    assert len(watched.executor.runs) == 1


def test_nel_watch_submission_4_the_second_of_two_suites_is_tried_again(watched):
    watched.configure(
        stage1={"steps": (100,)}, stage2={"steps": (), "bridge": watched.make_bridge("stage1"), "seq_len": 64, "tokenizer": "t"}
    )
    watched.write_checkpoint("stage1", 100)
    watched.executor.submissions.extend(["ok", "nothing"])
    watched.tick_until(lambda: set(watched.list_states().values()) == {"scored"}, max_ticks=40)
    assert sorted(evaluation for evaluation, _ in watched.executor.runs) == ["stage1/step_100", "stage2/step_100"]


def test_nel_watch_state_1_a_torn_last_line_swallows_no_record(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(lambda: watched.list_states()["stage1/step_100"] == "scored", max_ticks=10)
    path = watched.config.paths.epoch_journal(watched.daemon.journal.epoch)
    watched.kill_daemon()
    with path.open("ab") as journal:
        journal.write(b'{"schema": 1, "seq": 99, "event": "fai')
    watched.tick(2)
    assert watched.list_states() == {"stage1/step_100": "scored"}
    assert len(watched.executor.runs) == 1
    assert any("middle of a line" in note for note in watched.daemon.journal.state.warnings)


def test_nel_watch_state_1_one_unknown_field_does_not_keep_the_watcher_from_starting(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick(jobs=False)
    path = watched.config.paths.epoch_journal(watched.daemon.journal.epoch)
    watched.kill_daemon()
    text = path.read_text().replace('"event":"created"', '"event":"created","colour":"blue"')
    path.write_text(text + '{"schema":2,"seq":50,"t":1.0,"event":"blessed","evaluation":"stage1/step_100","by":"a newer one"}\n')
    assert read_journal(watched.config.paths).records["stage1/step_100"].extra["colour"] == "blue"
    watched.tick_until(lambda: watched.list_states()["stage1/step_100"] == "scored", max_ticks=10)
    assert [job.state for job in watched.executor.jobs.values()] == [JobState.COMPLETED]

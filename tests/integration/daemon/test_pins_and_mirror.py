"""Checkpoints pinned against deletion while a score is owed, and results that come back from their mirror."""

import errno
import json
import os
import shutil
from collections import deque
from pathlib import Path

import msgspec
import pytest

from suites.checkpoint.completeness import compute_fingerprint
from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import read_scoring_request
from support.faults.kill_points import ProcessKilled, kill_around_event
from support.runs.watched_run import WatchedRun, make_watched_fixture
from watcher.core import events
from watcher.core.evaluation import EvaluationState
from watcher.journal.journal import read_journal

KEY = "stage1/step_100"


watched = make_watched_fixture(steps=(100,), pin=True)


def record(watched):
    return watched.journal_state.records[KEY]


def pinned(watched):
    """Every file below the pins."""
    return sorted(path for path in watched.config.paths.pins.rglob("*") if path.is_file())


def vanish(watched, folder):
    shutil.rmtree(folder)
    watched.touch("stage1")


def test_a_pin_holds_the_files_that_scores_depend_on_until_it_is_scored(watched):
    folder = watched.write_checkpoint("stage1", 100)
    (folder / "optimizer" / "big.safetensors").write_bytes(b"x" * 5000)
    watched.executor.unreachable = "away"
    watched.tick(2)
    pin = record(watched).pin
    assert compute_fingerprint(Path(pin.folder)) == record(watched).fingerprint
    assert Path(pin.folder).name == "100"
    assert pin.size == sum(path.stat().st_size for path in pinned(watched)) < 5000 + pin.size
    assert all(path.stat().st_nlink == 2 for path in pinned(watched))
    assert not any("optimizer" in str(path) for path in pinned(watched))
    watched.executor.unreachable = ""
    watched.tick(6)
    assert watched.list_states()[KEY] == "scored"
    assert record(watched).pin is None
    assert list(watched.config.paths.pins.iterdir()) == []
    assert all(path.stat().st_nlink == 1 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("when", ["ready", "queued"])
def test_a_checkpoint_that_is_deleted_while_owed_is_scored_from_its_pin(watched, when):
    folder = watched.write_checkpoint("stage1", 100)
    fingerprint = compute_fingerprint(folder)
    if when == "ready":
        watched.executor.unreachable = "away"
    watched.tick(2, jobs=False)
    assert watched.list_states()[KEY] == when
    vanish(watched, folder)
    watched.executor.unreachable = ""
    watched.tick(3, jobs=False)
    assert watched.list_states()[KEY] == "queued"
    request = read_scoring_request(next(iter(watched.executor.jobs.values())).request)
    assert request.checkpoint == str(folder)
    assert request.resolve_checkpoint_folder() == Path(record(watched).pin.folder)
    assert compute_fingerprint(request.resolve_checkpoint_folder()) == request.fingerprint == fingerprint
    watched.tick(6)
    assert watched.list_states()[KEY] == "scored"
    assert pinned(watched) == []


def test_an_attempt_that_saw_its_checkpoint_vanish_is_made_again_from_the_pin(watched):
    watched.executor.endings[KEY] = deque([76])
    folder = watched.write_checkpoint("stage1", 100)
    watched.tick(2)
    vanish(watched, folder)
    watched.tick(8)
    assert watched.list_states()[KEY] == "scored"
    assert len(watched.executor.runs) == 2


def test_a_rewrite_is_no_deletion_and_the_pin_of_the_old_content_goes(watched):
    watched.executor.unreachable = "away"
    watched.write_checkpoint("stage1", 100)
    watched.tick(2)
    first = record(watched).pin
    watched.write_checkpoint("stage1", 100, seed=1)
    watched.tick(3)
    assert record(watched).pin.fingerprint == record(watched).fingerprint != first.fingerprint
    assert not Path(first.folder).exists()
    watched.executor.unreachable = ""
    watched.tick(6)
    assert watched.list_states()[KEY] == "scored"


def test_cancelled_releases_and_blocked_keeps(watched):
    watched.executor.endings[KEY] = deque([65])
    watched.write_checkpoint("stage1", 100)
    watched.tick(6)
    assert watched.list_states()[KEY] == "blocked"
    assert pinned(watched)
    watched.daemon.journal.append(events.Cancelled(evaluation=KEY, reason="a person"), t=watched.clock())
    watched.tick(2)
    assert pinned(watched) == []


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EDQUOT, errno.EMLINK, errno.ENOSPC])
def test_where_links_are_refused_it_says_so_once_and_carries_on(watched, monkeypatch, number):
    real = os.link

    def link(source, target, **more):
        if "pins" in str(target):
            raise OSError(number, os.strerror(number))
        return real(source, target, **more)

    monkeypatch.setattr(os, "link", link)
    watched.write_checkpoint("stage1", 100)
    watched.tick(2)
    watched.tick()
    text = " ".join(watched.config.paths.status_text.read_text().split())
    assert f"is not protected against deletion: hard links are refused: {os.strerror(number)}" in text
    watched.tick(5)
    assert watched.list_states()[KEY] == "scored"
    assert sum(what == "pinned" for what, _ in watched.log_events) == 1
    assert list(watched.config.paths.pins.rglob(".*linking")) == []


def test_another_file_system_is_said_too(watched):
    away = Path("/dev/shm") / f"ckpts-{os.getpid()}"
    if away.parent.stat().st_dev == watched.root.stat().st_dev:
        pytest.skip("one file system for all")
    try:
        folder = watched.write_checkpoint("stage1", 100)
        shutil.copytree(folder.parent, away, copy_function=shutil.copy2)
        stages = {"stage1": msgspec.structs.replace(watched.config.stages["stage1"], checkpoints=away)}
        watched.config = msgspec.structs.replace(watched.config, stages=stages)
        watched.executor.unreachable = "away"
        watched.tick(2)
        assert record(watched).pin.why == "no folder of ours is on its file system (state, or scratch)"
    finally:
        shutil.rmtree(away, ignore_errors=True)


def test_pins_hold_no_more_than_pin_max(watched):
    watched.config = msgspec.structs.replace(watched.config, pin_max=100)
    watched.executor.unreachable = "away"
    watched.write_checkpoint("stage1", 100)
    watched.tick(3)
    assert record(watched).pin.why.endswith("and pin_max leaves 100")
    assert pinned(watched) == []
    watched.executor.unreachable = ""
    watched.tick(5)
    assert watched.list_states()[KEY] == "scored"


def test_pins_never_lie_among_checkpoints(watched):
    from watcher.actions.pins import list_pin_roots  # noqa: PLC0415

    stage = msgspec.structs.replace(watched.config.stages["stage1"], checkpoints=watched.root)
    assert list_pin_roots(msgspec.structs.replace(watched.config, stages={"stage1": stage}), "x") == []
    assert list_pin_roots(watched.config, "x") == [watched.config.paths.pins, watched.root / ".watcher_pins" / "x"]


@pytest.mark.parametrize("event", ["pinned", "unpinned", "mirrored", "restored"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_around_each_event(watched, monkeypatch, event, before):
    watched.config = msgspec.structs.replace(watched.config, mirror=watched.root / "mirror")
    watched.start_daemon()
    kill_around_event(monkeypatch, watched.daemon.journal, event, before=before)
    watched.write_checkpoint("stage1", 100)
    kills = 0
    for step in range(20):
        try:
            watched.tick()
        except ProcessKilled:
            kills += 1
            watched.kill_daemon()
        if step == 10:
            shutil.rmtree(watched.config.results / "stage1" / "by_checkpoint" / "step_100")
    assert kills == 1
    assert watched.list_states()[KEY] == "scored"
    assert len(watched.executor.runs) == 1
    assert pinned(watched) == []
    assert record(watched).pin is None
    assert (watched.config.results / "stage1" / "by_checkpoint" / "step_100" / "tier2_ppl.json").is_file()
    assert read_journal(watched.config.paths).records == watched.journal_state.records


def test_a_pin_that_nobody_owns_is_swept(watched):
    stray = watched.config.paths.pins / "stage1" / "step_7" / "0123456789ab" / "7"
    stray.mkdir(parents=True)
    (stray / "config.yaml").write_text("x")
    watched.write_checkpoint("stage1", 100)
    watched.tick(3)
    assert not stray.exists()


@pytest.fixture
def mirrored(tmp_path, monkeypatch):
    made = WatchedRun(tmp_path, monkeypatch, steps=(100,), mirror=tmp_path / "mirror")
    made.write_checkpoint("stage1", 100)
    made.tick(6)
    yield made
    made.close_daemon()


def get_mirror_paths(watched):
    return EvaluationPaths(watched.config.mirror / "stage1", "step_100")


def test_what_a_cleaner_took_is_restored(mirrored):
    before = {path.name: path.read_bytes() for path in mirrored.get_evaluation_paths().folder.glob("tier*.json")}
    assert {path.name: path.read_bytes() for path in get_mirror_paths(mirrored).folder.iterdir()} == before
    shutil.rmtree(mirrored.get_evaluation_paths().folder)
    mirrored.tick(3)
    assert mirrored.list_states()[KEY] == "scored"
    assert record(mirrored).reason.startswith("restored from ")
    assert {path.name: path.read_bytes() for path in mirrored.get_evaluation_paths().folder.glob("tier*.json")} == before
    assert len(mirrored.executor.runs) == 1


def test_a_copy_of_an_older_content_is_never_restored(mirrored):
    older = json.loads(get_mirror_paths(mirrored).tier_json("tier2_ppl").read_text())
    mirrored.write_checkpoint("stage1", 100, seed=1)
    mirrored.tick(8)
    assert len(mirrored.executor.runs) == 2
    kept = get_mirror_paths(mirrored).superseded_folder(older["checkpoint"]["fingerprint"])
    assert json.loads((kept / "tier2_ppl.json").read_text()) == older
    get_mirror_paths(mirrored).tier_json("tier2_ppl").write_text(json.dumps(older))
    shutil.rmtree(mirrored.get_evaluation_paths().folder)
    mirrored.tick(3)
    assert mirrored.list_states()[KEY] == "lost"


def test_lost_before_there_was_a_mirror_is_restored_when_there_is_one(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100,))
    watched.write_checkpoint("stage1", 100)
    watched.tick(5)
    shutil.copytree(watched.get_evaluation_paths().folder, tmp_path / "mirror" / "stage1" / "by_checkpoint" / "step_100")
    shutil.rmtree(watched.get_evaluation_paths().folder)
    watched.tick(3)
    assert record(watched).state is EvaluationState.LOST
    watched.daemon.reload_config(lambda: msgspec.structs.replace(watched.config, mirror=tmp_path / "mirror"))
    watched.tick(3, seconds=1900)
    assert record(watched).state is EvaluationState.SCORED
    watched.daemon.close()


def test_a_comparison_that_is_written_later_is_mirrored_within_the_hour(mirrored):
    mirrored.get_evaluation_paths().compare_json.write_text('{"verdict": 1}')
    mirrored.tick(3, seconds=1900)
    assert get_mirror_paths(mirrored).compare_json.read_text() == '{"verdict": 1}'
    calls = [what for what, _ in mirrored.log_events].count("mirrored")
    mirrored.tick(4, seconds=1900)
    assert [what for what, _ in mirrored.log_events].count("mirrored") == calls


def test_a_mirror_that_cannot_be_written_keeps_nothing_else_from_being_done(tmp_path, monkeypatch):
    (tmp_path / "mirror").write_text("a file")
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100, 200), mirror=tmp_path / "mirror")
    watched.write_checkpoint("stage1", 100)
    watched.tick(6)
    watched.write_checkpoint("stage1", 200)
    watched.tick(6)
    assert watched.are_all_scored()
    watched.tick()
    assert "! mirror: stage1/step_" in watched.config.paths.status_text.read_text()
    (tmp_path / "mirror").unlink()
    watched.tick(12)
    assert len(list((tmp_path / "mirror").rglob("tier2_ppl.json"))) == 2
    assert "! mirror" not in watched.config.paths.status_text.read_text()
    watched.daemon.close()

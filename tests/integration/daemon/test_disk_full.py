"""Every write fails in turn, with every error that a disk has: no corrupt file, and all goes on when there is room again."""

import json

import pytest

from suites.common.documents import read_json
from support.faults.failing_disk import ERROR_CODES, FailingDisk
from support.runs.watched_run import WatchedRun


def play(root, monkeypatch, code, bad, lasting):
    watched = WatchedRun(root, monkeypatch, steps=(100,))
    watched.write_checkpoint("stage1", 100)
    disk = FailingDisk(monkeypatch, watched.root / "results", code)
    disk.first_failing_call, disk.failing_count = bad, lasting
    step = watched.executor.advance_jobs
    for _ in range(60):
        kept, disk.first_failing_call = disk.first_failing_call, None
        step()  # jobs have a disk of their own here
        disk.first_failing_call = kept
        try:
            watched.tick(jobs=False)
        except OSError:
            watched.daemon = None  # it could not even start: the next one tries
            watched.config.paths.lock.unlink(missing_ok=True)
            continue
        no_corrupt_file(watched.root / "results")
        if watched.list_states().get("stage1/step_100") == "scored" and not watched.executor.live():
            break
    try:
        assert watched.list_states() == {"stage1/step_100": "scored"}, watched.list_reasons()
        assert len(watched.executor.runs) == 1
        assert not watched.executor.live_at_once
        disk.first_failing_call = None  # there is room again
        watched.tick(2)
        status = read_json(watched.config.paths.status_json)
        assert status["counts"] == {"scored": 1}
    finally:
        if watched.daemon is not None:
            watched.daemon.close()
    return disk.count


def no_corrupt_file(root):
    for path in root.rglob("*.json"):
        if not path.name.startswith("."):
            json.loads(path.read_bytes())


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_every_write_fails_once_and_for_a_while(tmp_path, every):
    with pytest.MonkeyPatch.context() as patch:
        writes = play(tmp_path / "count", patch, 0, None, 0)
    assert writes > 40
    met = 0
    for number, code in enumerate(ERROR_CODES.values()):
        for bad in range(1 + number, writes, every):
            for lasting in (1, 25):
                with pytest.MonkeyPatch.context() as patch:
                    play(tmp_path / f"{code}-{bad}-{lasting}", patch, code, bad, lasting)
                met += 1
    print(f"{met} failing disks, {writes} writes each, 0 corrupt files, 0 duplicates, 0 lost")

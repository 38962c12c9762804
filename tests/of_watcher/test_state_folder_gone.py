"""The state folder goes away with its file system and comes back, or somebody removes the lock: the watcher goes on."""

import shutil

import pytest

from support.watched import Watched
from watcher.ledger import Superseded


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = Watched(tmp_path, monkeypatch, steps=(100,))
    made.checkpoint("stage1", 100)
    made.tick()
    yield made
    if made.daemon is not None:
        made.daemon.close()


def troubles(watched):
    return [facts["words"] for what, facts in watched.said if what == "trouble"]


def test_a_state_folder_that_is_away_for_a_while_is_waited_for(watched):
    away = watched.root / "away"
    watched.config.state.rename(away)
    watched.tick(3, jobs=False)
    assert "is gone, perhaps with its file system; it is waited for" in troubles(watched)[0]
    assert not watched.config.state.exists(), "nothing is begun anew where it was"
    away.rename(watched.config.state)
    watched.tick_until(watched.all_scored)
    assert len(watched.executor.runs) == 1


def test_a_watcher_whose_state_folder_is_away_can_be_told_to_end(watched):
    watched.config.state.rename(watched.root / "away")
    watched.tick(jobs=False)
    watched.daemon.stop()
    watched.daemon.close()
    watched.daemon = None


def test_a_lock_that_somebody_removed_is_made_again(watched):
    watched.config.paths.lock.unlink()
    watched.tick_until(watched.all_scored)
    assert watched.daemon.lock.held()
    assert [what for what, _ in watched.said].count("lock") == 1


def test_a_lock_that_is_gone_after_somebody_took_over_ends_the_watcher(watched):
    other = watched.another()
    watched.config.paths.lock.unlink()
    with pytest.raises(Superseded, match="newer watcher"):
        watched.tick()
    assert not watched.config.paths.lock.exists()
    other.close()
    watched.daemon = None


def test_a_journal_that_was_removed_ends_the_watcher(watched):
    watched.config.paths.lock.unlink()
    shutil.rmtree(watched.config.paths.journal)
    watched.config.paths.journal.mkdir()
    with pytest.raises(Superseded):
        watched.tick()
    watched.daemon = None

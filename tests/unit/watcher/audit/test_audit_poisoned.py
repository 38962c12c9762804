"""An audit over folders and files that nobody can follow or read: each is named or passed over, and the audit ends."""

import pytest

from support.faults.poisoned_files import POISONS, poison
from support.runs.poisoned_run import PLACES, REFUSED
from support.runs.watched_run import make_watched_fixture
from watcher.audit.audit import run_audit
from watcher.daemon.setup import read_state_id

watched = make_watched_fixture(steps=(100, 200), checkpoints=(100, 200))

AUDITED = [place for place in PLACES if place not in {"pins/", "mirror", "daemon.lock"}]


@pytest.mark.parametrize("place", AUDITED)
def test_an_audit_ends_whatever_lies_there(watched, place):
    watched.tick_until(watched.are_all_scored, max_ticks=8)
    watched.close_daemon()
    for name in (name for name in POISONS if (place, name) not in REFUSED):
        poison(PLACES[place](watched), name)
        result = run_audit(
            watched.config, watched.executor, read_state_id(watched.config.state), {}, now=watched.clock(), alive=False
        )
        if place == "folder of results":
            assert any(difference.key == "stage1/step_200" for difference in result.differences), name
        assert all("\n" not in difference.observed for difference in result.differences)

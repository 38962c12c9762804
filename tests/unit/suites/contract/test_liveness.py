"""Is anybody watching? One rule for the status command and for scoring jobs."""

import json
import os

import pytest

from suites.contract.liveness import read_liveness

POLL, AT = 60.0, 1_700_000_000.0


def status(path, **said):
    path.write_text(json.dumps({"heartbeat": AT, "poll": POLL, "host": "login1", "pid": 7, **said}))
    os.utime(path, (AT, AT))
    return path


@pytest.mark.parametrize(
    ("said", "after", "verdict"),
    [
        ({}, 179, "alive"),
        ({}, 181, "stale"),
        ({"poll": 1000}, 2900, "alive"),
        ({"stopped": AT}, 10, "stopped"),
        ({"mode": "once"}, 3500, "alive"),
        ({"mode": "once"}, 3700, "stale"),
        ({"mode": "once", "interval": 3600}, 10000, "alive"),
        ({"mode": "once", "interval": 3600}, 10900, "stale"),
        ({"mode": "once", "interval": 1}, 170, "alive"),
        ({"heartbeat": AT + 9000}, 200, "stale"),
    ],
)
def test_a_sign_of_life_is_judged_by_how_often_one_comes(tmp_path, said, after, verdict):
    assert read_liveness(status(tmp_path / "status.json", **said), AT + after).verdict == verdict


@pytest.mark.parametrize("text", ["{torn", "[]", '{"heartbeat": 1}', '{"heartbeat": 1, "poll": "x", "host": "h", "pid": 1}'])
def test_what_is_no_status_is_said(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not"):
        read_liveness(tmp_path / "status.json", AT)

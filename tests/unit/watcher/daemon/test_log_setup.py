"""The daemon's log: pretty for people, JSON for programs, and a file that does not grow for ever."""

import io
import json
import sys

import pytest

from watcher.daemon import log_setup as logs


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stopped():
    yield
    logs.stop_daemon_log()


def logged(monkeypatch, tmp_path, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    say = logs.start_daemon_log(tmp_path / "watcher.log", console=True)
    say("submitted", evaluation="stage1/step_100", job_id="77", reason="\x1b[2Jwiped\nand more")
    return stream.getvalue()


@pytest.mark.usefixtures("stopped")
def test_a_terminal_gets_a_line_for_people_and_nothing_that_it_obeys(monkeypatch, tmp_path):
    text = logged(monkeypatch, tmp_path, Terminal())
    assert "submitted" in text
    assert "stage1/step_100" in text
    assert "\x1b[2J" not in text
    assert text.count("\n") == 1


@pytest.mark.usefixtures("stopped")
def test_anything_else_gets_json_a_line_and_so_does_the_file(monkeypatch, tmp_path):
    (line,) = logged(monkeypatch, tmp_path, io.StringIO()).splitlines()
    event = json.loads(line)
    assert (event["event"], event["evaluation"], event["job_id"], event["level"]) == (
        "submitted",
        "stage1/step_100",
        "77",
        "info",
    )
    assert json.loads((tmp_path / "watcher.log").read_text()) == event


@pytest.mark.usefixtures("stopped")
def test_the_file_rotates_and_few_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(logs, "MAX_DAEMON_LOG_BYTES", 2000)
    say = logs.start_daemon_log(tmp_path / "watcher.log", console=False)
    for number in range(200):
        say("tick", number=number)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["watcher.log", "watcher.log.1", "watcher.log.2", "watcher.log.3"]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    assert json.loads((tmp_path / "watcher.log").read_text().splitlines()[-1])["number"] == 199


@pytest.mark.usefixtures("stopped")
def test_a_log_that_cannot_be_written_stops_nobody(tmp_path):
    say = logs.start_daemon_log(tmp_path / "no such folder" / "watcher.log", console=False)
    say("tick", number=1)
    (tmp_path / "no such folder").mkdir()
    say("tick", number=2)
    assert json.loads((tmp_path / "no such folder" / "watcher.log").read_text())["number"] == 2

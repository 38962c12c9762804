"""What systemd is told, through real sockets, and what a reader makes of a watcher that ended or comes again and again."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from suites.contract.paths import StatePaths
from support.runs.watched_run import make_watched_fixture
from watcher.daemon.systemd import SystemdNotifier, strip_systemd_variables
from watcher.status.health import check_liveness


def listening(name):
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(name)
    heard.settimeout(30)
    return closing(heard)


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_signs_of_life_and_the_end_reach_the_socket(tmp_path, abstract):
    name = f"@watcher-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with listening("\0" + name[1:] if abstract else name) as heard:
        service = SystemdNotifier({"NOTIFY_SOCKET": name})
        assert service.notify_ready(60.0) == service.notify_tick("3 scored,\n1 waiting") == service.notify_stopping() == ""
        assert [heard.recv(4096).decode() for _ in range(3)] == [
            "READY=1\n",
            "WATCHDOG=1\nSTATUS=3 scored, 1 waiting\n",
            "STOPPING=1\n",
        ]


def test_without_a_socket_nothing_is_told_and_a_socket_that_is_gone_is_said(tmp_path):
    assert SystemdNotifier({}).notify_ready(60.0) == ""
    assert "cannot write to" in SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).notify_tick("x")


def test_a_watchdog_shorter_than_three_polls_is_made_longer(tmp_path):
    with listening(str(tmp_path / "n")) as heard:
        given = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "900000000"}
        SystemdNotifier(given).notify_ready(60.0)
        SystemdNotifier(given).notify_ready(3600.0)
        SystemdNotifier(given | {"WATCHDOG_PID": "1"}).notify_ready(3600.0)
        assert heard.recv(99) == b"READY=1\n"
        assert heard.recv(99) == b"READY=1\nWATCHDOG_USEC=11400000000\n"
        assert heard.recv(99) == b"READY=1\n", "somebody else's watchdog"


def test_children_are_not_given_the_socket():
    assert strip_systemd_variables({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}) == {
        "PATH": "/bin"
    }


def test_a_running_watcher_tells_its_service_and_a_clean_end_is_called_stopped(tmp_path):
    (tmp_path / "ckpts").mkdir()
    stage = {"checkpoints": str(tmp_path / "ckpts"), "steps": [1], "suites": ["stage1_ppl_slices"]}
    config = {"scratch": str(tmp_path), "executor": "local", "poll": "1s", "stages": {"base": stage}}
    (tmp_path / "watcher.yaml").write_text(yaml.safe_dump(config))
    with listening(str(tmp_path / "notify")) as heard:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("watcher"), "run", "--config", tmp_path / "watcher.yaml"],
            env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert heard.recv(999) == b"READY=1\nWATCHDOG_USEC=603000000\n"
            assert [heard.recv(999) for _ in range(2)] == [b"WATCHDOG=1\nSTATUS=1 waiting\n"] * 2
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=90) == 0
        finally:
            process.kill()
        rest = heard.recv(999)
        assert rest == b"STOPPING=1\n" or heard.recv(999) == b"STOPPING=1\n"
    paths = StatePaths(tmp_path / "evaluation_results" / ".watcher")
    health = check_liveness(paths, paths.status_json.stat().st_mtime + 5)
    assert (health.verdict, health.exit_code) == ("stopped", 3)
    assert health.summary.startswith("Stopped on ")
    assert " 5 s ago; start it with `watcher run`" in health.summary
    assert "The watcher was stopped." in " ".join(paths.status_text.read_text().split())


watched = make_watched_fixture()


def once(watched):
    """A tick as `watcher once` does it, on the test's clock."""
    watched.tick_once()
    os.utime(watched.config.paths.status_json, (watched.clock(), watched.clock()))


def verdict(watched, seconds):
    return check_liveness(watched.config.paths, watched.clock() + seconds).verdict


def test_between_two_runs_by_once_nothing_is_stale(watched):
    once(watched)
    assert verdict(watched, 3000) == "alive", "how often it comes is not known yet"
    first = check_liveness(watched.config.paths, watched.clock() + 30).summary
    assert first.startswith("Not running between runs: last run of `watcher once` on ")
    assert first.endswith("; run it again, from cron or a timer, or `watcher run`")
    assert verdict(watched, 3700) == "stale"
    for _ in range(3):
        watched.clock.at += 1800
        once(watched)
    watched.clock.at += 4
    once(watched)  # by hand, in between
    assert verdict(watched, 5000) == "alive"
    line = check_liveness(watched.config.paths, watched.clock() + 1200).summary
    assert line.startswith("Running from a timer; last run of `watcher once` on ")
    assert line.endswith(" 20 min ago, interval 30 min")
    assert verdict(watched, 5400) == "stale"
    assert "check the timer or cron entry" in check_liveness(watched.config.paths, watched.clock() + 5400).summary
    text = watched.config.paths.status_text.read_text()
    assert "is not running" not in text.splitlines()[0]


def test_a_config_that_is_refused_is_said_in_the_status_until_a_good_one_comes(watched):
    from suites.common.errors import UserError  # noqa: PLC0415

    watched.start_daemon()

    def broken():
        raise UserError("unknown key 'stagse'", location="watcher.yaml:3", hint="write stages")

    watched.daemon.reload_config(broken)
    watched.tick()
    assert "the old one stays: watcher.yaml:3: unknown key 'stagse'" in watched.config.paths.status_text.read_text().replace(
        "\n  ", " "
    )
    watched.daemon.reload_config(lambda: watched.config)
    watched.tick()
    assert "stagse" not in watched.config.paths.status_text.read_text()

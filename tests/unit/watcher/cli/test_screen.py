"""What a terminal shows: a pager for what it cannot hold, colours unless NO_COLOR, and 80 columns everywhere."""

import os
import pty
import subprocess
import sys

import pytest

from support.runs.watcher_commands import make_config_folder_fixture, publish_daemon_status, run_watcher
from watcher.core.evaluation import EvaluationRecord, EvaluationState

CONFIG = """
results: results
executor: local
stages:
  stage1: {checkpoints: ckpts, steps: [100, 200], suites: [demo_stage1_ppl]}
"""
HINT = "Fix the partition, then run watcher retry stage1 7 --force, and see the log of the job for what Slurm had to say about it"

config_folder = make_config_folder_fixture(CONFIG)


def record(step, state, **fields):
    given = {"stage": "stage1", "source": "stage1", "directory": f"step_{step}", "origin": "schedule", "checkpoint": "/c"}
    return EvaluationRecord(step=step, state=EvaluationState(state), since=0.0, **given, **fields)


def show(*arguments, rows=50, **environ):
    """What a command writes to a terminal of 80 columns."""
    main, child = pty.openpty()
    command = [sys.executable, "-c", "from watcher.cli.app import main; main()", *arguments]
    size = {"LINES": str(rows), "COLUMNS": "80", "TERM": "xterm", "PAGER": "sed s/^/paged:/"}
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "LESS", *size}}
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=subprocess.DEVNULL, env=kept | size | environ) as process:
        os.close(child)
        written = b""
        while True:
            try:
                written += os.read(main, 1 << 16)
            except OSError:  # the end of a terminal
                break
    os.close(main)
    assert process.returncode == 0
    return written.decode().replace("\r\n", "\n")


@pytest.mark.usefixtures("config_folder")
def test_a_screen_that_is_too_small_gets_a_pager_and_colours_are_a_choice():
    publish_daemon_status(record(100, "scored"), record(200, "blocked", reason="odd"))
    coloured = show("status")
    assert "\x1b[32mscored\x1b[0m" in coloured
    assert "\x1b[31mblocked\x1b[0m" in coloured
    assert "paged:" not in coloured
    plain = show("status", NO_COLOR="1")
    assert "\x1b" not in plain
    paged = show("status", rows=5, NO_COLOR="1")
    assert paged.count("paged:") == len(plain.splitlines())


@pytest.mark.usefixtures("config_folder")
def test_a_line_of_list_has_the_terminal_s_width_and_in_a_pipe_all_of_its_reason():
    publish_daemon_status(record(7, "blocked", reason="sbatch refused", hint=HINT))
    assert max(map(len, show("list", NO_COLOR="1").splitlines())) == 80
    assert run_watcher("list").stdout.splitlines()[1].endswith(HINT)


@pytest.mark.usefixtures("config_folder")
@pytest.mark.parametrize("command", [("status",), ("list", "--json"), ("why", "stage1", "900"), ("enqueue", "stage1", "7")])
def test_in_a_pipe_nothing_has_colours(command):
    publish_daemon_status(record(7, "blocked", reason="odd"))
    assert "\x1b" not in run_watcher(*command).output


@pytest.mark.usefixtures("config_folder")
def test_a_command_in_a_reason_is_never_cut_and_eighty_columns_hold_everything():
    reason = "sbatch refused: " + " ".join(["the controller says no"] * 30)
    publish_daemon_status(record(7, "blocked", reason=reason, hint=HINT))
    lines = run_watcher("status").stdout.splitlines()
    assert HINT in " ".join(" ".join(lines).split())
    assert max(len(line) for line in lines if "/" not in line) <= 80


@pytest.mark.usefixtures("config_folder")
@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("list",),
        ("why", "stage1", "900"),
        ("enqueue", "stage1", "7", "300"),
        ("pause", "stage1", "--reason", "the file system is being moved to another building, which takes until Monday"),
        ("once", "--dry-run"),
        ("report",),
        ("completion", "--help"),
        ("try", "--help"),
    ],
)
def test_a_terminal_of_eighty_columns_holds_every_line_and_breaks_no_word(command):
    publish_daemon_status(record(7, "blocked", reason="sbatch refused", hint=HINT))
    shown = show(*command, NO_COLOR="1", DEMO_DATA="/d").splitlines()
    assert shown
    # A path has no place where it could be broken.
    assert max((len(line) for line in shown if "/" not in line), default=0) <= 80
    assert "\x1b" not in "".join(shown)

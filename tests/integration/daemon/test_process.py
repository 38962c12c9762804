"""The daemon as a process: signals, reload, once, dry run, what it imports, what an idle poll costs."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import msgspec
import pytest

from suites.common.errors import UserError
from support.runs.watched_run import WatchedRun
from watcher.core.request_types import Request
from watcher.daemon import daemon as daemon_module
from watcher.daemon import once as once_module
from watcher.daemon.once import run_once
from watcher.journal.request_files import write_request

SCRIPT = """
FORBIDDEN = "torch numpy pyarrow datasets transformers tokenizers safetensors scoring"

import os, sys
from pathlib import Path
import msgspec
from watcher.config.settings import Config, Stage
from watcher.daemon import polling
root = Path(sys.argv[1])
steps = tuple(int(word) for word in sys.argv[2].split(","))
def load():
    if (root / "broken").exists():
        from suites.common.errors import UserError
        raise UserError("is broken", location="watcher.yaml", hint="mend it")
    more = (900,) if (root / "more").exists() else ()
    stage = Stage(name="stage1", checkpoints=root / "ckpts" / "stage1", results=root / "results", steps=steps + more)
    return Config(source="test", scratch=root, results=root / "results", eval_data=root / "data", state=root / "state",
                  executor="local", poll=0.2, settle=1.0, stages={"stage1": stage})
code = polling.run_daemon(load(), load_config=load, environ=dict(os.environ))
print("modules", [name for name in FORBIDDEN.split() if name in sys.modules])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print("peak KiB", peak.split()[1])  # rusage would count the process that this one was forked from
sys.exit(code)
"""


@pytest.fixture
def running(tmp_path):
    (tmp_path / "ckpts" / "stage1").mkdir(parents=True)
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), "100,200"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def status_when(root, condition, process):
    """The status as soon as it satisfies ``condition``."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        try:
            status = json.loads((root / "state" / "status.json").read_text())
        except FileNotFoundError:
            status = None
        if status is not None and condition(status):
            return status
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    message = f"status never got there: {status}"
    raise AssertionError(message)


def log_when(root, event):
    """Wait until the log has an event."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        log = root / "state" / "watcher.log"
        if log.exists() and f'"{event}"' in log.read_text():
            return
        time.sleep(0.05)
    message = f"{event} was never logged"
    raise AssertionError(message)


def evaluations(status):
    return {row["evaluation"] for row in status["stages"]["stage1"]["evaluations"]}


def test_signals_reload_and_end_and_a_second_one_is_told_who_runs(running, tmp_path):
    process = running()
    status_when(tmp_path, lambda status: status["ticks"] >= 1, process)
    second = running()
    _, complaint = second.communicate(timeout=90)
    assert second.returncode != 0
    assert f"a watcher already runs here: pid {process.pid} on" in complaint
    (tmp_path / "broken").touch()
    process.send_signal(signal.SIGHUP)
    log_when(tmp_path, "config_refused")
    (tmp_path / "broken").unlink()
    (tmp_path / "more").touch()
    process.send_signal(signal.SIGHUP)
    status = status_when(tmp_path, lambda status: "stage1/step_900" in evaluations(status), process)
    assert evaluations(status) == {"stage1/step_100", "stage1/step_200", "stage1/step_900"}
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0
    assert "modules []" in out, "the login node's process must not load what only scoring needs"
    assert int(out.split("peak KiB ")[1]) < 60 * 1024
    log = [json.loads(line) for line in (tmp_path / "state" / "watcher.log").read_text().splitlines()]
    assert {"watching", "config_refused", "config_reloaded", "stopped"} <= {line["event"] for line in log}
    assert '"event": "watching"' in err, "JSON where stderr is no terminal"
    assert not (tmp_path / "state" / "daemon.lock").exists()


def test_a_killed_one_is_taken_over_at_once(running, tmp_path):
    first = running()
    status_when(tmp_path, lambda status: status["ticks"] >= 1, first)
    first.kill()
    first.wait()
    second = running()
    status_when(tmp_path, lambda status: status["epoch"] == 2, second)
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=90)
    assert second.returncode == 0


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = WatchedRun(tmp_path, monkeypatch)
    monkeypatch.setattr(once_module.time, "time", made.clock)
    for module in (daemon_module, once_module):
        monkeypatch.setattr(module, "make_executor", lambda _config, _environ: made.executor)
    yield made
    made.close_daemon()


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(watched):
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage1", 150)
    before = sorted(watched.root.rglob("*"))
    report = run_once(watched.config, dry_run=True, environ={})
    assert report.actions == [{"action": "submit", "evaluation": "stage1/step_100", "reason": "complete and not scored"}]
    assert report.skipped == [
        {"evaluation": "stage1/step_200", "reason": "waiting for checkpoint"},
        {"evaluation": "stage1/step_150", "reason": "not in the schedule"},
    ]
    assert sorted(watched.root.rglob("*")) == before
    assert not watched.executor.jobs


def request(watched, kind, *steps, **more):
    head = {"id": f"{kind}-{steps[0]}", "at": watched.clock(), "by": "me@here"}
    write_request(Request(**head, kind=kind, stage="stage1", steps=steps, **more), watched.config.paths)


def run_dry(watched):
    """What a dry run tells, after making sure that nothing was written and nothing submitted."""
    before = {path: path.stat().st_mtime_ns for path in watched.root.rglob("*")}
    jobs = len(watched.executor.jobs)
    report = run_once(watched.config, dry_run=True, environ={})
    assert {path: path.stat().st_mtime_ns for path in watched.root.rglob("*")} == before
    assert len(watched.executor.jobs) == jobs
    return [(action["action"], action["evaluation"], action["reason"]) for action in report.actions], {
        skip["evaluation"]: skip["reason"] for skip in report.skipped
    }


def test_a_dry_run_goes_on_to_what_is_due_after_the_requests_are_answered(watched):
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage1", 150)
    request(watched, "enqueue", 400)
    request(watched, "enqueue", 150)
    request(watched, "cancel", 77)
    actions, skipped = run_dry(watched)
    due = "complete and not scored"
    assert sorted(actions) == [
        ("answer", "stage1", "stage1 150: will be scored"),
        ("answer", "stage1", "stage1 400: will be scored"),
        ("answer", "stage1", "stage1 77: unknown evaluation"),
        ("submit", "stage1/step_100", due),
        ("submit", "stage1/step_150", due),
    ]
    assert skipped == {"stage1/step_400": "waiting for checkpoint", "stage1/step_200": "waiting for checkpoint"}


def test_a_dry_run_foresees_that_results_are_set_aside_and_scored_anew(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(lambda: watched.list_states().get("stage1/step_100") == "scored")
    watched.close_daemon()
    request(watched, "retry", 100, force=True)
    actions, _ = run_dry(watched)
    assert [(action, evaluation) for action, evaluation, _ in actions] == [
        ("set_aside", "stage1/step_100"),
        ("answer", "stage1"),
        ("submit", "stage1/step_100"),
    ]


def test_a_dry_run_foresees_that_the_job_of_what_is_cancelled_is_ended(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick(2, jobs=False)
    watched.close_daemon()
    request(watched, "cancel", 100)
    actions, skipped = run_dry(watched)
    assert [(action, evaluation) for action, evaluation, _ in actions] == [
        ("cancelled", "stage1/step_100"),
        ("answer", "stage1"),
        ("cancel", "stage1/step_100"),
    ]
    assert skipped["stage1/step_200"] == "waiting for checkpoint"


def test_a_dry_run_goes_on_after_what_is_new_in_config_and_checkpoints(watched):
    """Newly wanted, moved by the config, and where a stage began: each of them is journaled before anything else is decided."""
    watched.tick()
    watched.close_daemon()
    moved = watched.root / "elsewhere"
    watched.configure(stage2={"steps": (300,), "bridge": watched.make_bridge("stage1", step=200)})
    stages = watched.config.stages
    stages = {**stages, "stage1": msgspec.structs.replace(stages["stage1"], checkpoints=moved)}
    watched.config = msgspec.structs.replace(watched.config, stages=stages)
    watched.write_checkpoint("stage2", 300, started_from=str(moved / "200"))
    actions, skipped = run_dry(watched)
    assert actions == [("submit", "stage2/step_300", "complete and not scored")]
    away = f"waiting for checkpoint: {moved} does not exist yet"
    assert {skipped[f"{stage}/step_{step}"] for stage, step in (("stage1", 100), ("stage1", 200), ("stage2", 200))} == {away}


def test_once_submits_and_a_later_once_scores(watched, monkeypatch):
    monkeypatch.setattr("watcher.daemon.tick.Observer", lambda *args, **options: server_clocked(watched, *args, **options))
    watched.write_checkpoint("stage1", 100)
    first = run_once(watched.config, dry_run=False, environ={})
    assert [action["action"] for action in first.actions] == ["submit"]
    assert {"evaluation": "stage1/step_200", "reason": "waiting for checkpoint"} in first.skipped
    for _ in range(2):
        watched.executor.advance_jobs()
    watched.clock.at += 60
    second = run_once(watched.config, dry_run=False, environ={})
    assert [action["action"] for action in second.actions] == ["scored"]
    third = run_once(watched.config, dry_run=False, environ={})
    assert third.actions == []
    assert {"evaluation": "stage1/step_100", "reason": "scored already"} in third.skipped
    assert len(list(watched.config.paths.journal.glob("*.jsonl"))) == 2, "nothing happened in the third"
    assert not watched.config.paths.lock.exists()


def server_clocked(watched, *args, **options):
    from watcher.observe.observer import Observer  # noqa: PLC0415  the real one, before it is replaced

    return Observer(*args, **(options | {"server_clock": watched.clock.read_server_time}))


def test_once_in_a_state_folder_that_cannot_be_made_is_one_line(watched, tmp_path):
    (tmp_path / "results" / ".watcher").write_text("a file")
    with pytest.raises(UserError, match="state folder is unusable"):
        run_once(watched.config, dry_run=False, environ={})


@pytest.mark.parametrize("trouble", [OSError(28, "No space left on device"), OSError(5, "Input/output error")])
def test_a_tick_that_cannot_write_is_noted_and_the_next_one_goes_on(watched, monkeypatch, trouble):
    watched.write_checkpoint("stage1", 100)
    watched.start_daemon()
    real = os.write
    broken = [True]

    def write(fd, data):
        if broken[0]:
            raise trouble
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    watched.tick(3)
    assert not watched.executor.jobs
    assert any(what == "trouble" for what, _ in watched.log_events)
    broken[0] = False
    watched.tick_until(lambda: watched.list_states().get("stage1/step_100") == "scored", max_ticks=10)
    assert len(watched.executor.runs) == 1


def test_a_read_only_results_folder_leaves_the_other_stages_running(watched, tmp_path):
    results = tmp_path / "elsewhere"
    results.write_text("not a folder, as good as one that cannot be written")
    stage = watched.make_stage("stage2", steps=(300,))
    watched.configure(stage2={"steps": (300,)})
    watched.config = msgspec.structs.replace(
        watched.config,
        stages={**watched.config.stages, "stage2": msgspec.structs.replace(stage, results=results)},
    )
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage2", 300)
    watched.tick(4)
    assert watched.list_states()["stage1/step_100"] == "scored"
    assert watched.list_states()["stage2/step_300"] == "waiting"
    assert watched.list_reasons()["stage2/step_300"].startswith(f"cannot create {results}")


@pytest.mark.parametrize("count", [3, 400])
def test_an_idle_poll_costs_the_same_whatever_the_number_of_checkpoints(watched, monkeypatch, count):
    for step in range(1000, 1000 + count):
        (watched.ckpts / "stage1" / str(step)).mkdir(parents=True)
    watched.write_checkpoint("stage1", 100)
    watched.tick(8)
    calls = []
    for name in ("stat", "open", "listdir", "scandir", "utime"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, _real=real, _name=name, **more: (calls.append(_name), _real(*args, **more))[1]
        )
    watched.tick(jobs=False)
    assert watched.daemon.tick_runner.is_idle
    assert calls.count("scandir") == 0
    assert len(calls) <= 25, calls

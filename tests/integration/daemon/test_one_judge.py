"""What one command refuses, each refuses; a reload is what a fresh start would be. Every command is a process of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from support.fakes.slurm_daemon import DAEMON_SETTINGS, FakeSlurmRun
from support.runs.two_stages import REPOSITORY_ROOT

WATCHER = [sys.executable, "-P", "-m", "watcher"]
SUITE = "tier: tier2_ppl\nslices:\n  web: {data_files: [web.jsonl], target_tokens: 9}\n"
CONFIG = """\
scratch: .
executor: slurm
report: {page: false, compare: false}
stages:
  stage1:
    checkpoints: ckpts
    steps: [100]
    suites: [slices.yaml]
    tokenizer: ./tokenizer
    seq_len: 16
"""


@pytest.fixture
def environ():
    dropped = ("SCRATCH", "WATCHER_CONFIG", "LIGHTEVAL_CMD", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY_ROOT), *filter(None, sys.path)])}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "watcher.yaml").write_text(CONFIG)
    (tmp_path / "slices.yaml").write_text(SUITE)
    (tmp_path / "web.jsonl").write_text('{"text": "' + "a word and another. " * 30 + '"}\n')
    return tmp_path


def run_watcher(folder, environ, *arguments):
    command = [*WATCHER, *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300, check=False)


MISTAKES = {
    "a poll that leaves no command": ("poll: 5s\n", ":11: poll: 10 Slurm commands per minute are too few for a poll every 5 s"),
    "few commands": ("limits: {slurm_calls_per_minute: 3}\n", ":11: limits.slurm_calls_per_minute: 3 Slurm commands per minute"),
    "a backslash": ("results: 'a\\b'\n", ":11: results: Slurm cannot write a log below {folder}/a\\b; use a path without"),
    "a control character": ('results: "a\\tb"\n', ":11: results: '{folder}/a\\tb' has a control character; rename"),
    "an unknown key": ("pol: 5s\n", ":11: unknown key 'pol'; did you mean 'poll'?"),
    "no YAML": ("poll: [\n", ":12: not YAML: "),
    "an objective": ("    objectives: {hold: [nosuch]}\n", ":11: stages.stage1.objectives.hold: no tier, slice, task or group"),
    "a suite file": ("", ":8: stages.stage1.suites: '{folder}/slices.yaml': {folder}/slices.yaml:2: "),
    "no suite file": (None, ":8: stages.stage1.suites: '{folder}/slices.yaml': no such file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_one_command_refuses_each_refuses_with_the_same_line(folder, environ, mistake):
    more, said = MISTAKES[mistake]
    if more:
        (folder / "watcher.yaml").write_text(CONFIG + more)
    elif more is None:
        (folder / "slices.yaml").unlink()
    else:
        (folder / "slices.yaml").write_text(SUITE.replace("slices", "slces"))
    found = {name: run_watcher(folder, environ, *name.split()) for name in ("config", "doctor", "once --dry-run", "once", "run")}
    assert {name: done.returncode for name, done in found.items()} == dict.fromkeys(found, 2)
    (line,) = {done.stderr for done in found.values()}
    assert line.startswith(f"{folder}/watcher.yaml{said.format(folder=folder)}")
    assert line.count("\n") == 1
    assert not list(folder.rglob(".watcher")), "nothing was begun"


def test_the_local_executor_has_no_such_limits(folder, environ):
    text = CONFIG.replace("slurm", "local") + "poll: 1s\nresults: 'a\\b'\n"
    (folder / "watcher.yaml").write_text(text)
    assert run_watcher(folder, environ, "config").returncode == 0


@pytest.fixture
def watch(tmp_path):
    made = FakeSlurmRun(tmp_path / "run", steps={"base": [100]}, settings=SETTINGS)
    yield made
    if made.daemon is not None and made.daemon.poll() is None:
        made.daemon.kill()
        made.daemon.wait()
    made.fake.kill_all()


SETTINGS = {"poll": "60s", "limits": {"slurm_calls_per_minute": 5}}


def reload(watch, **changed):
    """Write the config and send SIGHUP; the log's answer."""
    config = yaml.safe_load(watch.config.read_text()) | changed
    watch.config.write_text(yaml.safe_dump(config))
    before = read_log(watch)
    watch.daemon.send_signal(signal.SIGHUP)
    answers = {"config_reloaded", "config_refused"}
    watch.wait_until(lambda: any(line["event"] in answers for line in read_log(watch)[len(before) :]))
    return next(line for line in read_log(watch)[len(before) :] if line["event"] in answers)


def read_log(watch):
    return [json.loads(line) for line in (watch.state / "watcher.log").read_text().splitlines()]


def read_status(watch):
    return json.loads((watch.state / "status.json").read_text())


def start(watch):
    watch.start_another_daemon()
    watch.wait_until(lambda: watch.is_status_of(watch.daemon))


def test_a_reload_of_poll_and_limits_is_a_fresh_start(watch):
    """A small budget under a quick poll would leave nothing for a submission."""
    watch.write_checkpoint("base", 100)
    start(watch)
    watch.wait_until(lambda: watch.read_states().get("base/step_100") in {"queued", "running", "scored"})
    config = yaml.safe_load(watch.config.read_text())
    stages = config["stages"] | {"base": config["stages"]["base"] | {"steps": [100, 200, 300]}}
    for step in (200, 300):
        watch.write_checkpoint("base", step)
    answer = reload(watch, poll="1s", limits={"slurm_calls_per_minute": 1000}, stages=stages)
    assert answer["event"] == "config_reloaded"
    expected = {f"base/step_{step}": "scored" for step in (100, 200, 300)}
    watch.wait_until(lambda: watch.read_states() == expected)
    assert read_status(watch)["poll"] == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"poll": "5s"}, r"limits.slurm_calls_per_minute: 5 Slurm commands per minute are too few for a poll every 5 s"),
        ({"poll": "5s", "limits": DAEMON_SETTINGS["limits"], "retry": {"attempts": 0}}, r"retry.attempts: expected `int` >= 1"),
        ({"executor": "local"}, r"executor \(slurm > local\) cannot change while the watcher runs; restart it"),
        ({"scratch": "/elsewhere"}, r"scratch \(.* > /elsewhere\) cannot change while the watcher runs; restart it"),
        ({"state": "/elsewhere"}, r"state \(.* > /elsewhere\) cannot change while the watcher runs; restart it"),
    ],
)
def test_a_reload_is_all_or_nothing(watch, changed, said):
    start(watch)
    answer = reload(watch, **changed)
    assert answer["event"] == "config_refused"
    assert str(watch.config) in answer["message"]
    assert re.search(said, answer["message"])
    watch.wait_until(lambda: any("the new config is refused" in warning for warning in read_status(watch)["warnings"]))
    assert reload(watch, executor="slurm", scratch=str(watch.root), state=str(watch.state), retry={}, **SETTINGS)["event"] == (
        "config_reloaded"
    )
    watch.wait_until(lambda: not read_status(watch)["warnings"])


def test_a_reload_with_a_broken_suite_keeps_the_old_config_whole(watch):
    start(watch)
    (watch.root / "slices.yaml").write_text("tier: tier2_ppl\nslces: 1\n")
    answer = reload(watch, poll="2s", limits={"slurm_calls_per_minute": 1000})
    assert answer["event"] == "config_refused"
    assert f"{watch.config}:" in answer["message"]
    assert f"{watch.root}/slices.yaml:2: " in answer["message"]


def test_a_config_that_is_gone_is_missed_and_not_replaced_by_the_built_in_one(watch):
    (watch.root / "elsewhere").mkdir()
    watch.environ |= {"WATCHER_CONFIG": str(watch.config)}
    start(watch)
    watch.config.rename(watch.root / "elsewhere/watcher.yaml")
    watch.daemon.send_signal(signal.SIGHUP)
    watch.wait_until(lambda: any(line["event"] == "config_refused" for line in read_log(watch)))
    assert (
        f"{watch.config}: cannot be read"
        in next(line for line in read_log(watch) if line["event"] == "config_refused")["message"]
    )


def test_an_edited_config_that_nobody_loaded_is_said(watch):
    start(watch)
    watch.config.write_text(watch.config.read_text() + "\n# edited\n")
    (watch.root / "ckpts" / "base").mkdir(parents=True, exist_ok=True)
    watch.daemon.send_signal(signal.SIGHUP)
    watch.wait_until(lambda: any(line["event"] == "config_reloaded" for line in read_log(watch)))
    reload(watch, poll="1s", limits={"slurm_calls_per_minute": 1000})
    watch.config.write_text(watch.config.read_text() + "\n# edited again\n")
    said = f"{watch.config} was edited, and this watcher uses what it read before; check it and run kill -HUP {watch.daemon.pid}"
    watch.wait_until(lambda: said in read_status(watch)["warnings"])


def test_a_dry_run_shows_what_is_due_beside_pending_requests(watch):
    watch.write_checkpoint("base", 100)
    environ = watch.environ | {"SCRATCH": str(watch.root), "PYTHONPATH": str(REPOSITORY_ROOT)}
    for step in ("140", "150"):
        assert run_watcher(watch.root, environ, "enqueue", "base", step).returncode == 0
    (watch.state / "requests/damaged.json").write_text("{")
    done = run_watcher(watch.root, environ, "once", "--dry-run")
    assert "damaged.json" in done.stderr
    assert done.stdout.splitlines() == [
        "answer base: base 140: will be scored",
        "answer base: base 150: will be scored",
        "submit base/step_100: complete and not scored",
        "skipped base/step_140: waiting for checkpoint",
        "skipped base/step_150: waiting for checkpoint",
    ]


def test_a_folder_of_the_users_in_the_start_folder_or_on_pythonpath_is_never_run(folder, environ):
    """``watcher once`` scores with the local executor; the user's packages lie everywhere and write a file when imported."""
    pytest.importorskip("torch", reason="needs the scorer, which a login node does not have")
    project = folder / "project"
    for name in ("scoring", "suites"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text(f"open({str(folder / 'imported')!r}, 'w')\n")
    (folder / "watcher.yaml").write_text(
        CONFIG.replace("slurm", "local").replace("100", "60") + f"settle: 0s\npython: {sys.executable}\n"
    )
    shutil.copytree(REPOSITORY_ROOT / "tests/data/checkpoints/byte_tokenizer", folder / "tokenizer")
    environ |= {"PYTHONPATH": f"{project}:{environ['PYTHONPATH']}", "WATCHER_CONFIG": str(folder / "watcher.yaml")}
    shutil.copytree(REPOSITORY_ROOT / "tests/data/checkpoints/llama_gqa_tp1/60", folder / "ckpts/60", dirs_exist_ok=True)
    for command in ("prefill", "once"):
        done = run_watcher(project, environ, command)
        assert "Traceback" not in done.stderr, done.stderr
        assert not (folder / "imported").exists(), command
    end = time.monotonic() + 120
    while not (records := list(folder.rglob("exit.0.json"))):
        assert time.monotonic() < end
        time.sleep(0.1)
    log = "".join(path.read_text() for path in Path(folder / "evaluation_results").rglob("*.err"))
    assert json.loads(records[0].read_text())["code"] == 0, log
    assert not (folder / "imported").exists()
    assert f"PYTHONPATH: {project} is left out, since its 'scoring' would hide the scorer's; going on" in log

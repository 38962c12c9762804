import json
import os
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from suites.contract.paths import StatePaths
from support.models.nanotron_checkpoint import set_times, write_tiny_checkpoint
from watcher import __version__
from watcher.cli.app import main
from watcher.config.loader import check_config, load_config
from watcher.config.scaffold import write_config_files
from watcher.status.document import DaemonFacts, build_status, publish_status

COMMANDS = ("run", "once", "status", "enqueue", "why", "retry", "cancel", "init", "config")
CONFIG = """
results: results
executor: local
stages:
  stage1: {checkpoints: ckpts, steps: [100, 200], suites: [stage1_ppl_slices]}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("SCRATCH", "WATCHER_CONFIG", "LIGHTEVAL_CMD"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "watcher.yaml").write_text(CONFIG)
    return tmp_path


def said(*words, code=0):
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, result.output
    return result


def leave_status(*, age=0.0):
    config = load_config(None, {})
    daemon = DaemonFacts(host="login1", pid=42, epoch=1, started_at=0.0, version="x", poll_seconds=60.0)
    now = time.time() - age
    config.state.mkdir(parents=True, exist_ok=True)
    publish_status(build_status(records={}, skips=[], queue=None, config=config, now=now, daemon=daemon), config.paths)


@pytest.mark.usefixtures("here")
def test_every_command_has_help_and_takes_a_config():
    assert f"version {__version__}" in said("--version").output
    for command in COMMANDS:
        output = said(command, "--help").output
        assert ("--config FILE" in output) == (command != "init")


@pytest.mark.parametrize(
    "command", [("once",), ("status",), ("config",), ("run",), ("why", "stage1", "1"), ("retry", "stage1", "1")]
)
def test_a_broken_config_is_one_line_and_exit_2_everywhere(here, command):
    (here / "bad.yaml").write_text("pol: 1s\n")
    result = said(*command, "--config", "bad.yaml", code=2)
    assert result.stdout == ""
    assert result.stderr == f"{here}/bad.yaml:1: unknown key 'pol'; did you mean 'poll'?\n"


@pytest.mark.usefixtures("here")
def test_wrong_usage_is_exit_2():
    assert "No such command" in said("stats", code=2).stderr
    assert "No such option" in said("status", "--jsn", code=2).stderr


def test_config_prints_what_it_means(here):
    output = said("config").output
    assert output.startswith(f"# {here}/watcher.yaml\n")
    assert "steps: [100, 200]" in output
    assert f"checkpoints: {here}/ckpts" in output


def test_config_checks_the_suites_too(here):
    (here / "watcher.yaml").write_text(CONFIG.replace("ppl_slices", "pl_slices"))
    assert (
        "watcher.yaml:5: stages.stage1.suites: 'stage1_pl_slices': no suite of that name; did you mean"
        in said("config", code=2).stderr
    )


def test_init_writes_a_config_that_loads_and_overwrites_nothing(here):
    output = said("init", "new").output
    assert f"Wrote {here}/new/watcher.yaml and {here}/new/watcher.env" in output
    config = check_config(here / "new/watcher.yaml", {"SCRATCH": "/s"})
    assert list(config.stages) == ["stage1", "stage2", "stage3", "stage4"]
    assert "exists, and init overwrites nothing" in said("init", "new", code=2).stderr
    assert "exists, and init" in said("init", code=2).stderr
    assert (here / "watcher.yaml").read_text() == CONFIG


def test_init_s_environment_is_what_the_shell_reads(here):
    environ = {"SCRATCH": "/scratch with space/me", "PATH": "/bin:/usr/bin"}
    _, path = write_config_files(here / "new", environ)
    script = f"set -a; . '{path}'; set +a; exec env"
    lines = subprocess.run(["/bin/sh", "-c", script], env={}, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {f"{key}={value}" for key, value in environ.items()} | {f"WATCHER_CONFIG={here}/new/watcher.yaml"} <= set(lines)


def test_init_leaves_out_what_no_reader_of_such_files_agrees_on(here):
    _, path = write_config_files(here / "new", {"SCRATCH": "/a'b\n"})
    assert "# SCRATCH=    (set it here)" in path.read_text()


def test_init_in_a_place_that_cannot_be_written_is_one_line(here):
    (here / "file").touch()
    assert said("init", "file", code=2).stderr.startswith(f"{here}/file: cannot be written (File exists)")
    assert said("init", "file/x", code=2).stderr.startswith(f"{here}/file/x: cannot be written (Not a directory)")


@pytest.mark.parametrize(
    ("age", "code", "verdict", "first"),
    [(0, 0, "alive", "Running on login1"), (500, 3, "stale", "Not running: last poll on login1")],
)
def test_status_says_first_whether_the_watcher_is_alive(here, age, code, verdict, first):
    leave_status(age=age)
    assert said("status", code=code).output.startswith(first)
    document = json.loads(said("status", "--json", code=code).output)
    assert document["health"] == verdict
    assert document["age_seconds"] == pytest.approx(age, abs=30)
    assert document["stages"]["stage1"]["checkpoints"] == f"{here}/ckpts"


@pytest.mark.usefixtures("here")
def test_status_without_a_watcher_is_exit_4():
    assert said("status", code=4).output.startswith("No watcher has run here: ")
    document = json.loads(said("status", "--json", code=4).output)
    assert (document["health"], document["age_seconds"]) == ("absent", None)


def test_once_does_what_is_due_and_dry_run_writes_nothing(here):
    (here / "ckpts").mkdir()
    before = sorted(here.rglob("*"))
    document = json.loads(said("once", "--dry-run", "--json").output)
    assert sorted(here.rglob("*")) == before
    assert set(document) == {"actions", "skipped"}
    assert all(set(action) == {"action", "evaluation", "reason"} for action in document["actions"])
    assert all(set(skip) == {"evaluation", "reason"} for skip in document["skipped"])
    assert "stage1/step_100" in {entry["evaluation"] for entry in (*document["actions"], *document["skipped"])}
    assert "stage1/step_100" in said("once", "--dry-run").output
    said("once")
    assert StatePaths(here / "results/.watcher").status_json.exists()


DUE = """
results: results
executor: local
settle: 1s
stages:
  stage1: {checkpoints: ckpts, steps: [100, 200], suites: [slices.yaml], tokenizer: ./tokenizer, seq_len: 64}
"""


def test_a_dry_run_shows_both_what_was_asked_for_and_what_is_due(here):
    (here / "watcher.yaml").write_text(DUE)
    (here / "slices.yaml").write_text("tier: tier2_ppl\nslices:\n  web: {data_files: [web.jsonl], target_tokens: 9}\n")
    (here / "web.jsonl").write_text('{"text": "some words"}\n')
    (here / "tokenizer").mkdir()
    set_times(write_tiny_checkpoint(here / "ckpts" / "100", 100), time.time() - 300)
    os.utime(here / "web.jsonl", (0, time.time() - 300))

    def command(*words):
        process = watcher(*words, here=here)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        return out.splitlines()

    submits = "submit stage1/step_100: complete and not scored"
    assert command("once", "--dry-run") == [submits, "skipped stage1/step_200: waiting for checkpoint"]
    command("enqueue", "stage1", "40")
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    assert command("once", "--dry-run") == [
        "answer stage1: stage1 40: scheduled",
        submits,
        "skipped stage1/step_40: waiting for checkpoint",
        "skipped stage1/step_200: waiting for checkpoint",
    ]
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


def watcher(*words, here, **options):
    return subprocess.Popen(
        [sys.executable, "-c", "from watcher.cli.app import main; main()", *words],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_status_watch_goes_on_until_interrupted(here):
    leave_status()
    with watcher("status", "--watch", "--json", here=here) as process:
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=60)
    assert json.loads(first)["health"] == json.loads(second)["health"] == "alive"
    assert (process.returncode, complaints) == (0, "")


def test_a_reader_that_leaves_early_causes_no_traceback(here):
    leave_status()
    with watcher("status", "--watch", here=here) as process:
        process.stdout.readline()
        process.stdout.close()
        process.wait(timeout=60)
        assert "Traceback" not in process.stderr.read()


def test_status_needs_few_modules(here):
    code = "import sys; from watcher.cli.app import main\ntry: main(['status'])\nexcept SystemExit: print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in output.splitlines()[-1].split()}
    heavy = {
        "rich",
        "structlog",
        "watchdog",
        "filelock",
        "asyncio",
        "torch",
        "numpy",
        "pyarrow",
        "datasets",
        "transformers",
        "scoring",
    }
    assert not loaded & heavy

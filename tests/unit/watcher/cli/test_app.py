import json
import os
import shlex
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest

from suites.contract.paths import StatePaths
from support.models.nanotron_checkpoint import set_times, write_tiny_checkpoint
from support.runs.watcher_commands import make_config_folder_fixture, publish_daemon_status, run_watcher
from watcher import __version__
from watcher.config.loader import check_config
from watcher.config.scaffold import compose_files
from watcher.core import events
from watcher.journal.journal import Journal

COMMANDS = ("run", "once", "status", "enqueue", "why", "retry", "cancel", "init", "config")
CONFIG = """
results: results
executor: local
stages:
  stage1: {checkpoints: ckpts, steps: [100, 200], suites: [stage1_ppl_slices]}
"""


config_folder = make_config_folder_fixture(CONFIG)


@pytest.mark.usefixtures("config_folder")
def test_every_command_has_help_and_takes_a_config():
    assert f"version {__version__}" in run_watcher("--version").output
    for command in COMMANDS:
        output = run_watcher(command, "--help").output
        assert ("--config FILE" in output) == (command != "init")


@pytest.mark.parametrize(
    "command", [("once",), ("status",), ("config",), ("run",), ("why", "stage1", "1"), ("retry", "stage1", "1")]
)
def test_a_broken_config_is_one_line_and_exit_2_everywhere(config_folder, command):
    (config_folder / "bad.yaml").write_text("pol: 1s\n")
    result = run_watcher(*command, "--config", "bad.yaml", exit_code=2)
    assert result.stdout == ""
    assert result.stderr == f"{config_folder}/bad.yaml:1: unknown key 'pol'; did you mean 'poll'?\n"


@pytest.mark.parametrize("mistake", ["pol: 1s\n", "stages: [\n"])
def test_what_a_watcher_left_is_shown_beside_a_broken_config(config_folder, mistake):
    publish_daemon_status()
    (config_folder / "watcher.yaml").write_text(f"results: results\n{mistake}")
    result = run_watcher("status", exit_code=2)
    assert "Running on login1" in result.stdout
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"{config_folder}/watcher.yaml:")
    assert json.loads(run_watcher("status", "--json", exit_code=2).stdout)["health"] == "alive"


def test_the_last_report_and_an_evaluation_are_found_beside_a_broken_config(config_folder):
    journal = Journal.open(StatePaths(config_folder / "results/.watcher"))
    created = {"stage": "stage1", "source": "stage1", "step": 100, "directory": "step_100", "origin": "schedule"}
    journal.append(events.Created(evaluation="stage1/step_100", checkpoint="/c/100", **created), t=time.time())
    journal.close()
    publish_daemon_status()
    (config_folder / "results/report.html").write_text("")
    (config_folder / "watcher.yaml").write_text(f"{CONFIG}pol: 1s\n")
    result = run_watcher("why", "stage1", "100", exit_code=2)
    assert "stage1/step_100 (step 100) is in the schedule" in result.stdout
    assert "unknown key 'pol'" in result.stderr
    first, second = run_watcher("report", exit_code=2).stderr.splitlines()
    assert first == f"The last report is {config_folder}/results/report.html"
    assert "unknown key 'pol'" in second


@pytest.mark.parametrize("command", [("status",), ("once", "--dry-run"), ("enqueue", "stage1", "5"), ("config",)])
def test_the_built_in_config_is_said_to_be_used(config_folder, monkeypatch, command):
    (config_folder / "watcher.yaml").unlink()
    monkeypatch.setenv("SCRATCH", str(config_folder))
    result = run_watcher(*command, exit_code=4 if command == ("status",) else 0)
    assert result.stderr.splitlines()[0] == (
        f"Config: the built-in one, over {config_folder} (no --config, no $WATCHER_CONFIG, and no watcher.yaml in this folder)"
    )


@pytest.mark.usefixtures("config_folder")
def test_wrong_usage_is_exit_2():
    assert "No such command" in run_watcher("stats", exit_code=2).stderr
    assert "No such option" in run_watcher("status", "--jsn", exit_code=2).stderr


def test_config_prints_what_it_means(config_folder):
    output = run_watcher("config").output
    assert output.startswith(f"# {config_folder}/watcher.yaml\n")
    assert "steps: [100, 200]" in output
    assert "pin_max: 1T\n" in output
    assert f"checkpoints: {config_folder}/ckpts" in output


def test_config_checks_the_suites_too(config_folder):
    (config_folder / "watcher.yaml").write_text(CONFIG.replace("ppl_slices", "pl_slices"))
    assert (
        "watcher.yaml:5: stages.stage1.suites: 'stage1_pl_slices': no suite of that name; did you mean"
        in run_watcher("config", exit_code=2).stderr
    )


def test_init_writes_a_config_that_loads_and_overwrites_nothing(config_folder):
    output = run_watcher("init", "new").output
    assert output.startswith(f"Wrote {config_folder}/new/watcher.yaml\nWrote {config_folder}/new/watcher.env\n")
    config = check_config(config_folder / "new/watcher.yaml", {"SCRATCH": "/s"})
    assert list(config.stages) == ["stage1", "stage2", "stage3", "stage4"]
    assert "exists, and init overwrites nothing" in run_watcher("init", "new", exit_code=2).stderr
    assert "exists, and init" in run_watcher("init", exit_code=2).stderr
    assert (config_folder / "watcher.yaml").read_text() == CONFIG


@pytest.mark.parametrize(
    "case",
    [
        ("my run/ckpts", ("2000", "4000"), "my_run", "{step}"),
        ("out/sft-1", ("checkpoint-500", "logs"), "sft-1", "checkpoint-{step}"),
        ("out/${x}", ("iter_0002000",), "__x_", "iter_{step:07d}"),
        ("later/checkpoints", (), "later", "{step}"),
    ],
)
@pytest.mark.parametrize("scratch", ["", "elsewhere", "inside"])
def test_init_for_a_run_whose_steps_lie_in_one_folder(case, scratch, config_folder, monkeypatch):
    folder, steps, name, layout = case
    for step in steps:
        (config_folder / folder / step).mkdir(parents=True)
    where = {"": "", "elsewhere": str(config_folder / "scratch"), "inside": str(config_folder / folder)}[scratch]
    monkeypatch.setenv("SCRATCH", where)
    run_watcher("init", "new", "--single-stage", folder)
    config = check_config(config_folder / "new/watcher.yaml", {"SCRATCH": where})
    (stage,) = config.stages.values()
    assert (stage.name, stage.checkpoints, stage.layout.name) == (name, config_folder / folder, layout)
    assert (stage.every, stage.final) == (1, True)
    place = config_folder / folder
    own = "evaluation_results" if place.name in {"ckpts", "checkpoints"} else f"{place.name}_evaluation_results"
    assert (config.results, config.state) == (place.parent / own, place.parent / own / ".watcher")
    assert run_watcher("config", "--config", "new/watcher.yaml").output.startswith(f"# {config_folder}/new/watcher.yaml")


def compose_environment(folder, environ):
    """The text of watcher.env, with a ``watcher`` on PATH."""
    with mock.patch("shutil.which", return_value="/bin/watcher"):
        files = compose_files(folder, environ)
    return files.texts[files.environment]


def test_init_s_environment_is_what_the_shell_reads(config_folder):
    environ = {"SCRATCH": "/scratch with space/me", "PATH": "/bin:/usr/bin"}
    path = config_folder / "watcher.env"
    path.write_text(compose_environment(config_folder / "new", environ))
    script = f"set -a; . '{path}'; set +a; exec env"
    lines = subprocess.run(["/bin/sh", "-c", script], env={}, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {f"{key}={value}" for key, value in environ.items()} | {f"WATCHER_CONFIG={config_folder}/new/watcher.yaml"} <= set(
        lines
    )


def test_init_keeps_what_slurms_commands_need_and_what_overrides_the_config(config_folder):
    cluster = {"SLURM_CONF": "/etc/b/slurm.conf", "MUNGE_SOCKET": "/run/b", "LD_LIBRARY_PATH": "/opt/slurm/lib:/opt/lib"}
    environ = {"SCRATCH": "/s", "PATH": "/bin", "EVAL_DATA_DIR": "/data", "STAGE4_STEPS": "500 1500", **cluster}
    text = compose_environment(config_folder / "new", environ | {"SLURM_JWT": "secret", "SBATCH_QOS": "x"})
    kept = dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))
    assert {name: shlex.split(value)[0] for name, value in kept.items()} == environ | {
        "WATCHER_CONFIG": f"{config_folder}/new/watcher.yaml"
    }
    assert "secret" not in text
    assert "# SLURM_JWT=    (a token ends" in text
    plain = compose_environment(config_folder / "plain", {"SCRATCH": "/s", "PATH": "/bin"})
    assert "# (nothing: the system's slurm.conf is used)" in plain
    assert "# HF_HOME=    (default: ~/.cache/huggingface)" in plain


def test_init_leaves_out_what_no_reader_of_such_files_agrees_on(config_folder):
    assert "# SCRATCH=    (set it here)" in compose_environment(config_folder / "new", {"SCRATCH": "/a'b\n"})


def test_init_in_a_place_that_cannot_be_written_is_one_line(config_folder):
    (config_folder / "file").touch()
    assert run_watcher("init", "file", exit_code=2).stderr.startswith(f"{config_folder}/file: cannot be written (File exists)")
    assert run_watcher("init", "file/x", exit_code=2).stderr.startswith(
        f"{config_folder}/file/x: cannot be written (Not a directory)"
    )


@pytest.mark.parametrize(
    ("age", "code", "verdict", "first"),
    [(0, 0, "alive", "Running on login1"), (500, 3, "stale", "Not running: last poll on login1")],
)
def test_status_says_first_whether_the_watcher_is_alive(config_folder, age, code, verdict, first):
    publish_daemon_status(age=age)
    assert run_watcher("status", exit_code=code).output.startswith(first)
    document = json.loads(run_watcher("status", "--json", exit_code=code).output)
    assert document["health"] == verdict
    assert document["age_seconds"] == pytest.approx(age, abs=30)
    assert document["stages"]["stage1"]["checkpoints"] == f"{config_folder}/ckpts"


@pytest.mark.usefixtures("config_folder")
def test_status_without_a_watcher_is_exit_4():
    assert run_watcher("status", exit_code=4).output.startswith("No watcher has run here: ")
    document = json.loads(run_watcher("status", "--json", exit_code=4).output)
    assert (document["health"], document["age_seconds"]) == ("absent", None)


def test_once_does_what_is_due_and_dry_run_writes_nothing(config_folder):
    (config_folder / "ckpts").mkdir()
    before = sorted(config_folder.rglob("*"))
    document = json.loads(run_watcher("once", "--dry-run", "--json").output)
    assert sorted(config_folder.rglob("*")) == before
    assert set(document) == {"actions", "skipped"}
    assert all(set(action) == {"action", "evaluation", "reason"} for action in document["actions"])
    assert all(set(skip) == {"evaluation", "reason"} for skip in document["skipped"])
    assert "stage1/step_100" in {entry["evaluation"] for entry in (*document["actions"], *document["skipped"])}
    assert "stage1/step_100" in run_watcher("once", "--dry-run").output
    done = run_watcher("once").stdout
    assert StatePaths(config_folder / "results/.watcher").status_json.exists()
    # What `status` says comes from there, and no watcher is promised that nobody started.
    body = run_watcher("status").stdout.splitlines()[1:]
    assert done.splitlines()[-len(body) - 2 : -2] == body
    assert "Not running between runs: last run of `watcher once` on " in done


DUE = """
results: results
executor: local
settle: 1s
stages:
  stage1: {checkpoints: ckpts, steps: [100, 200], suites: [slices.yaml], tokenizer: ./tokenizer, seq_len: 64}
"""


def prepare_due_step(config_folder, config):
    """A complete checkpoint and data of its own; returns what runs a command there."""
    (config_folder / "watcher.yaml").write_text(config)
    (config_folder / "slices.yaml").write_text("tier: tier2_ppl\nslices:\n  web: {data_files: [web.jsonl], target_tokens: 9}\n")
    (config_folder / "web.jsonl").write_text('{"text": "some words"}\n')
    (config_folder / "tokenizer").mkdir()
    set_times(write_tiny_checkpoint(config_folder / "ckpts" / "100", 100), time.time() - 300)
    os.utime(config_folder / "web.jsonl", (0, time.time() - 300))

    def command(*arguments):
        process = watcher(*arguments, config_folder=config_folder)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        return out.splitlines()

    return command


def test_local_data_wait_for_a_tokenizer_of_the_hub_and_every_command_names_it(config_folder):
    command = prepare_due_step(config_folder, DUE.replace("./tokenizer", "acme/uncached"))
    waits = "the data cache lacks tokenizer acme/uncached. Run watcher prefill stage1"
    assert any(line.startswith(f"skipped stage1/step_100: {waits}") for line in command("once", "--dry-run"))
    command("once")
    assert not list(config_folder.glob("results/.watcher/attempts/*"))
    row = json.loads((config_folder / "results/.watcher/status.json").read_text())["stages"]["stage1"]["evaluations"][0]
    assert (row["state"], row["reason_kind"]) == ("waiting", "data")
    assert row["reason"].startswith(waits)


def test_a_dry_run_shows_both_what_was_asked_for_and_what_is_due(config_folder):
    command = prepare_due_step(config_folder, DUE)
    submits = "submit stage1/step_100: complete and not scored"
    assert command("once", "--dry-run") == [submits, "skipped stage1/step_200: waiting for checkpoint"]
    command("enqueue", "stage1", "40")
    before = {path: path.stat().st_mtime_ns for path in config_folder.rglob("*")}
    answer, submission, *skipped = command("once", "--dry-run")
    assert (answer, submission) == ("answer stage1: stage1 40: will be scored", submits)
    assert skipped[0].startswith("skipped stage1/step_40: gone before it was seen complete")
    assert skipped[1:] == ["skipped stage1/step_200: waiting for checkpoint"]
    assert {path: path.stat().st_mtime_ns for path in config_folder.rglob("*")} == before


def watcher(*arguments, config_folder, **options):
    return subprocess.Popen(
        [sys.executable, "-c", "from watcher.cli.app import main; main()", *arguments],
        cwd=config_folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_status_watch_goes_on_until_interrupted(config_folder):
    publish_daemon_status()
    with watcher("status", "--watch", "--json", config_folder=config_folder) as process:
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=60)
    assert json.loads(first)["health"] == json.loads(second)["health"] == "alive"
    assert (process.returncode, complaints) == (0, "")


def test_a_reader_that_leaves_early_causes_no_traceback(config_folder):
    publish_daemon_status()
    with watcher("status", "--watch", config_folder=config_folder) as process:
        process.stdout.readline()
        process.stdout.close()
        process.wait(timeout=60)
        assert "Traceback" not in process.stderr.read()


def test_status_needs_few_modules(config_folder):
    code = "import sys; from watcher.cli.app import main\ntry: main(['status'])\nexcept SystemExit: print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], cwd=config_folder, capture_output=True, text=True, check=True).stdout
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


def test_init_names_folders_without_detours(config_folder):
    output = run_watcher("init", "sub/../../elsewhere", "--single-stage", "x/../run1/ckpts").output
    assert f"Wrote {config_folder.parent}/elsewhere/watcher.yaml\n" in output
    assert ".." not in output
    assert ".." not in (config_folder.parent / "elsewhere/watcher.yaml").read_text().partition("stages:")[2]
    assert ".." not in (config_folder.parent / "elsewhere/watcher.env").read_text()

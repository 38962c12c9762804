"""The batch scripts' surroundings: setup lines, interpreter, paths, broken folders. And the systemd units."""

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from suites.common.errors import ExitCode
from suites.contract.exit_record import read_exit_records
from suites.contract.shipped_files import find_shipped_file
from support.executors.batch_scripts import (
    SCORE_SCRIPT,
    AttemptFolder,
    copy_non_slurm_environment,
    make_attempt,
    start_script,
    wait_for_script,
    write_stand_in,
)
from watcher.observe.job_logs import read_log_ending

NAME = "eval-stage1-2000-0badcafe"
ODD = 'it\'s a "folder" $HOME `id` \\n & ü'


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptFolder:
    return make_attempt(tmp_path / "attempts", NAME, write_stand_in(tmp_path))


def variables(attempt: AttemptFolder) -> dict[str, str]:
    lines = (attempt.folder / "environment").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_paths_with_spaces_quotes_and_dollars_work_everywhere(tmp_path):
    odd = tmp_path / ODD
    odd.mkdir()
    attempt = make_attempt(odd / "attempts", ODD, write_stand_in(odd))
    setup = odd / "setup.sh"
    setup.write_text("export FROM_SETUP=yes\n")
    code, words = wait_for_script(start_script(attempt, str(setup)))
    assert code == 0, words
    assert variables(attempt)["FROM_SETUP"] == "yes"
    assert attempt.exit_record.run_id == ODD
    assert (attempt.folder / "arguments").read_text().splitlines()[-1] == str(attempt.request)


def test_a_relative_request_is_found_after_the_setup_changed_folder(attempt, tmp_path):
    setup = tmp_path / "setup.sh"
    setup.write_text("cd /\n")
    script = str(find_shipped_file("slurm/score.sbatch"))
    command = ["bash", script, f"{NAME}/request.json", str(setup)]
    done = subprocess.run(
        command, cwd=attempt.folder.parent, env=copy_non_slurm_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert attempt.exit_record.run_id == NAME


NESTED = "false\ng() { false; return 0; }\ng\nexport NESTED=1\n"
MODULE = "module() { eval \"$(printf 'false\\n')\"; }\n"


@pytest.mark.parametrize(
    "lines",
    [
        'echo "$NOT_SET $# arguments"',
        "source ./nested.sh",
        "[ -f ./nosuch ] && source ./nosuch\ntrue",
        "if false; then :; fi\n! true\nfalse || true\nfalse | true",
        "f() { false; true; }\nf",
        'eval "f() { false; }"\nuntil f || true; do :; done',
        "cat >/dev/null <<END\nfalse\nEND",
        "trap 'echo mine' ERR\nset +u",
    ],
)
def test_setup_lines_may_be_as_careless_as_module_files_are(attempt, tmp_path, lines):
    (tmp_path / "nested.sh").write_text(NESTED)
    setup = tmp_path / "setup.sh"
    setup.write_text(f"cd {tmp_path}\n{lines}\nexport LAST=1\n")
    code, words = wait_for_script(start_script(attempt, str(setup)))
    assert code == 0, words
    assert variables(attempt)["LAST"] == "1"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("true\nfalse\ntrue", "setup line 2 failed with 1: false;"),
        ("export A=1\n  module load cuda/99\ntrue", "setup line 2 failed with 127: module load cuda/99;"),
        (f"{MODULE}module load cuda/99\ntrue", "setup line 2 failed with 1: module load cuda/99;"),
        ("source /no/such/venv/bin/activate\ntrue", "setup line 1 failed with 1: source /no/such/venv/bin/activate;"),
        ("f() {\n  true\n  false\n}\nf\ntrue", "setup line 5 failed with 1: f;"),
        ("for i in 1 2; do\n  (exit $i)\ndone", "setup line 2 failed with 1: (exit $i);"),
        ("ls \\\n  /no/such\ntrue", "setup line 2 failed with 2: /no/such;"),
        ("X=$(exit 9)\ntrue", "setup line 1 failed with 9: X=$(exit 9);"),
        ("set -e\ncd /no/such\ntrue", "setup line 2 failed with 1: cd /no/such;"),
        ("true\nreturn 3\ntrue", "the setup lines failed: {setup}: ended with 3;"),
        ("if true; then\ntrue", "the setup lines failed: {setup}: line 3: syntax error: unexpected end of file;"),
    ],
)
def test_the_first_setup_line_that_fails_ends_the_job_and_is_named(attempt, tmp_path, lines, said):
    setup = tmp_path / "setup.sh"
    setup.write_text(f"{lines}\n")
    code, words = wait_for_script(start_script(attempt, str(setup)))
    assert code == ExitCode.UNAVAILABLE, words
    assert said.format(setup=setup) + " fix slurm: setup: in the config" in words
    assert (attempt.exit_record.code, attempt.run_count) == (ExitCode.UNAVAILABLE, 0)
    log = tmp_path / "log"
    log.write_text(words)
    assert read_log_ending(log).reason.startswith(said.format(setup=setup)), "the words that the status shows"


def test_setup_that_drops_traps_and_options_changes_nothing(attempt, tmp_path):
    setup = tmp_path / "setup.sh"
    setup.write_text("trap - EXIT TERM\nset +e\nIFS=x\nexport A=1\n")
    assert wait_for_script(start_script(attempt, str(setup)))[0] == 0
    assert attempt.exit_record.code == 0


@pytest.mark.parametrize(("line", "code"), [("exit 3", 3), ("exit 0", ExitCode.BUG)])
def test_setup_that_exits_is_a_failure(attempt, tmp_path, line, code):
    setup = tmp_path / "setup.sh"
    setup.write_text(f"{line}\n")
    assert wait_for_script(start_script(attempt, str(setup)))[0] == code
    assert (attempt.exit_record.code, attempt.run_count) == (code, 0)


def test_a_missing_setup_file_is_named(attempt, tmp_path):
    code, words = wait_for_script(start_script(attempt, str(tmp_path / "nosuch.sh")))
    assert code == ExitCode.UNAVAILABLE
    assert f"{tmp_path / 'nosuch.sh'}: cannot be read" in words
    assert attempt.exit_record.code == ExitCode.UNAVAILABLE


def test_a_python_that_is_not_there_is_named(attempt):
    code, words = wait_for_script(start_script(attempt, "", "/no/such/python"))
    assert code == ExitCode.UNAVAILABLE
    assert "/no/such/python: cannot be run" in words
    assert attempt.exit_record.code == ExitCode.UNAVAILABLE


def test_python_given_as_an_argument_wins_over_the_requests(attempt, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    attempt.request.write_text('{"python": "/no/such/python"}')
    assert wait_for_script(start_script(attempt, "", str(write_stand_in(other))))[0] == 0


def test_a_request_that_names_two_pythons_is_refused(attempt):
    attempt.request.write_text('{"python": "/a", "more": {"python": "/b"}}')
    code, words = wait_for_script(start_script(attempt))
    assert code == ExitCode.USAGE
    assert "give the interpreter as the third argument" in words
    assert not (attempt.folder / "claim").exists()


def test_usage_is_said_when_there_is_no_request(tmp_path):
    nowhere = AttemptFolder(tmp_path / "nowhere", ())
    code, words = wait_for_script(start_script(nowhere))
    assert code == ExitCode.USAGE
    assert f"usage: score.sbatch REQUEST.json [SETUP [PYTHON]]; {nowhere.request} is not a readable file" in words


LOGIN_THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "OMP_THREAD_LIMIT": "1",
    "OMP_PROC_BIND": "true",
    "GOMP_CPU_AFFINITY": "0",
    "KMP_AFFINITY": "disabled",
}
"""What a profile sets for the sake of a login node."""


@pytest.mark.parametrize(
    ("given", "lines", "threads"),
    [
        ({"SLURM_CPUS_PER_TASK": "6"}, "", "6"),
        ({"SLURM_CPUS_ON_NODE": "4"}, "", "4"),
        ({"SLURM_CPUS_PER_TASK": "6", "SLURM_CPUS_ON_NODE": "8"}, "source ./profile", "6"),
        ({"SLURM_CPUS_PER_TASK": "6"}, "export OMP_NUM_THREADS=2", "2"),
        ({"SLURM_CPUS_PER_TASK": "6"}, "export OMP_NUM_THREADS=$((OMP_NUM_THREADS / 2))", "3"),
        ({"SLURM_CPUS_PER_TASK": "6"}, "unset OMP_NUM_THREADS", "6"),
    ],
)
def test_threads_are_those_of_the_allocation_unless_a_setup_line_names_them(attempt, tmp_path, given, lines, threads):
    (tmp_path / "profile").write_text("".join(f"export {name}={value}\n" for name, value in LOGIN_THREADS.items()))
    setup = tmp_path / "setup.sh"
    setup.write_text(f"cd {tmp_path}\n{lines}\n")
    code, words = wait_for_script(start_script(attempt, str(setup), SLURM_JOB_ID="1", **LOGIN_THREADS, **given))
    assert code == 0, words
    assert {name: value for name, value in variables(attempt).items() if name in LOGIN_THREADS} == {"OMP_NUM_THREADS": threads}


def test_a_job_without_slurm_keeps_the_threads_of_its_shell(attempt):
    assert wait_for_script(start_script(attempt, OMP_NUM_THREADS="2"))[0] == 0
    assert variables(attempt)["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize("name", ["scoring", "suites"])
@pytest.mark.parametrize("kind", ["package", "module"])
@pytest.mark.parametrize("start", ["{folder}:/else", "/else:{folder}", ".:/else", ":/else", "/else:"])
def test_a_package_of_the_users_on_pythonpath_hides_nothing(attempt, tmp_path, name, kind, start):
    folder = tmp_path / "project"
    path = folder / name / "__init__.py" if kind == "package" else folder / f"{name}.py"
    path.parent.mkdir(parents=True)
    path.touch()
    setup = tmp_path / "setup.sh"
    given = start.format(folder=folder)
    setup.write_text(f"cd {folder}\nexport PYTHONPATH={given}\n")
    code, words = wait_for_script(start_script(attempt, str(setup)))
    assert code == 0, words
    assert (variables(attempt)["PYTHONPATH"], variables(attempt)["SCORING_PYTHONPATH"]) == ("/else", given)
    assert f"is left out, since its '{name}' would hide the scorer's; going on" in words


def test_a_pythonpath_with_the_scorer_itself_stays_as_it_is(attempt):
    given = f"/else:{SCORE_SCRIPT.parents[1]}:/a b"
    assert wait_for_script(start_script(attempt, PYTHONPATH=given))[0] == 0
    assert variables(attempt)["PYTHONPATH"] == given
    assert "SCORING_PYTHONPATH" not in variables(attempt)


def test_a_log_without_room_ends_no_job(attempt):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            ["bash", SCORE_SCRIPT, attempt.request], stdout=full, stderr=full, env=copy_non_slurm_environment(), check=False
        )
    assert done.returncode == 0
    assert (attempt.run_count, attempt.exit_record.code) == (1, 0)


def test_a_folder_that_takes_no_claim_runs_nothing(attempt):
    (attempt.folder / "claim").mkdir()  # which root cannot write over either
    code, words = wait_for_script(start_script(attempt))
    assert code == ExitCode.CANNOT_WRITE
    assert f"{attempt.folder}/claim: cannot be created: " in words
    assert (attempt.run_count, read_exit_records(attempt.folder)) == (0, [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_read_only_folder_is_said_to_be_one(attempt):
    attempt.folder.chmod(0o555)
    code, words = wait_for_script(start_script(attempt))
    attempt.folder.chmod(0o755)
    assert code == ExitCode.CANNOT_WRITE
    assert "cannot be written" in words


UNITS = ["watcher.service", "watcher-once.service", "watcher-once.timer"]


@pytest.mark.parametrize("name", UNITS)
def test_systemd_units_parse_and_let_local_jobs_live(name):
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str
    unit.read_string(find_shipped_file(f"systemd/{name}").read_text())
    assert unit["Unit"]["Description"]
    if name.endswith(".service"):
        assert unit["Service"]["KillMode"] == "process"
        assert unit["Service"]["ExecStart"].startswith("/usr/bin/env watcher ")
        assert unit["Service"]["EnvironmentFile"] == "%h/.config/checkpoint-watcher/watcher.env"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_itself_accepts_the_units(tmp_path):
    for name in UNITS:
        shutil.copy(find_shipped_file(f"systemd/{name}"), tmp_path)
    command = [
        "systemd-analyze",
        "--user",
        "verify",
        str(tmp_path / "watcher.service"),
        str(tmp_path / "watcher-once.timer"),
    ]
    done = subprocess.run(
        command, env=copy_non_slurm_environment(XDG_RUNTIME_DIR=str(tmp_path)), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")

"""Two users, or two clusters, and one state folder on a real Slurm: nothing is submitted twice, and everybody is told."""

import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from suites.common.errors import ExitCode
from support.executors.harness import SLURM_SETTINGS, USER
from support.slurm_cluster.cluster import SlurmCluster
from support.slurm_cluster.shared_state import Caller, SharedStateRun

pytestmark = pytest.mark.slurm

SECOND_USER = "lab2"
UMASKS = pytest.mark.parametrize("umask", [0o002, 0o022], ids=["umask 002", "umask 022"])


@pytest.fixture
def root():
    """A folder that every user reaches."""
    folder = Path(tempfile.mkdtemp(prefix="of-shared-"))
    folder.chmod(0o755)
    yield folder / "run"
    shutil.rmtree(folder)


@pytest.fixture
def other_cluster(root):
    """A second slurmctld with nodes of its own."""
    cluster = SlurmCluster(root.parent / "cluster")
    cluster.start(users=[USER], settings=SLURM_SETTINGS)
    yield cluster
    cluster.stop()


def make_run(root, umask=0o002, **settings):
    given = {"users": (USER, SECOND_USER), "umask": umask, "steps": [100], "share_state": False} | settings
    return SharedStateRun(root, **given)


def submit_and_hold(run, caller):
    """The first caller's job runs, and waits until ``hold`` is gone."""
    (run.root / "hold").touch()
    run.write_checkpoint("base", 100)
    end = time.monotonic() + 60
    while not run.runs:
        ended = run.once(caller)
        assert ended.returncode == 0, ended.stderr
        assert time.monotonic() < end, ended.stdout
        time.sleep(0.5)
    run.once(caller)
    return run.read_status()["stages"]["base"]["evaluations"][0]["attempt"]["job_id"]


def let_end(run):
    (run.root / "hold").unlink()
    end = time.monotonic() + 60
    while len(run.runs) < 2 or not list(run.state.glob("attempts/*/exit.0.json")):
        assert time.monotonic() < end
        time.sleep(0.1)


@UMASKS
def test_a_second_users_once_ends_with_one_line_and_touches_nothing(slurm, root, umask):
    first, second = Caller(USER, slurm.cluster), Caller(SECOND_USER, slurm.cluster)
    run = make_run(root, umask)
    submit_and_hold(run, first)
    before = sorted(run.state.rglob("*"))
    for _ in range(8):
        ended = run.once(second)
        assert ended.returncode == ExitCode.CANNOT_WRITE
        (line,) = ended.stderr.strip().splitlines()
        assert f"this state folder is looked after by {USER} (uid " in line
        assert f"you are {SECOND_USER} (uid " in line
        time.sleep(1.0)
    assert sorted(run.state.rglob("*")) == before
    # To look is for everybody.
    assert run.command(second, "why", "base", "100").returncode == 0
    let_end(run)
    assert "scored" in run.once(first).stdout
    assert run.find_doubles() == []


def test_a_second_user_of_a_shared_folder_waits_for_the_firsts_job_and_scores_its_results(slurm, root):
    first, second = Caller(USER, slurm.cluster), Caller(SECOND_USER, slurm.cluster)
    run = make_run(root, share_state=True)
    job = submit_and_hold(run, first)
    for _ in range(8):  # longer than every wait
        ended = run.once(second)
        assert ended.returncode == 0, ended.stderr
        time.sleep(1.0)
    detail = run.read_detail(100)
    assert f"job {job} of {USER} (uid " in detail
    assert f"on cluster {slurm.cluster.layout.name} cannot be seen here: this watcher is run by {SECOND_USER}" in detail
    let_end(run)
    assert "scored" in run.once(second).stdout
    assert run.find_doubles() == []
    assert len(list(run.state.glob("attempts/*"))) == 1


def test_a_shared_folder_with_umask_022_is_refused_with_the_file_that_cannot_be_written(slurm, root):
    first, second = Caller(USER, slurm.cluster), Caller(SECOND_USER, slurm.cluster)
    run = make_run(root, 0o022, share_state=True)
    submit_and_hold(run, first)
    ended = run.once(second)
    assert ended.returncode == ExitCode.CANNOT_WRITE
    assert "Permission denied" in ended.stderr
    assert str(run.state) in ended.stderr
    assert f"; the folder is {USER}'s (uid " in ended.stderr
    assert "share_state needs umask 002" in ended.stderr
    let_end(run)
    assert "scored" in run.once(first).stdout


def test_a_watcher_of_another_cluster_waits_and_names_it(slurm, other_cluster, root):
    first, second = Caller(USER, slurm.cluster), Caller(USER, other_cluster)
    run = make_run(root)
    job = submit_and_hold(run, first)
    for _ in range(8):
        ended = run.once(second)
        assert ended.returncode == 0, ended.stderr
        time.sleep(1.0)
    here, there = slurm.cluster.layout.name, other_cluster.layout.name
    assert f"job {job} of {USER}" in run.read_detail(100)
    assert f"on cluster {here} cannot be seen here: this watcher asks cluster {there}" in run.read_detail(100)
    assert other_cluster.run_slurm_command("squeue", "--noheader", "--states=all").stdout == ""
    let_end(run)
    assert "scored" in run.once(second).stdout
    assert run.find_doubles() == []


def test_a_state_folder_that_is_deleted_while_its_job_runs_does_not_double_it(slurm, root):
    first = Caller(USER, slurm.cluster)
    run = make_run(root)
    submit_and_hold(run, first)
    (attempt,) = run.state.glob("attempts/*")
    shutil.rmtree(run.state)
    for _ in range(5):
        ended = run.once(first)
        assert ended.returncode == 0, ended.stderr
        time.sleep(1.0)
    assert f"run {attempt.name} works on these results" in run.read_detail(100)
    (run.root / "hold").unlink()
    end = time.monotonic() + 60
    while len(run.runs) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert "scored" in run.once(first).stdout
    assert len(run.runs) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        ("users", 0o002, True),
        ("users", 0o002, False),
        ("users", 0o022, False),
        ("users", 0o022, True),
        ("clusters", 0o022, False),
    ],
)
def test_ten_minutes_of_two_crons(slurm, other_cluster, root, case):
    """Prints its figures: pytest -m slow -s -k ten_minutes."""
    kind, umask, share_state = case
    callers = [Caller(USER, slurm.cluster)]
    callers.append(Caller(SECOND_USER, slurm.cluster) if kind == "users" else Caller(USER, other_cluster))
    steps = list(range(100, 2100, 100))
    run = make_run(root, umask, steps=steps, seconds=12.0, share_state=share_state)
    run.once(callers[0])  # who begins is known
    answers = run.alternate(callers, seconds=600.0, draw=random.Random(7))
    submitted = len(list(run.state.glob("attempts/*")))
    begun = [line for line in run.runs if line.what == "begin"]
    places = {(line.uid, line.cluster) for line in begun}
    print(f"\n{kind}, umask {umask:03o}, share_state {share_state}: {submitted} submissions, {len(begun)} runs, ", end="")
    print(f"{len(places)} places, {len(run.find_doubles())} doubles, {run.read_status()['counts']}")
    for (user, code, line), count in sorted(answers.items()):
        print(f"  {user} {code} x{count}: {line}")
    assert run.find_doubles() == []
    assert submitted == len(begun) == len(steps)
    assert run.read_status()["counts"] == {"scored": len(steps)}

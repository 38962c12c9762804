"""A running watcher while a real Slurm fails around it: answers lost, daemons down, a memory lost, no configuration."""

import shutil
import signal
import time

import pytest

from support.slurm_cluster.daemon import SlurmRun

pytestmark = pytest.mark.slurm

FREEZES_SLURMCTLD = """
[ -e "{root}/tampered" ] && exec "$real" "$@"
touch "{root}/tampered"
kill -STOP {slurmctld}
"$real" "$@"
code=$?
echo "$code" >"{root}/tampered"
kill -CONT {slurmctld}
exit "$code"
"""
FREEZES_SLURMCTLD_AND_KILLS_THE_WATCHER = """
[ -e "{root}/tampered" ] && exec "$real" "$@"
touch "{root}/tampered"
kill -STOP {slurmctld}
"$real" "$@" &
sleep 0.5
kill -KILL $PPID
wait "$!"
echo "$?" >"{root}/tampered"
kill -CONT {slurmctld}
"""
DOWN = ("Unable to contact slurm controller", "Munge encode failed")
KILLS_THE_WATCHER_AFTERWARDS = """
[ -e "{root}/tampered" ] && exec "$real" "$@"
"$real" "$@" >/dev/null
echo "$?" >"{root}/tampered"
kill -KILL $PPID
"""


@pytest.fixture(params=["accounted_slurm", pytest.param("slurm", marks=pytest.mark.slow)])
def lab(request):
    return request.getfixturevalue(request.param)


def one_job_for_each(watch, lab, *steps):
    """Every evaluation had one attempt, one job and one run, and nothing is left in the queue."""
    watch.wait_for_state("scored", *steps)
    assert len(watch.attempts) == len(watch.stand_in_runs) == len(steps)
    # a result is believed before slurmctld knows of the end, which a node tells it again after a while if it was away
    watch.wait_until(lambda: {state for _, state in watch.list_jobs()} <= {"COMPLETED"})
    assert all([record.code for record in watch.read_exit_codes(attempt)] == [0] for attempt in watch.attempts)
    if lab.accounting:
        watch.wait_until(lambda: len(watch.list_accounted_jobs()) >= len(steps))
        assert len(watch.list_accounted_jobs()) == len(steps)


def test_a_slurmctld_frozen_during_sbatch_gives_one_job(lab, tmp_path):
    with SlurmRun(tmp_path / "run", lab, steps=[100]) as watch:
        watch.wrap_slurm_command("sbatch", FREEZES_SLURMCTLD.format(root=watch.root, slurmctld=watch.slurmctld_pid))
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        one_job_for_each(watch, lab, 100)
        assert (watch.root / "tampered").read_text() == "1\n"
        assert "Socket timed out" in (watch.root / "daemon.log").read_text()


@pytest.mark.parametrize("text", [FREEZES_SLURMCTLD_AND_KILLS_THE_WATCHER, KILLS_THE_WATCHER_AFTERWARDS], ids=["asking", "asked"])
def test_a_watcher_killed_during_sbatch_gives_one_job(slurm, tmp_path, text):
    with SlurmRun(tmp_path / "run", slurm, steps=[100]) as watch:
        watch.wrap_slurm_command("sbatch", text.format(root=watch.root, slurmctld=watch.slurmctld_pid))
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.daemon.wait(timeout=90)
        watch.start_daemon()
        one_job_for_each(watch, slurm, 100)


def test_our_own_time_limit_on_sbatch_gives_one_job(slurm, tmp_path):
    constants = {"executors.slurm._TIMEOUT_SECONDS_BY_COMMAND": {"sbatch": 1.0}}
    with SlurmRun(tmp_path / "run", slurm, steps=[100], constants=constants) as watch:
        # killed with its process group, the wrapper cannot thaw slurmctld itself
        thaw = f"(sleep 2; kill -CONT {watch.slurmctld_pid}) & disown"
        watch.wrap_slurm_command(
            "sbatch",
            f'[ -e "{watch.root}/tampered" ] && exec "$real" "$@"\ntouch "{watch.root}/tampered"\n'
            f'kill -STOP {watch.slurmctld_pid}\nsetsid bash -c "{thaw}" </dev/null >/dev/null 2>&1\nexec "$real" "$@"',
        )
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until(lambda: "no answer in 1 s" in (watch.root / "daemon.log").read_text())
        watch.wait_for_state("scored", 100)
        assert len(watch.stand_in_runs) == 1


@pytest.mark.parametrize(
    ("lab", "seconds"),
    [("accounted_slurm", 8), pytest.param("slurm", 60, marks=pytest.mark.slow)],
    indirect=["lab"],
)
def test_slurmctld_and_munge_down_for_a_while_lose_nothing_and_status_says_since_when(lab, tmp_path, seconds):
    with SlurmRun(tmp_path / "run", lab, steps=[100, 200, 300]) as watch:
        watch.hold_stand_in()
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until_running(100)
        down = time.time()
        for name in ("ctld", "munge"):
            lab.cluster.stop_process(name)
        try:
            watch.write_checkpoint("base", 200)
            watch.wait_until(lambda: watch.read_status().get("queue") and watch.read_status()["queue"]["error"])
            noticed = time.time()
            watch.wait_for_state("ready", 200)
            seen = watch.read_status()["queue"]
            assert seen["error"].startswith("squeue: ")
            assert any(words in seen["error"] for words in DOWN)
            assert down <= seen["since"] <= noticed
            watch.release_stand_in()  # the job ends while nobody can be asked about it
            time.sleep(max(0.0, down + seconds - time.time()))
            watch.wait_for_ticks(1)
            assert watch.read_status()["queue"]["since"] == seen["since"]
            text = " ".join((watch.state / "status.txt").read_text().split())
            assert any(words in text for words in DOWN), text
        finally:
            for name in ("munge", "ctld"):
                lab.cluster.start_process(name)
        watch.write_checkpoint("base", 300)
        watch.wait_until(lambda: not watch.read_status()["queue"]["error"])
        one_job_for_each(watch, lab, 100, 200, 300)
        assert watch.read_status()["queue"] is None or watch.read_status()["queue"]["since"] is None


def test_a_missing_slurm_conf_is_said_and_nothing_is_submitted(slurm, tmp_path):
    environ = {"SLURM_CONF": "/nonexistent/slurm.conf"}
    constants = {"executors.slurm._DEFAULT_TIMEOUT_SECONDS": 2.0}
    with SlurmRun(tmp_path / "run", slurm, steps=[100], environ=environ, constants=constants) as watch:
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_for_state("ready", 100)
        # The error is said one tick before the first evaluation waits for it.
        watch.wait_until(lambda: "/nonexistent/slurm.conf" in watch.read_status_row(100)["skipped"])
        assert "/nonexistent/slurm.conf: No such file or directory" in watch.read_status()["queue"]["error"]
        assert watch.attempts == []


def test_a_slurmctld_that_forgets_a_job_and_gives_its_id_to_another_costs_nothing(slurm, tmp_path):
    """It saves its state every five seconds at most: killed before that, it has never heard of the last submissions."""
    later = {"partition": "short", "gres": None, "cpus_per_task": 1, "mem": "100", "extra": ["--begin=now+1hour"]}
    with SlurmRun(tmp_path / "run", slurm, steps=[100], settings={"slurm": later}) as watch:
        watch.wrap_slurm_command(
            "squeue", f'[ -e "{watch.root}/away" ] && {{ echo "error: away" >&2; exit 1; }}\nexec "$real" "$@"'
        )
        state = slurm.cluster.folder / "state"
        shutil.copytree(state, watch.root / "saved")
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until(lambda: "BeginTime" in watch.read_status_row(100).get("skipped", ""))
        job = watch.read_status_row(100)["attempt"]["job_id"]
        (watch.root / "away").touch()  # the watcher looks again when the id is another job's
        slurm.cluster.stop_process("ctld", hard=True)
        shutil.rmtree(state)
        shutil.copytree(watch.root / "saved", state)
        with slurm.cluster.process_stopped("ctld"):
            pass
        other = "0"
        while int(other) < int(job):
            asked = slurm.cluster.run_slurm_command("sbatch", "--hold", "--parsable", "--job-name=other", "--wrap=true")
            other = asked.stdout.strip()
        assert other == job
        watch.change_settings(slurm=later | {"extra": []})
        watch.daemon.send_signal(signal.SIGHUP)
        (watch.root / "away").unlink()
        watch.wait_for_state("scored", 100)
        first, second = sorted(watch.attempts, key=lambda attempt: (attempt / "request.json").stat().st_mtime)
        assert (first / "claim").read_text().startswith("void")
        assert (second / "claim").read_text().startswith("slurm:")
        assert len(watch.stand_in_runs) == 1
        assert slurm.cluster.run_slurm_command("squeue", "-h", "-j", other, "-o", "%T %j").stdout == "PENDING other\n"

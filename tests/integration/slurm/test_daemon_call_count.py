"""How often a running watcher asks a real Slurm: as often with 500 jobs as with one."""

from collections import Counter

import pytest

from support.slurm_cluster.daemon import SLURM_CONFIG, SlurmRun

pytestmark = pytest.mark.slurm

TICKS = 2
SETTINGS_FOR_MANY = {
    "slurm": SLURM_CONFIG["slurm"] | {"cpus_per_task": 1, "mem": "100", "extra": ["--begin=now+1hour"]},
    "limits": {"slurm_calls_per_minute": 100_000, "max_queued": 1000},
}


def calls_a_tick(watch):
    """Command -> how often it is run in a tick, over some of them."""
    before = watch.read_status()
    watch.wait_for_ticks(TICKS)
    after = watch.read_status()
    ticks = after["ticks"] - before["ticks"]
    spent = Counter(after["slurm_calls"]) - Counter(before["slurm_calls"])
    return {command: count / ticks for command, count in spent.items()}


@pytest.mark.parametrize(
    "numbers", [pytest.param([0, 20], id="0, 20"), pytest.param([0, 1, 20, 500], id="0, 1, 20, 500", marks=pytest.mark.slow)]
)
def test_calls_do_not_grow_with_the_number_of_jobs(slurm, tmp_path, numbers):
    steps = list(range(1, numbers[-1] + 1))
    with SlurmRun(tmp_path / "run", slurm, steps=steps, settings=SETTINGS_FOR_MANY) as watch:
        watch.start_daemon()
        watch.wait_until(watch.read_status)
        found = {}
        written = 0
        for number in numbers:
            for step in steps[written:number]:
                watch.write_checkpoint("base", step)
            written = number
            watch.wait_until(
                lambda number=number: (
                    watch.read_status()["counts"].get("queued", 0) == number and len(watch.list_jobs()) == number
                ),
                120 + number / 4,
            )
            found[number] = calls_a_tick(watch)
        spent = watch.read_status()["slurm_calls"]
        print(f"Slurm calls a tick: {found}; in all {spent}")
        assert found[0] == {}
        assert all(each == {"squeue": 1.0} for number, each in found.items() if number)
        # One scontrol a job releases it; one an hour asks for the cluster's name.
        assert (spent["sbatch"], spent["scontrol"], spent.get("sacct", 0)) == (numbers[-1], numbers[-1] + 1, 0)

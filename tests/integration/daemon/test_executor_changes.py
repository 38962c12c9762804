"""The config's executor goes local > slurm, or back, while a job is in flight: it is waited for, and never doubled."""

import subprocess
import sys
import time

import pytest
import yaml

from support.fakes.slurm_daemon import FakeSlurmRun
from support.runs.scripts import write_stand_in_scorer

_SCORER_LINES = """\
note(request.evaluation)
wait_while_held()
if (root / "fail").exists():
    sys.exit(70)
publish_scores(request)
"""


class ChangingRun(FakeSlurmRun):
    """``watcher once`` in a process of its own each time, with the executor that the config names then."""

    def __init__(self, root):
        super().__init__(root, steps={"base": [100]})
        write_stand_in_scorer(root, _SCORER_LINES)
        (root / "hold").touch()
        self.write_checkpoint("base", 100)

    def set_executor(self, executor):
        document = yaml.safe_load(self.config.read_text())
        self.config.write_text(yaml.safe_dump(document | {"executor": executor}))

    def once(self):
        command = [sys.executable, str(self.root / "daemon.py"), "", "as usual", "once", "--config", str(self.config)]
        environment = self.environ | {"SCRATCH": str(self.root)}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=self.root)
        return " ".join(ended.stdout.split())  # reasons are wrapped

    def once_until(self, done):
        text = ""
        end = time.monotonic() + 60
        while not done():
            text = self.once()
            assert time.monotonic() < end, text
        return text

    @property
    def runs(self):
        path = self.root / "runs"
        return path.read_text().splitlines() if path.exists() else []

    def has_exit_record(self):
        return bool(list(self.state.glob("attempts/*/exit.0.json")))


@pytest.fixture
def run(tmp_path):
    run = ChangingRun(tmp_path / "run")
    yield run
    (run.root / "hold").unlink(missing_ok=True)
    run.wait_until(run.has_exit_record)
    run.fake.kill_all()


@pytest.mark.parametrize(
    ("first", "second", "place"), [("local", "slurm", "host "), ("slurm", "local", "cluster lab")], ids=["to slurm", "to local"]
)
def test_a_job_of_the_other_executor_is_waited_for_and_named(run, first, second, place):
    run.set_executor(first)
    run.once_until(lambda: run.runs)
    run.once()
    run.set_executor(second)
    end = time.monotonic() + 7  # longer than every wait of these processes
    while time.monotonic() < end:
        text = run.once()
        time.sleep(0.2)
    assert f"this watcher uses executor {second}, not {first}" in text
    assert f"on {place}" in text
    (run.root / "hold").unlink()
    run.wait_until(run.has_exit_record)
    assert "scored" in run.once_until(lambda: run.read_states() == {"base/step_100": "scored"})
    assert run.runs == ["base/step_100"]
    assert len(list(run.state.glob("attempts/*"))) == 1


def test_a_failure_under_the_other_executor_is_tried_again_under_this_one(run):
    run.set_executor("local")
    run.once_until(lambda: run.runs)
    run.set_executor("slurm")
    run.once()
    (run.root / "fail").touch()
    (run.root / "hold").unlink()
    run.wait_until(run.has_exit_record)
    (run.root / "fail").unlink()
    run.once_until(lambda: run.read_states() == {"base/step_100": "scored"})
    assert run.runs == ["base/step_100"] * 2

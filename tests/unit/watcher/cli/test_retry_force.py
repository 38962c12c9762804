"""`watcher retry --force` says whose job it may give up, before it asks for that."""

import os
import time

import pytest

from suites.contract.job_owner import JobOwner
from support.runs.watcher_commands import make_config_folder_fixture, run_watcher
from watcher.config.loader import load_config
from watcher.core import events
from watcher.core.evaluation import Attempt
from watcher.core.result_paths import get_evaluation_paths
from watcher.journal.journal import Journal

CONFIG = """
results: results
stages:
  stage1: {checkpoints: ckpts/stage1, steps: [100, 200], suites: [demo_stage1_ppl]}
"""
OWNER = JobOwner(executor="slurm", uid=1001, user="ada", cluster="lab", host="login01")

config_folder = make_config_folder_fixture(CONFIG)


@pytest.fixture
def journal(config_folder):
    """Step 100 runs as job 12 of ada; step 200 is only known."""
    assert config_folder.is_dir()
    loaded = load_config(None, {})
    journal = Journal.open(loaded.paths)
    for step in (100, 200):
        known = {"stage": "stage1", "source": "stage1", "step": step, "directory": f"step_{step}"}
        journal.append(
            events.Created(evaluation=f"stage1/step_{step}", **known, origin="schedule", checkpoint=f"/c/{step}"), t=time.time()
        )
    attempt = Attempt(run_id="eval-1", number=1, fingerprint="f", suites={}, intended=time.time(), owner=OWNER)
    submitted = events.Submitted(evaluation="stage1/step_100", run_id="eval-1", job_id="12", attempt=attempt)
    journal.append(submitted, t=time.time())
    yield journal
    journal.close()


@pytest.mark.usefixtures("journal")
def test_owner_job_and_last_sign_of_life_are_printed():
    text = run_watcher("retry", "stage1", "100", "200", "--force").output
    assert "stage1/step_100 is queued: job 12 of ada (uid 1001) on cluster lab; no progress in its results folder" in text
    assert "step_200 is" not in text


@pytest.mark.parametrize(("run_id", "told"), [("eval-1", "last progress 3 min ago, at "), ("another", "no progress in")])
def test_only_the_attempts_own_progress_is_a_sign_of_it(journal, run_id, told):
    path = get_evaluation_paths(load_config(None, {}), journal.state.records["stage1/step_100"]).progress_json
    path.parent.mkdir(parents=True)
    path.write_text(f'{{"run_id": "{run_id}"}}')
    os.utime(path, (time.time() - 180,) * 2)
    assert told in run_watcher("retry", "stage1", "100", "--force").output


@pytest.mark.usefixtures("journal")
def test_without_force_nothing_is_said_of_it():
    assert "ada" not in run_watcher("retry", "stage1", "100").output

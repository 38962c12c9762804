"""``watcher run`` on this machine: checkpoints of four layouts, and an ablation sweep that grows while it runs."""

import json
import subprocess
import sys
from pathlib import Path

from support.runs.layouts import check_everything, describe_stages, write_everything, write_step
from support.runs.two_stages import REPOSITORY_ROOT, TwoStagesRun

STAND_IN = """\
#!{python}
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from suites.contract.scoring_request import read_scoring_request
from watcher.simulate.jobs import publish_scores
publish_scores(read_scoring_request(Path(sys.argv[-1])))
"""


def make_run(root, **settings):
    root.mkdir()
    scorer = root / "scorer"
    scorer.write_text(
        STAND_IN.format(python=sys.executable, path=[str(REPOSITORY_ROOT), str(REPOSITORY_ROOT / "tests"), *sys.path])
    )
    scorer.chmod(0o755)
    return TwoStagesRun(root, steps={"base": []}, settings={"python": str(scorer), "limits": {"max_running": 4}, **settings})


def command(run, *words):
    """What a person sees of ``watcher WORDS``, on both channels."""
    argv = [Path(sys.executable).with_name("watcher"), *words, "--config", run.config]
    process = subprocess.run(argv, env=run.environ | {"SCRATCH": str(run.root)}, capture_output=True, text=True, check=False)
    return process.stdout + process.stderr


def test_ten_checkpoints_of_each_layout_and_six_runs_that_come_one_by_one_are_scored_once(tmp_path):
    run = make_run(tmp_path / "run", stages=describe_stages(tmp_path / "run"))
    run.start_daemon()
    write_everything(run)
    check_everything(run)
    assert run.stop_daemon() == 0
    assert "Nothing to do." in command(run, "once", "--dry-run")
    said = command(run, "why", "seed_2", "100")
    assert f"its checkpoint is {run.root}/ablations/seed=2/ckpts/step_100".replace(" ", "") in "".join(said.split())
    assert command(run, "audit") == "Journal, disk and queue agree.\n"


def test_steps_in_another_form_are_said_by_status_doctor_and_dry_run(tmp_path):
    stages = describe_stages(tmp_path / "run")
    run = make_run(tmp_path / "run", stages={"plain": stages["plain"]}, executor="local")
    for name in ("0002000", "iter_0002000", "iter_0004000"):
        (run.root / "ckpts" / "plain" / name).mkdir(parents=True)
    said = "iter_0002000, iter_0004000 look like steps, but layout.name is '{step}'"
    hint = "write layout: {name: 'iter_{step:07d}'} in the stage to have them scored"
    assert f"{said}; {hint}" in command(run, "once", "--dry-run")
    assert f"{said}; {hint}" in command(run, "doctor")
    command(run, "once")
    assert f"{said}; {hint}".replace(" ", "") in "".join(command(run, "status").split())


def test_a_stage_with_a_result_root_of_its_own_has_everything_directly_in_it(tmp_path):
    root = tmp_path / "run"
    stage = describe_stages(root)["plain"] | {"result_root": str(root / "sft_results")}
    run = make_run(root, stages={"plain": stage})
    write_step(root / "ckpts" / "plain" / "100", 100)
    run.start_daemon()
    run.wait_for_states(lambda states: states == {"plain/step_100": "scored"}, seconds=60)
    assert run.stop_daemon() == 0
    folder = root / "sft_results" / "by_checkpoint" / "step_100"
    assert (folder / "tier2_ppl.json").is_file()
    assert list((root / "sft_results" / "eval_logs" / "slurm").glob("eval_plain_100_*.err"))
    assert not (run.results / "plain").exists()
    row = json.loads(command(run, "report", "plain", "--json"))["stages"][0]["evaluations"][0]
    assert (row["key"], row["state"], row["results"]) == ("plain/step_100", "scored", str(root / "sft_results"))
    assert command(run, "audit") == "Journal, disk and queue agree.\n"
    (folder / "tier2_ppl.json").unlink()
    assert "plain/step_100" in command(run, "audit")

"""`watcher diff` finds two evaluations by any of their names, and runs the comparison with the config's interpreter."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from suites.contract.averages import AverageStep
from suites.contract.paths import StatePaths
from watcher.cli.app import main
from watcher.core import events
from watcher.journal.journal import Journal

FAKE = """#!{python}
import json, sys
open({log!r}, "a").write(json.dumps(sys.argv[1:]) + "\\n")
print('{{"it": 1}}')
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A config with two stages, results of three steps on disk and one of them in the journal; calls `watcher diff`."""
    monkeypatch.chdir(tmp_path)
    for name in ("WATCHER_CONFIG", "SCRATCH"):
        monkeypatch.delenv(name, raising=False)
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(FAKE.format(python=sys.executable, log=str(log)))
    python.chmod(0o755)
    stages = "".join(f"  {name}: {{checkpoints: {tmp_path}/{name}, steps: [], suites: [s]}}\n" for name in ("one", "two"))
    (tmp_path / "watcher.yaml").write_text(f"results: {tmp_path}/r\npython: {python}\nexecutor: local\nstages:\n{stages}")
    publish(tmp_path / "r", "one/step_500", "one/step_2000", "one/reference_small", "two/step_2000_from_one")
    journal = Journal.open(StatePaths(tmp_path / "r" / ".watcher"))
    created = events.Created(
        evaluation="two/step_2000_from_one",
        stage="two",
        source="one",
        step=2000,
        directory="step_2000_from_one",
        origin="bridge",
        checkpoint="/c",
    )
    journal.append(created, t=1.0)

    def call(*argv):
        log.unlink(missing_ok=True)
        ended = CliRunner().invoke(main, ["diff", *argv])
        calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return ended, calls

    return call


def publish(results, *keys):
    for key in keys:
        stage, _, directory = key.partition("/")
        folder = Path(results, stage, "by_checkpoint", directory)
        folder.mkdir(parents=True)
        (folder / "tier2_ppl.json").write_text("{}")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("one/500", "r/one/by_checkpoint/step_500"),
        ("one/step_500", "r/one/by_checkpoint/step_500"),
        ("one/small", "r/one/by_checkpoint/reference_small"),
        ("one/reference_small", "r/one/by_checkpoint/reference_small"),
        ("one/reference:small", "r/one/by_checkpoint/reference_small"),
        ("./r:one/reference:small", "r/one/by_checkpoint/reference_small"),
        ("two/2000", "r/two/by_checkpoint/step_2000_from_one"),
        ("r/one/by_checkpoint/step_500", "r/one/by_checkpoint/step_500"),
        ("./r:one/500", "r/one/by_checkpoint/step_500"),
        ("r/.watcher:two/2000", "r/two/by_checkpoint/step_2000_from_one"),
    ],
)
def test_an_evaluation_has_these_names(run, tmp_path, name, folder):
    ended, (argv,) = run(name, "one/2000", "--items")
    assert ended.exit_code == 0, ended.output
    assert argv[:4] == ["-P", "-m", "scoring", "compare"]
    pair = ["--baseline", str(tmp_path / folder), "--candidate", str(tmp_path / "r/one/by_checkpoint/step_2000")]
    assert argv[4:] == [*pair, "--items"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("one/501", "one/2000"), "one/501: is no evaluation; did you mean 'one/step_500'? give STAGE/STEP"),
        (("500", "one/2000"), "500: is no evaluation"),
        (("./r", "one/2000"), "./r: names no evaluation; give FOLDER:STAGE/STEP, or two folders"),
        (("./r:one/7", "one/2000"), "one/7: is no evaluation"),
        (("./python:one/7", "one/2000"), "./python:one/7: is no evaluation"),
        (("../", "../"), "is neither a state folder nor a folder of results"),
    ],
)
def test_what_is_none_is_said_in_one_line(run, names, said):
    ended, calls = run(*names)
    assert (ended.exit_code, calls) == (2, [])
    assert said in ended.output
    assert len(ended.output.splitlines()) == 1


AVERAGE = {"origin": "request", "average": (AverageStep(step=7, weight=1.0, checkpoint="/c"),)}


@pytest.mark.parametrize(
    ("directory", "is_journaled", "fields"),
    [
        ("step_700_avg2", True, AVERAGE),
        ("step_700_avg2_56ee3e", False, {}),
        ("mine", True, {"origin": "request", "custom_directory": True}),
    ],
)
def test_a_step_is_its_own_checkpoints_evaluation_and_another_one_is_named_whole(run, tmp_path, directory, is_journaled, fields):
    publish(tmp_path / "r", f"one/{directory}")
    if is_journaled:
        journal = Journal.open(StatePaths(tmp_path / "r" / ".watcher"))
        identity = {"stage": "one", "source": "one", "step": 700, "directory": directory, "checkpoint": "/c"}
        journal.append(events.Created(evaluation=f"one/{directory}", **identity, **fields), t=2.0)
        del journal
    ended, calls = run("one/500", "one/700")
    assert (ended.exit_code, calls) == (2, [])
    assert f"one/700: is no evaluation; that step has one/{directory}: give such a name" in ended.output
    ended, calls = run("one/500", f"one/{directory}")
    assert (ended.exit_code, len(calls)) == (0, 1)


@pytest.mark.parametrize("is_published", [False, True], ids=["no folder", "an empty folder"])
def test_one_without_scores_is_told_with_the_journals_reason(run, tmp_path, is_published):
    journal = Journal.open(StatePaths(tmp_path / "r" / ".watcher"))
    identity = {"stage": "one", "source": "one", "step": 700, "directory": "step_700", "checkpoint": "/c", "origin": "schedule"}
    journal.append(events.Created(evaluation="one/step_700", **identity), t=2.0)
    journal.append(events.Waiting(evaluation="one/step_700", reason="not complete yet"), t=3.0)
    if is_published:
        (tmp_path / "r/one/by_checkpoint/step_700").mkdir()
    ended, calls = run("one/500", "one/700")
    assert (ended.exit_code, calls) == (66, [])
    assert ended.output == "one/700: is waiting: not complete yet; see `watcher why one step_700`\n"


def test_two_folders_are_compared_at_the_newest_evaluation_that_both_have(run, tmp_path):
    publish(tmp_path / "other", "one/step_500", "one/step_3000", "two/step_2000_from_one")
    (tmp_path / "r/two/by_checkpoint/step_2000_from_one/tier2_ppl.json").unlink()
    (tmp_path / "watcher.yaml").unlink()
    ended, calls = run("./r/.watcher", "./other")
    assert (ended.exit_code, calls) == (66, [])  # its journal knows one evaluation, which has no scores
    ended, calls = run("./r", "./other", "--json")
    assert "No config is used: python3 compares" in ended.output
    assert "Both have 1 scored evaluations; of each stage the newest is compared: one/step_500" in ended.output


def test_json_of_one_pair_is_its_document(run):
    ended, calls = run("one/500", "one/2000", "--json")
    assert (ended.exit_code, ended.output.strip(), calls[0][-1]) == (0, '{"it": 1}', "--json")


@pytest.mark.scoring
def test_the_comparison_is_the_scorers_and_names_what_changed_sides(run, tmp_path):
    import numpy as np  # noqa: PLC0415  the login node has none

    from suites.contract.paths import EvaluationPaths  # noqa: PLC0415
    from support.samples.published_results import publish_sample_results  # noqa: PLC0415

    config = tmp_path / "watcher.yaml"
    config.write_text(config.read_text().replace(str(tmp_path / "python"), sys.executable))
    right = np.zeros(40, dtype=bool)
    right[:10] = True
    checks = {True: [("c", "format", True)], False: [("c", "format", False)]}
    for step, answers, passed in ((500, right, True), (2000, np.roll(right, 1), False)):
        paths = EvaluationPaths(tmp_path / "r" / "one", f"step_{step}")
        publish_sample_results(paths, tasks={"quiz": (answers, None)}, step=step, prompts={"hi": ("chat", checks[passed])})
        paths.tier_json("tier2_ppl").unlink()
    ended, _ = run("one/500", "one/2000", "--items", "--json")
    assert ended.exit_code == 0, ended.output
    items = {(each["name"], each["metric"]): (each["gained"], each["lost"]) for each in json.loads(ended.output)["items"]}
    assert items[("quiz", "acc_per_char")] == (["10"], ["0"])
    assert items[("all_checks_pass_rate", "rate")] == ([], ["hi"])

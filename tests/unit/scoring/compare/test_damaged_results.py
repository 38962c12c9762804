"""Tier files and rows that another program wrote or a disk damaged: ``compare`` and ``export`` say which, in one line."""

import numpy as np
import pytest

from suites.common.errors import ExitCode
from suites.contract.paths import EvaluationPaths
from support.runs.scoring_jobs import run_scoring_in_process
from support.samples.published_results import edit_tier_file, publish_sample_results

pytestmark = pytest.mark.scoring

ODD_VALUES = {  # key of a tier file -> values that it cannot have
    "stage": (None, 1, []),
    "step": (None, -1, 0.5, "100", 2**70),
    "suite_digest": (None, 0, {}),
    "checkpoint": ({}, {"path": 1}),
    "summary": (None, True, [], "x"),
    "slices": (None, [], {"code": ""}, {"code": None}),
    "assume": (0.5, [], {"key": 1}),
}


def publish(folder, step):
    paths = EvaluationPaths(folder / "stage1", f"step_{step}")
    publish_sample_results(paths, slices={"code": (np.full(5, 7), np.linspace(9.0, 10.0, 5))}, step=step)
    return paths


@pytest.fixture
def sides(tmp_path):
    return publish(tmp_path, 100), publish(tmp_path, 200)


@pytest.fixture
def say(sides, tmp_path, capsys):
    """The one line that each command says."""
    folders = [str(side.folder) for side in sides]
    commands = (
        ["compare", "--baseline", folders[0], "--candidate", folders[1]],
        ["compare", "--baseline", folders[1], "--candidate", folders[0]],
        ["export", "--results", str(tmp_path), "--tensorboard", str(tmp_path / "curves")],
    )

    def run(count=3):
        lines = []
        for command in commands[:count]:
            assert run_scoring_in_process(command) == ExitCode.DATA_MISSING
            lines += capsys.readouterr().err.splitlines()
        assert len(lines) == count
        return lines

    return run


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ODD_VALUES.items() for value in values])
def test_a_tier_file_of_another_shape_is_named(sides, say, key, value):
    edit_tier_file(sides[1], "tier2_ppl", lambda document: document.update({key: value}))
    for line in say():
        assert line.startswith(f"scoring: {sides[1].tier_json('tier2_ppl')}: ")
        assert f"$.{key}" in line
        assert line.endswith("score it again: watcher retry --force")


@pytest.mark.parametrize("key", ["stage", "step", "suite_digest", "summary"])
def test_a_key_that_is_gone_is_named(sides, say, key):
    edit_tier_file(sides[1], "tier2_ppl", lambda document: document.pop(key))
    assert all(f"`{key}`" in line for line in say())


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"PAR1" + raw[::-1], lambda _raw: b""])
def test_rows_that_cannot_be_read_are_named(sides, capsys, damage):
    file = sides[1].items_parquet("code")
    file.write_bytes(damage(file.read_bytes()))
    for baseline, candidate in (sides, sides[::-1]):
        command = ["compare", "--baseline", str(baseline.folder), "--candidate", str(candidate.folder)]
        assert run_scoring_in_process(command) == ExitCode.SCORED
        assert f"not compared: code: {file}: damaged rows: cannot be read (" in capsys.readouterr().out

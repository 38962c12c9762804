"""A task's delimiter, from the suite to the scores: ``python -m scoring score`` and ``compare``."""

import json

import pyarrow.parquet as pq
import pytest

from suites.common.errors import ExitCode
from support.runs.scoring_jobs import make_score_arguments, run_scoring_in_process

pytestmark = pytest.mark.scoring


def score(folder, delimiter, choices):
    """Score four piqa rows in ``folder``; (entry of the tier file, rows of the items)."""
    folder.mkdir()
    rows = [{"goal": f"step {n}", "sol1": choices[0], "sol2": choices[1], "label": n % 2} for n in range(4)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"data_files": "items.jsonl", "adapter": "piqa", **({} if delimiter is None else {"delimiter": delimiter})}
    (folder / "cf.yaml").write_text(json.dumps({"tier": "tier3_cf", "tasks": {"ours": task}}))
    assert run_scoring_in_process(make_score_arguments(folder, "--offline", suites=["cf.yaml"])) == ExitCode.SCORED
    (tier_file,) = folder.glob("results/**/tier3_cf.json")
    return json.loads(tier_file.read_text())["tasks"]["ours"], pq.read_table(
        tier_file.parent / "items" / "ours.parquet"
    ).to_pylist()


def test_a_delimiter_is_scored_with_the_choice_and_stands_in_the_tier_file(tmp_path):
    default, spaced = score(tmp_path / "default", None, ["train it", "stop"])
    entry, joined = score(tmp_path / "joined", "", ["train it", "stop"])
    _, written = score(tmp_path / "written", "", [" train it", " stop"])
    assert (default["delimiter"], entry["delimiter"]) == (" ", "")
    assert [row["ll"] for row in spaced] == [row["ll"] for row in written]
    for with_space, without in zip(spaced, joined, strict=True):
        assert with_space["ll"] != without["ll"]
        assert with_space["chars_with_space"] == with_space["bytes"] == [9, 5]
        assert without["chars"] == without["chars_with_space"] == without["bytes"] == with_space["chars"] == [8, 4]


def test_two_delimiters_are_not_compared(tmp_path, capsys):
    for name, delimiter in (("spaced", " "), ("joined", "")):
        score(tmp_path / name, delimiter, ["train it", "stop"])
    folders = [str(next((tmp_path / name).glob("results/**/tier3_cf.json")).parent) for name in ("spaced", "joined")]
    run_scoring_in_process(["compare", "--baseline", folders[0], "--candidate", folders[1]])
    said = " ".join("".join(capsys.readouterr()).split())
    assert "different delimiter between context and choice" in said

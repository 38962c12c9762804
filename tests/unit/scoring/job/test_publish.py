import json
import os
import signal

import pyarrow.parquet as pq
import pytest

from scoring.runtime.fence import Fence
from suites.common.atomic_files import publish_json, read_json
from suites.common.errors import Exit, Problem
from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import SuiteInRequest, merge_suites, tier_digests
from support.models.tiny_llama_items import LLAMA
from support.runs.scoring_jobs import by_hand, results, run_here, write_suites

pytestmark = pytest.mark.scoring


def load(path):
    return json.loads(path.read_text())


def test_a_rewritten_checkpoint_replaces_the_scores_and_keeps_the_old_ones_aside(tmp_path):
    write_suites(tmp_path)
    assert run_here(by_hand(tmp_path)) == Exit.SCORED
    folder = results(tmp_path)
    old = load(folder / "tier2_ppl.json")
    old_rows = (folder / "items" / "prose.parquet").read_bytes()
    assert run_here(by_hand(tmp_path, "--name", "step_60", checkpoint=LLAMA.parent / "40")) == Exit.SCORED
    new = load(folder / "tier2_ppl.json")
    assert new["checkpoint"]["fingerprint"] != old["checkpoint"]["fingerprint"]
    assert new["summary"]["ppl"] != old["summary"]["ppl"]
    aside = EvaluationPaths(tmp_path / "results", "stage1", "step_60").set_aside(old["checkpoint"]["fingerprint"])
    assert load(aside / "tier2_ppl.json") == old
    assert load(aside / "tier3_cf.json")["checkpoint"] == old["checkpoint"]
    assert load(aside / "run.json")["checkpoint"]["fingerprint"] == old["checkpoint"]["fingerprint"]
    assert (aside / "items" / "prose.parquet").read_bytes() == old_rows
    assert len(list((aside / "parts").iterdir())) == len(list((folder / "parts").iterdir())) == 3


def test_a_suite_that_gains_a_slice_owes_only_that_slice(tmp_path):
    write_suites(tmp_path)
    assert run_here(by_hand(tmp_path)) == Exit.SCORED
    before = load(results(tmp_path) / "tier2_ppl.json")
    (tmp_path / "more.jsonl").write_text('{"text": "one slice more"}\n')
    with (tmp_path / "ppl.yaml").open("a") as suite:
        suite.write(f"  more: {{data_files: [{tmp_path}/more.jsonl]}}\n")
    assert run_here(by_hand(tmp_path)) == Exit.SCORED
    report = load(results(tmp_path) / "run.json")
    assert report["parts"] == {"scored": ["more"], "kept": ["prose", "code", "ours[0:6]"]}
    after = load(results(tmp_path) / "tier2_ppl.json")
    assert after["suite_digest"] != before["suite_digest"]
    assert {name: after["slices"][name] for name in before["slices"]} == before["slices"]
    assert after["summary"]["slices"] == 3
    (aside,) = results(tmp_path).glob("superseded/*/*")
    assert load(aside) == before


def test_a_task_that_gains_items_owes_only_the_stretch_that_they_are_in(tmp_path, monkeypatch):
    from scoring.runtime import parts  # noqa: PLC0415  where the cut is

    monkeypatch.setattr(parts, "ITEMS_A_PART", 4)
    write_suites(tmp_path, items=6)
    assert run_here(by_hand(tmp_path)) == Exit.SCORED
    before = pq.read_table(results(tmp_path) / "items" / "ours.parquet").to_pylist()
    with (tmp_path / "items.jsonl").open("a") as items:
        items.write('{"context": "One more:", "choices": ["a", "b"], "gold": 1}\n')
    assert run_here(by_hand(tmp_path)) == Exit.SCORED
    found = load(results(tmp_path) / "run.json")["parts"]
    assert (found["scored"], found["kept"][-1]) == (["ours[4:7]"], "ours[0:4]")
    after = pq.read_table(results(tmp_path) / "items" / "ours.parquet").to_pylist()
    assert [row["key"] for row in after[:6]] == [row["key"] for row in before]
    assert len({row["key"] for row in after}) == 7
    (aside,) = results(tmp_path).glob("superseded/*")
    assert sorted(path.name for path in aside.rglob("*.*")) == ["ours.parquet", "tier3_cf.json"]


def test_when_all_parts_are_there_no_model_is_loaded(tmp_path, monkeypatch):
    from scoring.job import job as run  # noqa: PLC0415  what must not be called

    write_suites(tmp_path)
    assert run_here(by_hand(tmp_path)) == Exit.SCORED
    first = {path.name: path.read_bytes() for path in results(tmp_path).glob("tier*.json")}
    for path in results(tmp_path).glob("tier*.json"):
        path.unlink()
    monkeypatch.setattr(run, "load", None)
    assert run_here(by_hand(tmp_path)) == Exit.SCORED
    assert {path.name: path.read_bytes() for path in results(tmp_path).glob("tier*.json")} == first


def test_a_long_task_is_put_together_from_its_parts_in_order(tmp_path, monkeypatch):
    from scoring.runtime import parts  # noqa: PLC0415  where the cut is

    monkeypatch.setattr(parts, "ITEMS_A_PART", 4)
    write_suites(tmp_path, items=10)
    assert run_here(by_hand(tmp_path)) == Exit.SCORED
    assert [part for part in load(results(tmp_path) / "run.json")["parts"]["scored"] if "ours" in part] == [
        "ours[0:4]",
        "ours[4:8]",
        "ours[8:10]",
    ]
    rows = pq.read_table(results(tmp_path) / "items" / "ours.parquet").to_pylist()
    assert [row["index"] for row in rows] == list(range(10))
    entry = load(results(tmp_path) / "tier3_cf.json")["tasks"]["ours"]
    assert entry["examples"] == 10
    assert entry["acc"] == pytest.approx(sum(row["pick_acc"] == row["gold"] for row in rows) / 10)


def suite(name, *names, tier="tier2_ppl", digest=None):
    return SuiteInRequest(name=name, tier=tier, digest=digest or name, definition={each: {} for each in names})


def test_suites_of_one_tier_are_one_tier_file():
    one, two, other = suite("a", "x"), suite("b", "y", "z"), suite("c", "x", tier="tier3_cf")
    digests = tier_digests((one, other, two))
    assert digests["tier3_cf"] == ("c", ("x",))
    assert digests["tier2_ppl"][1] == ("x", "y", "z")
    assert digests["tier2_ppl"][0] not in {"a", "b"}
    assert digests["tier2_ppl"] == tier_digests((one, two))["tier2_ppl"]
    assert tier_digests((one,))["tier2_ppl"][0] == "a"


def test_a_name_in_two_suites_of_a_tier_is_refused():
    with pytest.raises(Problem, match="'x' is also in another tier2_ppl suite"):
        merge_suites((suite("a", "x"), suite("b", "x")))


@pytest.fixture
def paths(tmp_path):
    found = EvaluationPaths(tmp_path, "stage1", "step_1")
    found.folder.mkdir(parents=True)
    return found


def test_a_later_run_takes_the_fence_and_the_earlier_one_stops(paths):
    first, second = Fence(paths, "run-1", {}), Fence(paths, "run-2", {})
    first.take()
    first.check()
    second.take()
    second.check()
    with pytest.raises(Problem, match="now belongs to run run-2") as caught:
        first.check()
    assert caught.value.code is Exit.TEMPORARY


def test_an_older_restart_never_takes_the_fence_back(paths):
    old, new = Fence(paths, "run", {"SLURM_RESTART_COUNT": "0"}), Fence(paths, "run", {"SLURM_RESTART_COUNT": "1"})
    old.take()
    new.take()
    for stale in (old.check, old.take):
        with pytest.raises(Problem, match="restart 1"):
            stale()
    new.check()
    assert read_json(paths.fence)["restart"] == 1


def test_workers_of_one_run_share_the_fence(paths):
    first, second = Fence(paths, "run", {}), Fence(paths, "run", {})
    first.take()
    written = paths.fence.read_bytes()
    second.take()
    first.check()
    second.check()
    assert paths.fence.read_bytes() == written


def test_a_fence_that_is_gone_or_torn_is_not_ours(paths):
    fence = Fence(paths, "run", {})
    fence.take()
    paths.fence.write_text('{"run_id"')
    with pytest.raises(Problem, match="belongs to nobody"):
        fence.check()
    paths.fence.unlink()
    with pytest.raises(Problem, match="belongs to nobody"):
        fence.check()


def test_a_run_that_lost_the_fence_publishes_nothing(tmp_path, monkeypatch):
    from scoring.tiers import cloze_metric as choice  # noqa: PLC0415  the last thing that is scored

    write_suites(tmp_path)
    whole = choice.score

    def overtaken(*args, **more):
        publish_json(results(tmp_path) / "fence.json", {"schema": 1, "run_id": "another", "restart": 0, "host": "elsewhere"})
        return whole(*args, **more)

    monkeypatch.setattr(choice, "score", overtaken)
    assert run_here(by_hand(tmp_path)) == Exit.TEMPORARY
    assert {path.name for path in results(tmp_path).iterdir()} == {"fence.json", "parts", "progress.json"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_job_that_is_asked_to_stop_keeps_its_parts_and_says_try_again(tmp_path, number, monkeypatch):
    from scoring.tiers import cloze_metric as choice  # noqa: PLC0415  the last thing that is scored

    write_suites(tmp_path)
    whole = choice.score

    def asked(*args, **more):
        os.kill(os.getpid(), number)
        return whole(*args, **more)

    monkeypatch.setattr(choice, "score", asked)
    assert run_here(by_hand(tmp_path)) == Exit.TEMPORARY
    report = load(results(tmp_path) / "run.json")
    assert report["parts"]["scored"] == ["prose", "code"]
    assert f"stopped by {number.name}" in report["why"]
    monkeypatch.setattr(choice, "score", whole)
    assert run_here(by_hand(tmp_path)) == Exit.SCORED
    assert load(results(tmp_path) / "run.json")["parts"] == {"scored": ["ours[0:6]"], "kept": ["prose", "code"]}

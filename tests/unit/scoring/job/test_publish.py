import json
import os
import signal

import msgspec
import pyarrow.parquet as pq
import pytest

from scoring.runtime.fence import Fence
from suites.common.atomic_files import write_json_atomically
from suites.common.documents import read_json
from suites.common.errors import ExitCode, UserError
from suites.contract.job_owner import JobOwner
from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import SuiteInRequest, compute_tier_digests, merge_suites
from support.executors.batch_scripts import wait_until
from support.models.tiny_llama_items import LLAMA_CHECKPOINT
from support.runs.scoring_jobs import get_results_folder, make_score_arguments, run_scoring_in_process, write_suites

pytestmark = pytest.mark.scoring


def load(path):
    return json.loads(path.read_text())


def test_a_rewritten_checkpoint_replaces_the_scores_and_keeps_the_old_ones_aside(tmp_path):
    write_suites(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    folder = get_results_folder(tmp_path)
    old = load(folder / "tier2_ppl.json")
    old_rows = (folder / "items" / "prose.parquet").read_bytes()
    assert (
        run_scoring_in_process(make_score_arguments(tmp_path, "--name", "step_60", checkpoint=LLAMA_CHECKPOINT.parent / "40"))
        == ExitCode.SCORED
    )
    new = load(folder / "tier2_ppl.json")
    assert new["checkpoint"]["fingerprint"] != old["checkpoint"]["fingerprint"]
    assert new["summary"]["ppl"] != old["summary"]["ppl"]
    aside = EvaluationPaths(tmp_path / "results" / "stage1", "step_60").superseded_folder(old["checkpoint"]["fingerprint"])
    assert load(aside / "tier2_ppl.json") == old
    assert load(aside / "tier3_cf.json")["checkpoint"] == old["checkpoint"]
    assert load(aside / "run.json")["checkpoint"]["fingerprint"] == old["checkpoint"]["fingerprint"]
    assert (aside / "items" / "prose.parquet").read_bytes() == old_rows
    assert len(list((aside / "parts").iterdir())) == len(list((folder / "parts").iterdir())) == 3


def test_a_suite_that_gains_a_slice_owes_only_that_slice(tmp_path):
    write_suites(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    before = load(get_results_folder(tmp_path) / "tier2_ppl.json")
    (tmp_path / "more.jsonl").write_text('{"text": "one slice more"}\n')
    with (tmp_path / "ppl.yaml").open("a") as suite:
        suite.write(f"  more: {{data_files: [{tmp_path}/more.jsonl]}}\n")
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    report = load(get_results_folder(tmp_path) / "run.json")
    assert report["parts"] == {"scored": ["more"], "reused": ["prose", "code", "ours[0:6]"]}
    after = load(get_results_folder(tmp_path) / "tier2_ppl.json")
    assert after["suite_digest"] != before["suite_digest"]
    assert {name: after["slices"][name] for name in before["slices"]} == before["slices"]
    assert after["summary"]["slices"] == 3
    (aside,) = get_results_folder(tmp_path).glob("superseded/*/*")
    assert load(aside) == before


def test_a_task_that_gains_items_owes_only_the_stretch_that_they_are_in(tmp_path, monkeypatch):
    from scoring.runtime import parts  # noqa: PLC0415  where the cut is

    monkeypatch.setattr(parts, "ITEMS_PER_PART", 4)
    write_suites(tmp_path, items=6)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    before = pq.read_table(get_results_folder(tmp_path) / "items" / "ours.parquet").to_pylist()
    with (tmp_path / "items.jsonl").open("a") as items:
        items.write('{"context": "One more:", "choices": ["a", "b"], "gold": 1}\n')
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    found = load(get_results_folder(tmp_path) / "run.json")["parts"]
    assert (found["scored"], found["reused"][-1]) == (["ours[4:7]"], "ours[0:4]")
    after = pq.read_table(get_results_folder(tmp_path) / "items" / "ours.parquet").to_pylist()
    assert [row["key"] for row in after[:6]] == [row["key"] for row in before]
    assert len({row["key"] for row in after}) == 7
    (aside,) = get_results_folder(tmp_path).glob("superseded/*")
    assert sorted(path.name for path in aside.rglob("*.*")) == ["ours.parquet", "tier3_cf.json"]


def test_when_all_parts_are_there_no_model_is_loaded(tmp_path, monkeypatch):
    from scoring.job import steps as run  # noqa: PLC0415  what must not be called

    write_suites(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    first = {path.name: path.read_bytes() for path in get_results_folder(tmp_path).glob("tier*.json")}
    for path in get_results_folder(tmp_path).glob("tier*.json"):
        path.unlink()
    monkeypatch.setattr(run, "load_model", None)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    assert {path.name: path.read_bytes() for path in get_results_folder(tmp_path).glob("tier*.json")} == first


def test_a_long_task_is_put_together_from_its_parts_in_order(tmp_path, monkeypatch):
    from scoring.runtime import parts  # noqa: PLC0415  where the cut is

    monkeypatch.setattr(parts, "ITEMS_PER_PART", 4)
    write_suites(tmp_path, items=10)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    assert [part for part in load(get_results_folder(tmp_path) / "run.json")["parts"]["scored"] if "ours" in part] == [
        "ours[0:4]",
        "ours[4:8]",
        "ours[8:10]",
    ]
    rows = pq.read_table(get_results_folder(tmp_path) / "items" / "ours.parquet").to_pylist()
    assert [row["index"] for row in rows] == list(range(10))
    entry = load(get_results_folder(tmp_path) / "tier3_cf.json")["tasks"]["ours"]
    assert entry["examples"] == 10
    assert entry["acc"] == pytest.approx(sum(row["pick_acc"] == row["gold"] for row in rows) / 10)


def suite(name, *names, tier="tier2_ppl", digest=None):
    return SuiteInRequest(name=name, tier=tier, digest=digest or name, definition={each: {} for each in names})


def test_suites_of_one_tier_are_one_tier_file():
    one, two, other = suite("a", "x"), suite("b", "y", "z"), suite("c", "x", tier="tier3_cf")
    digests = compute_tier_digests((one, other, two))
    assert digests["tier3_cf"] == ("c", ("x",))
    assert digests["tier2_ppl"][1] == ("x", "y", "z")
    assert digests["tier2_ppl"][0] not in {"a", "b"}
    assert digests["tier2_ppl"] == compute_tier_digests((one, two))["tier2_ppl"]
    assert compute_tier_digests((one,))["tier2_ppl"][0] == "a"


def test_a_name_in_two_suites_of_a_tier_is_refused():
    with pytest.raises(UserError, match="'x' is also in another tier2_ppl suite"):
        merge_suites((suite("a", "x"), suite("b", "x")))


@pytest.fixture
def paths(tmp_path):
    found = EvaluationPaths(tmp_path / "stage1", "step_1")
    found.folder.mkdir(parents=True)
    return found


def test_a_later_run_takes_the_fence_and_the_earlier_one_stops(paths):
    first, second = Fence(paths, "run-1", {}), Fence(paths, "run-2", {})
    first.acquire()
    first.check()
    second.acquire()
    second.check()
    with pytest.raises(UserError, match="now belongs to run run-2") as caught:
        first.check()
    assert caught.value.code is ExitCode.TEMPORARY


def test_an_older_restart_never_takes_the_fence_back(paths):
    old, new = Fence(paths, "run", {"SLURM_RESTART_COUNT": "0"}), Fence(paths, "run", {"SLURM_RESTART_COUNT": "1"})
    old.acquire()
    new.acquire()
    for stale in (old.check, old.acquire):
        with pytest.raises(UserError, match="restart 1"):
            stale()
    new.check()
    assert read_json(paths.fence_json)["restart"] == 1


def test_workers_of_one_run_share_the_fence(paths):
    first, second = Fence(paths, "run", {}), Fence(paths, "run", {})
    first.acquire()
    written = paths.fence_json.read_bytes()
    second.acquire()
    first.check()
    second.check()
    assert paths.fence_json.read_bytes() == written


def test_a_fence_names_its_job_and_owner_and_is_renewed_while_it_is_ours(paths, monkeypatch):
    monkeypatch.setattr("scoring.runtime.fence.RENEWAL_SECONDS", 0.01)
    owner = JobOwner(executor="slurm", uid=1001, user="ada", cluster="lab", host="login01")
    fence = Fence(paths, "run", {"SLURM_JOB_ID": "12"}, owner)
    fence.acquire()
    document = read_json(paths.fence_json)
    assert (document["job_id"], msgspec.convert(document["owner"], JobOwner)) == ("12", owner)
    with fence.keep_renewed():
        os.utime(paths.fence_json, (1.0, 1.0))
        wait_until(lambda: paths.fence_json.stat().st_mtime > 1.0, "the fence is renewed")
    Fence(paths, "another", {}).acquire()
    os.utime(paths.fence_json, (1.0, 1.0))
    fence.renew()
    assert paths.fence_json.stat().st_mtime == 1.0


def test_a_fence_that_is_gone_or_torn_is_not_ours(paths):
    fence = Fence(paths, "run", {})
    fence.acquire()
    paths.fence_json.write_text('{"run_id"')
    with pytest.raises(UserError, match="belongs to nobody"):
        fence.check()
    paths.fence_json.unlink()
    with pytest.raises(UserError, match="belongs to nobody"):
        fence.check()


def test_a_run_that_lost_the_fence_publishes_nothing(tmp_path, monkeypatch):
    from scoring.tiers import cloze_metric as choice  # noqa: PLC0415  the last thing that is scored

    write_suites(tmp_path)
    whole = choice.score_items

    def overtaken(*args, **more):
        write_json_atomically(
            get_results_folder(tmp_path) / "fence.json", {"schema": 1, "run_id": "another", "restart": 0, "host": "elsewhere"}
        )
        return whole(*args, **more)

    monkeypatch.setattr(choice, "score_items", overtaken)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.TEMPORARY
    assert {path.name for path in get_results_folder(tmp_path).iterdir()} == {"fence.json", "parts", "progress.json"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_job_that_is_asked_to_stop_keeps_its_parts_and_says_try_again(tmp_path, number, monkeypatch):
    from scoring.tiers import cloze_metric as choice  # noqa: PLC0415  the last thing that is scored

    write_suites(tmp_path)
    whole = choice.score_items

    def asked(*args, **more):
        os.kill(os.getpid(), number)
        return whole(*args, **more)

    monkeypatch.setattr(choice, "score_items", asked)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.TEMPORARY
    report = load(get_results_folder(tmp_path) / "run.json")
    assert report["parts"]["scored"] == ["prose", "code"]
    assert f"stopped by {number.name}" in report["reason"]
    monkeypatch.setattr(choice, "score_items", whole)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    assert load(get_results_folder(tmp_path) / "run.json")["parts"] == {"scored": ["ours[0:6]"], "reused": ["prose", "code"]}

"""References: models that every stage is compared with, scored once each with their own tokenizer and length."""

import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from suites.contract.paths import DataPaths
from suites.definitions.data_cache import META_FILE
from support.fakes.executor import fill_cache
from support.faults.kill_points import KillPoint, tick_until_settled
from support.models.hf_checkpoint import write_hf_folder
from support.models.nanotron_checkpoint import set_times, write_tiny_checkpoint
from support.runs.watched_run import make_watched_fixture
from watcher.audit.audit import run_audit
from watcher.config.settings import Reference
from watcher.reconcile.baselines import build_comparison_requests
from watcher.reconcile.schedule import ScheduledEvaluation, choose_directory
from watcher.simulate.jobs import cache_tokenizer

watched = make_watched_fixture(checkpoints=(100, 200))

HUB_MODEL = "acme/small@v1"


def refer(watched, folder, **settings):
    """One more reference, to a nanotron folder unless told otherwise."""
    name = settings.pop("name", "small")
    reference = Reference(name=name, checkpoint=str(folder), **settings)
    watched.config = msgspec.structs.replace(watched.config, references={**watched.config.references, name: reference})
    return reference


def write_model(watched, folder="elsewhere/7", **described):
    path = write_tiny_checkpoint(watched.root / folder, int(Path(folder).name), **described)
    set_times(path, watched.clock() - 300)
    return path


def runs(watched):
    return Counter(evaluation for evaluation, _ in watched.executor.runs)


def read_request(watched, key):
    record = watched.journal_state.records[key]
    return json.loads(watched.config.paths.attempt(record.attempt.run_id).request.read_text())


def test_each_is_scored_once_on_every_stages_suites_with_its_own_tokenizer_and_length(watched):
    watched.configure(stage1={"steps": (100, 200), "tokenizer": "t", "seq_len": 16}, stage2={"steps": (), "tokenizer": "t"})
    refer(watched, write_model(watched, tokenizer="other", seq_len=32))
    refer(watched, write_model(watched, "elsewhere/8", seed=3), name="long", seq_len=128, stages=("stage2",))
    watched.tick_until(watched.are_all_scored)
    watched.tick(80)
    keys = {"stage1/step_100", "stage1/step_200", "stage1/reference_small", "stage2/reference_small", "stage2/reference_long"}
    assert runs(watched) == dict.fromkeys(keys, 1)
    request = read_request(watched, "stage1/reference_small")
    assert (request["tokenizer"], request["seq_len"], request["source_stage"]) == ("other", 32, "reference:small")
    assert read_request(watched, "stage2/reference_long")["seq_len"] == 128
    assert read_request(watched, "stage1/step_100")["tokenizer"] == "t"
    record = watched.journal_state.records["stage1/reference_small"]
    assert (record.source, record.step, record.origin) == ("reference:small", 0, "reference")


def test_a_step_is_compared_with_the_references_of_its_stage_from_the_first_on(watched):
    refer(watched, write_model(watched))
    watched.tick_until(watched.are_all_scored)
    requests = build_comparison_requests(watched.config, watched.journal_state)
    assert set(requests) == {"stage1/step_100", "stage1/step_200"}
    assert [[ref.directory for ref in request.references] for request in requests.values()] == [["reference_small"]] * 2
    assert [[ref.directory for ref in request.earlier] for request in requests.values()] == [[], ["step_100"]]
    watched.config = msgspec.structs.replace(watched.config, references={})
    (request,) = build_comparison_requests(watched.config, watched.journal_state).values()
    assert request.references == ()


def test_one_that_left_the_config_keeps_its_scores_and_is_not_scored_where_it_waits(watched):
    refer(watched, watched.root / "absent")
    watched.tick(5)
    assert watched.list_reasons()["stage1/reference_small"] == f"waiting for checkpoint {watched.root / 'absent'}"
    watched.write_request("retry", 0, name="reference_small")
    watched.tick()
    watched.config = msgspec.structs.replace(watched.config, references={})
    watched.daemon.reload_config(lambda: watched.config)
    watched.tick()
    assert watched.list_reasons()["stage1/reference_small"] == "no longer in the config"


def test_another_model_at_its_path_is_scored_at_once_and_the_same_one_elsewhere_is_not(watched):
    watched.configure(stage1={"steps": ()})
    folder = write_model(watched)
    refer(watched, folder)
    watched.tick_until(watched.are_all_scored)
    write_model(watched, seed=5)  # no listing shows it
    set_times(folder, watched.clock() - 200)
    watched.tick_until(watched.are_all_scored)
    assert runs(watched)["stage1/reference_small"] == 2

    def move(folder):
        refer(watched, folder)
        watched.daemon.reload_config(lambda: watched.config)
        watched.tick()
        return watched.list_states()["stage1/reference_small"], watched.list_reasons().get("stage1/reference_small")

    absent = watched.root / "absent"
    assert move(absent) == ("waiting", f"waiting for checkpoint {absent}"), "the old model's scores are not shown as its"
    assert move(folder.rename(watched.root / "renamed"))[0] == "scored"
    assert runs(watched)["stage1/reference_small"] == 2
    move(write_model(watched, "other/7", seed=6))
    watched.tick_until(watched.are_all_scored)
    assert runs(watched)["stage1/reference_small"] == 3


def test_a_folder_of_hugging_face_is_read_with_the_tokenizer_beside_it(watched):
    folder = write_hf_folder(watched.root / "models" / "tiny")
    set_times(folder, watched.clock() - 300)
    cache_tokenizer(str(folder), DataPaths(watched.config.eval_data))
    refer(watched, folder)
    watched.tick_until(watched.are_all_scored)
    request = read_request(watched, "stage1/reference_small")
    assert (request["tokenizer"], request["seq_len"], request["use_fast"]) == (str(folder), 64, True)
    assert (request["backend"], read_request(watched, "stage1/step_100")["backend"]) == ("transformers", "direct")


def test_one_without_a_tokenizer_waits_and_says_what_to_do(watched):
    folder = write_hf_folder(watched.root / "models" / "tiny", tokenizer=False)
    set_times(folder, watched.clock() - 300)
    refer(watched, folder)
    watched.tick(5)
    said = f"{folder} has no tokenizer; put the tokenizer's files beside the model"
    assert watched.list_reasons()["stage1/reference_small"] == said
    assert runs(watched) == {"stage1/step_100": 1, "stage1/step_200": 1}


# The data cache


@pytest.fixture
def hub(watched):
    """A reference of the hub, which nobody has fetched, on a suite of the hub's data; fills the cache as prefill does."""
    (watched.root / "slices.yaml").write_text("tier: tier2_ppl\nslices: {web: {hf_dataset: acme/web}}\n")
    watched.configure(stage1={"steps": (), "tokenizer": "t", "seq_len": 64})
    folder = DataPaths(watched.config.eval_data).model(HUB_MODEL)
    refer(watched, folder, hub_model=HUB_MODEL)

    def fetch(request=None):
        write_hf_folder(folder)
        files = {path.name: {"size": path.stat().st_size, "sha256": ""} for path in folder.iterdir()}
        (folder / META_FILE).write_text(json.dumps({"schema": 1, "files": files}))
        set_times(folder, watched.clock() - 300)
        cache_tokenizer(str(folder), DataPaths(watched.config.eval_data))
        if request is not None:
            fill_cache(request)

    return fetch


def test_one_of_the_hub_waits_for_its_model_and_then_for_its_data(watched, hub):
    watched.tick(3)
    command = "watcher prefill reference:small"
    assert watched.list_reasons()["stage1/reference_small"] == f"the data cache lacks model acme/small@v1. Run {command}"
    assert watched.journal_state.records["stage1/reference_small"].reason_kind == "data"
    hub()
    watched.tick(3)
    assert watched.list_reasons()["stage1/reference_small"] == f"the data cache lacks web. Run {command}"
    assert watched.executor.calls["submit"] == 0


def test_a_prefill_job_fetches_it_and_fills_its_data_once(watched, hub):
    watched.config = msgspec.structs.replace(watched.config, prefill={"where": "job", "auto": True, "partition": "serial"})
    watched.tick(2)
    record = watched.journal_state.prefills["reference:small/(prefill)"]
    document = json.loads(watched.config.paths.attempt(record.attempt.run_id).request.read_text())
    folder = str(DataPaths(watched.config.eval_data).model(HUB_MODEL))
    assert (document["model"], document["tokenizer"], document["offline"]) == (HUB_MODEL, folder, False)
    hub()  # as the job does, which then fills the data
    watched.tick_until(watched.are_all_scored, 30)
    assert runs(watched)["stage1/reference_small"] == 1


@pytest.mark.parametrize("kill_at", range(0, 40, 4))
def test_a_watcher_that_is_killed_scores_it_once(watched, monkeypatch, kill_at):
    refer(watched, write_model(watched))
    kill_point = KillPoint(monkeypatch, watched.executor, kill_at)
    tick_until_settled(watched, kill_point)
    expected = dict.fromkeys(("stage1/step_100", "stage1/step_200", "stage1/reference_small"), 1)
    assert runs(watched) == expected, kill_point.effect_names


def test_it_is_cancelled_retried_and_scored_again_by_its_name(watched):
    refer(watched, write_model(watched))
    watched.tick(1)
    watched.write_request("cancel", 0, name="reference_small")
    watched.tick(3)
    assert watched.list_states()["stage1/reference_small"] == "cancelled"
    watched.write_request("retry", 0, name="reference_small")
    watched.tick_until(watched.are_all_scored)
    watched.write_request("retry", 0, name="reference_small", force=True)
    watched.tick_until(watched.are_all_scored)
    watched.tick(3)
    assert runs(watched)["stage1/reference_small"] >= 2


def test_its_name_is_its_own(watched):
    reference, stage = refer(watched, write_model(watched)), watched.config.stages["stage1"]
    watched.tick(1)
    watched.write_request("enqueue", 100, name="reference_other", checkpoint=str(watched.ckpts / "stage1" / "100"))
    watched.tick_until(watched.are_all_scored)
    assert set(watched.list_states()) == {"stage1/step_100", "stage1/step_200", "stage1/reference_small"}
    evaluation = ScheduledEvaluation(
        stage="stage1", source=reference.source, step=0, origin="reference", checkpoint=reference.checkpoint
    )
    assert choose_directory(evaluation, stage, {"stage1/reference_small"}) == "reference_small_2"


def test_an_audit_leaves_what_the_config_names_to_the_watcher(watched):
    refer(watched, write_model(watched))
    watched.tick_until(watched.are_all_scored)
    watched.close_daemon()
    assert find_created(watched) == []
    for path in watched.config.paths.journal.iterdir():
        path.unlink()
    assert find_created(watched) == [], "the steps and the reference are the config's"
    watched.tick_until(watched.are_all_scored)
    assert runs(watched)["stage1/reference_small"] == 1
    (watched.config.results / "stage1" / "by_checkpoint" / "reference_small").rename(
        watched.config.results / "stage1" / "by_checkpoint" / "reference_gone"
    )
    watched.config = msgspec.structs.replace(watched.config, references={})
    assert find_created(watched) == [], "without the config's word nobody knows what it is"


def find_created(watched):
    """Evaluations that an audit would add to the journal."""
    found = run_audit(watched.config, watched.executor, "s", {}, now=watched.clock(), alive=False)
    changes = [event for each in found.differences if each.amendment is not None for event in each.amendment.events]
    return [event["directory"] for event in changes if event["event"] == "created"]

"""A data cache that lacks something: evaluations wait for it by name, and where the config says so a job fills it, once."""

import json
import shutil
from collections import Counter, deque
from pathlib import Path

import msgspec
import pytest

import watcher.observe.data_cache
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import ScoringRequest
from suites.definitions.suite import load_suite
from support.fakes.executor import fill_cache
from support.faults.kill_points import KillPoint, tick_until_settled
from support.runs.watched_run import WatchedRun
from watcher.config.settings import SlurmSettings
from watcher.core.executor import JobState, PartitionLimits
from watcher.daemon.dry_run import preview_tick
from watcher.journal.journal import DryJournal, read_journal
from watcher.simulate.jobs import cache_tokenizer

SLICES = "tier: tier2_ppl\nslices:\n" + "".join(f"  s{n}: {{hf_dataset: acme/s{n}}}\n" for n in range(5))
LOCAL = "  ours: {data_files: [/data/web.jsonl]}\n"
KEY = "stage1/(prefill)"


def make(root, monkeypatch, *, slices=SLICES, auto=False, steps=(100,), holds=True, accounting=True):
    watched = WatchedRun(
        root, monkeypatch, steps=steps, holds=holds, accounting=accounting, source=str(Path(root) / "watcher.yaml"),
        prefill={"where": "job", "auto": auto, "partition": "serial"},
    )  # fmt: skip
    (watched.root / "slices.yaml").write_text(slices)
    watched.configure(stage1={"steps": steps, "tokenizer": "acme/tok", "seq_len": 64})
    for step in steps:
        watched.write_checkpoint("stage1", step)
    return watched


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Makes one watched run; whatever of it is open at the end is closed."""
    made = []

    def make_one(**settings):
        made.append(make(tmp_path, monkeypatch, **settings))
        return made[-1]

    yield make_one
    for watched in made:
        if watched.daemon is not None:
            watched.daemon.close()


def fill(watched, *, leave=()):
    """As a person does it."""
    stage = watched.config.stages["stage1"]
    suites = tuple(load_suite(name, {}).to_request() for name in stage.suites)
    head = {"run_id": "r", "stage": "stage1", "source_stage": "stage1", "step": 0, "directory": KEY, "checkpoint": ""}
    rest = {"fingerprint": "", "tokenizer": stage.tokenizer, "seq_len": 1, "results": str(stage.root)}
    fill_cache(ScoringRequest(**head, **rest, suites=suites, eval_data=str(watched.config.eval_data)), skipped_names=leave)


def runs(watched):
    return Counter(evaluation for evaluation, _ in watched.executor.runs)


def test_evaluations_wait_by_name_with_the_command_and_go_on_by_themselves(lab):
    watched = lab()
    watched.tick(3)
    command = f"watcher prefill stage1 --config {watched.root / 'watcher.yaml'}"
    said = f"the data cache lacks tokenizer acme/tok, s0, s1 and 3 more. Run {command}"
    assert (watched.list_states(), watched.list_reasons()["stage1/step_100"]) == ({"stage1/step_100": "waiting"}, said)
    assert watched.executor.calls["submit"] == 0
    assert watched.journal_state.records["stage1/step_100"].times["detected"], "that it was whole is remembered while it waits"
    fill(watched, leave={"s3"})
    watched.tick()
    assert watched.list_reasons()["stage1/step_100"] == f"the data cache lacks s3. Run {command}"
    fill(watched)
    watched.tick_until(watched.are_all_scored, 5)
    assert runs(watched) == {"stage1/step_100": 1}


def test_what_is_lacking_is_said_before_the_first_checkpoint_comes(lab):
    watched = lab(steps=())
    watched.tick()
    assert watched.list_reasons()[KEY].startswith(
        "the data cache lacks tokenizer acme/tok, s0, s1 and 3 more. Run watcher prefill"
    )
    document = json.loads(watched.config.paths.status_json.read_text())
    assert document["stages"]["stage1"]["data_cache"] == watched.list_reasons()[KEY]
    assert "\n  data cache: the data cache lacks tokenizer acme/tok" in watched.config.paths.status_text.read_text()


def test_suites_of_local_files_alone_are_never_held_back(lab):
    watched = lab(slices="tier: tier2_ppl\nslices:\n" + LOCAL)
    cache_tokenizer("acme/tok", DataPaths(watched.config.eval_data))
    watched.tick_until(watched.are_all_scored, 5)


def test_local_files_beside_the_hubs_are_not_waited_for(lab):
    watched = lab(slices=SLICES + LOCAL)
    fill(watched)
    watched.tick_until(watched.are_all_scored, 5)


def test_a_suite_whose_scores_are_there_is_not_waited_for(lab):
    watched = lab()
    fill(watched)
    watched.tick_until(watched.are_all_scored, 5)
    shutil.rmtree(watched.config.eval_data / "ppl_slices")
    (watched.root / "tasks.yaml").write_text(
        "tier: tier3_cf\ntasks: {more: {data_files: [/d.jsonl], adapter: multiple_choice}}\n"
    )
    watched.tick(70)
    assert runs(watched) == {"stage1/step_100": 2}
    assert watched.are_all_scored()


def test_idle_polls_open_nothing_of_the_cache(lab, monkeypatch):
    watched, looks = lab(), []
    real = watcher.observe.data_cache.missing_entries
    monkeypatch.setattr(
        watcher.observe.data_cache, "missing_entries", lambda *given, **how: looks.append(1) or real(*given, **how)
    )
    watched.tick(50)
    assert len(looks) == 1
    fill(watched)
    watched.tick_until(watched.are_all_scored, 5)
    assert len(looks) == 2
    watched.tick(50)
    assert len(looks) == 2


def test_an_entry_that_is_there_and_damaged_is_missed_and_its_repair_noticed(lab):
    watched = lab()
    fill(watched)
    (meta,) = (watched.config.eval_data / "ppl_slices" / "s2").glob("*/meta.json")
    kept = meta.read_text()
    meta.write_text(kept[:9])
    watched.tick(2)
    assert "lacks s2. Run" in watched.list_reasons()["stage1/step_100"]
    meta.unlink()
    meta.write_text(kept)
    watched.tick_until(watched.are_all_scored, 5)


def test_a_job_that_missed_data_makes_the_cache_be_looked_at_again(lab):
    watched = lab()
    fill(watched)
    watched.executor.endings["stage1/step_100"] = deque([66])
    watched.tick(2)
    shutil.rmtree(watched.config.eval_data / "ppl_slices" / "s4")
    watched.tick_until(lambda: "lacks s4. Run" in watched.list_reasons()["stage1/step_100"], 30)
    fill(watched)
    watched.tick_until(watched.are_all_scored, 5)
    assert runs(watched) == {"stage1/step_100": 2}


def test_auto_submits_one_prefill_job_and_the_scoring_jobs_after_it(lab):
    watched = lab(auto=True, steps=(100, 200))
    watched.tick()
    assert watched.list_reasons()["stage1/step_100"].endswith("s0, s1 and 3 more; a prefill job fills it")
    (job,) = watched.executor.live()
    assert job.name.startswith("prefill-stage1-")
    assert not any(evaluation != KEY for evaluation, _ in watched.executor.runs)
    watched.tick()
    assert watched.list_reasons()[KEY].startswith(f"running: job {job.job_id}; the data cache lacks")
    watched.tick_until(watched.are_all_scored, 9)
    assert runs(watched) == {KEY: 1, "stage1/step_100": 1, "stage1/step_200": 1}
    assert watched.executor.runs[0][0] == KEY
    assert watched.journal_state.prefills[KEY].reason == "the data cache is complete"
    watched.tick(100)
    assert runs(watched)[KEY] == 1


def test_the_prefill_job_asks_for_its_own_partition_and_no_gpu(lab, monkeypatch):
    watched, asked = lab(auto=True), []
    real = watched.executor.submit
    monkeypatch.setattr(watched.executor, "submit", lambda submission: asked.append(submission) or real(submission))
    watched.tick()
    (submission,) = asked
    assert submission.script.name == "prefill.sbatch"
    assert (submission.resources.cpus_per_task, submission.resources.time, submission.resources.mem) == (4, "04:00:00", None)
    assert (submission.resources.partition, submission.resources.gres, submission.resources.qos) == ("serial", None, None)
    request = json.loads(submission.request.read_text())
    assert (request["tokenizer"], request["offline"]) == ("acme/tok", False)
    assert [suite["tier"] for suite in request["suites"]] == ["tier2_ppl", "tier3_cf"]


def test_what_a_prefill_job_asks_for_is_the_configs_and_raised_within_its_own_partition(lab):
    watched = lab(auto=True)
    own = {**watched.config.prefill, "cpus_per_task": 2, "time": "01:00:00", "mem": "8G"}
    watched.config = msgspec.structs.replace(watched.config, prefill=own, slurm=SlurmSettings(partition="gpu"))
    watched.executor.limits = {
        "serial": PartitionLimits(time_seconds=5400.0, memory_mib=10_000, source="partition serial"),
        "gpu": PartitionLimits(time_seconds=86400.0),
    }
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT, JobState.OUT_OF_MEMORY])
    watched.tick_until(watched.are_all_scored, 60)
    names = [name for name in watched.executor.requested_resources if name.startswith("prefill")]
    asked = [watched.executor.requested_resources[name] for name in names]
    assert [(each.cpus_per_task, each.time, each.mem) for each in asked] == [
        (2, "01:00:00", "8G"),
        (2, "01:30:00", "8G"),
        (2, "01:30:00", "10000M"),
    ]


def test_more_that_is_refused_to_a_prefill_job_is_not_asked_for_again(lab):
    watched = lab(auto=True)
    watched.executor.limits = {"serial": PartitionLimits(time_seconds=86400.0)}
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT])
    watched.tick_until(
        lambda: watched.journal_state.prefills.get(KEY) and watched.journal_state.prefills[KEY].raised_resources, 60
    )
    watched.executor.submissions = deque(["refused"])
    watched.tick_until(watched.are_all_scored, 60)
    names = [name for name in watched.executor.requested_resources if name.startswith("prefill")]
    assert [watched.executor.requested_resources[name].time for name in names] == ["04:00:00", "04:00:00"]
    assert watched.journal_state.prefills[KEY].state == "scored"


@pytest.mark.parametrize("ending", [66, 70], ids=["a data set cannot be had", "a bug"])
def test_a_failing_prefill_backs_off_is_limited_and_says_its_words(lab, ending):
    watched = lab(auto=True)
    watched.executor.endings[KEY] = deque([ending] * 9)
    watched.tick_until(
        lambda: watched.journal_state.prefills.get(KEY) and watched.journal_state.prefills[KEY].state == "blocked", 60
    )
    assert runs(watched) == {KEY: 3}
    command = f"watcher prefill stage1 --config {watched.root / 'watcher.yaml'}"
    words = (
        "words of exit 66 (exit 66)" if ending == 66 else "internal error, or exit code 0 without the expected files (exit 70)"
    )
    assert watched.journal_state.prefills[KEY].full_reason == f"{words} (3 times in a row). Run {command} to try again"
    watched.tick(100)
    assert runs(watched) == {KEY: 3}
    assert f" data cache: blocked: {words} (3 times in a row). Run " in " ".join(
        watched.config.paths.status_text.read_text().split()
    )
    fill(watched)  # a person did
    watched.tick_until(watched.are_all_scored, 5)
    shutil.rmtree(watched.config.eval_data / "ppl_slices" / "s4")
    watched.executor.endings[KEY].clear()
    watched.tick_until(lambda: runs(watched)[KEY] == 4, 70)  # whole in between: what failed before is forgotten
    watched.tick(3)
    assert watched.journal_state.prefills[KEY].state == "scored"


def test_a_prefill_that_meets_a_submit_limit_waits_without_a_word_in_the_journal(lab):
    watched = lab(auto=True)
    watched.executor.submissions = deque(["later"] * 99)
    watched.tick(5)
    said, before = watched.list_reasons()[KEY], watched.journal_state.event_count
    assert "; submit limit: QOSMaxSubmitJobPerUserLimit; next try" in said
    watched.tick(50)
    assert watched.journal_state.event_count == before
    watched.executor.submissions.clear()
    watched.tick_until(watched.are_all_scored, 60)
    assert runs(watched)[KEY] == 1


def test_a_prefill_that_ends_well_without_filling_the_cache_has_failed(lab):
    watched = lab(auto=True)
    watched.executor.endings[KEY] = deque(["no_results"] * 9)
    watched.tick_until(
        lambda: watched.journal_state.prefills.get(KEY) and watched.journal_state.prefills[KEY].state == "blocked", 60
    )
    assert "but data cache: lacks tokenizer acme/tok, s0, s1 and 3 more" in watched.journal_state.prefills[KEY].reason
    assert runs(watched) == {KEY: 3}


def test_a_prefill_that_somebody_cancels_stays_cancelled_until_other_data_are_needed(lab):
    watched = lab(auto=True)
    watched.executor.endings[KEY] = deque([JobState.CANCELLED])
    watched.tick(20)
    assert (runs(watched), watched.journal_state.prefills[KEY].state) == ({KEY: 1}, "cancelled")
    (watched.root / "slices.yaml").write_text(SLICES + "  s5: {hf_dataset: acme/s5}\n")
    watched.tick_until(watched.are_all_scored, 70)
    assert runs(watched) == {KEY: 2, "stage1/step_100": 1}


def test_a_prefill_whose_submission_was_lost_is_found_by_its_name(lab):
    watched = lab(auto=True)
    watched.executor.submissions = deque(["lost_reply"])
    watched.tick_until(watched.are_all_scored, 9)
    assert runs(watched) == {KEY: 1, "stage1/step_100": 1}


def test_stages_that_need_other_data_have_a_prefill_each(lab):
    watched = lab(auto=True)
    other = watched.root / "other.yaml"
    other.write_text("tier: tier2_ppl\nslices: {o: {hf_dataset: acme/o}}\n")
    watched.configure(stage2={"steps": (), "suites": (str(other),), "tokenizer": "acme/tok", "seq_len": 64})
    watched.tick_until(watched.are_all_scored, 9)
    watched.tick(5)
    assert runs(watched) == {KEY: 1, "stage2/(prefill)": 1, "stage1/step_100": 1}


def test_stages_that_need_the_same_data_share_one_prefill(lab):
    watched = lab(auto=True)
    watched.configure(**{f"run{n}": {"steps": (), "tokenizer": "acme/tok", "seq_len": 64} for n in range(4)})
    watched.tick(1)
    said = watched.list_reasons()
    assert [said[f"run{n}/(prefill)"] for n in range(4)] == ["the prefill job of stage1 gets the same data"] * 4
    watched.tick_until(watched.are_all_scored, 9)
    watched.tick(5)
    assert runs(watched) == {KEY: 1, "stage1/step_100": 1}


def test_a_dry_run_says_that_it_would_submit_one(lab):
    watched = lab(auto=True)
    told, skips, _ = preview_tick(
        watched.config, DryJournal(read_journal(watched.config.paths)), watched.executor, "id", clock=watched.clock, environ={}
    )
    assert [(action["action"], action["evaluation"]) for action in told] == [("prefill", KEY)]
    assert {skip.evaluation: skip.reason for skip in skips}["stage1/step_100"].endswith("; a prefill job fills it")


@pytest.mark.parametrize(
    ("holds", "accounting", "ending"),
    [(True, True, None), (True, False, 75), (False, False, None)],
    ids=["slurm", "slurm without accounting, a network failure first", "local"],
)
def test_killed_at_every_effect(tmp_path, holds, accounting, ending):
    blow_at = 0
    while True:
        with pytest.MonkeyPatch.context() as monkeypatch:
            watched = make(tmp_path / str(blow_at), monkeypatch, auto=True, holds=holds, accounting=accounting)
            watched.executor.endings[KEY] = deque([] if ending is None else [ending])
            fuse = KillPoint(monkeypatch, watched.executor, blow_at)
            killed = tick_until_settled(watched, fuse)
            where = fuse.effect_names
            assert runs(watched) == {KEY: 1 if ending is None else 2, "stage1/step_100": 1}, where
            assert watched.journal_state.prefills[KEY].state == "scored", where
            assert not watched.executor.live(), where
            assert not watched.executor.live_at_once, where
            watched.daemon.close()
        if not killed:
            break
        blow_at += 1
    assert blow_at > 25, "there were fewer effects than there must be"


def test_suites_of_local_files_wait_for_a_tokenizer_of_the_hub_that_is_not_cached(lab):
    watched = lab(slices="tier: tier2_ppl\nslices:\n" + LOCAL)
    watched.tick(30)
    command = f"watcher prefill stage1 --config {watched.root / 'watcher.yaml'}"
    said = f"the data cache lacks tokenizer acme/tok. Run {command}"
    assert (watched.list_states(), watched.list_reasons()["stage1/step_100"]) == ({"stage1/step_100": "waiting"}, said)
    told, skips, _ = preview_tick(
        watched.config, DryJournal(read_journal(watched.config.paths)), watched.executor, "id", clock=watched.clock, environ={}
    )
    assert ({skip.evaluation: skip.reason for skip in skips}["stage1/step_100"], told) == (said, [])
    assert watched.run_ids() == []
    fill(watched)
    watched.tick_until(watched.are_all_scored, 5)
    assert runs(watched) == {"stage1/step_100": 1}


def test_a_prefill_job_gets_the_tokenizer_of_suites_of_local_files(lab):
    watched = lab(slices="tier: tier2_ppl\nslices:\n" + LOCAL, auto=True)
    watched.tick_until(watched.are_all_scored, 9)
    assert runs(watched) == {KEY: 1, "stage1/step_100": 1}


def test_jobs_that_lack_data_again_and_again_are_capped_and_say_why(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100,))
    watched.write_checkpoint("stage1", 100)
    watched.executor.endings["stage1/step_100"] = deque([66] * 9)
    watched.tick(200)
    assert watched.list_states() == {"stage1/step_100": "blocked"}
    assert len(watched.run_ids()) == 4
    reason = watched.list_reasons()["stage1/step_100"]
    assert "words of exit 66 (exit 66) (4 times in a row). Run watcher prefill stage1, then watcher retry" in reason
    watched.close_daemon()

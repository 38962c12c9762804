"""Which checkpoint a stage is compared with: the config's bridge, a late one, one that a person names; and what training says."""

import time

import pytest

from support.faults.kill_points import KillPoint, tick_until_settled
from support.runs.watched_run import WatchedRun
from watcher.config.loader import load_config
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.journal.journal import read_journal
from watcher.reconcile.baselines import build_comparison_requests, describe_bridge_override, describe_start_mismatch, find_bridge
from watcher.report.data import build_report
from watcher.report.terminal import summarize_objectives
from watcher.status.health import check_liveness


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = WatchedRun(tmp_path, monkeypatch)
    made.configure(
        stage1={"steps": (100,)},
        stage2={"steps": (300, 400), "bridge": made.make_bridge("stage1"), "seq_len": 64, "tokenizer": "byte-level"},
    )
    return made


def request_step(watched, *steps, **fields):
    return watched.write_request("enqueue", *steps, stage="stage2", by="ann", **fields)


def notes(watched):
    """What the report says of stage 2 besides its figures."""
    ledger = read_journal(watched.config.paths)
    report = build_report(watched.config, ledger, check_liveness(watched.config.paths, time.time()), time.time())
    return next(stage for stage in report.stages if stage.name == "stage2").notes


def baselines(watched):
    """Evaluation -> the folder of the bridge that it is to be compared with."""
    requests = build_comparison_requests(watched.config, watched.journal_state)
    return {key: None if request.bridge is None else request.bridge.directory for key, request in requests.items()}


def test_a_bridge_that_comes_late_is_compared_with_when_it_does(watched):
    watched.write_checkpoint("stage2", 300)
    watched.write_checkpoint("stage2", 400)
    watched.tick(6)
    assert watched.list_states()["stage2/step_400"] == "scored"
    assert baselines(watched) == {"stage2/step_400": None}
    assert notes(watched)[0].startswith("the bridge, stage1 step 100, is waiting")
    watched.write_checkpoint("stage1", 100)
    watched.tick(6)
    assert baselines(watched) == {"stage2/step_300": "step_100", "stage2/step_400": "step_100"}
    assert notes(watched) == ()


def test_a_person_names_another_baseline_and_everybody_says_which(watched, tmp_path):
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage2", 300)
    watched.write_checkpoint("elsewhere", 90)
    watched.tick(6)
    assert baselines(watched) == {"stage2/step_300": "step_100"}
    folder = str(tmp_path / "ckpts" / "elsewhere" / "90")
    request_step(watched, 90, source="stage1", checkpoint=folder, bridge=True)
    watched.tick(6)
    assert watched.list_states()["stage2/step_90"] == "scored"
    request = build_comparison_requests(watched.config, watched.journal_state)["stage2/step_300"]
    assert (request.bridge.directory, request.bridge.note) == ("step_90", f"stage1 step 90 from {folder} by request")
    assert notes(watched) == (f"compared with stage1 step 90 from {folder} by request",)
    watched.kill_daemon()
    watched.tick()
    assert baselines(watched) == {"stage2/step_300": "step_90"}


def test_the_configs_own_bridge_is_the_baseline_again_when_a_person_asks_for_it(watched):
    watched.write_checkpoint("stage1", 90)
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage2", 300)
    watched.tick(6)
    request_step(watched, 90, bridge=True)
    watched.tick(6)
    assert baselines(watched) == {"stage2/step_300": "step_90"}
    again = request_step(watched, 100, bridge=True)
    watched.tick(2)
    assert baselines(watched) == {"stage2/step_300": "step_100"}
    assert watched.journal_state.closed_requests[again.id].startswith(
        "stage2/step_100: now the baseline of stage2; already scored"
    )
    assert notes(watched) == ()


def test_a_checkpoint_that_is_scored_already_becomes_the_baseline_without_being_scored_again(watched):
    watched.write_checkpoint("stage1", 90)
    watched.write_checkpoint("stage2", 300)
    watched.tick(3)
    request_step(watched, 90, source="stage1")
    watched.tick(6)
    assert baselines(watched) == {}
    runs = len(watched.run_ids())
    request_step(watched, 90, source="stage1", bridge=True)
    watched.tick(3)
    assert baselines(watched) == {"stage2/step_300": "step_90"}
    assert len(watched.run_ids()) == runs


def test_where_training_began_elsewhere_status_report_and_comparison_say_so_also_when_the_checkpoint_is_gone(watched):
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage2", 300, started_from="/other/stage1_long/100")
    watched.tick(6)
    reason = (
        f"stage2 started from /other/stage1_long/100 according to its config.yaml, but its bridge is {watched.ckpts}/stage1/100"
    )
    assert watched.list_reasons()["stage2/step_100"] == reason
    assert notes(watched) == (reason,)
    assert build_comparison_requests(watched.config, watched.journal_state)["stage2/step_300"].bridge.note == reason
    began = [entry for entry in watched.config.paths.journal.glob("*.jsonl") if '"stage_started_from"' in entry.read_text()]
    assert len(began) == 1
    watched.kill_daemon()
    watched.tick()
    assert watched.list_reasons()["stage2/step_100"] == reason
    assert (
        sum(path.read_text().count('"event":"stage_started_from"') for path in watched.config.paths.journal.glob("*.jsonl")) == 1
    )


@pytest.mark.parametrize(
    ("begun", "mismatch"),
    [
        (None, None),
        ("/ckpts/stage1/100", None),
        ("/another/mount/stage1/100", None),
        ("/ckpts/stage1", None),
        ("/ckpts/stage1/90", "stage2 started from step 90 according to its config.yaml, but its bridge is step 100"),
        (
            "/ckpts/long/100",
            "stage2 started from /ckpts/long/100 according to its config.yaml, but its bridge is /ckpts/stage1/100",
        ),
        ("/models/base", "stage2 started from /models/base according to its config.yaml, but its bridge is /ckpts/stage1/100"),
    ],
)
def test_another_start_is_told_from_the_same_one_at_another_mount(begun, mismatch):
    record = EvaluationRecord(
        stage="stage2",
        source="stage1",
        step=100,
        directory="step_100",
        origin="bridge",
        checkpoint="/ckpts/stage1/100",
        state=EvaluationState.SCORED,
        since=0.0,
    )
    assert describe_start_mismatch("stage2", begun, record) == mismatch


def test_a_bridge_at_another_place_is_scored_there_and_said(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch)
    folder = watched.write_checkpoint("copies", 100)
    stage2 = {"steps": (300,), "seq_len": 64, "tokenizer": "byte-level"}
    watched.configure(
        stage1={"steps": (100,)}, stage2={**stage2, "bridge": watched.make_bridge("stage1", checkpoint=str(folder))}
    )
    watched.write_checkpoint("stage2", 300)
    watched.tick(6)
    assert watched.journal_state.records["stage2/step_100"].checkpoint == str(folder)
    assert watched.list_states()["stage2/step_100"] == "scored"
    assert notes(watched) == (f"compared with stage1 step 100 from {folder} by the config",)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (True, 50000, None)),
        ({"STAGE2_INCLUDE_STAGE1_BRIDGE": "0"}, (False, 50000, None)),
        ({"STAGE2_BRIDGE_STEP": "45000"}, (True, 45000, None)),
        ({"STAGE2_BRIDGE_CKPT_PATH": "/b/45000", "STAGE2_BRIDGE_STEP": "45000"}, (True, 45000, "/b/45000")),
    ],
)
def test_the_built_in_stages_take_their_bridges_from_the_environment(tmp_path, monkeypatch, environ, expected):
    monkeypatch.chdir(tmp_path)
    config = load_config(None, {"SCRATCH": "/s", **environ})
    bridge = config.stages["stage2"].bridge
    assert (bridge.enabled, bridge.step, bridge.checkpoint) == expected


def test_a_disabled_bridge_leaves_a_stage_to_its_own_steps(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch)
    bridge = watched.make_bridge("stage1", enabled=False)
    watched.configure(
        stage1={"steps": (100,)}, stage2={"steps": (300, 400), "bridge": bridge, "seq_len": 64, "tokenizer": "byte-level"}
    )
    for stage, step in (("stage1", 100), ("stage2", 300), ("stage2", 400)):
        watched.write_checkpoint(stage, step)
    watched.tick(9)
    assert set(watched.list_states()) == {"stage1/step_100", "stage2/step_300", "stage2/step_400"}
    assert baselines(watched) == {"stage2/step_400": None}
    assert find_bridge("stage2", watched.journal_state.records.values()) is None


def test_a_bridge_of_a_stage_that_has_none_in_the_config_is_told_as_such(watched):
    watched.write_checkpoint("stage1", 100)
    watched.configure(stage2={"steps": (300,), "seq_len": 64, "tokenizer": "byte-level"})
    watched.start_daemon()
    request_step(watched, 100, source="stage1", bridge=True)
    watched.tick(6)
    bridge = find_bridge("stage2", watched.journal_state.records.values())
    assert bridge.state is EvaluationState.SCORED
    description = "stage1 step 100 by request; the config has no bridge"
    assert describe_bridge_override(bridge, watched.config.stages["stage2"]) == description


def test_a_bridge_that_is_to_come_is_not_said_to_be_none(tmp_path, monkeypatch):
    """The journal knows of no bridge while the source has no last step."""
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100,))
    watched.configure(
        stage1={"every": 100, "to": None},
        stage2={"steps": (300,), "bridge": watched.make_bridge("stage1"), "seq_len": 64, "tokenizer": "byte-level"},
    )
    watched.write_checkpoint("stage2", 300)
    watched.tick(6)
    assert watched.list_states() == {"stage2/step_300": "scored"}
    ledger = read_journal(watched.config.paths)
    report = build_report(watched.config, ledger, check_liveness(watched.config.paths, time.time()), time.time())
    (stage,) = [stage for stage in report.stages if stage.name == "stage2"]
    assert summarize_objectives(stage) == ("none", ["stage2/step_300: the bridge, the last step of stage1, is not scored yet"])
    (other,) = [stage for stage in report.stages if stage.name == "stage1"]
    assert other.awaited == ""


def test_killed_at_every_effect_of_naming_a_baseline(tmp_path):
    """A person names another step the baseline; the watcher dies at each effect of that, and the request is answered once."""
    blow_at = kills = 0
    while True:
        with pytest.MonkeyPatch.context() as monkeypatch:
            watched = WatchedRun(tmp_path / str(blow_at), monkeypatch, steps=(100,))
            bridge = watched.make_bridge("stage1", step=100)
            watched.configure(stage2={"steps": (300, 400), "bridge": bridge, "seq_len": 64, "tokenizer": "byte-level"})
            for stage, step in (("stage1", 50), ("stage1", 100), ("stage2", 300), ("stage2", 400)):
                watched.write_checkpoint(stage, step)
            watched.tick()
            first = request_step(watched, 50, source="stage1")
            watched.tick(2)
            watched.tick_until(watched.are_all_scored)
            made = request_step(watched, 50, source="stage1", bridge=True)
            fuse = KillPoint(monkeypatch, watched.executor, blow_at)
            killed = tick_until_settled(watched, fuse)
            watched.tick(2)
            assert baselines(watched)["stage2/step_400"] == "step_50", fuse.effect_names
            assert watched.journal_state.records["stage2/step_50"].baseline_selected_at is not None
            assert list(watched.journal_state.closed_requests) == [first.id, made.id], fuse.effect_names
            assert not list(watched.config.paths.requests.glob("*.json")), fuse.effect_names
            assert len(watched.run_ids()) == 5, "nothing is scored again for it"
            watched.daemon.close()
        if not killed:
            break
        kills += 1
        blow_at += 1
    assert kills >= 4

"""Which checkpoint a stage is compared with: the config's bridge, a late one, one that a person names; and what training says."""

import itertools
import os
import time

import pytest

from suites.contract.encoding import encode
from support.faults.kill_points import Fuse, live_out
from support.runs.watched_run import Watched
from watcher.config.loader import load
from watcher.core.evaluation import Record, State
from watcher.core.request_types import Ask
from watcher.journal.journal import read
from watcher.reconcile.baselines import another_bridge, bridge_of, elsewhere, wanted
from watcher.report.data import gather
from watcher.report.terminal import verdict
from watcher.status.health import judge

IDS = itertools.count()


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = Watched(tmp_path, monkeypatch)
    made.configure(
        stage1={"steps": (100,)}, stage2={"steps": (300, 400), "bridge": made.bridge("stage1"), "seq_len": 64, "tokenizer": "t"}
    )
    return made


def ask(watched, *steps, **more):
    made = Ask(id=f"ask{next(IDS)}", at=watched.clock(), kind="enqueue", stage="stage2", steps=steps, by="ann", **more)
    folder = watched.config.paths.requests
    (folder / f"{made.id}.json").write_bytes(encode(made))
    os.utime(folder, (watched.clock(), watched.clock()))
    return made


def notes(watched):
    """What the report says of stage 2 besides its figures."""
    ledger = read(watched.config.paths)
    report = gather(watched.config, ledger, judge(watched.config.paths, time.time()), time.time())
    return next(stage for stage in report.stages if stage.name == "stage2").notes


def baselines(watched):
    """Evaluation -> the folder of the bridge that it is to be compared with."""
    found = wanted(watched.config, watched.ledger)
    return {key: None if request.bridge is None else request.bridge.directory for key, request in found.items()}


def test_a_bridge_that_comes_late_is_compared_with_when_it_does(watched):
    watched.checkpoint("stage2", 300)
    watched.checkpoint("stage2", 400)
    watched.tick(6)
    assert watched.states()["stage2/step_400"] == "scored"
    assert baselines(watched) == {"stage2/step_400": None}
    assert notes(watched)[0].startswith("the bridge, stage1 step 100, is waiting")
    watched.checkpoint("stage1", 100)
    watched.tick(6)
    assert baselines(watched) == {"stage2/step_300": "step_100", "stage2/step_400": "step_100"}
    assert notes(watched) == ()


def test_a_person_names_another_baseline_and_everybody_says_which(watched, tmp_path):
    watched.checkpoint("stage1", 100)
    watched.checkpoint("stage2", 300)
    watched.checkpoint("elsewhere", 90)
    watched.tick(6)
    assert baselines(watched) == {"stage2/step_300": "step_100"}
    folder = str(tmp_path / "ckpts" / "elsewhere" / "90")
    ask(watched, 90, source="stage1", checkpoint=folder, bridge=True)
    watched.tick(6)
    assert watched.states()["stage2/step_90"] == "scored"
    request = wanted(watched.config, watched.ledger)["stage2/step_300"]
    assert (request.bridge.directory, request.bridge.note) == ("step_90", f"stage1 step 90 from {folder}, as a person asked")
    assert notes(watched) == (f"compared with stage1 step 90 from {folder}, as a person asked",)
    watched.kill()
    watched.tick()
    assert baselines(watched) == {"stage2/step_300": "step_90"}


def test_the_configs_own_bridge_is_the_baseline_again_when_a_person_asks_for_it(watched):
    watched.checkpoint("stage1", 90)
    watched.checkpoint("stage1", 100)
    watched.checkpoint("stage2", 300)
    watched.tick(6)
    ask(watched, 90, bridge=True)
    watched.tick(6)
    assert baselines(watched) == {"stage2/step_300": "step_90"}
    again = ask(watched, 100, bridge=True)
    watched.tick(2)
    assert baselines(watched) == {"stage2/step_300": "step_100"}
    assert watched.ledger.answered[again.id].startswith("stage2/step_100: the baseline of stage2 from now on; scored already")
    assert notes(watched) == ()


def test_a_checkpoint_that_is_scored_already_becomes_the_baseline_without_being_scored_again(watched):
    watched.checkpoint("stage1", 90)
    watched.checkpoint("stage2", 300)
    watched.tick(3)
    ask(watched, 90, source="stage1")
    watched.tick(6)
    assert baselines(watched) == {}
    runs = len(watched.run_ids())
    ask(watched, 90, source="stage1", bridge=True)
    watched.tick(3)
    assert baselines(watched) == {"stage2/step_300": "step_90"}
    assert len(watched.run_ids()) == runs


def test_where_training_began_elsewhere_status_report_and_comparison_say_so_also_when_the_checkpoint_is_gone(watched):
    watched.checkpoint("stage1", 100)
    watched.checkpoint("stage2", 300, started_from="/other/stage1_long/100")
    watched.tick(6)
    said = f"stage2 says that it started from /other/stage1_long/100, its bridge is {watched.ckpts}/stage1/100"
    assert watched.reasons()["stage2/step_100"] == said
    assert notes(watched) == (said,)
    assert wanted(watched.config, watched.ledger)["stage2/step_300"].bridge.note == said
    began = [entry for entry in watched.config.paths.journal.glob("*.jsonl") if '"began"' in entry.read_text()]
    assert len(began) == 1
    watched.kill()
    watched.tick()
    assert watched.reasons()["stage2/step_100"] == said
    assert sum(path.read_text().count('"event":"began"') for path in watched.config.paths.journal.glob("*.jsonl")) == 1


@pytest.mark.parametrize(
    ("begun", "said"),
    [
        (None, None),
        ("/ckpts/stage1/100", None),
        ("/another/mount/stage1/100", None),
        ("/ckpts/stage1", None),
        ("/ckpts/stage1/90", "stage2 says that it started from step 90, its bridge is step 100"),
        ("/ckpts/long/100", "stage2 says that it started from /ckpts/long/100, its bridge is /ckpts/stage1/100"),
        ("/models/base", "stage2 says that it started from /models/base, its bridge is /ckpts/stage1/100"),
    ],
)
def test_another_start_is_told_from_the_same_one_at_another_mount(begun, said):
    record = Record(
        stage="stage2",
        source="stage1",
        step=100,
        directory="step_100",
        origin="bridge",
        checkpoint="/ckpts/stage1/100",
        state=State.SCORED,
        since=0.0,
    )
    assert elsewhere("stage2", begun, record) == said


def test_a_bridge_at_another_place_is_scored_there_and_said(tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch)
    folder = watched.checkpoint("copies", 100)
    stage2 = {"steps": (300,), "seq_len": 64, "tokenizer": "t"}
    watched.configure(stage1={"steps": (100,)}, stage2={**stage2, "bridge": watched.bridge("stage1", checkpoint=str(folder))})
    watched.checkpoint("stage2", 300)
    watched.tick(6)
    assert watched.ledger.records["stage2/step_100"].checkpoint == str(folder)
    assert watched.states()["stage2/step_100"] == "scored"
    assert notes(watched) == (f"compared with stage1 step 100 from {folder}, as the config says",)


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
    config = load(None, {"SCRATCH": "/s", **environ})
    bridge = config.stages["stage2"].bridge
    assert (bridge.enabled, bridge.step, bridge.checkpoint) == expected


def test_a_disabled_bridge_leaves_a_stage_to_its_own_steps(tmp_path, monkeypatch):
    watched = Watched(tmp_path, monkeypatch)
    bridge = watched.bridge("stage1", enabled=False)
    watched.configure(stage1={"steps": (100,)}, stage2={"steps": (300, 400), "bridge": bridge, "seq_len": 64, "tokenizer": "t"})
    for stage, step in (("stage1", 100), ("stage2", 300), ("stage2", 400)):
        watched.checkpoint(stage, step)
    watched.tick(9)
    assert set(watched.states()) == {"stage1/step_100", "stage2/step_300", "stage2/step_400"}
    assert baselines(watched) == {"stage2/step_400": None}
    assert bridge_of("stage2", watched.ledger.records.values()) is None


def test_a_bridge_of_a_stage_that_has_none_in_the_config_is_told_as_such(watched):
    watched.checkpoint("stage1", 100)
    watched.configure(stage2={"steps": (300,), "seq_len": 64, "tokenizer": "t"})
    watched.start()
    ask(watched, 100, source="stage1", bridge=True)
    watched.tick(6)
    bridge = bridge_of("stage2", watched.ledger.records.values())
    assert bridge.state is State.SCORED
    said = "stage1 step 100, as a person asked; the config has no bridge"
    assert another_bridge(bridge, watched.config.stages["stage2"]) == said


def test_a_bridge_that_is_to_come_is_not_said_to_be_none(tmp_path, monkeypatch):
    """The journal knows of no bridge while the source has no last step."""
    watched = Watched(tmp_path, monkeypatch, steps=(100,))
    watched.configure(
        stage1={"every": 100, "to": None},
        stage2={"steps": (300,), "bridge": watched.bridge("stage1"), "seq_len": 64, "tokenizer": "t"},
    )
    watched.checkpoint("stage2", 300)
    watched.tick(6)
    assert watched.states() == {"stage2/step_300": "scored"}
    ledger = read(watched.config.paths)
    report = gather(watched.config, ledger, judge(watched.config.paths, time.time()), time.time())
    (stage,) = [stage for stage in report.stages if stage.name == "stage2"]
    assert verdict(stage) == ("none", ["stage2/step_300: the bridge, stage1 its last step, is not scored yet"])
    (other,) = [stage for stage in report.stages if stage.name == "stage1"]
    assert other.awaited == ""


def test_killed_at_every_effect_of_naming_a_baseline(tmp_path):
    """A person names another step the baseline; the watcher dies at each effect of that, and the request is answered once."""
    blow_at = kills = 0
    while True:
        with pytest.MonkeyPatch.context() as monkeypatch:
            watched = Watched(tmp_path / str(blow_at), monkeypatch, steps=(100,))
            bridge = watched.bridge("stage1", step=100)
            watched.configure(stage2={"steps": (300, 400), "bridge": bridge, "seq_len": 64, "tokenizer": "t"})
            for stage, step in (("stage1", 50), ("stage1", 100), ("stage2", 300), ("stage2", 400)):
                watched.checkpoint(stage, step)
            watched.tick()
            first = ask(watched, 50, source="stage1")
            watched.tick(2)
            watched.tick_until(watched.all_scored)
            made = ask(watched, 50, source="stage1", bridge=True)
            fuse = Fuse(monkeypatch, watched.executor, blow_at)
            killed = live_out(watched, fuse)
            watched.tick(2)
            assert baselines(watched)["stage2/step_400"] == "step_50", fuse.where
            assert watched.ledger.records["stage2/step_50"].chosen is not None
            assert list(watched.ledger.answered) == [first.id, made.id], fuse.where
            assert not list(watched.config.paths.requests.glob("*.json")), fuse.where
            assert len(watched.run_ids()) == 5, "nothing is scored again for it"
            watched.daemon.close()
        if not killed:
            break
        kills += 1
        blow_at += 1
    assert kills >= 4

"""``runs: GLOB``: a stage for every folder that matches, named after what ``*`` matched."""

import pytest

from suites.common.errors import UserError
from watcher.config.dump import dump_config
from watcher.config.loader import check_config, load_config
from watcher.config.run_folders import list_watched_folders, update_run_stages

RUNS = """
results: results
executor: local
stages:
  base: {checkpoints: ckpts/base, steps: [100], suites: [stage1_ppl_slices]}
  sweep:
    runs: "ablations/*/ckpts"
    every: 100
    suites: [stage1_ppl_slices]
    layout: {name: "step_{step}"}
    bridge: {from: base, step: 100}
"""


@pytest.fixture
def load(tmp_path):
    """Loads a config, as every command does; folders are made first."""

    def run(*folders, text=RUNS, loader=load_config):
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True)
        (tmp_path / "watcher.yaml").write_text(text)
        return loader(tmp_path / "watcher.yaml", {})

    return run


def list_runs(config):
    return {stage.name: str(stage.checkpoints) for stage in config.stages.values() if stage.runs is not None}


def test_each_run_is_a_stage_with_one_schedule_and_suites(load, tmp_path):
    config = load("ablations/lr1e-3/ckpts", "ablations/lr 2/ckpts", "ablations/none", loader=check_config)
    assert list(config.stages) == ["base", "lr1e-3", "lr_2"], "those of the file come first"
    stage = config.stages["lr_2"]
    assert (stage.name, stage.checkpoints, stage.every, stage.runs) == ("lr_2", tmp_path / "ablations/lr 2/ckpts", 100, "sweep")
    assert stage.get_checkpoint_folder(200) == tmp_path / "ablations/lr 2/ckpts/step_200"
    assert stage.root == tmp_path / "results/lr_2"
    assert stage.bridge.source == "base"
    assert config.run_problems == {}
    assert set(list_watched_folders(config)) == {
        tmp_path / "ckpts/base", tmp_path / "ablations", *(tmp_path / f"ablations/{run}/ckpts" for run in ("lr1e-3", "lr 2"))
    }  # fmt: skip


def test_no_run_yet_is_no_mistake_and_a_file_is_no_run(load, tmp_path):
    config = load("ablations/a")
    (tmp_path / "ablations/a/ckpts").write_text("a file")
    (tmp_path / "ablations/b").write_text("a file")
    assert list_runs(config) == list_runs(load()) == {}


def test_a_run_that_goes_keeps_its_stage_and_a_name_its_owner(load, tmp_path):
    config = update_run_stages(load("ablations/a b/ckpts", "results/.watcher"))
    assert list_runs(config) == {"a_b": str(tmp_path / "ablations/a b/ckpts")}
    assert update_run_stages(config) is config
    (tmp_path / "ablations/a b/ckpts").rmdir()
    config = load("ablations/a_b/ckpts")
    assert list_runs(config) == {"a_b": str(tmp_path / "ablations/a b/ckpts")}
    said = f"is not scored: its stage would be a_b, which is that of {tmp_path}/ablations/a b/ckpts; rename the folder"
    assert config.run_problems == {str(tmp_path / "ablations/a_b/ckpts"): said}


def test_what_an_earlier_glob_named_is_forgotten_with_the_glob(load, tmp_path):
    update_run_stages(load("ablations/a/ckpts", "results/.watcher"))
    assert list_runs(load("other/b", text=RUNS.replace("ablations/*/ckpts", "other/*"))) == {"b": str(tmp_path / "other/b")}


def test_names_that_collide_are_refused_by_name_and_an_exact_one_is_kept(load, tmp_path):
    config = load(*(f"ablations/{name}/ckpts" for name in ("a b", "a_b", "a+c", "a=c", "base")))
    assert list_runs(config) == {"a_b": str(tmp_path / "ablations/a_b/ckpts")}
    said = {folder.removeprefix(f"{tmp_path}/ablations/"): why for folder, why in config.run_problems.items()}
    assert set(said) == {"a b/ckpts", "a+c/ckpts", "a=c/ckpts", "base/ckpts"}
    assert "its stage would be a_b, and that of" in said["a b/ckpts"]
    assert f"its stage would be a_c, and that of {tmp_path}/ablations/a=c/ckpts, too" in said["a+c/ckpts"]
    assert f"its stage would be base, which is that of {tmp_path}/ckpts/base" in said["base/ckpts"]


@pytest.mark.parametrize(
    ("pattern", "folder", "name"),
    [("r/*", "r/x", "x"), ("r/lr*/ckpts", "r/lr3/ckpts", "3"), ("*/*/ckpts", "r/s/ckpts", "r-s"), ("r/*-run", "r/-x-run", "_x"),
     ("r/*/ckpts", "r/ä/ckpts", "_"), ("r/run-*", "r/run-", "_"), ("r/*", "r/.hidden", None),
     ("r/*", f"r/{'x' * 200}", "x" * 100)],
)  # fmt: skip
def test_a_stage_is_named_after_what_the_star_matched(pattern, folder, name, load):
    assert list(list_runs(load(folder, text=RUNS.replace("ablations/*/ckpts", pattern)))) == ([] if name is None else [name])


def test_the_watchers_own_folders_are_no_runs(load, tmp_path):
    text = RUNS.replace("ablations/*/ckpts", "*").replace("results: results", "results: out/results")
    config = load("out/results/.watcher", "run1", "ckpts/base", text=text)
    assert set(list_runs(config)) == {"run1", "ckpts"}
    assert config.run_problems == {
        str(tmp_path / "out"): f"is not scored: {tmp_path}/out/results of the watcher lies in it; choose another place for that"
    }
    assert set(list_runs(load(text=text.replace("out/results", "out")))) == {"run1", "ckpts"}
    config = load("r/eval_data", text=RUNS.replace("ablations/*/ckpts", "r/*"))
    assert "its stage would be eval_data, and its results would mix" in config.run_problems[str(tmp_path / "r/eval_data")]


def test_a_folder_of_a_stage_in_the_file_is_that_stages(load):
    config = load("ckpts/base", "ckpts/other", text=RUNS.replace("ablations/*/ckpts", "ckpts/*"))
    assert set(config.stages) == {"base", "other"}
    assert config.run_problems == {}


def test_the_printed_config_is_the_same_config(load, tmp_path):
    config = load("ablations/a/ckpts")
    text = dump_config(config)
    assert "# sweep makes the stages: a\n" in text
    assert str(tmp_path / "ablations/*/ckpts") in text
    assert load(text=text) == config


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'runs: "ablations/*/ckpts"',
            "runs: ablations/ckpts",
            "stages.sweep.runs: holds no *, which stands for the name of a run",
        ),
        ('runs: "ablations/*/ckpts"', "runs: ablations/**", "stages.sweep.runs: holds a wildcard other than *"),
        ('runs: "ablations/*/ckpts"', "runs: ablations/[ab]*", "stages.sweep.runs: holds a wildcard other than *"),
        ('runs: "ablations/*/ckpts"', "checkpoints: ablations/*", "stages.sweep.checkpoints: holds a *; write runs: for a stage"),
        ("every: 100", "every: 100\n    checkpoints: x", "stages.sweep.checkpoints: is of one stage, and runs makes many"),
        ("every: 100", "every: 100\n    result_root: x", "stages.sweep.result_root: is of one stage, and runs makes many"),
        ("checkpoints: ckpts/base, ", "", "stages.base: has no checkpoints; write checkpoints: FOLDER, or runs: GLOB"),
        ("from: base", "from: bse", "stages.sweep.bridge.from: no stage 'bse'; did you mean 'base'?"),
        ("every: 100", "", "stages.sweep: has no schedule"),
        ("[stage1_ppl_slices]\n    layout", "[]\n    layout", "stages.sweep.suites: lists no suite"),
    ],
)
def test_a_mistake_in_runs_is_one_line(old, new, message, load):
    with pytest.raises(UserError) as caught:
        load("ablations/a/ckpts", text=RUNS.replace(old, new, 1))
    assert message in str(caught.value)

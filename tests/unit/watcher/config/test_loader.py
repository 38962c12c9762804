import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suites.common.errors import UserError
from suites.contract.objectives import Objectives
from watcher.config.dump import dump_config
from watcher.config.loader import check_config, load_config
from watcher.config.settings import Bridge, LimitSettings, RetrySettings, SlurmSettings

STAGE = "stages:\n  a: {checkpoints: c, steps: [1], suites: [stage1_ppl_slices]}\n"
SCRATCH = {"SCRATCH": "/s"}


@pytest.fixture(autouse=True)
def _an_empty_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(tmp_path, text, environ=SCRATCH):
    (tmp_path / "w.yaml").write_text(text)
    return load_config(tmp_path / "w.yaml", environ)


def test_the_built_in_config_is_the_four_stage_run():
    config = check_config(None, SCRATCH)
    assert (config.source, config.results, config.eval_data, config.state) == (
        "built-in",
        Path("/s/evaluation_results"),
        Path("/s/evaluation_results/eval_data"),
        Path("/s/evaluation_results/.watcher"),
    )
    assert {name: (str(stage.checkpoints), stage.steps) for name, stage in config.stages.items()} == {
        "stage1": ("/s/ckpts/stage1", (2000, 10000, 20000, 32000, 40000, 50000)),
        "stage2": ("/s/ckpts/stage2", (2000, 6000, 10000, 14000, 18000, 22000)),
        "stage3": ("/s/ckpts/stage3", (2000, 4000, 6000, 8000, 10000, 12000)),
        "stage4": ("/s/sft_project/ckpts/sft_stage3_smoltalk_run1", (500, 1500, 3500, 5000)),
    }
    assert {name: stage.bridge for name, stage in config.stages.items()} == {
        "stage1": None,
        "stage2": Bridge(source="stage1", step=50000),
        "stage3": Bridge(source="stage2", step=22000),
        "stage4": Bridge(source="stage3", step="final"),
    }
    assert config.stages["stage3"].suites == ("stage3_ppl_slices", "stage3_cf_core")
    assert (config.executor, config.poll, config.settle, config.slurm.gres, config.slurm.cpus_per_task) == (
        "slurm",
        60,
        60,
        "gpu:1",
        8,
    )


@pytest.mark.parametrize(
    ("variables", "stage", "expected"),
    [
        ({"STAGE2_INCLUDE_STAGE1_BRIDGE": "0"}, "stage2", {"bridge": Bridge(source="stage1", step=50000, enabled=False)}),
        ({"STAGE2_INCLUDE_STAGE1_BRIDGE": "1"}, "stage2", {"bridge": Bridge(source="stage1", step=50000)}),
        ({"STAGE3_INCLUDE_STAGE2_BRIDGE": "0"}, "stage3", {"bridge": Bridge(source="stage2", step=22000, enabled=False)}),
        ({"STAGE4_INCLUDE_STAGE3_BRIDGE": "0"}, "stage4", {"bridge": Bridge(source="stage3", step="final", enabled=False)}),
        ({"STAGE2_BRIDGE_STEP": "48000"}, "stage2", {"bridge": Bridge(source="stage1", step=48000)}),
        ({"STAGE3_BRIDGE_STEP": "7"}, "stage3", {"bridge": Bridge(source="stage2", step=7)}),
        ({"STAGE4_BRIDGE_STEP": "7"}, "stage4", {"bridge": Bridge(source="stage3", step=7)}),
        ({"STAGE2_BRIDGE_CKPT_PATH": "/b/9"}, "stage2", {"bridge": Bridge(source="stage1", step=50000, checkpoint="/b/9")}),
        ({"STAGE3_BRIDGE_CKPT_PATH": "/b/9"}, "stage3", {"bridge": Bridge(source="stage2", step=22000, checkpoint="/b/9")}),
        ({"STAGE4_BRIDGE_CKPT_PATH": "/b/9"}, "stage4", {"bridge": Bridge(source="stage3", step="final", checkpoint="/b/9")}),
        ({"STAGE4_STEPS": "500 700"}, "stage4", {"steps": (500, 700)}),
        ({"STAGE4_STEPS": "700,500"}, "stage4", {"steps": (500, 700)}),
        ({"STAGE4_STEPS": "700"}, "stage4", {"steps": (700,)}),
        ({"STAGE4_RESULT_ROOT": "/r4"}, "stage4", {"result_root": Path("/r4"), "root": Path("/r4")}),
        ({"STAGE4_RESULT_ROOT": ""}, "stage4", {"result_root": None, "root": Path("/s/evaluation_results/stage4")}),
        ({"LIGHTEVAL_CMD": "score ${X}"}, "stage1", {"backend": "command", "command": "score ${X}"}),
    ],
)
def test_the_environment_overrides_the_built_in_config(variables, stage, expected):
    found = load_config(None, SCRATCH | variables).stages[stage]
    assert {key: getattr(found, key) for key in expected} == expected


def test_the_environment_names_the_data_cache():
    assert load_config(None, SCRATCH | {"EVAL_DATA_DIR": "/d"}).eval_data == Path("/d")


def test_stage_4_s_training_config_is_used_where_it_exists(tmp_path):
    assert load_config(None, SCRATCH).stages["stage4"].training_config is None
    with pytest.raises(UserError, match=r"built-in:\d+: stages.stage4.training_config: /none: no such file"):
        load_config(None, SCRATCH | {"STAGE4_CONFIG_PATH": "/none"})
    (tmp_path / "config").mkdir()
    (tmp_path / "config/sft_stage3_smoltalk.yaml").touch()
    assert load_config(None, SCRATCH).stages["stage4"].training_config == tmp_path / "config/sft_stage3_smoltalk.yaml"


@pytest.mark.parametrize("value", ["maybe", "2", "-1"])
def test_a_switch_in_the_environment_is_0_or_1(value):
    with pytest.raises(UserError, match=r"built-in:\d+: stages\.stage2\.bridge\.enabled: expected"):
        load_config(None, SCRATCH | {"STAGE2_INCLUDE_STAGE1_BRIDGE": value})


def test_the_option_counts_before_the_variable_before_the_folder_before_the_built_in_one(tmp_path):
    for name in ("option", "variable", "watcher"):
        (tmp_path / f"{name}.yaml").write_text(f"state: /{name}\n")
    environ = {**SCRATCH, "WATCHER_CONFIG": "variable.yaml"}
    assert load_config(Path("option.yaml"), environ).state == Path("/option")
    assert load_config(None, environ).state == Path("/variable")
    assert load_config(None, {**SCRATCH, "WATCHER_CONFIG": ""}).state == Path("/watcher")
    (tmp_path / "watcher.yaml").unlink()
    assert load_config(None, SCRATCH).source == "built-in"


def test_an_empty_file_is_the_built_in_config(tmp_path):
    config = written(tmp_path, "")
    assert msgspec.structs.replace(config, source="built-in") == load_config(None, SCRATCH)


def test_a_files_stages_replace_the_built_in_ones_and_nothing_else(tmp_path):
    config = written(tmp_path, STAGE)
    assert list(config.stages) == ["a"]
    assert config.results == Path("/s/evaluation_results")


def test_the_built_in_stages_follow_a_files_scratch(tmp_path):
    config = written(tmp_path, "scratch: data\n", {})
    assert config.stages["stage1"].checkpoints == tmp_path / "data/ckpts/stage1"
    assert config.state == tmp_path / "data/evaluation_results/.watcher"


def test_without_scratch_results_are_enough(tmp_path):
    config = written(tmp_path, "results: r\n" + STAGE, {})
    assert (config.results, config.scratch) == (tmp_path / "r", tmp_path)


def test_relative_paths_start_at_the_files_folder_and_home_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "elsewhere").mkdir()
    config = written(tmp_path, "mirror: ~/copy\npython: ../venv/bin/python\n" + STAGE)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_config(Path("../w.yaml"), SCRATCH).stages["a"].checkpoints == tmp_path / "c"
    assert (config.mirror, config.python) == (Path("/home/me/copy"), str(tmp_path.parent / "venv/bin/python"))


def test_a_command_is_a_line_for_bash_or_arguments_as_they_stand(tmp_path):
    stage = "stages:\n  a: {checkpoints: /c, steps: [1], suites: [stage1_ppl_slices], command: %s}\n"
    assert written(tmp_path, stage % '"score ${X}"').stages["a"].command == "score ${X}"
    listed = written(tmp_path, stage % '[/bin/score, "--to=${X}", $Y]').stages["a"]
    assert (listed.backend, listed.command) == ("command", ("/bin/score", "--to=${X}", "$Y"))


def test_all_keys(tmp_path):
    (tmp_path / "sft.yaml").touch()
    (tmp_path / "mine.yaml").touch()
    config = written(
        tmp_path,
        """
python: python3.11
executor: local
poll: 90s
settle: 2m
slurm:
  {account: 007, partition: boost, gres: null, time: 12:00:00, mem: 64000, extra: --exclusive, setup: "a ${X}\\nb"}
prefill: {where: job, auto: true, partition: lrd_all_serial}
limits: {max_running: 2, max_queued: 5, slurm_calls_per_minute: 3}
retry: {attempts: 1, backoff: 1h}
notify: mail ${USER}
pin: yes
mirror: /m
stages:
  a:
    checkpoints: /c
    results: /r
    every: 1000
    from: 500
    to: 3000
    final: true
    suites: [stage1_ppl_slices, mine, sub/other.yaml]
    tokenizer: ./tok
    seq_len: 4096
    use_fast: false
    training_config: sft.yaml
    objectives: {improve: [tier3]}
    command: score --step $LIGHTEVAL_STEP
""",
    )
    assert config.slurm == SlurmSettings(
        account="007", partition="boost", gres=None, time="12:00:00", mem="64000", extra=("--exclusive",), setup=("a ${X}", "b")
    )
    assert config.prefill == {
        "where": "job",
        "auto": True,
        "partition": "lrd_all_serial",
        "cpus_per_task": 4,
        "time": "04:00:00",
    }
    assert config.limits == LimitSettings(max_running=2, max_queued=5, slurm_calls_per_minute=3)
    assert config.retry == RetrySettings(attempts=1, backoff=3600)
    assert (config.poll, config.settle, config.notify, config.pin) == (90, 120, "mail ${USER}", True)
    stage = config.stages["a"]
    assert (stage.name, stage.results, stage.every, stage.start, stage.to, stage.final) == (
        "a",
        Path("/r"),
        1000,
        500,
        3000,
        True,
    )
    assert stage.suites == ("stage1_ppl_slices", str(tmp_path / "mine.yaml"), str(tmp_path / "sub/other.yaml"))
    assert (stage.tokenizer, stage.seq_len, stage.use_fast) == (str(tmp_path / "tok"), 4096, False)
    assert (stage.training_config, stage.objectives) == (tmp_path / "sft.yaml", Objectives(improve=("tier3",)))
    assert (stage.backend, stage.command) == ("command", "score --step $LIGHTEVAL_STEP")


def test_what_the_file_says_of_the_scorer_counts_before_the_environment(tmp_path):
    text = "stages:\n  a: {checkpoints: c, steps: [1], suites: [s], %s}\n"
    environ = SCRATCH | {"LIGHTEVAL_CMD": "theirs"}
    for said, expected in (
        ("backend: direct", ("direct", None)),
        ("command: mine", ("command", "mine")),
        ("backend: command", ("command", "theirs")),
    ):
        stage = written(tmp_path, text % said, environ).stages["a"]
        assert (stage.backend, stage.command) == expected


def test_a_tokenizer_s_id_stays_one(tmp_path):
    text = STAGE.replace("steps", "tokenizer: HuggingFaceTB/SmolLM2, steps")
    assert written(tmp_path, text).stages["a"].tokenizer == "HuggingFaceTB/SmolLM2"


def test_a_local_file_does_not_hide_a_shipped_suite(tmp_path):
    (tmp_path / "stage1_ppl_slices.yaml").touch()
    assert written(tmp_path, STAGE).stages["a"].suites == ("stage1_ppl_slices",)


def same_again(tmp_path, config):
    (tmp_path / "again.yaml").write_text(dump_config(config))
    return msgspec.structs.replace(load_config(tmp_path / "again.yaml", {}), source=config.source)


def test_the_resolved_config_means_the_same_whatever_the_environment(tmp_path):
    config = load_config(None, SCRATCH | {"STAGE4_STEPS": "1 2", "LIGHTEVAL_CMD": "x ${Y}", "STAGE2_INCLUDE_STAGE1_BRIDGE": "0"})
    assert same_again(tmp_path, config) == config


printable = st.characters(blacklist_categories=("Cs", "Cc", "Z"))
words = st.text(printable, min_size=1).filter(lambda word: not word.startswith(("-", "$")))
slurms = st.builds(
    SlurmSettings,
    account=words | st.just("08") | st.just("1e5") | st.just("null"),
    setup=st.lists(words, max_size=2).map(tuple),
    time=st.none(),
    cpus_per_task=st.none(),
)


@settings(max_examples=50)
@given(
    slurm=slurms,
    tokenizer=words.filter(lambda word: word[0] not in "/.~"),
    poll=st.integers(1000, 10**9).map(lambda thousandths: thousandths / 1000),
    start=st.none() | st.just(0) | st.just(5),
)
def test_any_config_survives_being_printed_and_loaded(tmp_path_factory, slurm, tokenizer, poll, start):
    folder = tmp_path_factory.mktemp("again")
    config = load_config(None, SCRATCH)
    stage = msgspec.structs.replace(config.stages["stage1"], tokenizer=tokenizer, every=7, start=start, to=None)
    limits = LimitSettings(slurm_calls_per_minute=1000)  # enough for any poll
    config = msgspec.structs.replace(config, slurm=slurm, poll=poll, limits=limits, stages={"stage1": stage})
    assert same_again(folder, config) == config


def test_loading_reads_nothing_but_the_config(tmp_path, monkeypatch):
    (tmp_path / "w.yaml").write_text(STAGE.replace("stage1_ppl_slices", "not_there_at_all"))
    monkeypatch.setattr(os, "listdir", None)
    assert load_config(tmp_path / "w.yaml", SCRATCH).stages["a"].suites == ("not_there_at_all",)

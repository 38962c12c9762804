"""Every mistake in a config is one line: file, line, what is wrong, what to do."""

import pytest

from suites.common.errors import ExitCode, UserError
from watcher.config.dump import dump_config
from watcher.config.loader import check_config, load_config

HEAD = "results: /data/results\n"  # line 1
STAGE = HEAD + "stages:\n  stage1:\n    checkpoints: /data/ckpts/stage1\n"  # lines 2 to 4
WHOLE = STAGE + "    steps: [100]\n    suites: [stage1_ppl_slices]\n"  # lines 5 and 6
SECOND = WHOLE + "  stage2:\n    checkpoints: /data/ckpts/stage2\n    steps: [100]\n    suites: [stage2_ppl_slices]\n"  # 7 to 10


def problem(tmp_path, text, loader=load_config, environ=None):
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        loader(path, environ or {})
    assert caught.value.code is ExitCode.USAGE
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(str(path))
    return said.removeprefix(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # keys
        (WHOLE + "pol: 60s\n", ":7: unknown key 'pol'; did you mean 'poll'?"),
        (WHOLE + "    tokeniser: x\n", ":7: stages.stage1: unknown key 'tokeniser'; did you mean 'tokenizer'?"),
        (WHOLE + "    bridge:\n      form: stage1\n", ":8: stages.stage1.bridge: unknown key 'form'; did you mean 'from'?"),
        (WHOLE + "slurm: {partiton: x}\n", ":7: slurm: unknown key 'partiton'; did you mean 'partition'?"),
        (WHOLE + "limits: {max_run: 1}\n", ":7: limits: unknown key 'max_run'; did you mean 'max_running'?"),
        (WHOLE + "retry: {zzz: 1}\n", ":7: retry: unknown key 'zzz'; use one of: attempts, backoff"),
        (WHOLE + "poll: 5s\npoll: 6s\n", ":8: poll: occurs twice; keep one of the two"),
        (WHOLE + "  stage1: {}\n", ":7: stages.stage1: occurs twice; keep one of the two"),
        # text where keys are needed
        (
            WHOLE + '    layout: "step_{step}"\n',
            ":7: stages.stage1.layout: 'step_{step}' is no mapping; write layout: {name: ..., kind: ...}",
        ),
        (
            WHOLE + "    bridge: stage1\n",
            ":7: stages.stage1.bridge: 'stage1' is no mapping; write bridge: {from: ..., step: ..., checkpoint: ..., ...}",
        ),
        (WHOLE + "limits: [1]\n", ":7: limits: [1] is no mapping; write limits: {max_running: ..., "),
        # values of the wrong kind
        (WHOLE + "poll: often\n", ":7: poll: 'often' is not a duration; write 90s, 15m or 2h"),
        (WHOLE + "poll: 0s\n", ":7: poll: 0s is too often; write 1s or more; 60s is usual"),
        (WHOLE + "limits:\n  max_running: 0\n", ":8: limits.max_running: expected `int` >= 1; write a value of that type"),
        (
            WHOLE + "poll: 5s\n",
            ":7: poll: 10 Slurm commands per minute are too few for a poll every 5 s (13) and a",
        ),
        (
            WHOLE + "limits:\n  slurm_calls_per_minute: 3\n",
            ":8: limits.slurm_calls_per_minute: 3 Slurm commands per minute are too few for a poll every 60 s (2) and",
        ),
        (
            WHOLE.replace("/data/results", "/data/a\\b"),
            ":1: results: Slurm cannot write a log below /data/a\\b; use",
        ),
        (WHOLE + '    results: "/data/a\\nb"\n', ":7: stages.stage1.results: '/data/a\\nb' has a control character; rename"),
        (WHOLE + "executor: slrm\n", ":7: executor: unknown executor 'slrm'; did you mean 'slurm'?"),
        (WHOLE + "prefill: {where: moon}\n", ":7: prefill.where: unknown where 'moon'; use one of: login, job"),
        (
            WHOLE + "executor: slurm\nprefill: {auto: true}\n",
            ":8: prefill.auto: the watcher fills the cache by a job, and no partition is set for it; set where: job",
        ),
        (WHOLE + "eval_data: 5\n", ":7: eval_data: expected a path, got int; write a value of that type"),
        (WHOLE + "eval_data: $SCRATCH/x\n", ":7: eval_data: '$SCRATCH/x' is not expanded; write ${SCRATCH}/x"),
        (WHOLE + "eval_data: ${NONE}/x\n", ":7: eval_data: ${NONE} is not set; export NONE, or write ${NONE:-default}"),
        (WHOLE + "    use_fast: 2\n", ":7: stages.stage1.use_fast: expected `int` <= 1; write a value of that type"),
        (WHOLE + "    seq_len: 0\n", ":7: stages.stage1.seq_len: expected `int` >= 1; write a value of that type"),
        # slurm
        (WHOLE + "slurm: {time: 1 day}\n", ":7: slurm.time: '1 day' is not one word; write one word, or leave it out"),
        (WHOLE + "slurm: {extra: [exclusive]}\n", ":7: slurm.extra: 'exclusive' is not an option; write --name=value"),
        (WHOLE + "slurm: {extra: [--job-name=x]}\n", ":7: slurm.extra: --job-name is set by the watcher; remove it"),
        (
            WHOLE + "slurm: {extra: [--cpus-per-gpu=8]}\n",
            ":7: slurm.extra: --cpus-per-gpu excludes --cpus-per-task, which the batch script sets; write slurm: cpus_per",
        ),
        (WHOLE + "slurm: {extra: [-Jx]}\n", ":7: slurm.extra: -Jx is set by the watcher; remove it"),
        (WHOLE + "slurm: {extra: [--mem=4G]}\n", ":7: slurm.extra: --mem has its own key; write slurm: mem: instead"),
        # stages
        (HEAD + "stages: {}\n", ":2: stages: has no stages; add one, or omit stages: for the built-in four"),
        (HEAD + "stages: [a]\n", ":2: stages: expected `object`, got `array`"),
        (HEAD + "stages:\n  a/b: {checkpoints: /x, steps: [1], suites: [s]}\n", ":3: stages.a/b: not a valid stage name"),
        (
            HEAD + "stages:\n  a: {steps: [1], suites: [s]}\n",
            ":3: stages.a: has no checkpoints; write checkpoints: FOLDER, or runs: GLOB",
        ),
        (STAGE + "    steps: [100]\n", ":3: stages.stage1: has no suites; write suites: ..."),
        (STAGE + "    steps: [100]\n    suites: []\n", ":6: stages.stage1.suites: lists no suite; name at least one"),
        (
            STAGE + "    steps: []\n    suites: [a, b, a]\n",
            ":6: stages.stage1.suites: 'a' is listed twice; keep one of the two",
        ),
        # schedules
        (STAGE + "    suites: [s]\n", ":3: stages.stage1: has no schedule; write steps:, every: or final: true"),
        (STAGE + "    suites: [s]\n    steps: [-1]\n", ":6: stages.stage1.steps.0: expected `int` >= 0"),
        (STAGE + "    suites: [s]\n    steps: 100 2oo\n", ":6: stages.stage1.steps: '100 2oo' is not a list of steps"),
        (STAGE + "    suites: [s]\n    every: 0\n", ":6: stages.stage1.every: expected `int` >= 1"),
        (WHOLE + "    to: 500\n", ":7: stages.stage1.to: to without every; add every: N, or remove to"),
        (WHOLE + "    from: 500\n", ":7: stages.stage1.from: from without every; add every: N, or remove from"),
        (WHOLE + "    every: 100\n    from: 500\n    to: 400\n", ":9: stages.stage1.to: ends at 400, before its first step 500"),
        (WHOLE + "    every: 100\n    to: 50\n", ":8: stages.stage1.to: ends at 50, before its first step 100; set a later end"),
        # bridges
        (SECOND + "    bridge: {from: stge1, step: 1}\n", ":11: stages.stage2.bridge.from: no stage 'stge1'; did you mean"),
        (SECOND + "    bridge: {from: stage2, step: 1}\n", ":11: stages.stage2.bridge.from: a stage cannot be its own baseline"),
        (SECOND + "    bridge: {step: 1}\n", ":11: stages.stage2.bridge: has no from; write from: ..."),
        # foreign scorers
        (WHOLE + "    backend: comand\n", ":7: stages.stage1.backend: unknown backend 'comand'; did you mean 'command'?"),
        (WHOLE + "    backend: command\n", ":7: stages.stage1.backend: backend command has no command; set command:, or export"),
        (WHOLE + "    backend: direct\n    command: x\n", ":8: stages.stage1.command: is not used by backend direct"),
        # keys of model_config.json
        (WHOLE + "    assume: {a: used}\n", ":7: stages.stage1.assume.a: unknown a 'used'"),
        (WHOLE + "    assume: {a: aplied}\n", ":7: stages.stage1.assume.a: unknown a 'aplied'; did you mean 'applied'?"),
        (WHOLE + "    assume: {a: applied}\n", ":7: stages.stage1.assume.a: only rope_scaling can be applied; write ignored"),
        (WHOLE + "    assume: rope_scaling\n", ":7: stages.stage1.assume"),
        (
            WHOLE + "    backend: command\n    command: x\n    assume: {a: ignored}\n",
            ":9: stages.stage1.assume: is not used by backend",
        ),
        (WHOLE + "    training_config: /none.yaml\n", ":7: stages.stage1.training_config: /none.yaml: no such file"),
        # places
        (WHOLE + "state: /data/ckpts/stage1/.watcher\n", ":7: state: /data/ckpts/stage1/.watcher lies inside the checkpoints"),
        (WHOLE + "mirror: /data/ckpts/stage1\n", ":7: mirror: /data/ckpts/stage1 lies inside the checkpoints of stage1"),
        (WHOLE + "    results: /data/ckpts/stage1/r\n", ":7: stages.stage1.results: /data/ckpts/stage1/r lies inside"),
        (WHOLE + "    result_root: /data/ckpts/stage1/r\n", ":7: stages.stage1.result_root: /data/ckpts/stage1/r lies inside"),
        (WHOLE + "    results: /data/ckpts\n", ":7: stages.stage1.results: /data/ckpts/stage1 lies inside the checkpoints"),
        (
            WHOLE + "    results: /r\n    result_root: /data/r\n",
            ":8: stages.stage1.result_root: is given beside results; keep one",
        ),
        (
            SECOND + "    result_root: /data/results/stage1\n",
            ":11: stages.stage2.result_root: /data/results/stage1 has the results",
        ),
        (
            WHOLE + "    layout: {name: step}\n",
            ":7: stages.stage1.layout.name: 'step' does not hold {step} once; write step_{step}",
        ),
        (
            WHOLE + "    layout: {kind: dcp}\n",
            ":7: stages.stage1.layout.kind: unknown kind 'dcp'; use one of: nanotron, hf",
        ),
        (
            SECOND + "    bridge: {from: stage1, step: fianl}\n",
            ":11: stages.stage2.bridge.step: 'fianl' is not a step; write a number, or final",
        ),
        (WHOLE + "eval_data: /data/x/../ckpts/stage1/r\n", ":7: eval_data: /data/ckpts/stage1/r lies inside"),
        (SECOND.replace("ckpts/stage2", "ckpts/stage1"), ":8: stages.stage2.checkpoints: watches the same checkpoints as stage1"),
        # whole files
        ("- a\n", ":1: not a config; write KEY: value lines; `watcher init` writes an example"),
        ("results: /x\n", ": has no stages, and the built-in stages need $SCRATCH, which is not set; export SCRATCH"),
        (WHOLE.removeprefix(HEAD), ":1: has no scratch, and $SCRATCH is not set; export SCRATCH, or write scratch: or results:"),
        ("a: [\n", ":2: not YAML: "),
    ],
)
def test_a_mistake_is_refused_at_its_line(tmp_path, text, message):
    said = problem(tmp_path, text)
    # a file without a line of its own is named with its first
    assert said.startswith(message) or said.removeprefix(":1").startswith(message)


@pytest.mark.parametrize(
    ("suites", "message"),
    [
        ("[stage1_pl_slices]", ":6: stages.stage1.suites: 'stage1_pl_slices': no suite of that name; did you mean 'stage1_"),
        (
            "[stage1_ppl_slices, stage2_ppl_slices]",
            "suites: 'stage1_ppl_slices' and 'stage2_ppl_slices' both have 'general_web' of",
        ),
        ("[./none.yaml]", "none.yaml': "),
    ],
)
def test_suites_are_checked_where_they_are_named(tmp_path, suites, message):
    assert message in problem(tmp_path, STAGE + f"    steps: [100]\n    suites: {suites}\n", check_config)


def test_a_mistake_in_a_suite_is_told_with_both_places(tmp_path):
    (tmp_path / "mine.yaml").write_text("tier: tier2_ppl\nslices:\n  a: {hf_datset: x}\n")
    said = problem(tmp_path, STAGE + "    steps: [100]\n    suites: mine\n", check_config)
    assert said.startswith(f":6: stages.stage1.suites: '{tmp_path}/mine.yaml': {tmp_path}/mine.yaml:3: ")
    assert said.endswith("unknown key 'hf_datset'; did you mean 'hf_dataset'?")


@pytest.mark.parametrize(
    ("objectives", "loader", "message"),
    [
        (
            "{improve: [tier2], hold: general_wep}",
            check_config,
            ":7: stages.stage1.objectives.hold: no tier, slice, task or group",
        ),
        (
            "\n      hold: [a]\n      groups:\n        a: [general_wep]",
            check_config,
            ":10: stages.stage1.objectives.groups.a: the",
        ),
        (
            "{hold: [tier4]}",
            check_config,
            ":7: stages.stage1.objectives.hold: the stage has no suite of tier4; name one of tier2, or",
        ),
        (
            "{improve: [tier3.bpb]}",
            check_config,
            ":7: stages.stage1.objectives.improve: the stage has no suite of tier3; name one of tier2, or add a suite of tier3",
        ),
        (
            "{improve: [tier2.bpb]}",
            check_config,
            ":7: stages.stage1.objectives.improve: tier2 has no gold answers, so no bits per byte of them; write tier2, or",
        ),
        ("{margins: {bits_per_byte: -1}}", load_config, ":7: stages.stage1.objectives.margins.bits_per_byte: expected `float`"),
        ("{imprve: [tier3]}", load_config, ":7: stages.stage1.objectives: unknown key 'imprve'; did you mean 'improve'?"),
        ("{margins: {points: -1}}", load_config, ":7: stages.stage1.objectives.margins.points: expected `float` >= 0.0"),
        (
            "{margins: {ponts: 1}}",
            load_config,
            ":7: stages.stage1.objectives.margins: unknown key 'ponts'; did you mean 'points'?",
        ),
    ],
)
def test_objectives_are_checked_where_they_stand(tmp_path, objectives, loader, message):
    said = problem(tmp_path, WHOLE + f"    objectives: {objectives}\n", loader)
    assert said.startswith(message)
    assert "general_wep" not in said or said.endswith("did you mean 'general_web'?")


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ("{within: 0}", ":7: stages.stage1.noise.within: expected `int` >= 1"),
        ("{within: 6}", ":7: stages.stage1.noise.within: 6 steps cannot hold 8 evaluations"),
        ("{wthin: 9}", ":7: stages.stage1.noise: unknown key"),
    ],
)
def test_the_window_of_the_noise_is_checked_where_it_stands(tmp_path, noise, message):
    assert problem(tmp_path, WHOLE + f"    noise: {noise}\n", load_config).startswith(message)


def test_results_behind_a_link_into_the_checkpoints_are_found(tmp_path):
    (tmp_path / "ckpts").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ckpts")
    text = f"results: {tmp_path}/link/r\nstages:\n  a: {{checkpoints: {tmp_path}/ckpts, steps: [1], suites: [s]}}\n"
    assert problem(tmp_path, text).startswith(
        f":1: results: {tmp_path}/link/r lies inside the checkpoints of a, {tmp_path}/ckpts;"
    )


def test_no_scratch_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_config(None, {"SCRATCH": ""})
    assert str(caught.value) == (
        "built-in: $SCRATCH is not set, and the built-in config needs it; export SCRATCH, or write a config with `watcher init`"
    )


def test_a_config_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        load_config(tmp_path / "none.yaml", {})
    with pytest.raises(UserError, match="cannot be read"):
        load_config(None, {"WATCHER_CONFIG": str(tmp_path)})


@pytest.mark.parametrize(
    ("average", "message"),
    [
        ("{last: 1, every: 100}", ":7: stages.stage1.average.last: expected `int` >= 2"),
        ("{last: 4}", ":7: stages.stage1.average: has no every; write every: ..."),
        ("{every: 100}", ":7: stages.stage1.average: does not say of how many checkpoints; write last: 4"),
        ("{lats: 4, every: 100}", ":7: stages.stage1.average: unknown key 'lats'; did you mean 'last'?"),
        ("{last: 3, every: 100, weights: [1, 2]}", ":7: stages.stage1.average.weights: 2 weights for the last 3"),
        ("{every: 100, weights: [1, 0]}", ":7: stages.stage1.average.weights: holds a weight that is not positive"),
        ("{every: 100, weights: [1e-99, 1]}", ":7: stages.stage1.average.weights: gives a checkpoint 1e-99 of the average"),
        ("{every: 100, weights: [1e-99, 1e99]}", ":7: stages.stage1.average.weights: gives a checkpoint 1e-198 of the average"),
        (
            "{last: 40, every: 100, ema: 1.0e-10}",
            ":7: stages.stage1.average.ema: leaves the oldest of 40 checkpoints less than 1e-09",
        ),
        ("{last: 40, every: 100, ema: .5}", ":7: stages.stage1.average.ema: leaves the oldest of 40 checkpoints less than 1e-09"),
        ("{every: 100, weights: [1]}", ":7: stages.stage1.average: does not say of how many checkpoints"),
        ("{last: 2, every: 100, ema: 1}", ":7: stages.stage1.average.ema: 1 is not between 0 and 1"),
        ("{every: 100, weights: [1, 2], ema: .5}", ":7: stages.stage1.average.ema: is given beside weights"),
        (
            "{last: 2, every: 100}\n    backend: nanotron",
            ":7: stages.stage1.average: backend nanotron scores checkpoints as they are; remove it",
        ),
    ],
)
def test_averages_are_checked_where_they_stand(tmp_path, average, message):
    assert problem(tmp_path, WHOLE + f"    average: {average}\n", load_config).startswith(message)


@pytest.mark.parametrize(
    ("average", "weights", "rule"),
    [
        ("{last: 4, every: 100}", (0.25, 0.25, 0.25, 0.25), "last 4"),
        ("{every: 100, weights: [2, 2]}", (0.5, 0.5), "last 2"),
        ("{every: 100, weights: [1, 3]}", (0.25, 0.75), "last 2, weights 1.0 3.0"),
        ("{last: 3, every: 100, ema: .5}", (1 / 7, 2 / 7, 4 / 7), "last 3, ema 0.5"),
    ],
)
def test_weights_of_an_average_are_together_one(tmp_path, average, weights, rule):
    path = tmp_path / "w.yaml"
    path.write_text(WHOLE + f"    average: {average}\n")
    resolved = load_config(path, {}).stages["stage1"].average
    assert (resolved.weights, resolved.rule) == (weights, rule)
    # What is printed means the same.
    path.write_text(dump_config(load_config(path, {})))
    assert load_config(path, {}).stages["stage1"].average == resolved


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("{kind: hf}", "checkpoint-500"),
        ('{kind: hf, name: "step_{step}"}', "step_500"),
        ("{kind: nanotron}", "500"),
        ("{}", "500"),
    ],
)
def test_the_kind_of_a_layout_decides_the_default_name(tmp_path, layout, name):
    path = tmp_path / "w.yaml"
    path.write_text(f"{WHOLE}    layout: {layout}\n")
    assert load_config(path, {}).stages["stage1"].layout.format_name(500) == name

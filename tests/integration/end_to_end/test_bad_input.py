"""One daemon, real scoring processes, every kind of bad input beside good ones: each is told in one line, none stops another."""

import json
import os
import shutil
import time

import pytest
import yaml

from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.runs.two_stages import TwoStagesRun

pytestmark = pytest.mark.scoring

SHARD = "model/model/final_layer_norm/pp_block/model_weight.safetensors"
TP2 = "llama_gqa_tp2/60"


def torn(folder, name):
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[: len(raw) // 2] + b'"{[')


def truncated(folder):
    with (folder / SHARD).open("r+b") as shard:
        shard.truncate((folder / SHARD).stat().st_size - 5)


def missing_rank(folder):
    next(folder.glob("model/**/*_tp-rank-1-of-2.safetensors")).unlink()


def nan_weights(folder):
    raw = (folder / SHARD).read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    (folder / SHARD).write_bytes(raw[:start] + b"\xff" * (len(raw) - start))  # NaN in every floating-point type


def unreadable(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()  # even root cannot read it


def unknown_architecture(folder):
    document = json.loads((folder / "model_config.json").read_text())
    document["is_mamba_config"] = document.pop("is_llama_config")
    (folder / "model_config.json").write_text(json.dumps(document))


def nameless_file(folder):
    (folder / os.fsdecode(b"model/model/\xff\xfe")).mkdir()
    shutil.copyfile(folder / SHARD, folder / os.fsdecode(b"model/model/\xff\xfe/model_weight.safetensors"))


# step: (what breaks it, state, words that its reason has)
BROKEN = {
    110: (lambda folder: torn(folder, "config.yaml"), "waiting", "config.yaml"),
    120: (lambda folder: torn(folder, "model_config.json"), "waiting", "model_config.json"),
    130: (lambda folder: (folder / "config.yaml").write_bytes(b""), "waiting", "config.yaml"),
    140: (lambda folder: unreadable(folder, "config.yaml"), "waiting", "config.yaml"),
    150: (lambda folder: unreadable(folder, "model_config.json"), "waiting", "model_config.json"),
    160: (truncated, "waiting", "model_weight.safetensors has 339 bytes, its header says 344"),
    170: (missing_rank, "waiting", "lacks the shard of tp rank 1 of 2"),
    180: (nan_weights, "blocked", "(exit 65)"),
    190: (unknown_architecture, "blocked", "is_mamba_config"),
    200: (nameless_file, "blocked", "does not imply"),
    210: (lambda _folder: None, "blocked", "results of another program"),
}
ELSEWHERE = {
    "tokens/step_10": ("blocked", "(exit 65)"),
    "sealed/step_10": ("waiting", "cannot create "),
    "shut/step_10": ("blocked", "shut/by_checkpoint/step_10/parts: cannot be written (Not a directory)"),
    "nodata/step_10": ("waiting", "gone.jsonl"),
}
GOOD = ("base/step_100", "base/step_900", "last/step_10")


def write_suite(path, tier, section, **entries):
    path.write_text(yaml.safe_dump({"tier": tier, section: entries}))
    return str(path)


def large_tokenizer(folder):
    """The byte tokenizer with more tokens than any of the models has rows."""
    shutil.copytree(BYTE_TOKENIZER, folder)
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"] |= {f"<more{n}>": len(document["model"]["vocab"]) + n for n in range(5000)}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return str(folder)


def scenario_of_all(root):
    steps = {"base": [100, *BROKEN, 900], **{key.partition("/")[0]: [10] for key in ELSEWHERE}, "last": [10]}
    scenario = TwoStagesRun(root, steps=steps, settings={"limits": {"max_running": 2}})
    config = yaml.safe_load(scenario.config.read_text())
    stages = config["stages"]
    for stage in stages.values():
        stage.pop("bridge", None)
        stage["suites"] = stage["suites"][:1]
    gone = {"data_files": [str(root / "gone.jsonl")], "text_field": "text"}
    stages["nodata"]["suites"] = [write_suite(root / "nodata.yaml", "tier2_ppl", "slices", gone=gone)]
    stages["tokens"]["tokenizer"] = large_tokenizer(root / "large_tokenizer")
    for name in ("sealed", "shut"):  # as root no folder is read-only: a file lies in its place
        stages[name]["results"] = str(root / f"{name}_results")
    (root / "sealed_results").write_text("")
    (root / "shut_results" / "shut").mkdir(parents=True)
    (root / "shut_results" / "shut" / "by_checkpoint").write_text("")
    scenario.config.write_text(yaml.safe_dump(config))
    return scenario


def refuse_start_with_a_broken_suite(scenario):
    """A suite that cannot be read refuses the start with its file and line; a corrected config starts."""
    good = scenario.config.read_text()
    items = {"data_files": [str(scenario.root / "items.jsonl")], "adapter": "hellaswagg"}
    config = yaml.safe_load(good)
    config["stages"]["last"]["suites"] = [write_suite(scenario.root / "adapter.yaml", "tier3_cf", "tasks", ours=items)]
    scenario.config.write_text(yaml.safe_dump(config))
    scenario.start_daemon()
    assert scenario.daemon.wait(timeout=60) == 2
    log = (scenario.root / "daemon.log").read_text()
    assert "adapter.yaml:3: tasks.ours.adapter: unknown adapter 'hellaswagg'; did you mean 'hellaswag'?" in log
    scenario.config.write_text(good)


def evaluations(scenario):
    """Evaluation -> its row of status.json; empty before the first tick."""
    path = scenario.state / "status.json"
    stages = json.loads(path.read_text())["stages"].values() if path.exists() else ()
    return {row["evaluation"]: row for stage in stages for row in stage["evaluations"]}


def test_each_bad_input_is_one_clear_line_and_everything_else_goes_on(tmp_path):
    scenario = scenario_of_all(tmp_path / "run")
    expected = {f"base/step_{step}": (state, words) for step, (_, state, words) in BROKEN.items()} | ELSEWHERE
    expected |= dict.fromkeys(GOOD, ("scored", ""))
    foreign = scenario.results / "base" / "by_checkpoint" / "step_210" / "tier2_ppl.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text('{"ppl": 12.5}')
    for step, (breaks, _, _) in BROKEN.items():
        breaks(scenario.write_checkpoint("base", step, TP2 if breaks is missing_rank else "llama_gqa_tp1/60"))
        last = scenario.root / "ckpts" / "base" / str(step) / "model_config.json"
        os.utime(last)  # the save ended with it
    scenario.write_checkpoint("base", 100)
    for stage in (*(key.partition("/")[0] for key in ELSEWHERE), "last"):
        scenario.write_checkpoint(stage, 10)
    refuse_start_with_a_broken_suite(scenario)
    scenario.start_daemon()
    end, rows, said = time.monotonic() + 120, {}, {}
    later = False
    while time.monotonic() < end:
        assert scenario.daemon.poll() is None, (tmp_path / "run" / "daemon.log").read_text()[-4000:]
        rows = evaluations(scenario)
        said = {key: (row["state"], row["detail"] or row["reason"]) for key, row in rows.items()}
        if not later and said.get("last/step_10", ("",))[0] == "scored":
            scenario.write_checkpoint("base", 900)  # after all that went wrong
            later = True
        if all(key in said and said[key][0] == state and words in said[key][1] for key, (state, words) in expected.items()):
            break
        time.sleep(0.2)
    assert scenario.stop_daemon() == 0
    print("\n".join(f"{key}: {state}: {reason}" for key, (state, reason) in said.items()))
    wrong = {key: (said.get(key), want) for key, want in expected.items() if said.get(key, ("",))[0] != want[0]}
    assert not wrong
    unclear = {key: (said[key], words) for key, (_, words) in expected.items() if words not in said[key][1]}
    assert not unclear
    assert all("\n" not in reason and len(reason) < 600 for _, reason in said.values())
    log = (scenario.root / "daemon.log").read_text()
    assert '"defect"' not in log, log[-4000:]
    assert "Traceback" not in log, log[-4000:]
    assert json.loads(foreign.read_text()) == {"ppl": 12.5}
    for evaluation in GOOD:
        assert set(scenario.read_tier_file(evaluation, "tier2_ppl.json")["slices"]) == {"plain", "shout"}
    assert not list((scenario.results / "base" / "by_checkpoint").glob("step_1[1-9]0/tier*"))

import json
import math
import os
import shutil
from datetime import datetime

import pytest

from suites.common.errors import ExitCode
from support.models.tiny_llama_items import LLAMA_CHECKPOINT
from support.runs.scoring_jobs import get_results_folder, make_score_arguments, run_scoring_in_process, write_suites

pytestmark = pytest.mark.scoring

EXPORT = ("--export", "lm-eval")


def suites_with_subjects(folder):
    """A task whose items have subjects, one without, and two slices, one of them of two documents."""
    write_suites(folder, slices={"prose": "The loss falls at every step.", "code": "def step(self): return self.loss"})
    with (folder / "prose.jsonl").open("a") as stream:
        stream.write(json.dumps({"text": "And then it rises: ünïcode."}) + "\n")
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "subject": ("art history", "law")[n % 2]}) for n, row in enumerate(rows * 2)]
    (folder / "subjects.jsonl").write_text("\n".join(lines) + "\n")
    with (folder / "cf.yaml").open("a") as stream:
        stream.write(f"  exams: {{data_files: [{folder}/subjects.jsonl], adapter: multiple_choice}}\n")


def exported(folder):
    """(results document, {task: samples}, the folder)."""
    (model,) = (get_results_folder(folder) / "exports" / "lm-eval").iterdir()
    (file,) = model.glob("results_*.json")
    when = file.stem.removeprefix("results_")
    datetime.strptime(when, "%Y-%m-%dT%H-%M-%S.%f").astimezone()
    samples = {
        path.name.removeprefix("samples_").removesuffix(f"_{when}.jsonl"): [
            json.loads(line) for line in path.read_text().splitlines()
        ]
        for path in model.glob("samples_*.jsonl")
    }
    assert len(list(model.iterdir())) == 1 + len(samples)
    return json.loads(file.read_text()), samples, model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scored and exported once, to be looked at."""
    made = tmp_path_factory.mktemp("exported")
    suites_with_subjects(made)
    assert run_scoring_in_process(make_score_arguments(made, *EXPORT)) == ExitCode.SCORED
    return made


def tier(folder, name):
    return json.loads((get_results_folder(folder) / name).read_text())


def test_every_figure_of_the_tier_files_is_in_the_export(folder):
    document, samples, model = exported(folder)
    assert model.name == str(LLAMA_CHECKPOINT).replace("/", "__")
    assert set(samples) == set(document["configs"]) == {"prose", "code", "ours", "exams_art_history", "exams_law"}
    tasks = tier(folder, "tier3_cf.json")["tasks"]
    for name, entry in {
        "ours": tasks["ours"],
        "exams_art_history": tasks["exams"]["by_subject"]["art history"],
        "exams_law": tasks["exams"]["by_subject"]["law"],
    }.items():
        figures = document["results"][name]
        assert figures["sample_len"] == entry["examples"] == len(samples[name]) == document["n-samples"][name]["effective"]
        for metric in ("acc", "acc_norm", "acc_per_char", "acc_uncond"):
            assert figures[f"{metric},none"] == entry[metric]
            assert figures[f"{metric}_stderr,none"] == entry[f"{metric}_stderr"]
            assert sum(sample[metric] for sample in samples[name]) == pytest.approx(entry[metric] * entry["examples"])
        assert [sample["doc_id"] for sample in samples[name]] == list(range(entry["examples"]))
    for name, entry in tier(folder, "tier2_ppl.json")["slices"].items():
        figures = document["results"][name]
        assert figures["bits_per_byte,none"] == entry["bits_per_byte"]
        assert figures["token_perplexity,none"] == entry["ppl"]
        assert figures["byte_perplexity,none"] == pytest.approx(math.exp(entry["nll_sum"] / entry["bytes"]))
        assert figures["nll_per_token_stderr,none"] == ("N/A" if entry["documents"] == 1 else entry["nll_per_token_stderr"])
        for metric, parts in {"bits_per_byte": "bytes", "token_perplexity": "tokens"}.items():
            assert math.fsum(sample[metric][0] for sample in samples[name]) == pytest.approx(-entry["nll_sum"])
            assert sum(sample[metric][1] for sample in samples[name]) == entry[parts]
    for name, config in document["configs"].items():  # tools look each of these up in each sample
        asked = [metric["metric"] for metric in config["metric_list"]]
        assert all(sample["metrics"] == asked and sample.keys() >= set(asked) for sample in samples[name])
    config = document["config"]
    assert (
        config["model_num_parameters"] == json.loads((get_results_folder(folder) / "run.json").read_text())["model"]["parameters"]
    )
    assert (config["model_name"], config["model_dtype"]) == (document["model_name"], "torch.float32")
    assert (config["model_revision"], config["model_sha"]) == ("step_60", document["checkpoint_watcher"]["fingerprint"])
    head = document["checkpoint_watcher"]
    assert (head["stage"], head["step"], head["fingerprint"]) == (
        "stage1",
        60,
        tier(folder, "tier3_cf.json")["checkpoint"]["fingerprint"],
    )


def test_subjects_are_a_group_weighted_by_size_with_the_pooled_error(folder):
    document, _, _ = exported(folder)
    assert document["group_subtasks"] == {"exams": ["exams_art_history", "exams_law"]}
    group, parts = document["groups"]["exams"], [document["results"][name] for name in document["group_subtasks"]["exams"]]
    assert document["results"]["exams"] == group
    assert group["sample_count"]["acc,none"] == group["sample_len"] == 12
    assert group["acc,none"] == pytest.approx(sum(part["acc,none"] * part["sample_len"] for part in parts) / 12)
    pooled = sum((part["sample_len"] - 1) * part["acc_stderr,none"] ** 2 * part["sample_len"] for part in parts) / (12 - 2)
    assert group["acc_stderr,none"] == pytest.approx(math.sqrt(pooled / 12))


@pytest.mark.parametrize("odd", [None, "art_history"])
def test_a_task_whose_subjects_cannot_be_told_apart_stays_one(tmp_path, odd):
    suites_with_subjects(tmp_path)
    first, *others = (tmp_path / "subjects.jsonl").read_text().splitlines()
    row = {key: value for key, value in json.loads(first).items() if key != "subject"} | ({"subject": odd} if odd else {})
    (tmp_path / "subjects.jsonl").write_text("\n".join([json.dumps(row), *others]) + "\n")
    assert run_scoring_in_process(make_score_arguments(tmp_path, *EXPORT)) == ExitCode.SCORED
    document, samples, _ = exported(tmp_path)
    assert len(samples["exams"]) == document["results"]["exams"]["sample_len"] == 12
    assert document["group_subtasks"] == {}
    assert "groups" not in document


def test_a_sample_holds_what_was_asked_and_answered(folder):
    _, samples, _ = exported(folder)
    sample = samples["ours"][1]
    assert sample["doc"]["choices"] == ["the loss", "a", "training"]
    assert sample["target"] == "1"
    assert sample["arguments"]["gen_args_2"] == {"arg_0": "Step 1 of", "arg_1": " training"}
    assert len(sample["resps"]) == len(sample["filtered_resps"]) == 3
    assert sample["resps"][0] == [sample["filtered_resps"][0]]
    picked = max(range(3), key=lambda n: float(sample["filtered_resps"][n][0]))
    assert sample["acc"] == float(picked == 1)


def test_the_same_parts_exported_again_are_the_same_files(tmp_path):
    suites_with_subjects(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    assert not (get_results_folder(tmp_path) / "exports").exists()
    assert run_scoring_in_process(make_score_arguments(tmp_path, *EXPORT)) == ExitCode.SCORED
    _, _, model = exported(tmp_path)
    first = {path.name: path.read_bytes() for path in model.iterdir()}
    assert run_scoring_in_process(make_score_arguments(tmp_path, *EXPORT)) == ExitCode.SCORED
    assert {path.name: path.read_bytes() for path in model.iterdir()} == first


def test_exports_of_another_content_of_the_step_are_set_aside(tmp_path):
    suites_with_subjects(tmp_path)
    checkpoint = shutil.copytree(LLAMA_CHECKPOINT, tmp_path / "ckpts" / "60", copy_function=shutil.copy2)
    assert run_scoring_in_process(make_score_arguments(tmp_path, *EXPORT, checkpoint=checkpoint)) == ExitCode.SCORED
    document, _, model = exported(tmp_path)
    old = document["checkpoint_watcher"]["fingerprint"]
    os.utime(checkpoint / "config.yaml", (1, 1))
    assert run_scoring_in_process(make_score_arguments(tmp_path, checkpoint=checkpoint)) == ExitCode.SCORED
    assert not (get_results_folder(tmp_path) / "exports").exists()
    kept = get_results_folder(tmp_path) / "superseded" / old[:12] / "exports" / "lm-eval" / model.name
    assert json.loads(next(kept.glob("results_*.json")).read_text()) == document
    assert len(list(kept.glob("samples_*.jsonl"))) == 5


def test_an_export_that_cannot_be_written_publishes_nothing(tmp_path, capsys):
    suites_with_subjects(tmp_path)
    get_results_folder(tmp_path).mkdir(parents=True)
    (get_results_folder(tmp_path) / "exports").write_text("a file where the folder should be")
    assert run_scoring_in_process(make_score_arguments(tmp_path, *EXPORT)) == ExitCode.CANNOT_WRITE
    assert "exports" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (get_results_folder(tmp_path) / "tier3_cf.json").exists()

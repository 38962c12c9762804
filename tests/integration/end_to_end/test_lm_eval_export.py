"""What `--export lm-eval` writes is read back by lm-evaluation-harness's own tools, in its own environment."""

import json
import subprocess

import pytest

from suites.common.errors import ExitCode
from support.lm_eval import environment as lm_eval_env
from support.runs.scoring_jobs import make_score_arguments, run_scoring_in_process
from unit.scoring.export.test_lm_eval import EXPORT, exported, suites_with_subjects

pytestmark = pytest.mark.scoring

READER = """
import json, sys
from pathlib import Path
from datasets import load_dataset
from lm_eval import utils
from lm_eval.loggers.wandb_logger import WandbLogger
import pandas

folder, scratch = Path(sys.argv[1]), sys.argv[2]
names = [str(path) for path in sorted(folder.iterdir())]
(results,) = utils.get_results_filenames(names)
samples = utils.get_sample_results_filenames(names)
document = json.loads(Path(results).read_text())
logger = object.__new__(WandbLogger)
logger.results, logger.task_names, logger.group_names = document, list(document["results"]), list(document["group_subtasks"])
words, numbers = logger._sanitize_results_dict()
found = {
    "table": utils.make_table(document),
    "groups": utils.make_table(document, "groups"),
    "latest": utils.get_latest_filename(samples),
    "numbers": numbers,
    "tasks": {},
}
for path in samples:
    rows = load_dataset("json", data_files=path, split="train", cache_dir=scratch)
    frame = pandas.read_json(path, lines=True)
    acc = None if "acc" not in rows.column_names else sum(rows["acc"])
    found["tasks"][utils.get_file_task_name(Path(path).name)] = {"rows": len(rows), "frame": len(frame), "acc": acc}

import huggingface_hub
from lm_eval.loggers.evaluation_tracker import EvaluationTracker

class Hub:  # a repository of results, as `--hf_hub_log_args` makes one
    def list_repo_files(self, **asked):
        return [f"{folder.name}/{path.name}" for path in folder.iterdir()]

huggingface_hub.hf_hub_url = lambda repo_id, filename, repo_type: str(folder.parent / filename)
huggingface_hub.DatasetCard.push_to_hub = lambda card, *repository, **how: found.update(card=card.data.to_dict(), text=str(card))
tracker = EvaluationTracker(output_path=str(folder.parent), hub_results_org="here", details_repo_name="kept", public_repo=True)
tracker.api = Hub()
tracker.recreate_metadata_card()
print(json.dumps(found, default=str))
"""


@pytest.mark.slow
def test_its_own_tools_read_every_figure_and_every_sample_back(tmp_path):
    python = lm_eval_env.ensure_lm_eval_python()
    suites_with_subjects(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path, *EXPORT)) == ExitCode.SCORED
    document, samples, folder = exported(tmp_path)
    command = [str(python), "-c", READER, str(folder), str(tmp_path / "hf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    rows = {line.split("|")[1].strip(" -"): line for line in found["table"].splitlines()}
    for name, figures in document["results"].items():
        assert name in rows
        for metric, value in figures.items():
            if metric.endswith(",none") and "_stderr" not in metric:
                assert found["numbers"][f"{name}/{metric.removesuffix(',none')}"] == value
                assert f"{value:.4f}" in found["table"]
    assert "exams" in found["groups"]
    assert found["latest"].endswith(".jsonl")
    assert set(found["tasks"]) == set(samples)
    configs = {config["config_name"]: config["data_files"] for config in found["card"]["configs"]}
    # of its own results file, too, the card gets no configuration: its date is read with the suffix
    assert set(configs) == {f"{folder.name}__{name}" for name in samples}
    assert all("latest" in {file["split"] for file in files} for files in configs.values())
    assert f'"acc,none": {document["results"]["ours"]["acc,none"]}' in found["text"]
    for name, read in found["tasks"].items():
        assert read["rows"] == read["frame"] == len(samples[name])
        assert read["acc"] == (sum(sample["acc"] for sample in samples[name]) if "acc" in samples[name][0] else None)

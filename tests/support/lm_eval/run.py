"""Runs lm-evaluation-harness on files here: its own task definitions, with nothing changed but where the rows come from."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

SHIPPED_TASKS = {
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "commonsense_qa": "commonsense_qa/default.yaml",
    "social_i_qa": "siqa/siqa.yaml",
    "sciq": "sciq/sciq.yaml",
    "copa": "super_glue/copa/default.yaml",
}
"""Adapter -> lm-evaluation-harness's file of that task."""


class LmEvalRun(NamedTuple):
    """What one run of ``export_lm_eval`` wrote."""

    results: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]
    """Task -> a record an item, in order."""
    folder: Path
    """Where its files are."""


def write_task_file(folder: Path, name: str, rows: Path, *, include: str | None = None, **more: Any) -> str:
    """Write ``here_NAME.yaml``: a shipped definition (under lm_eval/tasks) over other rows; the task's name."""
    task = f"here_{name}"
    kind = {".parquet": "parquet", ".jsonl": "json"}[rows.suffix]
    definition = {
        "task": task,
        "tag": None,
        "dataset_path": kind,
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": None,
        "num_fewshot": 0,
        **more,
    }
    if include:
        definition["include"] = include
    (folder / f"{task}.yaml").write_text(yaml.safe_dump(definition))
    return task


def write_group_file(folder: Path, name: str, tasks: Sequence[str]) -> str:
    """Write ``here_NAME.yaml``: a group as mmlu is one; its name."""
    group = f"here_{name}"
    aggregate = [{"metric": metric, "weight_by_size": True} for metric in ("acc", "acc_norm")]
    definition = {"group": group, "task": list(tasks), "aggregate_metric_list": aggregate, "metadata": {"version": 2}}
    (folder / f"{group}.yaml").write_text(yaml.safe_dump(definition))
    return group


def find_shipped_task(python: Path, task: str) -> str:
    """Path of lm-evaluation-harness's own definition."""
    tasks = next((python.parent.parent / "lib").glob("python3*/site-packages/lm_eval/tasks"))
    return str(tasks / task)


def run_lm_eval(
    python: Path, model: Path, folder: Path, requested_runs: Mapping[str, tuple[Sequence[str], dict[str, Any]]]
) -> dict[str, LmEvalRun]:
    """``export_lm_eval`` of a transformers model on the CPU in fp32: run's name -> (tasks, more model arguments).

    The task files lie in ``folder``. All runs are of one process: most of a small run is imports.
    """
    commands = []
    for name, (tasks, more) in requested_runs.items():
        arguments = {"pretrained": str(model), "dtype": "float32", **more}
        command = ["lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "16", "--log_samples"]
        command += ["--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())]
        command += ["--tasks", ",".join(tasks), "--include_path", str(folder), "--output_path", str(folder / f"out_{name}")]
        commands.append(command)
    run_script(python, _MANY, json.dumps(commands), folder)
    return {name: read_lm_eval_output(folder / f"out_{name}") for name in requested_runs}


_MANY = """
import json, sys
from lm_eval.__main__ import cli_evaluate
for sys.argv in json.load(sys.stdin):
    cli_evaluate()
"""


def run_script(python: Path, script: str, input_document: str, folder: Path) -> str:
    """Stdout of a script in lm-evaluation-harness's environment, which reads ``input_document``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "hf_home"), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [str(python), "-c", script],
        input=input_document,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"lm_eval failed: {done.stderr[-3000:]}")
    return done.stdout


def read_lm_eval_output(folder: Path) -> LmEvalRun:
    """The newest results and samples under ``folder``, as whoever wrote them left them."""
    results = max(folder.glob("*/results_*.json"))
    stamp = results.stem.removeprefix("results_")
    samples = {}
    for path in results.parent.glob(f"samples_*_{stamp}.jsonl"):
        lines = path.read_text().strip().split("\n")  # not splitlines(): a text may hold U+2028
        samples[path.name.removeprefix("samples_").removesuffix(f"_{stamp}.jsonl")] = [json.loads(line) for line in lines]
    ordered = {task: sorted(records, key=lambda record: record["doc_id"]) for task, records in samples.items()}
    return LmEvalRun(json.loads(results.read_text()), ordered, results.parent)


_READ = """
import json, sys
import datasets
from lm_eval import utils
asked = json.load(sys.stdin)
results, samples = utils.get_results_filenames(asked["files"]), utils.get_sample_results_filenames(asked["files"])
loaded = json.load(open(utils.get_latest_filename(results)))
rows = {}
for file in samples:
    name = file.rsplit("/", 1)[1]
    rows[utils.get_file_task_name(name)] = len(datasets.load_dataset("json", data_files=file, split="train"))
found = {
    "table": utils.make_table(loaded),
    "groups": utils.make_table(loaded, "groups") if "groups" in loaded else None,
    "rows": rows,
    "times": sorted({utils.get_file_datetime(file.removesuffix(".json")) for file in asked["files"]}),
    "model": utils.sanitize_model_name(loaded["model_name"]),
}
print("found:" + json.dumps(found))
"""


def read_with_lm_eval(python: Path, folder: Path, scratch: Path) -> dict[str, Any]:
    """What lm-evaluation-harness's own readers make of a model's folder of results and samples."""
    files = [str(path) for path in sorted(folder.iterdir())]
    said = run_script(python, _READ, json.dumps({"files": files}), scratch)
    line = next(line for line in said.splitlines() if line.startswith("found:"))
    found: dict[str, Any] = json.loads(line.removeprefix("found:"))
    return found


def get_loglikelihoods(record: Mapping[str, Any]) -> list[float]:
    """Of the choices of one item."""
    return [float(value[0]) for value in record["filtered_resps"]]

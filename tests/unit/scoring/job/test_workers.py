"""Several processes that share one evaluation, and memory that is too little."""

import json
import os
import re
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from structlog.testing import capture_logs

from scoring.inference.loglikelihood import compute_token_logprobs
from scoring.inference.prefix_tree import TokenSpan
from scoring.job import workers as many
from scoring.model.memory_budget import TokenBudget
from scoring.runtime.fence import Fence
from scoring.runtime.progress import LOGGED_KEYS, JobProgress, merge_progress
from suites.common.documents import read_json
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import EvaluationPaths
from support.models.tiny_llama_items import load_tiny_llama
from support.runs.scoring_jobs import (
    get_results_folder,
    make_score_arguments,
    run_scoring_in_process,
    start_scoring_process,
    write_suites,
)

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

SLICES = {f"slice{n}": f"Text number {n} about the loss. " * 300 for n in range(4)}


def rows(folder):
    return {path.name: pq.read_table(path).to_pydict() for path in sorted((folder / "items").iterdir())}


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(found, child):
    while child.poll() is None:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError(f"ended with {child.returncode} before")


def test_two_processes_give_the_bits_of_one(tmp_path):
    write_suites(tmp_path, slices=SLICES, items=30)
    assert run_scoring_in_process(make_score_arguments(tmp_path, "--name", "step_1")) == ExitCode.SCORED
    assert run_scoring_in_process(make_score_arguments(tmp_path, "--processes", "2")) == ExitCode.SCORED
    one, two = get_results_folder(tmp_path, 1), get_results_folder(tmp_path)
    assert rows(one) == rows(two)
    for tier in ("tier2_ppl.json", "tier3_cf.json"):
        assert json.loads((one / tier).read_text())["summary"] == json.loads((two / tier).read_text())["summary"]
    run = json.loads((two / "run.json").read_text())
    assert (run["outcome"], len(run["workers"]), run["parts"]["scored"]) == ("scored", 2, [])
    shared = [label for worker in run["workers"] for label in worker["parts"]["scored"]]
    assert sorted(shared) == sorted([*SLICES, "ours[0:30]"])
    told = json.loads((two / "progress.json").read_text())
    assert (told["parts_done"], told["parts"], told["size_done"]) == (5, 5, told["size"])
    assert run["model"] is None  # the parent loaded none


def test_four_processes_and_the_tasks_of_an_array_give_the_bits_of_one(tmp_path):
    write_suites(tmp_path, slices=SLICES, items=30)
    assert run_scoring_in_process(make_score_arguments(tmp_path, "--name", "alone")) == ExitCode.SCORED
    assert run_scoring_in_process(make_score_arguments(tmp_path, "--name", "four", "--processes", "4")) == ExitCode.SCORED
    with ExitStack() as stack:
        command = make_score_arguments(tmp_path, "--name", "array")
        tasks = [
            stack.enter_context(
                start_scoring_process(command, tmp_path / f"log{n}", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID=str(n))
            )
            for n in range(2)
        ]
        codes = [task.wait(timeout=120) for task in tasks]
    assert codes == [0, 0], [(tmp_path / f"log{n}").read_text()[-2000:] for n in range(2)]
    alone, four, array = (get_results_folder(tmp_path).parent / name for name in ("alone", "four", "array"))
    assert rows(alone) == rows(four) == rows(array)
    for tier in ("tier2_ppl.json", "tier3_cf.json"):
        figures = [json.loads((folder / tier).read_text()) for folder in (alone, four, array)]
        assert figures[0]["summary"] == figures[1]["summary"] == figures[2]["summary"]
    assert len(json.loads((four / "run.json").read_text())["workers"]) == 4
    told = merge_progress([json.loads((array / "parts" / f"progress.{task}.json").read_text()) for task in range(2)])
    assert (told["parts_done"], told["parts"]) == (5, 5)
    assert {path.name for path in array.glob("fence*.json")} == {"fence.json", "fence.0.json", "fence.1.json"}


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_part_only(tmp_path):
    slices = {name: text * 12 for name, text in SLICES.items()}
    write_suites(tmp_path, slices=slices, items=3)
    with start_scoring_process(make_score_arguments(tmp_path, "--processes", "2"), tmp_path / "log") as parent:
        parts = get_results_folder(tmp_path) / "parts"

        def at_work():
            for lease in parts.glob("*.lease"):
                text = lease.read_text() if lease.exists() else ""
                owner = re.search(r"^pid=(\d+)$", text, re.MULTILINE)
                if owner and int(owner[1]) in children(parent.pid):
                    return int(owner[1])
            return None

        os.kill(until(at_work, parent), signal.SIGKILL)
        assert parent.wait(timeout=120) == ExitCode.SCORED, (tmp_path / "log").read_text()[-3000:]
    assert "a worker ended early" in (tmp_path / "log").read_text()
    run = json.loads((get_results_folder(tmp_path) / "run.json").read_text())
    assert len(run["parts"]["scored"]) <= 1
    assert set(json.loads((get_results_folder(tmp_path) / "tier2_ppl.json").read_text())["slices"]) == set(SLICES)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_walltime_that_is_near_stops_all_and_keeps_their_parts(processes, tmp_path):
    slices = {name: text * 12 for name, text in SLICES.items()}
    write_suites(tmp_path, slices=slices, items=3)
    with start_scoring_process(make_score_arguments(tmp_path, "--processes", processes), tmp_path / "log") as parent:
        kept = until(lambda: list((get_results_folder(tmp_path) / "parts").glob("*.parquet")), parent)
        parent.send_signal(signal.SIGUSR1)
        assert parent.wait(timeout=60) == ExitCode.TEMPORARY, (tmp_path / "log").read_text()[-3000:]
    assert kept[0].exists()
    assert not list((get_results_folder(tmp_path) / "parts").glob("*.lease"))
    assert json.loads((get_results_folder(tmp_path) / "run.json").read_text())["outcome"] == "temporary"


def test_every_gpu_gets_a_process_and_a_named_one_stays_alone(monkeypatch):
    asked = type("Asked", (), {"backend": "direct"})()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in many.list_worker_environments(asked, "cuda", 1, {})] == ["0", "1", "2", "3"]
    there = {"CUDA_VISIBLE_DEVICES": "4,5,GPU-ab,7"}
    assert [each["CUDA_VISIBLE_DEVICES"] for each in many.list_worker_environments(asked, "cuda", 1, there)] == [
        "4",
        "5",
        "GPU-ab",
        "7",
    ]
    assert len(many.list_worker_environments(asked, "cuda:1", 1, there)) == 1
    assert len(many.list_worker_environments(asked, "cpu", 3, {})) == 3


def test_a_task_of_an_array_that_is_requeued_takes_nothing_from_the_others(tmp_path):
    paths = EvaluationPaths(tmp_path / "stage1", "step_1")
    paths.folder.mkdir(parents=True)
    tasks = [Fence(paths, "run", {"SLURM_ARRAY_TASK_ID": str(n)}) for n in range(3)]
    for task in tasks:
        task.acquire()
    again = Fence(paths, "run", {"SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": "1"})
    again.acquire()
    for fence in (tasks[0], tasks[2], again):
        fence.check()
    with pytest.raises(UserError, match="belongs to run run"):
        tasks[1].check()
    with pytest.raises(UserError, match="belongs to run run"):
        tasks[1].acquire()
    Fence(paths, "another", {}).acquire()
    for fence in (tasks[0], again):
        with pytest.raises(UserError, match="belongs to run another"):
            fence.check()


class Full:
    """A model on a device that holds so many token places."""

    def __init__(self, inner, holds):
        self.inner, self.holds, self.shapes = inner, holds, []
        self.budget = TokenBudget(512)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def hidden_states(self, tokens, **more):
        self.shapes.append(tuple(tokens.shape))
        if tokens.numel() > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner.hidden_states(tokens, **more)


def test_out_of_memory_halves_the_budget_and_goes_on():
    inner = load_tiny_llama()
    model = Full(inner, 200)
    sequences = [TokenSpan(np.arange(length), 1) for length in (30, 60, 20, 61, 62, 63, 9)]
    found = compute_token_logprobs(model, sequences)
    assert model.budget.token_positions == 7 * 64 // 2
    assert [shape for shape in model.shapes if shape[0] * shape[1] > 200] == [(7, 64)]
    for one, other in zip(found, compute_token_logprobs(inner, sequences), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_out_of_memory_at_one_row_is_said():
    model = Full(load_tiny_llama(), 10)
    with pytest.raises(torch.OutOfMemoryError):
        compute_token_logprobs(model, [TokenSpan(np.arange(40), 1), TokenSpan(np.arange(30), 1)])


def test_progress_says_how_long_it_takes(tmp_path, monkeypatch):
    paths = EvaluationPaths(tmp_path / "stage1", "step_1")
    paths.parts.mkdir(parents=True)
    now = [100.0]
    monkeypatch.setattr("scoring.runtime.progress.time.monotonic", lambda: now[0])
    progress = JobProgress(paths, "r", 3, part_sizes={"a": 100, "b": 300, "c": 600})
    progress.begin_part("a")
    progress.start_timing(1e9)
    now[0] += 10
    progress.finish_batch(100, 1e8)
    progress.finish_part("a", is_ours=True)
    progress.begin_part("b")
    with capture_logs() as heard:
        now[0] += 59
        progress.finish_batch(150, 4e8)
        assert heard == []
        now[0] += 1
        progress.finish_batch(50, 1e8)
    said = read_json(paths.progress_json)
    assert [line["event"] for line in heard] == ["progress"]  # once a minute
    assert {name: heard[0][name] for name in LOGGED_KEYS} == {name: said[name] for name in LOGGED_KEYS}
    assert (said["parts_done"], said["parts"], said["size_done"], said["tokens"]) == (1, 3, 300, 300)
    assert said["tokens_per_s"] == pytest.approx(300 / 70, abs=0.1)
    assert said["mfu"] == pytest.approx(6e8 / 70 / 1e9, abs=1e-4)
    assert said["seconds_left"] == pytest.approx(700 / (300 / 70), rel=0.02)
    other = {**said, "at": said["at"] + 1, "part": "c", "in_progress": {"c": 200}}
    both = merge_progress([said, other])
    assert (both["tokens"], both["part"], both["workers"]) == (600, "b, c", 2)
    assert both["size_done"] == 100 + 200 + 200
    assert both["seconds_left"] == pytest.approx(500 / (600 / 70), rel=0.02)


def shared(tmp_path, run_id="r", **which):
    sizes = {"a": 100, "b": 300, "c": 600, "d": 1000}
    return JobProgress(EvaluationPaths(tmp_path / "stage1", "step_1"), run_id, 4, part_sizes=sizes, **which)


def score(progress, *labels):
    for label in labels:
        progress.begin_part(label)
        progress.start_timing(None)
        progress.finish_batch(progress.part_sizes[label], 1.0)
        progress.finish_part(label, is_ours=True)


def said_of_all(tmp_path):
    said = read_json(EvaluationPaths(tmp_path / "stage1", "step_1").progress_json)
    return said["parts_done"], said["parts"], said["size_done"], said["tokens"]


def test_progress_of_an_array_is_that_of_all_its_tasks(tmp_path):
    EvaluationPaths(tmp_path / "stage1", "step_1").parts.mkdir(parents=True)
    score(shared(tmp_path, "an earlier run", array_task="7"), "d")
    first, second = shared(tmp_path, array_task="0"), shared(tmp_path, array_task="1")
    score(first, "a")
    assert said_of_all(tmp_path) == (1, 4, 100, 100)
    score(second, "b")
    assert said_of_all(tmp_path) == (2, 4, 400, 400)
    second.finish_part("a", is_ours=False)  # a part that two know of is one
    score(second, "c")
    assert said_of_all(tmp_path) == (3, 4, 1000, 1000)
    again = shared(tmp_path, array_task="1")  # requeued: it finds what is there
    for label in "abc":
        again.finish_part(label, is_ours=False)
    score(again, "d")
    assert said_of_all(tmp_path)[:3] == (4, 4, 2000)


def test_progress_of_tasks_that_have_processes_each_is_that_of_all(tmp_path):
    paths = EvaluationPaths(tmp_path / "stage1", "step_1")
    paths.parts.mkdir(parents=True)
    for task, labels in (("0", "ab"), ("1", "cd")):
        for number, label in enumerate(labels):
            score(shared(tmp_path, array_task=task, worker=number), label)
        many.update_progress([paths.worker_json(number, task) for number in range(2)], shared(tmp_path, array_task=task))
    assert said_of_all(tmp_path) == (4, 4, 2000, 2000)
    assert read_json(paths.progress_json)["workers"] == 4


def test_a_worker_that_has_ended_counts_with_what_it_did_and_not_with_its_speed(tmp_path):
    paths = EvaluationPaths(tmp_path / "stage1", "step_1")
    paths.parts.mkdir(parents=True)
    score(shared(tmp_path, worker=0), "a")
    report = {"timings": {}, "parts": {"scored": ["b"], "reused": ["c"]}, "tokens": 300, "ended": time.time()}
    paths.worker_json(1, None).write_text(json.dumps(report))
    paths.worker_json(2, None).write_text("[]")
    many.update_progress([paths.worker_json(number, None) for number in range(4)], shared(tmp_path))
    assert said_of_all(tmp_path) == (3, 4, 1000, 400)
    alone, both = read_json(paths.worker_json(0, None)), read_json(paths.progress_json)
    assert both["tokens_per_s"] == alone["tokens_per_s"]
    silent = {**alone, "at": alone["at"] - 3600, "in_progress": {"d": 500}}
    assert merge_progress([silent, {**alone, "done": {"b": 300}}])["size_done"] == 400
    assert merge_progress([silent, alone])["size_per_s"] == alone["size_per_s"]


def test_a_slice_and_a_task_of_one_name_are_two_parts(tmp_path):
    EvaluationPaths(tmp_path / "stage1", "step_1").parts.mkdir(parents=True)
    tasks = [shared(tmp_path, array_task=str(n)) for n in range(2)]
    for task in tasks:
        for _ in range(2):
            task.finish_part("a", is_ours=False)
        task.publish()
    assert said_of_all(tmp_path)[:2] == (2, 4)

"""Real models on real items, against loops that anybody could write (support/models/reference_loglikelihood.py).

Both models score every task of which there are real items (of qasc there are none). SmolLM2-135M scores ten short items of
each, and in make test-all a hundred of any length; every one is compared.
"""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from scoring.tiers.cloze_metric import CLOZE_METRICS
from support.datasets.benchmark_items import BENCHMARK_FOLDERS, write_items, write_mmlu
from support.models import glasslm as glass
from support.models import smollm2
from support.models.reference_loglikelihood import ReferenceModel, score_example
from support.runs.scoring_jobs import get_results_folder, make_score_arguments, run_scoring_in_process

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

MEASURED = {"sciq": 0.72, "piqa": 0.69, "hellaswag": 0.40, "arc_easy": 0.553}
"""What this model got elsewhere, from other code, with these weights; sciq with its supporting paragraph."""


TASKS = (*BENCHMARK_FOLDERS, "mmlu")
SUBJECTS = ("anatomy", "college_physics", "econometrics", "high_school_biology", "philosophy")
SHORT = 500
"""Characters of all text in a row: 61 % of sciq are no longer, 16 % of hellaswag, nine tenths of every other task."""
CLOSE = 1e-4
"""Nats: of a log-likelihood."""
TIE = 2e-5
"""What a loop's best choice may lie above the one that was picked: two equal choices, rounded twice."""


def write_suite(folder, tasks, items, more, longest):
    """A cloze suite over a seeded sample of ``items`` real rows of each task, everything in ``folder``."""
    lines = ["tier: tier3_cf", "tasks:"]
    for task in tasks:
        if task == "mmlu":
            for subject in SUBJECTS:
                write_mmlu(subject, 1000, folder / f"mmlu.{subject}.parquet", longest=longest)
        else:
            write_items(task, 20_000, folder / f"{task}.parquet", longest=longest)
        lines.append(
            f"  {task}: {{data_files: [{folder}/{task}*.parquet], adapter: {task}, subset_size: {items}{more.get(task, '')}}}"
        )
    (folder / "real_cf.yaml").write_text("\n".join(lines) + "\n")


def scored(folder, checkpoint, tasks, items, *more, formats=None, longest=None):
    """Task -> (rows as published, items as text), by the command line."""
    write_suite(folder, tasks, items, {task: f", format: {form}" for task, form in (formats or {}).items()}, longest)
    arguments = make_score_arguments(folder, *more, checkpoint=checkpoint, suites=("real_cf.yaml",))
    assert run_scoring_in_process([*arguments, "--tokenizer", str(checkpoint.parent / "tokenizer")]) == 0
    found = {}
    for task in tasks:
        rows = pq.read_table(get_results_folder(folder, checkpoint.name) / "items" / f"{task}.parquet").to_pylist()
        (examples,) = (folder / "data" / "cf_tasks" / task).glob("*/examples.jsonl")
        found[task] = rows, [json.loads(line) for line in examples.read_text().splitlines()]
    return found


def differences(row, example, ll, uncond):
    """(a request as text, ours, the loop's) for every log-likelihood of an item."""
    assert (row["index"], row["gold"]) == (example["index"], example["gold"])
    assert (row["ll_uncond"] is None) == (uncond is None)
    yield from zip(example["pairs"], row["ll"], ll, strict=True)
    if uncond is not None:
        yield from zip(example["uncond"], row["ll_uncond"], uncond, strict=True)


def apart(*item):
    """Greatest difference of a log-likelihood of one item."""
    return max(abs(ours - theirs) for _, ours, theirs in differences(*item))


def same(entry, rows, examples, plain, relative=0.0):
    """Every item's log-likelihoods and picks, and the task's accuracies, are the loop's. Gives each item's difference.

    Two sums of many float32 logarithms may lie further apart than either from what is right: there float64 decides.
    """
    found, right = [], dict.fromkeys(CLOZE_METRICS, 0)
    for row, example in zip(rows, examples, strict=True):
        ll, uncond, metrics = score_example(example, plain)
        found.append(apart(row, example, ll, uncond))
        for pair, ours, theirs in differences(row, example, ll, uncond):
            if abs(ours - theirs) > CLOSE:
                exact = plain.compute_float64_loglikelihood(*pair)
                assert abs(ours - exact) <= CLOSE - relative * exact, (pair, ours, theirs, exact)
        for metric in CLOZE_METRICS:
            if metric not in metrics:
                assert row[f"pick_{metric}"] is None
                continue
            values, pick = metrics[metric], row[f"pick_{metric}"]
            right[metric] += pick == example["gold"]
            assert max(values) - values[pick] <= TIE, (example["id"], metric, values, pick)
    assert entry["examples"] == len(rows)
    for metric in CLOZE_METRICS:
        none = entry[metric] is None
        assert none == (metric not in metrics)
        assert none or entry[metric] == pytest.approx(right[metric] / len(rows), abs=1e-12)
    return np.array(found)


def tier3(folder, step):
    return json.loads((get_results_folder(folder, step) / "tier3_cf.json").read_text())["tasks"]


@pytest.fixture(scope="module")
def glass_at(tmp_path_factory):
    return glass.write_checkpoint_of_glasslm(tmp_path_factory.mktemp("glass"))


@pytest.fixture(scope="module")
def glass_scores(glass_at, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    return folder, scored(folder, glass_at, TASKS, 10, "--seq-len", str(glass.SEQ_LEN))


@pytest.fixture(scope="module")
def glass_plain(glass_at):
    return ReferenceModel(
        glass.MODEL_CONFIG, glass.load_hf_tensors(interleaved=False), glass_at.parent / "tokenizer", glass.SEQ_LEN
    )


@pytest.mark.parametrize("task", TASKS)
def test_the_small_model_scores_every_task_as_a_plain_loop_does(task, glass_plain, glass_scores):
    folder, found = glass_scores
    same(tier3(folder, glass.STEP)[task], *found[task], glass_plain)


@pytest.mark.parametrize("task", TASKS)
def test_a_loop_that_reads_each_context_once_is_one_that_asks_for_each_choice_alone(task, glass_plain, glass_scores):
    _, found = glass_scores
    pairs = [pair for example in found[task][1][:3] for pair in (*example["pairs"], *(example["uncond"] or ()))]
    np.testing.assert_allclose(
        glass_plain.compute_loglikelihoods(pairs), [glass_plain.compute_loglikelihood(*pair) for pair in pairs], rtol=0, atol=5e-5
    )


def test_the_small_model_scores_as_its_own_code_does(glass_scores):
    model, tokenizer = glass.load_original_model()

    def loglik(context, continuation):
        before, after = tokenizer.encode(context), tokenizer.encode(continuation)
        assert tokenizer.encode(context + continuation) == before + after
        logits = model([*before, *after][-glass.SEQ_LEN :]).data[0].astype(np.float64)
        assert len(before) + len(after) <= glass.SEQ_LEN
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return sum(logprobs[len(before) + n - 1, token] for n, token in enumerate(after))

    for task in ("openbookqa", "copa", "commonsense_qa"):
        for row, example in zip(*glass_scores[1][task], strict=True):
            ll, uncond = ([loglik(*pair) for pair in example[key]] if example[key] else None for key in ("pairs", "uncond"))
            assert apart(row, example, ll, uncond) <= CLOSE


@pytest.fixture(scope="module")
def smollm2_tensors():
    return smollm2.load_hf_tensors()


@pytest.fixture(scope="module")
def smollm2_at(smollm2_tensors, tmp_path_factory):
    return smollm2.write_smollm2_checkpoint(tmp_path_factory.mktemp("smollm2"), tensors=smollm2_tensors)


@pytest.fixture(scope="module")
def smollm2_plain(smollm2_at, smollm2_tensors):
    return ReferenceModel(smollm2.MODEL_CONFIG, smollm2_tensors, smollm2_at.parent / "tokenizer", 512)


@pytest.mark.slow
def test_smollm2_from_three_tensor_parallel_shards_scores_every_task_as_a_plain_loop_does(smollm2_at, smollm2_plain, tmp_path):
    found = scored(tmp_path, smollm2_at, TASKS, 10, "--seq-len", "512", longest=SHORT)
    tasks = tier3(tmp_path, smollm2.STEP)
    for task, (rows, examples) in found.items():
        assert len(rows) == 10
        same(tasks[task], rows, examples, smollm2_plain)
    for task in ("arc_easy", "copa", "winogrande"):
        row, example = (of[0] for of in found[task])
        assert (
            apart(row, example, [smollm2_plain.compute_loglikelihood(*pair) for pair in example["pairs"]], row["ll_uncond"])
            <= CLOSE
        )


@pytest.mark.slow
def test_smollm2_scores_a_hundred_items_of_every_task_as_well_as_elsewhere(smollm2_at, smollm2_plain, tmp_path):
    found = scored(tmp_path, smollm2_at, TASKS, 100, "--seq-len", "512", formats={"sciq": "lm_eval"})
    tasks = tier3(tmp_path, smollm2.STEP)
    for task, expected in MEASURED.items():
        assert abs(tasks[task]["acc"] - expected) <= 3 * tasks[task]["acc_stderr"], task
    for task, (rows, examples) in found.items():
        entry = tasks[task]
        found_apart = same(entry, rows, examples, smollm2_plain, relative=1e-6)  # choices of up to a hundred tokens and 400 nats
        assert np.mean(found_apart <= CLOSE) >= 0.9, task
        figures = {metric: (entry[metric], entry[f"{metric}_stderr"]) for metric in ("acc", entry["primary_metric"])}
        beyond = int((found_apart > CLOSE).sum())
        print(
            f"{task}: {len(rows)} items, largest difference {found_apart.max():.2g}, {beyond} beyond 1e-4, {figures}", flush=True
        )

"""The same items through lm-evaluation-harness, on the transformers model that the nanotron checkpoint was made from."""

import json
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from support.datasets import benchmark_items as real_items
from support.lm_eval import environment as lm_eval_env
from support.lm_eval import run as lm_eval_side
from support.models.hf_to_nanotron import write_hf_checkpoint
from support.models.small_llama import SEQ_LEN, score_suite, write_small_llama, write_suite

pytestmark = pytest.mark.scoring

ITEMS = 200
ACC_NORM_IS_SHIPPED = ("hellaswag", "piqa", "arc_easy", "arc_challenge", "openbookqa", "sciq")
"""Tasks whose definitions ask for acc_norm; of the others it is asked here."""
BOTH_METRICS = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")]
SUBJECTS = ("anatomy", "management", "sociology", "us_foreign_policy")


def gold_of(name, record):
    """Index of the right choice; some tasks' targets are letters or text."""
    if name == "winogrande":
        return int(record["doc"]["answer"]) - 1
    if name == "copa":
        return record["doc"]["label"]
    return "ABCDE".index(record["target"]) if name == "commonsense_qa" else int(record["target"])


def compare(name, published, records, theirs):
    """Item by item, then the figures; the largest difference of a log-likelihood."""
    entry = json.loads((published / "tier3_cf.json").read_text())["tasks"][name]
    rows = pq.read_table(published / "items" / f"{name}.parquet").to_pylist()
    assert len(rows) == len(records) == entry["examples"]
    largest = 0.0
    for row, record in zip(rows, records, strict=True):
        assert row["gold"] == gold_of(name, record)
        difference = np.abs(np.subtract(row["ll"], lm_eval_side.get_loglikelihoods(record))).max()
        assert difference <= 1e-4, (name, row["id"], row["ll"], record["filtered_resps"])
        largest = max(largest, float(difference))
        for metric in set(record["metrics"]):
            assert record[metric] == float(row[f"pick_{metric}"] == row["gold"]), (name, row["id"], metric)
    for metric in records[0]["metrics"]:
        assert entry[metric] == pytest.approx(theirs[f"{metric},none"], abs=1e-12)
        if name != "mmlu":  # a group has the pooled error of its subjects, which the export gives
            assert entry[f"{metric}_stderr"] == pytest.approx(theirs[f"{metric}_stderr,none"], abs=1e-6)
    assert set(records[0]["metrics"]) == {"acc", "acc_norm"}
    assert entry["primary_metric"] == ("acc_norm" if name in ACC_NORM_IS_SHIPPED else "acc")
    return largest


def compare_exports(theirs, folder, names):
    """Every key that lm-evaluation-harness writes, and where it says something of items or prompts, the same."""
    ours = lm_eval_side.read_lm_eval_output(folder)
    assert set(theirs.results) - set(ours.results) == set()
    assert set(theirs.results["config"]) - set(ours.results["config"]) == set()
    expected = [name for name in theirs.samples if name.removeprefix("here_").startswith(tuple(names))]
    assert expected
    for task in expected:
        name = task.removeprefix("here_")
        name = "social_iqa" if name == "social_i_qa" else name
        assert set(theirs.results["results"][task]) <= set(ours.results["results"][name])
        for record, mine in zip(theirs.samples[task], ours.samples[name], strict=True):
            assert set(record) <= set(mine)
            for key in ("doc_id", "filter", *record["metrics"]):
                assert record[key] == mine[key], (task, key)
            assert mine["target"] == str(gold_of(name, record))
            assert (mine["target_hash"] == record["target_hash"]) == (mine["target"] == record["target"])
            prompts = [[given["arg_0"], given["arg_1"]] for given in record["arguments"].values()]
            scored_as = [[given["arg_0"], given["arg_1"]] for given in mine["arguments"].values()]
            assert ["".join(pair) for pair in scored_as] == ["".join(pair) for pair in prompts]
            if prompts == scored_as:  # a prompt's trailing spaces are scored with the choice
                assert mine["prompt_hash"] == record["prompt_hash"]
            np.testing.assert_allclose(
                lm_eval_side.get_loglikelihoods(mine), lm_eval_side.get_loglikelihoods(record), rtol=0, atol=1e-4
            )
    group, mine = theirs.results["groups"]["here_mmlu"], ours.results["groups"]["mmlu"]
    assert set(group) <= set(mine)
    assert mine["acc,none"] == pytest.approx(group["acc,none"], abs=1e-12)
    assert mine["acc_stderr,none"] == pytest.approx(group["acc_stderr,none"], abs=1e-6)
    assert ours.results["group_subtasks"]["mmlu"] == [f"mmlu_{subject}" for subject in sorted(SUBJECTS)]


def test_every_item_of_every_task_agrees_with_lm_evaluation_harness(tmp_path):
    python = lm_eval_env.ensure_lm_eval_python()
    model = write_small_llama(tmp_path / "hf")
    tasks, definition = [], {}
    for adapter, shipped in lm_eval_side.SHIPPED_TASKS.items():
        file = tmp_path / f"{adapter}.parquet"
        assert real_items.write_items(adapter, ITEMS, file) == (100 if adapter == "copa" else ITEMS)  # copa has no more
        include = lm_eval_side.find_shipped_task(python, shipped)
        tasks.append(lm_eval_side.write_task_file(tmp_path, adapter, file, include=include, metric_list=BOTH_METRICS))
        definition[adapter] = {"data_files": str(file), "adapter": adapter, "format": "lm_eval"}
    subjects = [tmp_path / f"mmlu_{subject}.parquet" for subject in SUBJECTS]
    for subject, file in zip(SUBJECTS, subjects, strict=True):
        assert real_items.write_mmlu(subject, ITEMS // len(SUBJECTS), file) == ITEMS // len(SUBJECTS)
        include = lm_eval_side.find_shipped_task(python, f"mmlu/default/mmlu_{subject}.yaml")
        lm_eval_side.write_task_file(tmp_path, f"mmlu_{subject}", file, include=include, metric_list=BOTH_METRICS)
    tasks.append(lm_eval_side.write_group_file(tmp_path, "mmlu", [f"here_mmlu_{subject}" for subject in SUBJECTS]))
    definition["mmlu"] = {"data_files": [str(file) for file in subjects], "adapter": "mmlu", "format": "lm_eval"}

    # Its own fp32 sum of a choice of 2,000 nats is no finer than 2.4e-4; the model runs in fp32 all the same.
    started = time.monotonic()
    (theirs,) = lm_eval_side.run_lm_eval(
        python, tmp_path / "hf", tmp_path, {"theirs": (tasks, {"softmax_dtype": "float64"})}
    ).values()
    print("lm_eval_seconds", round(time.monotonic() - started, 1))
    records = {adapter: theirs.samples[f"here_{adapter}"] for adapter in lm_eval_side.SHIPPED_TASKS}
    records["mmlu"] = [record for subject in SUBJECTS for record in theirs.samples[f"here_mmlu_{subject}"]]

    for tp in (2, 1):
        checkpoint = write_hf_checkpoint(model, tmp_path / f"tp{tp}" / "100", tokenizer=tmp_path / "hf", seq_len=SEQ_LEN, tp=tp)
        suite = write_suite(tmp_path, "tier3_cf", f"tp{tp}", definition)
        started = time.monotonic()
        published = score_suite(tmp_path, checkpoint, suite)
        print(f"tp{tp}_seconds", round(time.monotonic() - started, 1))
        for name in definition:
            largest = compare(name, published, records[name], theirs.results["results"][f"here_{name}"])
            print(f"tp{tp}_{name}", largest)
        by_subject = json.loads((published / "tier3_cf.json").read_text())["tasks"]["mmlu"]["by_subject"]
        for subject in SUBJECTS:
            expected = theirs.results["results"][f"here_mmlu_{subject}"]
            assert by_subject[subject]["acc"] == expected["acc,none"]
            assert by_subject[subject]["acc_stderr"] == pytest.approx(expected["acc_stderr,none"], abs=1e-6)
        compare_exports(theirs, published / "exports" / "lm-eval", definition)
        truncated = json.loads((published / "tier3_cf.json").read_text())["tasks"]["sciq"]["truncated"]
        assert truncated > 10
    (folder,) = (published / "exports" / "lm-eval").iterdir()
    read = lm_eval_side.read_with_lm_eval(python, folder, tmp_path)
    names = ["social_iqa" if adapter == "social_i_qa" else adapter for adapter in lm_eval_side.SHIPPED_TASKS]
    expected_rows = dict.fromkeys(names, ITEMS) | {f"mmlu_{subject}": ITEMS // len(SUBJECTS) for subject in SUBJECTS}
    assert read["rows"] == expected_rows | {"copa": 100}
    assert len(read["times"]) == 1
    assert read["model"] == folder.name
    assert "|winogrande|" in read["table"].replace(" ", "")
    assert "|mmlu|" in read["groups"].replace(" ", "")

"""The built-in four stages from the first checkpoint to the report: every figure and difference is computed again from the rows.

Tier 2 from its windows, tier 3 from log-likelihoods, tier 4 from the checks of each answer, none with the scorer's own code.
"""

import functools
import json
import math
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from suites.contract.paths import report_html_path
from support.runs.four_stages import FourStagesRun

pytestmark = [pytest.mark.scoring, pytest.mark.slow]

BRIDGES = {"stage2": "step_50000", "stage3": "step_22000", "stage4": "step_12000"}
OBJECTIVES = {
    "stage2": ["improve hq", "hold anchors", "hold tier3"],
    "stage3": ["improve tier3", "hold tier2"],
    "stage4": ["improve tier4", "hold tier3", "hold tier2"],
}
SLICES = {"stage1": 7, "stage2": 11, "stage3": 14, "stage4": 14}
TASKS = {"stage1": 10, "stage2": 10, "stage3": 12, "stage4": 12}
PER_CHAR = {"hellaswag", "piqa", "arc_easy", "social_i_qa", "mmlu"}
UNCONDITIONAL = {"arc_challenge", "openbookqa", "commonsense_qa", "qasc"}
TIERS = ("tier2_ppl", "tier3_cf", "tier4_sft_native")
near = functools.partial(pytest.approx, rel=1e-9, abs=1e-12)
near_difference = functools.partial(pytest.approx, rel=1e-9, abs=1e-11)


def of_slice(folder, name):
    """(nats, predicted tokens)."""
    rows = pq.read_table(folder / "items" / f"{name}.parquet").to_pylist()
    windows = [row for row in rows if row["kind"] == "window"]
    return math.fsum(row["nll_sum"] for row in windows), sum(row["tokens"] for row in windows)


def of_task(folder, name):
    """acc, primary, and of mmlu the mean of the primary over subjects."""
    rows = pq.read_table(folder / "items" / f"{name}.parquet").to_pylist()
    plain = [np.array(row["ll"]) for row in rows]
    judged = plain
    if name in PER_CHAR:
        judged = [np.array(row["ll"]) / np.array(row["chars_with_space"]) for row in rows]
    elif name in UNCONDITIONAL:
        judged = [np.array(row["ll"]) - np.array(row["ll_uncond"]) for row in rows]
    gold = np.array([row["gold"] for row in rows])
    right = np.array([values.argmax() for values in judged]) == gold
    found = {"acc": (np.array([values.argmax() for values in plain]) == gold).mean(), "primary": right.mean()}
    if name == "mmlu":
        subjects = np.array([row["subject"] for row in rows])
        found["primary_macro"] = np.mean([right[subjects == subject].mean() for subject in np.unique(subjects)])
    return found


def of_answers(folder):
    """Tier 4's rates over all prompts, and over the checks that prompts name."""
    lines = (folder / "tier4_sft_native_generations.jsonl").read_text(encoding="ascii").splitlines()
    checks = [json.loads(line)["checks"] for line in lines]
    passed = [[check["passed"] for check in each] for each in checks]
    clean = [[check["passed"] for check in each if check["kind"] == "clean"] for each in checks]
    own = [check["passed"] for each in checks for check in each if check["kind"] != "clean"]
    return {
        "all_checks_pass_rate": np.mean([all(each) for each in passed]),
        "chat_clean_rate": np.mean([all(each) for each in clean]),
        "instruction_match_rate": np.mean(own),
    }


def recomputed(folder):
    """(tier, name) -> metric -> figure; a tier's total has no name."""
    slices, tasks = (
        list(json.loads((folder / file).read_text())[section])
        for file, section in (("tier2_ppl.json", "slices"), ("tier3_cf.json", "tasks"))
    )
    sums = {name: of_slice(folder, name) for name in slices}
    sums[""] = tuple(map(math.fsum, zip(*sums.values(), strict=True)))
    found = {
        ("tier2_ppl", name): {"nll_per_token": nats / tokens, "ppl": math.exp(nats / tokens)}
        for name, (nats, tokens) in sums.items()
    }
    shares = {name: of_task(folder, name) for name in tasks}
    found |= {("tier3_cf", name): figures for name, figures in shares.items()}
    found["tier3_cf", ""] = {key: np.mean([each[key] for each in shares.values()]) for key in ("acc", "primary")}
    if (folder / "tier4_sft_native.json").exists():
        found["tier4_sft_native", ""] = of_answers(folder)
    return found


def difference(mine, other, tier, name, key):
    """Of an effect of compare.json; tier 4's rates are entries there, and its total is the first of them."""
    if tier == "tier4_sft_native":
        rate = name or "all_checks_pass_rate"
        before, after = (found[tier, ""].get(rate) for found in (other, mine))
        return None if after is None else after - before
    return mine[tier, name][key] - other[tier, name][key]


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('<script id="data" type="application/json">', 1)[1].split("</script>", 1)[0])


def reported(scenario):
    command = [sys.executable, "-m", "watcher", "report", "--json", "--config", scenario.config]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=scenario.environ | {"SCRATCH": str(scenario.root)}
    )
    return {stage["name"]: stage for stage in json.loads(done.stdout)["stages"]}


def everything_is_told(scenario, states):
    """All scored, all compared with what there is to compare with by now, and the page knows it."""
    if (
        set(states) != scenario.expected_evaluations
        or set(states.values()) != {"scored"}
        or not report_html_path(scenario.results).exists()
    ):
        return False
    own = [(name, each) for name, stage in reported(scenario).items() for each in stage["evaluations"] if each["role"] == "own"]
    told = all(
        each["compared"] is not None and not each["outdated"] for name, each in own if (name, each["step"]) != ("stage1", 2000)
    )
    stages = data_of(report_html_path(scenario.results))["stages"]
    shown = [each for stage in stages if stage["name"] in BRIDGES for each in stage["evaluations"] if each["role"] == "own"]
    return told and all(each["against"].get("bridge") for each in shown)


def test_the_default_run_is_scored_compared_and_reported_with_the_right_figures(tmp_path):
    scenario = FourStagesRun(tmp_path / "run")
    scenario.start_daemon()
    for stage, steps in scenario.steps.items():
        for step in steps:
            scenario.write_checkpoint(stage, step)
    try:
        scenario.wait_for_states(functools.partial(everything_is_told, scenario), seconds=900)
    finally:
        assert scenario.stop_daemon() == 0
    assert scenario.count_runs() == dict.fromkeys(scenario.expected_evaluations, 1)
    stages = reported(scenario)
    evaluations = [each for stage in stages.values() for each in stage["evaluations"]]
    assert len(evaluations) == len(scenario.expected_evaluations) == 25
    assert {each["key"] for each in evaluations if each["role"] == "bridge"} == {f"{a}/{b}" for a, b in BRIDGES.items()}
    assert sum(each["role"] == "own" for each in evaluations) == 22
    checked = check_figures(scenario, stages)
    differences = check_differences(scenario, stages)
    for stage, directory in BRIDGES.items():
        check_bridge(scenario, stages[stage], directory)
    print(f"\n{checked} figures and {differences} differences computed again")


def folder_of(scenario, key):
    stage, _, directory = key.partition("/")
    return scenario.results / stage / "by_checkpoint" / directory


def check_figures(scenario, stages):
    count = 0
    for name, stage in stages.items():
        for each in stage["evaluations"]:
            assert (each["state"], each["troubles"], each["outdated"]) == ("scored", [], False)
            tiers = each["files"]["tiers"]
            assert tuple(tiers) == (TIERS if name == "stage4" else TIERS[:2])
            assert (len(tiers["tier2_ppl"]["entries"]), len(tiers["tier3_cf"]["entries"])) == (SLICES[name], TASKS[name])
            for (tier, entry), figures in recomputed(folder_of(scenario, each["key"])).items():
                shown = tiers[tier]["entries"][entry] if entry else tiers[tier]["totals"]
                for metric in figures.keys() - {"primary_macro"}:
                    assert shown[metric]["value"] == near(figures[metric]), (each["key"], tier, entry, metric)
                    count += 1
    return count


def check_differences(scenario, stages):
    count = 0
    for name, stage in stages.items():
        own = [each for each in stage["evaluations"] if each["role"] == "own"]
        for place, each in enumerate(own):
            comparisons = {} if each["compared"] is None else {one["role"]: one for one in each["compared"]["comparisons"]}
            assert set(comparisons) == {*(["bridge"] if name in BRIDGES else []), *(["previous", "best"] if place else [])}
            mine = recomputed(folder_of(scenario, each["key"]))
            for role, one in comparisons.items():
                base = one["baseline"]
                assert role != "bridge" or base["directory"] == BRIDGES[name]
                assert role != "previous" or base["step"] == own[place - 1]["step"]
                assert one["refusals"] == []
                other = recomputed(folder_of(scenario, f"{base['stage']}/{base['directory']}"))
                named = [(entry["name"], entry) for entry in one["entries"]] + [("", total) for total in one["totals"]]
                assert {(entry["tier"], entry_name) for entry_name, entry in named} >= mine.keys()
                for entry_name, entry in named:
                    for key, effect in entry["effects"].items():
                        delta = difference(mine, other, entry["tier"], entry_name, key)
                        if delta is None:
                            continue
                        assert effect["delta"] == near_difference(delta), (each["key"], role, entry["tier"], entry_name, key)
                        count += 1
            if name in BRIDGES:
                judged = comparisons["bridge"]["objectives"]
                assert [f"{one['kind']} {one['name']}" for one in judged] == OBJECTIVES[name]
                assert comparisons["bridge"]["outcome"] in {"pass", "fail", "inconclusive"}
    return count


def check_bridge(scenario, stage, directory):
    """The same weights on the same rows: what the source stage has of its slices, its bridge has to the last digit."""
    bridge = next(each for each in stage["evaluations"] if each["role"] == "bridge")
    assert (stage["bridge"], bridge["compared"]) == (f"{stage['name']}/{directory}", None)
    here = recomputed(folder_of(scenario, bridge["key"]))
    there = recomputed(folder_of(scenario, f"{bridge['source']}/{directory}"))
    shared = [(tier, name) for tier, name in there if name]
    assert {each: here[each] for each in shared} == {each: there[each] for each in shared}

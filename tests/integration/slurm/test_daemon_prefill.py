"""prefill: auto on a real Slurm: a job on a partition of its own fills the cache from a hub; then one scores, offline."""

import json
import sys

import pytest

from support.fakes.hub import environment, serving
from support.fakes.hub_datasets import everything
from support.slurm_cluster.daemon import SlurmWatch

pytestmark = [pytest.mark.slurm, pytest.mark.scoring, pytest.mark.slow]

SUITES = {
    "slices.yaml": "tier: tier2_ppl\nslices: {web: {hf_dataset: allenai/c4, hf_config: en, split: validation}}\n",
    "tasks.yaml": "tier: tier3_cf\ntasks: {piqa: {hf_dataset: baber/piqa, split: validation, adapter: piqa, subset_size: 5}}\n",
}
ONLINE = {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}


def said_of_data(watch):
    document = watch.status()
    return document["stages"]["base"]["data"] if document else ""


def test_one_job_fills_the_cache_after_a_failure_and_the_scoring_job_follows(accounted_slurm, tmp_path):
    with serving(everything(count=40)) as hub:
        environ = environment(hub, tmp_path / "hf_home", accounted_slurm.cluster.environment()) | ONLINE
        settings = {"prefill": {"where": "job", "auto": True, "partition": "urgent"}, "retry": {"backoff": "1s", "attempts": 9}}
        settings["python"] = sys.executable
        with SlurmWatch(tmp_path / "run", accounted_slurm, steps=[100], scorer="", settings=settings, environ=environ) as watch:
            for name, text in SUITES.items():
                (watch.root / name).write_text(text)
            hub.gated.add("allenai/c4")
            watch.write_checkpoint("base", 100)
            watch.start()
            watch.until(lambda: "ask for access at datasets/allenai/c4" in said_of_data(watch), 90)
            assert watch.row(100)["reason"] == "prefill: the data cache lacks web; a job fills it"
            hub.gated.clear()
            watch.until_state("scored", 100, seconds=120)
            runs = {attempt.name: watch.exits(attempt)[-1].code for attempt in watch.attempts}
            fills = {name: code for name, code in runs.items() if name.startswith("prefill-base-")}
            assert sorted(fills.values()) == [0, 66]
            assert [code for name, code in runs.items() if name not in fills] == [0]
            asked = ("--noheader", "--states=all", "--format=%j|%P|%V")
            listed = [line.split("|") for line in accounted_slurm.cluster.tool("squeue", *asked).stdout.splitlines()]
            jobs = {name: (partition, at) for name, partition, at in listed if name in runs}
            assert {partition for name, (partition, _) in jobs.items() if name in fills} == {"urgent"}
            (scoring,) = [job for name, job in jobs.items() if name not in fills]
            assert scoring[0] == "short"
            assert scoring[1] >= max(at for name, (_, at) in jobs.items() if name in fills)
            assert set(watch.tier("base/step_100", "tier2_ppl.json")["slices"]) == {"web"}
            (attempt,) = [attempt for attempt in watch.attempts if attempt.name not in fills]
            assert json.loads((attempt / "request.json").read_text())["offline"] is True
            watch.ask("prefill", "base")  # by hand, beside the daemon, which leaves such a job alone
            (by_hand,) = watch.state.glob("prefills/*/")
            watch.until(lambda: watch.exits(by_hand), 60)
            assert [record.code for record in watch.exits(by_hand)] == [0]
            assert len(watch.attempts) == 3

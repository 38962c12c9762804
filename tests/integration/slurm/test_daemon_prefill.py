"""prefill: auto on a real Slurm: a job on a partition of its own fills the cache from a hub; then one scores, offline."""

import json
import sys

import pytest

from support.fakes.hub import make_hub_environment, serve_hub
from support.fakes.hub_datasets import make_full_hub
from support.slurm_cluster.daemon import SlurmRun

pytestmark = [pytest.mark.slurm, pytest.mark.scoring, pytest.mark.slow]

SUITES = {
    "slices.yaml": "tier: tier2_ppl\nslices: {web: {hf_dataset: allenai/c4, hf_config: en, split: validation}}\n",
    "tasks.yaml": "tier: tier3_cf\ntasks: {piqa: {hf_dataset: baber/piqa, split: validation, adapter: piqa, subset_size: 5}}\n",
}
ONLINE = {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}


def said_of_data(watch):
    document = watch.read_status()
    return document["stages"]["base"]["data_cache"] if document else ""


def test_one_job_fills_the_cache_after_a_failure_and_the_scoring_job_follows(accounted_slurm, tmp_path):
    with serve_hub(make_full_hub(count=40)) as hub:
        environ = make_hub_environment(hub, tmp_path / "hf_home", accounted_slurm.cluster.environment()) | ONLINE
        settings = {"prefill": {"where": "job", "auto": True, "partition": "urgent"}, "retry": {"backoff": "1s", "attempts": 9}}
        settings["python"] = sys.executable
        with SlurmRun(tmp_path / "run", accounted_slurm, steps=[100], scorer="", settings=settings, environ=environ) as watch:
            for name, text in SUITES.items():
                (watch.root / name).write_text(text)
            hub.gated.add("allenai/c4")
            watch.write_checkpoint("base", 100)
            watch.start_daemon()
            watch.wait_until(lambda: "request access at datasets/allenai/c4" in said_of_data(watch), 90)
            assert watch.read_status_row(100)["reason"] == "the data cache lacks web; a prefill job fills it"
            hub.gated.clear()
            watch.wait_for_state("scored", 100, seconds=120)
            runs = {attempt.name: watch.read_exit_codes(attempt)[-1].code for attempt in watch.attempts}
            fills = {name: code for name, code in runs.items() if name.startswith("prefill-base-")}
            assert sorted(fills.values()) == [0, 66]
            assert [code for name, code in runs.items() if name not in fills] == [0]
            asked = ("--noheader", "--states=all", "--format=%j|%P|%V")
            listed = [line.split("|") for line in accounted_slurm.cluster.run_slurm_command("squeue", *asked).stdout.splitlines()]
            jobs = {name: (partition, at) for name, partition, at in listed if name in runs}
            assert {partition for name, (partition, _) in jobs.items() if name in fills} == {"urgent"}
            (scoring,) = [job for name, job in jobs.items() if name not in fills]
            assert scoring[0] == "short"
            assert scoring[1] >= max(at for name, (_, at) in jobs.items() if name in fills)
            assert set(watch.read_tier_file("base/step_100", "tier2_ppl.json")["slices"]) == {"web"}
            (attempt,) = [attempt for attempt in watch.attempts if attempt.name not in fills]
            assert json.loads((attempt / "request.json").read_text())["offline"] is True
            watch.run_watcher_command("prefill", "base")  # by hand, beside the daemon, which leaves such a job alone
            (by_hand,) = watch.state.glob("prefills/*/")
            watch.wait_until(lambda: watch.read_exit_codes(by_hand), 60)
            assert [record.code for record in watch.read_exit_codes(by_hand)] == [0]
            assert len(watch.attempts) == 3

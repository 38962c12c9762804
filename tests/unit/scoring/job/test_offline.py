"""Prefill with a network, then scoring without one: in an empty network namespace, and with any one file taken away."""

import json
import os
import subprocess
import sys

import pytest

from suites.common.errors import ExitCode
from support.fakes.hub import make_hub_environment, serve_hub
from support.fakes.hub_datasets import make_full_hub
from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.runs.prefill_process import CommandProcess
from support.runs.scoring_jobs import get_results_folder, make_score_arguments

pytestmark = pytest.mark.scoring

SUITES = {
    "ppl.yaml": "tier: tier2_ppl\nslices: {web: {hf_dataset: allenai/c4, hf_config: en, split: validation, target_tokens: 99}}\n",
    "cf.yaml": "tier: tier3_cf\ntasks: {piqa: {hf_dataset: baber/piqa, split: validation, adapter: piqa, subset_size: 5}}\n",
}
NO_NETWORK = ("unshare", "-rn")


def test_scoring_needs_no_network_and_every_file_of_the_cache(tmp_path):
    probe = subprocess.run([*NO_NETWORK, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"unshare -rn is not permitted here: {probe.stderr.strip()}")
    for name, text in SUITES.items():
        (tmp_path / name).write_text(text)
    given = [word for name in SUITES for word in ("--suite", str(tmp_path / name))]
    with serve_hub(make_full_hub(count=40)) as hub:
        environ = make_hub_environment(hub, tmp_path / "hf_home", os.environ)
        with CommandProcess(environ, tmp_path) as online:
            ended = online("prefill", *given, "--eval-data", tmp_path / "data", "--tokenizer", BYTE_TOKENIZER, "--jobs", "1")
        assert ended.code == 0, ended.stderr
    with CommandProcess(environ, tmp_path, before=NO_NETWORK) as offline:
        ended = offline(*make_score_arguments(tmp_path, "--offline"))
        assert ended.code == 0, ended.stderr
        assert (get_results_folder(tmp_path) / "tier2_ppl.json").is_file()
        files = sorted(path for place in ("ppl_slices", "cf_tasks") for path in (tmp_path / "data" / place).glob("*/*/*"))
        assert len(files) == 5
        for file in files:
            kept = file.read_bytes()
            file.unlink()
            ended = offline(*make_score_arguments(tmp_path, "--offline", "--name", "again"))
            assert ended.code == ExitCode.DATA_MISSING, (file, ended.stderr)
            (line,) = [line for line in ended.stderr.splitlines() if line.startswith("scoring: ")]
            name = file.parents[1].name
            assert f"{name} is not in the data cache" in line
            command = [sys.executable, "-P", "-m", "scoring", "prefill", *given, "--eval-data", tmp_path / "data"]
            command += ["--tokenizer", BYTE_TOKENIZER]
            assert line.partition(" run: ")[2] == " ".join(map(str, command))
            ended = offline("doctor", "--offline", *command[5:], "--network", "cut off", "--json")
            assert ended.code == ExitCode.DATA_MISSING, (file, ended.stderr)
            found = json.loads(ended.stdout)
            (entry,) = [entry for entry in found["entries"] if entry["state"] != "whole"]
            assert (entry["name"], entry["problems"]) == (name, [f"{file}: missing"])
            assert found["prefill"] == " ".join(map(str, command))
            file.write_bytes(kept)
        ended = offline("doctor", "--offline", *command[5:])
        assert (ended.code, ended.stdout) == (0, "2 whole\n"), ended.stderr

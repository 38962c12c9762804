"""What stands between the start of a job and its first batch."""

import json
import os
import subprocess
import sys
import threading

import pytest

from scoring.model import loader as checkpoint
from scoring.model import memory_budget as budget
from scoring.model import tensor_reader
from scoring.model.loader import load_causal_lm
from suites.checkpoint.architecture import parse_architecture
from suites.common.errors import ExitCode, UserError
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG
from support.models.tiny_llama_items import LLAMA_CHECKPOINT
from support.runs.scoring_jobs import (
    REPOSITORY_ROOT,
    get_results_folder,
    make_score_arguments,
    run_scoring_in_process,
    write_suites,
)

pytestmark = pytest.mark.scoring

SLOW = ("transformers", "jinja2", "datasets", "huggingface_hub", "pandas", "sympy", "torch._dynamo", "torch._inductor")
"""Each takes from a third of a second to several."""

SCORE = """
import sys
import threading
from scoring.cli.app import scoring_cli
from scoring.job import job
from scoring.tiers import canary
run_canary = canary.run_canary
def first_batch(*args, **more):
    print("loaded", *[name for name in sys.argv[1].split() if name in sys.modules])
    return run_canary(*args, **more)
canary.run_canary = first_batch
scoring_cli(sys.argv[2:], prog_name="scoring")
"""


def test_a_job_with_a_warm_cache_imports_nothing_slow(tmp_path):
    write_suites(tmp_path)
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    checks = [{"check": "includes", "phrases": ["a"]}]
    prompt = {
        "category": "concise_answer",
        "messages": [{"role": "user", "content": "Hi"}],
        "checks": checks,
        "max_new_tokens": 2,
    }
    suite = {"tier": "tier4_sft_native", "prompts": {"one": {**prompt, "chat_template": template}}}
    (tmp_path / "sft.yaml").write_text(json.dumps(suite))
    suites = ("ppl.yaml", "cf.yaml", "sft.yaml")
    assert run_scoring_in_process(make_score_arguments(tmp_path, "--name", "first", suites=suites)) == ExitCode.SCORED
    command = [sys.executable, "-c", SCORE, " ".join(SLOW), *make_score_arguments(tmp_path, suites=suites)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY_ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["loaded"]
    timings = json.loads((get_results_folder(tmp_path) / "run.json").read_text())["timings"]
    assert {"import_torch", "tokenizer", "data", "load", "until_first_batch"} <= set(timings)
    assert timings["until_first_batch"] > timings["load"] > 0
    rest = timings["until_first_batch"] - timings["import_torch"] - timings["load"]
    assert timings["rest_until_first_batch"] == pytest.approx(rest, abs=0.01)
    (line,) = [line for line in done.stderr.splitlines() if "first batch" in line]
    assert f"rest_until_first_batch={timings['rest_until_first_batch']}" in line


def test_signals_are_heard_before_torch_is_imported():
    words = "import sys, scoring.cli.app, scoring.runtime.stop; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_weights_are_being_read_while_the_device_starts(monkeypatch):
    read, build = threading.Event(), checkpoint.build_decoder
    merge = tensor_reader._merge_shards

    def reading(*given):
        read.set()
        return merge(*given)

    def starting(*given, **more):
        assert read.wait(60)
        return build(*given, **more)

    monkeypatch.setattr(tensor_reader, "_merge_shards", reading)
    monkeypatch.setattr(checkpoint, "build_decoder", starting)
    assert load_causal_lm(LLAMA_CHECKPOINT, device="cpu").parameter_count > 0


def test_a_model_that_does_not_fit_is_refused_with_numbers_before_it_is_loaded(monkeypatch):
    monkeypatch.setattr(budget, "get_host_free_bytes", lambda *_: 1 << 20)
    with pytest.raises(
        UserError, match=r"needs 0\.0 GiB for weights and 0\.0 GiB for 1024 tokens, but cpu has 0\.0 GiB free"
    ) as caught:
        load_causal_lm(LLAMA_CHECKPOINT, device="cpu")
    assert caught.value.code is ExitCode.UNAVAILABLE


def test_what_is_reckoned_before_loading_is_enough():
    script = "from benchmarks.growth import measure_peak_memory; import json; print(json.dumps(measure_peak_memory(2)))"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY_ROOT / "tests")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY_ROOT, env=environment, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert 10 << 20 < found["used"] <= found["reckoned"] < 10 * found["used"]


def test_a_job_has_what_its_cgroup_leaves(tmp_path):
    group = tmp_path / "slurm" / "job_1"
    group.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/slurm/job_1\n")
    (tmp_path / "meminfo").write_text("MemTotal: 64 kB\nMemAvailable: 10240 kB\n")
    given = (tmp_path / "meminfo", tmp_path / "own", tmp_path)
    assert budget.get_host_free_bytes(*given) == 10240 * 1024
    for name, text in (("max", "max"), ("current", "1000000"), ("stat", "anon 5\nfile 9")):
        (group / f"memory.{name}").write_text(text)
    assert budget.get_host_free_bytes(*given) == 10240 * 1024
    for name, text in (("max", "6000000"), ("current", "5000000"), ("stat", "inactive_file 200000\nactive_file 100000\nanon 1")):
        (group.parent / f"memory.{name}").write_text(text)
    assert budget.get_host_free_bytes(*given) == 1_300_000


def test_a_budget_is_the_power_of_two_that_fits():
    assert budget.fit_token_positions(0, 1000) == budget.MIN_TOKEN_POSITIONS
    assert budget.fit_token_positions(4096 * 1000, 1000) == 4096
    assert budget.fit_token_positions(8191 * 1000, 1000) == 4096
    assert budget.fit_token_positions(1 << 50, 1000) == budget.MAX_TOKEN_POSITIONS
    small, large = (
        parse_architecture({**BYTE_LEVEL_CONFIG, "hidden_size": size, "intermediate_size": 4 * size}) for size in (64, 128)
    )
    assert budget.estimate_bytes_per_position(large, 2, 0) == 2 * budget.estimate_bytes_per_position(small, 2, 0)

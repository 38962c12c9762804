"""A model that knows no more than how often tokens occur is suspicious, in run.json, in the tier files and in status."""

import contextlib
import json
import math

import msgspec
import numpy as np
import pytest
import torch

from scoring.tiers import canary
from suites.common.errors import ExitCode, UserError
from suites.contract.averages import AverageMember
from suites.contract.encoding import encode_json
from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import ScoringRequest, compute_tier_digests
from suites.definitions.local_data import bind_current_data
from suites.definitions.suite import load_suite
from support.models.nanotron_checkpoint import write_tiny_checkpoint
from support.models.tiny_llama_items import load_reference_tokens, load_tiny_llama
from support.runs.scoring_jobs import (
    get_results_folder,
    make_score_arguments,
    make_score_request,
    run_scoring_in_process,
    write_suites,
)
from watcher.observe.results import check_results
from watcher.status.text import render_status_body

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)


def test_a_model_that_was_trained_on_such_rows_is_not_suspicious():
    found = canary.run_canary(load_tiny_llama(), canary.sample_stream(load_reference_tokens().reshape(-1), 48), source="rows")
    assert (found.suspicious, found.rows, found.tokens, found.source) == (False, 1, 48, "rows")
    assert 1 < found.ppl < found.unigram_ppl


def test_its_figures_are_the_plain_ones():
    tokens = np.asarray([1, 2, 1, 3, 1, 2, 1, 2, 4] * 40)
    nll = canary._compute_unigram_nll([tokens], 8)
    counts = np.bincount(tokens, minlength=8) + 1
    assert nll == pytest.approx(-np.log(counts / counts.sum()))
    assert np.exp(-nll).sum() == pytest.approx(1)
    found = canary.compare_with_unigram(np.asarray([1.0, 3.0]), np.asarray([2.0, 2.0]), rows=1, source="x")
    assert (found.suspicious, found.tokens) == (True, 2)  # as good as the unigram distribution is not better
    assert found.ppl == found.unigram_ppl == pytest.approx(math.exp(2))
    assert canary.compare_with_unigram(np.asarray([1e4]), np.asarray([2.0]), rows=1, source="x").ppl is None


@pytest.mark.parametrize(("length", "rows"), [(2, 1), (65, 1), (128, 1), (129, 2), (64 * 64 + 1, 64), (100_000, 64)])
def test_rows_are_spread_and_predict_no_token_twice(length, rows):
    stream = np.arange(length)
    found = canary._spread_rows(stream, 64)
    assert len(found) == rows
    targets = np.concatenate([row[1:] for row in found])
    assert len(set(targets)) == len(targets)
    assert targets.max() >= length - 1 - length // rows


@pytest.mark.parametrize("count", [1, 63, 64, 65, 100, 127, 128, 5000])
def test_beginnings_are_spread_over_all_texts(count):
    found = canary.sample_texts([[n] * 100 for n in range(count)], 48)
    taken = [int(row[0]) for row in found.rows]
    assert len(taken) == min(64, count)
    assert {len(row) for row in found.rows} == {49}
    assert taken == sorted(set(taken))
    assert taken[-1] >= count - 1 - count // len(taken)


def test_a_stream_of_one_token_has_nothing_to_say():
    assert canary.run_canary(load_tiny_llama(), canary.sample_stream(np.asarray([5]), 48), source="one") is None


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Random weights, scored; and how it ended."""
    folder = tmp_path_factory.mktemp("noise")
    checkpoint = write_tiny_checkpoint(folder / "ckpts" / "20", 20)
    write_suites(folder, slices={"prose": "the loss falls at every step, " * 40})
    return folder, checkpoint, run_scoring_in_process(make_score_arguments(folder, checkpoint=checkpoint))


def documents(folder):
    return {
        name: json.loads((get_results_folder(folder, 20) / f"{name}.json").read_text())
        for name in ("run", "tier2_ppl", "tier3_cf")
    }


def test_noise_is_scored_and_said_to_be_suspicious(noise):
    folder, _, code = noise
    assert code == 0
    found = documents(folder)
    assert found["run"]["suspicious"] is True
    assert found["run"]["canary"] == found["tier2_ppl"]["canary"] == found["tier3_cf"]["canary"]
    assert found["run"]["canary"]["source"] == "prose"
    assert found["run"]["canary"]["ppl"] > found["run"]["canary"]["unigram_ppl"]
    assert "canary" in found["run"]["timings"]


def test_a_run_that_finds_everything_scored_still_says_so(noise):
    folder, checkpoint, _ = noise
    assert run_scoring_in_process(make_score_arguments(folder, checkpoint=checkpoint)) == 0
    found = documents(folder)
    assert found["run"]["parts"]["scored"] == []
    assert found["run"]["suspicious"] is True
    assert found["tier2_ppl"]["canary"]["suspicious"] is True


def test_the_watcher_says_it_in_its_status(noise):
    folder, _, _ = noise
    suites = tuple(bind_current_data(load_suite(str(folder / name), {}).to_request()) for name in ("ppl.yaml", "cf.yaml"))
    paths = EvaluationPaths(folder / "results" / "stage1", "step_20")
    found = check_results(paths, documents(folder)["run"]["checkpoint"]["fingerprint"], compute_tier_digests(suites))
    assert found.is_valid
    assert found.scores["suspicious"] == 1.0
    row = {
        "evaluation": "stage1/step_20",
        "step": 20,
        "source": "stage1",
        "directory": "step_20",
        "origin": "schedule",
        "state": "scored",
        "reason": "",
        "since": 0.0,
        "scores": found.scores,
    }
    others = [{**row, "evaluation": f"stage1/step_{n}", "scores": {}} for n in range(100, 180)]
    stages = {"stage1": {"checkpoints": "/ckpts", "evaluations": [row, *others]}}
    assert sum("suspicious: no better than predicting" in line for line in render_status_body({"stages": stages}, 10.0)) == 1


def test_tasks_alone_give_rows_too(noise, tmp_path):
    _, checkpoint, _ = noise
    write_suites(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path, checkpoint=checkpoint, suites=("cf.yaml",))) == 0
    found = json.loads((get_results_folder(tmp_path, 20) / "run.json").read_text())
    assert (found["canary"]["source"], found["canary"]["rows"]) == ("ours", 6)


def make_request(**changed):
    named = {"run_id": "r", "stage": "s", "source_stage": "s", "step": 5, "directory": "step_5", "checkpoint": "/c/5"}
    rest = {"fingerprint": "f", "suites": (), "tokenizer": "t", "seq_len": 8, "results": "/r", "eval_data": "/d"}
    return ScoringRequest(**(named | rest | {"canary": "stop", "canary_after": 1000} | changed))


AVERAGE = (AverageMember(step=5, weight=1.0, checkpoint="/c/5", fingerprint="f"),)


@pytest.mark.parametrize(
    ("changed", "tokens_seen", "nll", "stops"),
    [
        ({}, 1000, 3.0, True),
        ({}, 1000, 1e4, True),
        ({}, 1000, 1.0, False),
        ({}, 999, 3.0, False),
        ({}, None, 3.0, False),
        ({"canary": "warn"}, 1000, 3.0, False),
        ({"average": AVERAGE}, 1000, 3.0, False),
        ({"canary_after": 0}, 0, 3.0, True),
    ],
)
def test_broken_weights_end_a_job_after_warm_up_where_the_request_says_so(changed, tokens_seen, nll, stops):
    found = canary.compare_with_unigram(np.asarray([nll]), np.asarray([2.0]), rows=1, source="x")
    with pytest.raises(UserError) if stops else contextlib.nullcontext() as raised:
        canary.refuse_suspicious(found, make_request(**changed), tokens_seen)
    if stops:
        assert raised.value.code == ExitCode.CANNOT_SCORE
        assert "watcher retry s 5 --force" in raised.value.hint


@pytest.mark.parametrize(("asked", "code", "suspicious"), [("stop", 65, True), ("warn", 0, True), ("off", 0, False)])
def test_a_job_ends_before_its_first_part_where_it_is_asked_to_stop(tmp_path, asked, code, suspicious):
    checkpoint = write_tiny_checkpoint(tmp_path / "ckpts" / "20", 20)
    write_suites(tmp_path, slices={"prose": "the loss falls at every step, " * 40})
    request = make_score_request(tmp_path, checkpoint, suites=(str(tmp_path / "ppl.yaml"),))
    path = tmp_path / "request.json"
    path.write_bytes(encode_json(msgspec.structs.replace(request, canary=asked)))
    assert run_scoring_in_process(["score", str(path)]) == code
    run = json.loads((get_results_folder(tmp_path, 20) / "run.json").read_text())
    assert (run["suspicious"], run["canary"] is None, bool(run["parts"]["scored"])) == (suspicious, asked == "off", code == 0)
    if code:
        assert "no better than token frequencies after" in run["reason"]
        assert "--force scores it" in run["hint"]

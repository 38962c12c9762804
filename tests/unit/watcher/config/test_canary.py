"""What the watcher asks of a job whose weights look broken."""

import pytest

from suites.common.errors import UserError
from suites.contract.scoring_request import read_scoring_request
from support.runs.watched_run import make_watched_fixture
from watcher.config.loader import load_config

watched = make_watched_fixture(steps=(100,))


def load(tmp_path, lines):
    stage = "stage1: {checkpoints: c, steps: [100], suites: [stage1_ppl_slices]}"
    path = tmp_path / "watcher.yaml"
    path.write_text(f"results: r\nexecutor: local\n{lines}\nstages: {{{stage}}}\n")
    return load_config(path, {})


@pytest.mark.parametrize(
    ("lines", "canary", "tokens"),
    [
        ("", "stop", 10**9),
        ("canary: off", "off", 10**9),
        ("canary: warn\ncanary_after: 20M", "warn", 20 * 10**6),
        ("canary_after: 0", "stop", 0),
        ("canary_after: 2.5e9", "stop", 2_500_000_000),
    ],
)
def test_the_config_says_when_a_job_stops(tmp_path, lines, canary, tokens):
    config = load(tmp_path, lines)
    assert (config.canary, config.canary_after) == (canary, tokens)


@pytest.mark.parametrize("lines", ["canary: on", "canary: always", "canary_after: soon", "canary_after: -1"])
def test_another_word_is_refused(tmp_path, lines):
    with pytest.raises(UserError, match="canary"):
        load(tmp_path, lines)


def test_a_person_who_forces_a_score_gets_it(watched):
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage1", 200)
    watched.tick(1, jobs=False)
    watched.write_request("enqueue", 200, force=True)
    watched.tick(2, jobs=False)
    paths = watched.config.paths
    requests = [read_scoring_request(paths.attempt(run_id).request) for run_id in watched.run_ids()]
    assert {request.step: request.canary for request in requests} == {100: "stop", 200: "warn"}
    assert {request.canary_after for request in requests} == {10**9}

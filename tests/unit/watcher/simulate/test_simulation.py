"""The daemon for days in seconds: no promise is broken, whatever the seed; and the same seed gives the same run."""

import json

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from support.runs.watched_run import SLICES_SUITE, TASKS_SUITE
from watcher.cli.app import main
from watcher.config.loader import load_config
from watcher.simulate.jobs import ENDING_PROBABILITIES
from watcher.simulate.simulation import run_simulation
from watcher.simulate.summary import count_max_per_minute


@pytest.fixture
def config_file(tmp_path):
    """Two stages and a bridge: seven evaluations, one of each kind."""
    (tmp_path / "slices.yaml").write_text(SLICES_SUITE % 1000)
    (tmp_path / "tasks.yaml").write_text(TASKS_SUITE)
    suites = ["./slices.yaml", "./tasks.yaml"]
    base = {"checkpoints": "base", "steps": [100, 200, 300], "suites": suites}
    tuned = {"checkpoints": "tuned", "every": 50, "to": 150, "suites": suites, "bridge": {"from": "base"}}
    path = tmp_path / "watcher.yaml"
    path.write_text(yaml.safe_dump({"scratch": str(tmp_path), "stages": {"base": base, "tuned": tuned}}))
    return path


def play(config_file, seed, **how):
    return run_simulation(load_config(config_file, {}), {}, days=3, seed=seed, **how)


def holds(result):
    assert result.broken == [], f"seed {result.seed}"
    assert sum(result.evaluations.values()) == 7, f"seed {result.seed}"
    assert set(result.evaluations) <= {"scored", "blocked"}, f"seed {result.seed}: {result.unfinished}"
    looked_at = {"one_live_submission", "every_one_ends", "scored_once", "asks_once", "journal_tells_it_all", "calls_per_minute"}
    assert looked_at <= set(result.checked)


@pytest.mark.parametrize("first", range(0, 50, 25))
def test_three_days_break_no_promise(config_file, first):
    for seed in range(first, first + 10):
        holds(play(config_file, seed))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(50, 1050, 50))
def test_three_days_break_no_promise_over_a_thousand_seeds(config_file, first):
    for seed in range(first, first + 50):
        holds(play(config_file, seed))


def test_the_same_seed_gives_the_same_run_and_another_another(config_file):
    first, again, other = (play(config_file, seed) for seed in (5, 5, 6))
    assert first == again
    assert msgspec.structs.replace(other, seed=5) != first


@pytest.mark.parametrize(
    "seed", [3, 239]
)  # 239: a checkpoint is rewritten while it is scored, in vain, and only the hourly look shows it
def test_polls_that_are_not_made_would_have_changed_nothing(config_file, seed):
    few, every = play(config_file, seed), play(config_file, seed, every_poll=True)
    assert few.checked["status_tells_the_last_tick"] < every.checked["status_tells_the_last_tick"] == every.polls == few.polls
    for name in (
        "evaluations",
        "scores",
        "runs",
        "gpu_hours",
        "calls",
        "failures",
        "latencies",
        "restarts",
        "unfinished",
        "broken",
    ):
        assert getattr(few, name) == getattr(every, name), name


def test_no_child_is_started_in_a_simulation(config_file, monkeypatch):
    monkeypatch.setattr("watcher.daemon.background_process.spawn_session", None)
    assert play(config_file, 1).scores >= 7


def test_every_way_to_fail_is_met_and_survived(config_file):
    wanted, met, seeds = {"exit", "temporary", "node_fail", "preempted", "timeout", "unsure"}, set(), iter(range(15, 60))
    while not wanted <= met:
        met |= set(play(config_file, next(seeds)).failures)
    assert sum(ENDING_PROBABILITIES.values()) < 0.5, "most runs score"


@pytest.mark.slow
def test_ninety_days_of_the_built_in_stages_say_what_they_cost(tmp_path):
    command = ["simulate", "--days", "90", "--seed", "1", "--json"]
    outcome = CliRunner().invoke(main, command, env={"SCRATCH": str(tmp_path), "WATCHER_CONFIG": ""})
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(outcome.stdout)
    assert result["evaluations"] == {"scored": 25}
    assert result["polls"] > 120_000
    assert result["gpu_hours"] > 10
    assert 0 < result["calls_per_minute"]["mean"] < 1 < result["calls_per_minute"]["max"] <= 10
    assert list(tmp_path.iterdir()) == [], "nothing of the config's own folders is touched"


def test_simulate_tells_a_person(config_file):
    outcome = CliRunner().invoke(main, ["simulate", "--days", "2", "--config", str(config_file)])
    assert outcome.exit_code == 0, outcome.output
    for words in ("evaluations: ", "GPU hours", "Slurm commands per minute", "invariants checked", "broken: 0"):
        assert words in outcome.stdout


def test_a_config_without_a_schedule_is_not_simulated(tmp_path):
    path = tmp_path / "watcher.yaml"
    path.write_text(yaml.safe_dump({"scratch": str(tmp_path), "stages": {}}))
    outcome = CliRunner().invoke(main, ["simulate", "--config", str(path)])
    assert outcome.exit_code == 2
    assert outcome.output.count("\n") == 1


def test_the_most_in_a_minute_is_of_any_sixty_seconds():
    assert count_max_per_minute([0, 30, 59, 61, 200]) == 3
    assert count_max_per_minute([]) == 0


def test_averages_break_no_promise_either(config_file):
    document = yaml.safe_load(config_file.read_text())
    document["stages"]["base"]["average"] = {"last": 2, "every": 100}
    config_file.write_text(yaml.safe_dump(document))
    for seed in range(3):
        result = play(config_file, seed)
        assert result.broken == [], f"seed {seed}"
        assert sum(result.evaluations.values()) == 9, f"seed {seed}"


def test_references_are_simulated_without_their_folders_or_the_hub(config_file):
    document = yaml.safe_load(config_file.read_text())
    document["references"] = {"here": "/no/such/model", "hub": {"checkpoint": "hub:acme/small@v1", "stages": "tuned"}}
    config_file.write_text(yaml.safe_dump(document))
    (config_file.parent / "slices.yaml").write_text("tier: tier2_ppl\nslices: {web: {hf_dataset: acme/web}}\n")
    for seed in range(3):
        result = play(config_file, seed)
        assert result.broken == [], f"seed {seed}"
        assert sum(result.evaluations.values()) == 10, f"seed {seed}"
        assert set(result.evaluations) <= {"scored", "blocked"}, f"seed {seed}: {result.unfinished}"

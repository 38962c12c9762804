"""What a stage asks for is read anew when a file moved that it was read from, and not otherwise."""

import pytest

import watcher.observe.stage_plans
from support.runs.watched_run import SLICES_SUITE
from watcher.config.settings import Stage
from watcher.observe.stage_plans import FILES_CHECK_SECONDS, REREAD_SECONDS, StageRequirementsCache

MORE = "tier: tier2_ppl\nextends: %s\nslices:\n  code: {data_files: [/data/code.jsonl]}\n"


@pytest.fixture
def reads(monkeypatch):
    """The names of the suites that were read, in order."""
    real, names = watcher.observe.stage_plans.load_suite, []

    def load_suite(name, environ):
        names.append(name)
        return real(name, environ)

    monkeypatch.setattr(watcher.observe.stage_plans, "load_suite", load_suite)
    return names


@pytest.fixture
def stage(tmp_path):
    (tmp_path / "base.yaml").write_text(SLICES_SUITE % 1000)
    (tmp_path / "more.yaml").write_text(MORE % "base.yaml")
    return Stage(name="s", checkpoints=tmp_path / "ckpts", results=tmp_path, suites=(str(tmp_path / "more.yaml"),))


def test_a_suite_that_is_only_extended_is_seen_to_change(stage, tmp_path):
    plans = StageRequirementsCache({})
    before = plans.get_requirements(stage, 0.0)
    assert plans.get_requirements(stage, FILES_CHECK_SECONDS) is before
    (tmp_path / "base.yaml").write_text(SLICES_SUITE % 2000)
    assert plans.get_requirements(stage, 2 * FILES_CHECK_SECONDS - 1) is before
    after = plans.get_requirements(stage, 2 * FILES_CHECK_SECONDS)
    assert after.tiers != before.tiers
    assert after.tiers["tier2_ppl"][1] == ("web", "code")


def test_a_suite_that_changed_while_it_was_read_is_read_again(stage, tmp_path, monkeypatch):
    real = watcher.observe.stage_plans.load_suite

    def changed_at_once(name, environ):
        loaded = real(name, environ)
        monkeypatch.setattr(watcher.observe.stage_plans, "load_suite", real)
        (tmp_path / "base.yaml").write_text(SLICES_SUITE % 2000)
        return loaded

    monkeypatch.setattr(watcher.observe.stage_plans, "load_suite", changed_at_once)
    plans = StageRequirementsCache({})
    assert plans.get_requirements(stage, 0.0).tiers != plans.get_requirements(stage, FILES_CHECK_SECONDS).tiers


def test_files_that_stay_as_they_are_are_read_once_a_day(stage, reads):
    plans = StageRequirementsCache({})
    plans.get_requirements(stage, 0.0)
    plans.get_requirements(stage, FILES_CHECK_SECONDS)  # what is extended was not known before
    del reads[:]
    for now in range(2 * int(FILES_CHECK_SECONDS), int(REREAD_SECONDS), int(FILES_CHECK_SECONDS)):
        plans.get_requirements(stage, float(now))
    assert reads == []
    plans.get_requirements(stage, REREAD_SECONDS + FILES_CHECK_SECONDS)
    assert len(reads) == 1


def test_a_file_that_is_gone_is_said_and_its_return_is_seen(stage, tmp_path):
    plans, path = StageRequirementsCache({}), tmp_path / "base.yaml"
    before, text = plans.get_requirements(stage, 0.0), path.read_text()
    path.unlink()
    assert "base.yaml" in plans.get_requirements(stage, FILES_CHECK_SECONDS).error
    path.write_text(text)
    assert plans.get_requirements(stage, 2 * FILES_CHECK_SECONDS) == before

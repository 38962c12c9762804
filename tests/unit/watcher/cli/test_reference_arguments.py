"""`reference:NAME` stands for a step in why, logs, retry and cancel."""

import pytest
from click.testing import CliRunner

from suites.contract.paths import StatePaths
from watcher.cli.app import main
from watcher.core import events
from watcher.journal.journal import Journal
from watcher.journal.request_files import read_requests


@pytest.fixture
def run(tmp_path):
    config = tmp_path / "watcher.yaml"
    config.write_text(
        f"results: {tmp_path}/r\nexecutor: local\nreferences: {{small: /m/small}}\n"
        f"stages: {{one: {{checkpoints: {tmp_path}/one, steps: [], suites: [stage1_ppl_slices]}}}}\n"
    )
    journal = Journal.open(StatePaths(tmp_path / "r" / ".watcher"))
    created = events.Created(
        evaluation="one/reference_small",
        stage="one",
        source="reference:small",
        step=0,
        directory="reference_small",
        origin="reference",
        checkpoint="/m/small",
    )
    journal.append(created, t=1.0)
    return lambda *argv: CliRunner().invoke(main, [*argv, "--config", str(config)])


@pytest.mark.parametrize("name", ["reference:small", "reference_small"])
def test_why_names_the_model_and_a_command_that_means_it(run, name):
    ended = run("why", "one", name)
    assert ended.exit_code == 0, ended.output
    assert "one/reference_small is reference:small, a model to compare with; its folder is /m/small." in " ".join(
        ended.output.split()
    )
    ended = run("why", "one", "reference:other")
    assert "The watcher does not know reference:other on the suites of one." in " ".join(ended.output.split())


@pytest.mark.parametrize("name", ["reference:small", "reference_small"])
@pytest.mark.parametrize("kind", ["cancel", "retry"])
def test_a_request_means_the_reference(run, tmp_path, kind, name):
    ended = run(kind, "one", name)
    assert ended.exit_code == 0, ended.output
    assert ended.output.startswith(f"{kind} one: reference:small\n  reference:small: ")
    (request,) = read_requests(StatePaths(tmp_path / "r" / ".watcher"))[0]
    assert (request.kind, request.steps, request.source) == (kind, (0,), "reference:small")


def test_a_reference_stands_alone(run):
    ended = run("cancel", "one", "reference:small", "100")
    assert ended.exit_code == 2
    assert "reference:small: a reference has no steps; give it alone" in ended.output

"""Tokenizers of the hub: fetched at prefill, kept, and refused in one line."""

import os
import re
import socket
import subprocess
import sys

import pytest

from suites.common.errors import ExitCode
from suites.definitions.data_cache import missing_entries
from suites.definitions.suite import load_suite
from suites.definitions.tokenizer_files import read_cached_tokenizer
from support.fakes.hub import make_hub_environment
from support.fakes.hub_datasets import make_one_file, make_texts
from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.runs.prefill_process import ROOT

pytestmark = pytest.mark.scoring


def test_a_tokenizer_of_the_hub_is_kept_and_found_again_without_it(hub, scoring, tmp_path, data):
    files = {path.name: path.read_bytes() for path in BYTE_TOKENIZER.iterdir() if path.is_file()}
    hub.push_commit("acme/bytes", files, kind="models")
    hub.push_commit("acme/some", make_one_file(make_texts("some")))
    suite = tmp_path / "suite.yaml"
    suite.write_text("tier: tier2_ppl\nslices: {web: {hf_dataset: acme/some}}\n")
    wanted = (load_suite(str(suite), {}).to_request(),)
    assert missing_entries(wanted, "acme/bytes", data) == ["tokenizer acme/bytes", "suite/web"]
    given = ("--suite", suite, "--eval-data", data.eval_data, "--tokenizer", "acme/bytes", "--jobs", "1")
    assert scoring("prefill", *given).code == 0
    assert missing_entries(wanted, "acme/bytes", data) == []
    asked = len(hub.requests)
    assert scoring("prefill", *given).code == 0
    assert len(hub.requests) == asked  # what is there asks no network


@pytest.fixture
def fresh(hub, tmp_path, data):
    """Prefill a suite without data in a process of its own: nothing before it has imported anything."""

    def run(tokenizer: str, **variables: str) -> tuple[int, list[str]]:
        environ = {**make_hub_environment(hub, tmp_path / "hf_home", os.environ), **variables}
        arguments = ("prefill", "--suite", "stage4_sft_native", "--eval-data", str(data.eval_data), "--tokenizer", tokenizer)
        command = [sys.executable, "-m", "scoring", *arguments]
        ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240, check=False)
        return ended.returncode, (ended.stdout + ended.stderr).splitlines()

    return run


def test_a_revision_of_a_tokenizer_is_fetched_and_said(hub, fresh, data):
    files = {path.name: path.read_bytes() for path in BYTE_TOKENIZER.iterdir() if path.is_file()}
    first = hub.push_commit("acme/moves", files, kind="models")
    hub.push_commit("acme/moves", {**files, "tokenizer_config.json": b'{"eos_token": "a"}'}, kind="models")
    assert fresh(f"acme/moves@{first}")[0] == 0
    assert fresh("acme/moves")[0] == 0
    old, new = (read_cached_tokenizer(name, data) for name in (f"acme/moves@{first}", "acme/moves"))
    assert (old.revision, old.reading.eos) == (first, None)
    assert (new.revision != first, new.reading.eos.text) == (True, "a")
    code, (line,) = fresh("acme/moves@no-such-branch")
    assert (code, "RevisionNotFoundError" in line) == (ExitCode.DATA_MISSING, True)


def test_a_tokenizer_of_the_hub_is_fetched_by_a_fresh_process(hub, fresh, data):
    files = {path.name: path.read_bytes() for path in BYTE_TOKENIZER.iterdir() if path.is_file()}
    hub.push_commit("acme/fresh", files, kind="models")
    code, (entry, read) = fresh("acme/fresh")
    assert (code, entry.partition(":")[0]) == (0, "stage4_sft_native")
    read_as = "PreTrainedTokenizerFast, ids of tokenizer.json, 256 tokens; BOS none, EOS none, nothing before a text"
    assert read == f"acme/fresh: {read_as}"
    wanted = (load_suite("stage1_ppl_slices", {}).to_request(),)
    assert "tokenizer acme/fresh" not in missing_entries(wanted, "acme/fresh", data)


def test_without_a_network_a_fresh_process_says_in_one_line_where_the_tokenizer_is_fetched(fresh, data):
    with socket.socket() as taken:  # bound and not listening: every connection to it is refused
        taken.bind(("127.0.0.1", 0))
        code, lines = fresh("acme/away", HF_ENDPOINT=f"http://127.0.0.1:{taken.getsockname()[1]}")
    (line,) = lines
    assert code == ExitCode.TEMPORARY
    assert line.startswith("scoring: acme/away: tokenizer cannot be fetched (ConnectError: ")
    command = f"--suite stage4_sft_native --eval-data {data.eval_data} --tokenizer acme/away"
    assert line.endswith(f"; on a machine with a network, run: {sys.executable} -P -m scoring prefill {command}")


def test_a_fresh_process_that_is_told_to_stay_offline_says_so_in_one_line(fresh):
    code, (line,) = fresh("acme/away", HF_HUB_OFFLINE="1")
    assert code == ExitCode.DATA_MISSING
    assert line.startswith("scoring: acme/away: tokenizer is not in the data cache, and this job is offline; on a machine")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (
            "acme/no-such-model",
            r"cannot be fetched \(RepositoryNotFoundError: 401 .*; use a folder or an id of the hub",
        ),
        ("acme/locked-model", r"cannot be fetched \(GatedRepoError: 401 .*; request access at acme/locked-model, then log in"),
        ("acme/no-tokenizer", r"contains no tokenizer; name another tokenizer$"),
    ],
)
def test_a_tokenizer_that_the_hub_does_not_give_is_said_in_one_line(hub, scoring, data, name, complaint):
    hub.push_commit("acme/locked-model", {"tokenizer.json": b"{}"}, kind="models")
    hub.gated.add("acme/locked-model")
    hub.push_commit("acme/no-tokenizer", {"README.md": b"# A model"}, kind="models")
    ended = scoring("prefill", "--suite", "stage4_sft_native", "--eval-data", data.eval_data, "--tokenizer", name)
    (line,) = ended.stderr.splitlines()
    assert ended.code == ExitCode.DATA_MISSING
    assert re.match(rf"scoring: {name}: (tokenizer )?{complaint}", line), line


def test_a_busy_hub_is_asked_for_the_tokenizer_again_too(hub, scoring, data):
    hub.push_commit(
        "acme/busy-model", {path.name: path.read_bytes() for path in BYTE_TOKENIZER.iterdir() if path.is_file()}, kind="models"
    )
    fault = hub.add_fault(r"^/api/models/acme/busy-model/", "503", times=1000, retry_after=0.01)
    given = ("--suite", "stage4_sft_native", "--eval-data", data.eval_data, "--tokenizer", "acme/busy-model")
    ended = scoring("prefill", *given)
    assert ended.code == ExitCode.TEMPORARY, ended.stderr
    (line,) = ended.complaints
    assert line.startswith("scoring: acme/busy-model: tokenizer cannot be fetched (")
    assert fault.hits > 1
    hub.faults.clear()
    assert scoring("prefill", *given).code == 0

"""Prefill against a hub on loopback that huggingface_hub and datasets take for the real one, in good and in bad days."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scoring.data.cache_entries import find_damage
from suites.common.errors import ExitCode
from suites.contract.encoding import encode_json
from suites.contract.scoring_request import ScoringRequest
from suites.definitions.data_cache import missing_entries, read_complete_meta
from suites.definitions.suite import load_suite
from suites.definitions.tokenizer_files import read_cached_tokenizer
from support.fakes.hub import make_hub_environment, serve_hub
from support.fakes.hub_datasets import DATASET_LAYOUT, SentenceGenerator, encode_rows, make_full_hub, make_rows
from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.runs.prefill_process import ROOT, CommandProcess

pytestmark = pytest.mark.scoring

STAGES = [f"stage{n}_{kind}" for n in (1, 2, 3, 4) for kind in ("ppl_slices", "cf_core")]


@pytest.fixture(scope="module")
def hub():
    with serve_hub(make_full_hub(count=120)) as served:
        yield served


@pytest.fixture(scope="module")
def scoring(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("child")
    environ = make_hub_environment(hub, folder / "hf_home", os.environ)
    with CommandProcess(environ, folder) as child:
        yield child


@pytest.fixture(autouse=True)
def a_good_day(hub):
    yield
    hub.faults.clear()
    hub.on_info = None


def texts(seed: str, count: int = 200) -> list[dict]:
    of = SentenceGenerator(seed)
    return [{"text": of.make_text()} for _ in range(count)]


def one_file(rows, path: str = "data/train-00000-of-00001.parquet") -> dict[str, bytes]:
    return {"README.md": b"# A data set\n", path: encode_rows(path, rows)}


@pytest.fixture
def fill(tmp_path, scoring, data):
    """Prefill a suite of one slice."""

    def run(definition: dict, *options: str, tier: str = "tier2_ppl"):
        suite = tmp_path / "suite.yaml"
        section = "slices" if tier == "tier2_ppl" else "tasks"
        suite.write_text(json.dumps({"tier": tier, section: {"web": definition}}))
        given = ("--suite", suite, "--eval-data", data.eval_data, "--tokenizer", BYTE_TOKENIZER, "--jobs", "1")
        return scoring("prefill", *given, *options)

    return run


def complaints(ended) -> list[str]:
    return [line for line in ended.stderr.splitlines() if line.startswith("scoring: ")]


def entries(data, kind: str = "ppl_slices") -> list[Path]:
    """Everything beside and below the entries, hidden or not."""
    return sorted((data.eval_data / kind).glob("*/*"))


def test_every_data_set_of_all_four_stages_is_served_and_filled(hub, scoring, data):
    suites = [load_suite(name, {}).to_request() for name in STAGES]
    named = {definition["hf_dataset"] for suite in suites for definition in suite.definition.values()}
    assert named == set(DATASET_LAYOUT)
    given = [word for name in STAGES for word in ("--suite", name)]
    ended = scoring("prefill", *given, "--eval-data", data.eval_data, "--tokenizer", BYTE_TOKENIZER, "--jobs", "1")
    assert (ended.code, complaints(ended)) == (0, []), ended.stderr
    assert len(ended.stdout.splitlines()) == 14 + 12  # what stages share is made once
    assert missing_entries(tuple(suites), str(BYTE_TOKENIZER), data) == []
    made = entries(data) + entries(data, "cf_tasks")
    assert len(made) == 26
    for folder in made:
        meta = read_complete_meta(folder)
        assert find_damage(folder) == []
        assert meta["source"]["revision"] == hub.repos["datasets", meta["source"]["hf_dataset"]][-1][0]
        assert meta["source"]["streaming"] is True


def test_what_was_filled_is_what_the_rows_say(scoring, data):
    given = ("--suite", "stage3_ppl_slices", "--eval-data", data.eval_data, "--tokenizer", BYTE_TOKENIZER, "--jobs", "1")
    assert scoring("prefill", *given).code == 0
    (folder,) = (data.eval_data / "ppl_slices" / "math_openmathinstruct1").iterdir()
    tokens = bytes(torch.load(folder / "packed_tokens.pt", weights_only=True)["tokens"].tolist()).decode()
    rows = [row for row in make_rows("nvidia/OpenMathInstruct-1", "", "train", 120) if row["is_correct"]]
    assert tokens == "".join(f"{row['question']}\n\n{row['generated_solution']}" for row in rows)
    assert "WRONG" not in tokens


def test_a_busy_hub_is_asked_again_when_it_says(hub, fill, data):
    hub.push_commit("acme/busy", one_file(texts("busy")))
    fault = hub.add_fault(r"^/api/datasets/acme/busy$", "429", times=2, retry_after=0.2)
    ended = fill({"hf_dataset": "acme/busy"})
    assert (ended.code, fault.hits, len(entries(data))) == (0, 2, 1), ended.stderr
    assert ended.stderr.count("the hub is busy (429); next attempt in 0.2 s") == 2


def test_a_hub_that_stays_busy_is_a_reason_to_try_later(hub, fill, data):
    hub.push_commit("acme/swamped", one_file(texts("swamped")))
    hub.add_fault(r"acme/swamped", "429", times=1000, retry_after=0.01, method="*")
    ended = fill({"hf_dataset": "acme/swamped"})
    assert ended.code == ExitCode.TEMPORARY, ended.stderr
    (line,) = complaints(ended)
    assert line.startswith("scoring: acme/swamped: data set cannot be fetched (HfHubHTTPError: ")
    assert line.endswith("try again on a machine with a network")
    assert entries(data) == []


@pytest.mark.parametrize("path", ["data/train-00000-of-00001.parquet", "train.json.gz"])
def test_a_connection_that_drops_in_a_file_is_taken_up_again(hub, fill, data, path):
    name = f"acme/drops-{path.rpartition('.')[2]}"
    rows = texts(name)
    hub.push_commit(name, one_file(rows, path))
    fault = hub.add_fault(rf"{name}/resolve/.*/{path}$", "drop", after=5000, times=1)
    ended = fill({"hf_dataset": name})
    assert (ended.code, fault.hits) == (0, 1), ended.stderr
    (folder,) = entries(data)
    assert read_complete_meta(folder)["bytes"] == sum(len(row["text"]) for row in rows)
    assert find_damage(folder) == []


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_gated_data_set_is_said_in_one_line_and_keeps_no_other_from_being_filled(hub, scoring, tmp_path, data, jobs):
    hub.push_commit("acme/gated", one_file(texts("gated")))
    hub.push_commit("acme/open", one_file(texts("open")))
    hub.gated.add("acme/gated")
    suite = tmp_path / "suite.yaml"
    suite.write_text("tier: tier2_ppl\nslices:\n  a: {hf_dataset: acme/gated}\n  b: {hf_dataset: acme/open}\n")
    given = ("--suite", suite, "--eval-data", data.eval_data, "--tokenizer", BYTE_TOKENIZER, "--jobs", jobs)
    ended = scoring("prefill", *given)
    assert ended.code == ExitCode.DATA_MISSING
    (line,) = complaints(ended)
    assert line.startswith("scoring: acme/gated/train: data set cannot be fetched (DatasetNotFoundError: ")
    assert line.endswith("request access at datasets/acme/gated, then log in: hf auth login")
    assert [folder.parent.name for folder in entries(data)] == ["b"]


@pytest.mark.parametrize(
    ("definition", "complaint"),
    [
        (
            {"hf_dataset": "acme/nowhere"},
            r"acme/nowhere: data set cannot be fetched \(RepositoryNotFoundError: 401 .*check hf_dataset",
        ),
        (
            {"hf_dataset": "allenai/sciq", "split": "validation", "revision": "0123abcd"},
            r"allenai/sciq@0123abcd: data set cannot be fetched \(RevisionNotFoundError: 404 .*revision$",
        ),
        (
            {"hf_dataset": "cais/mmlu", "hf_config": "al"},
            r"cais/mmlu/al/train: data set cannot be fetched \(ValueError: BuilderConfig 'al'",
        ),
        (
            {"hf_dataset": "allenai/sciq", "split": "tst"},
            r"allenai/sciq/tst: data set cannot be fetched \(ValueError: (Bad|Unknown) split",
        ),
    ],
)
def test_what_is_not_on_the_hub_is_said_in_one_line(fill, data, definition, complaint):
    ended = fill(definition)
    assert ended.code == ExitCode.DATA_MISSING, ended.stderr
    (line,) = complaints(ended)
    assert re.search(complaint, line), line
    assert "Traceback" not in ended.stderr
    assert entries(data) == []


def test_a_missing_column_is_named_with_those_that_there_are(fill, data):
    ended = fill({"hf_dataset": "codeparrot/codeparrot-clean", "text_field": "text"})
    assert ended.code == ExitCode.CANNOT_SCORE
    (line,) = complaints(ended)
    assert line.startswith(
        "scoring: codeparrot/codeparrot-clean/train: row 0 has no column 'text'; fix the slice's columns (this row has: "
    )
    assert "content" in line
    assert entries(data) == []


def test_a_split_without_text_is_said(hub, fill, data):
    hub.push_commit("acme/empty", one_file([{"text": ""}] * 3))
    ended = fill({"hf_dataset": "acme/empty"})
    assert (ended.code, complaints(ended)) == (
        ExitCode.CANNOT_SCORE,
        ["scoring: acme/empty/train: contains no text to score; fix its source or columns"],
    )
    assert entries(data) == []


def test_where_streaming_fails_the_whole_data_set_is_fetched_and_that_is_said(hub, fill, data):
    rows = texts("streams")
    hub.push_commit("acme/streams", one_file(rows))
    hub.add_fault(r"acme/streams/resolve/.*\.parquet$", "404", times=1)  # as a proxy that lets no ranges through
    ended = fill({"hf_dataset": "acme/streams"})
    assert ended.code == 0, ended.stderr
    assert "acme/streams/train: streaming failed after 0 rows" in ended.stderr
    assert "fetching the complete data set" in ended.stderr
    (folder,) = entries(data)
    meta = read_complete_meta(folder)
    assert meta["source"]["streaming"].startswith("failed after 0 rows: ")
    assert (meta["documents"], meta["bytes"]) == (len(rows), sum(len(row["text"]) for row in rows))


def test_a_suite_that_does_not_stream_gets_the_same_entry(hub, fill, data):
    hub.push_commit("acme/both", one_file(texts("both")))
    assert fill({"hf_dataset": "acme/both", "streaming": False}).code == 0
    (folder,) = entries(data)
    kept = read_complete_meta(folder)
    assert kept["source"]["streaming"] is False
    assert fill({"hf_dataset": "acme/both"}, "--refresh").code == 0
    assert entries(data) == [folder]
    assert (read_complete_meta(folder)["data_key"], read_complete_meta(folder)["source"]["streaming"]) == (kept["data_key"], True)


def test_a_data_set_that_moves_while_it_is_read_is_read_as_it_was(hub, fill, data):
    old, new = texts("old"), texts("new")
    sha = hub.push_commit("acme/moves", one_file(old))
    moved = []

    def move(name: str) -> None:
        if name == "acme/moves" and not moved:
            moved.append(hub.push_commit("acme/moves", one_file(new)))

    hub.on_info = move
    assert fill({"hf_dataset": "acme/moves"}).code == 0
    (folder,) = entries(data)
    assert moved
    assert read_complete_meta(folder)["source"]["revision"] == sha
    assert read_complete_meta(folder)["bytes"] == sum(len(row["text"]) for row in old)


def test_a_pinned_revision_is_honoured_and_an_unpinned_one_only_moves_with_refresh(hub, fill, data):
    first = hub.push_commit("acme/pinned", one_file(texts("first")))
    second = hub.push_commit("acme/pinned", one_file(texts("second")))
    assert fill({"hf_dataset": "acme/pinned", "revision": first}).code == 0
    (folder,) = entries(data)
    assert read_complete_meta(folder)["source"]["revision"] == first
    assert fill({"hf_dataset": "acme/pinned"}).code == 0
    (unpinned,) = set(entries(data)) - {folder}
    assert read_complete_meta(unpinned)["source"]["revision"] == second
    third = hub.push_commit("acme/pinned", one_file(texts("third")))
    before = read_complete_meta(unpinned)["data_key"]
    assert fill({"hf_dataset": "acme/pinned"}).code == 0
    assert read_complete_meta(unpinned)["source"]["revision"] == second
    assert fill({"hf_dataset": "acme/pinned"}, "--refresh").code == 0
    assert read_complete_meta(unpinned)["source"]["revision"] == third
    assert read_complete_meta(unpinned)["data_key"] != before
    assert find_damage(unpinned) == []


def test_a_job_says_beside_its_request_what_it_could_not_make(hub, scoring, tmp_path, data):
    hub.push_commit("acme/shut", one_file(texts("shut")))
    hub.push_commit("acme/free", one_file(texts("free")))
    hub.gated.add("acme/shut")
    suite = tmp_path / "suite.yaml"
    suite.write_text("tier: tier2_ppl\nslices:\n  a: {hf_dataset: acme/shut}\n  b: {hf_dataset: acme/free}\n")
    head = {"run_id": "r", "stage": "s", "source_stage": "s", "step": 0, "directory": "d", "checkpoint": "", "fingerprint": ""}
    rest = {"tokenizer": str(BYTE_TOKENIZER), "seq_len": 1, "results": str(tmp_path), "eval_data": str(data.eval_data)}
    request = ScoringRequest(**head, **rest, suites=(load_suite(str(suite), {}).to_request(),))
    (tmp_path / "request.json").write_bytes(encode_json(request))
    ended = scoring("prefill", "--request", tmp_path / "request.json", "--jobs", "1")
    run_document = json.loads((tmp_path / "prefill.json").read_text())
    assert (ended.code, run_document["code"], run_document["run_id"]) == (ExitCode.DATA_MISSING, ExitCode.DATA_MISSING, "r")
    assert run_document["reason"] == complaints(ended)[0].removeprefix("scoring: ")
    hub.gated.clear()
    assert scoring("prefill", "--request", tmp_path / "request.json", "--jobs", "1").code == 0
    assert json.loads((tmp_path / "prefill.json").read_text())["reason"] is None


def test_prompts_of_their_own_need_no_network(scoring, data):
    suites = tuple(load_suite(name, {}).to_request() for name in ("stage4_sft_native",))
    assert missing_entries(suites, str(BYTE_TOKENIZER), data) == []
    given = ("--suite", "stage4_sft_native", "--eval-data", data.eval_data, "--tokenizer", BYTE_TOKENIZER)
    assert scoring("prefill", *given).code == 0
    ended = scoring("doctor", "--offline", *given, "--network", "cut off")
    assert (ended.code, ended.stdout) == (0, "1 whole\n")


def test_a_tokenizer_of_the_hub_is_kept_and_found_again_without_it(hub, scoring, tmp_path, data):
    files = {path.name: path.read_bytes() for path in BYTE_TOKENIZER.iterdir() if path.is_file()}
    hub.push_commit("acme/bytes", files, kind="models")
    hub.push_commit("acme/some", one_file(texts("some")))
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
    code, (line,) = fresh("acme/fresh")
    assert (code, line.partition(":")[0]) == (0, "stage4_sft_native")
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
    (line,) = complaints(ended)
    assert line.startswith("scoring: acme/busy-model: tokenizer cannot be fetched (")
    assert fault.hits > 1
    hub.faults.clear()
    assert scoring("prefill", *given).code == 0

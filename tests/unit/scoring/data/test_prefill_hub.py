"""Prefill against a hub on loopback that huggingface_hub and datasets take for the real one, in good and in bad days."""

import json
import re
from pathlib import Path

import pytest
import torch

from scoring.data.cache_entries import find_damage
from suites.common.errors import ExitCode
from suites.contract.encoding import encode_json
from suites.contract.scoring_request import ScoringRequest
from suites.definitions.data_cache import missing_entries, read_complete_meta
from suites.definitions.suite import load_suite
from support.fakes.hub_datasets import DATASET_LAYOUT, make_one_file, make_rows, make_texts
from support.models.nanotron_fixtures import BYTE_TOKENIZER

pytestmark = pytest.mark.scoring

STAGES = [f"stage{n}_{kind}" for n in (1, 2, 3, 4) for kind in ("ppl_slices", "cf_core")]


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


def entries(data, kind: str = "ppl_slices") -> list[Path]:
    """Everything beside and below the entries, hidden or not."""
    return sorted((data.eval_data / kind).glob("*/*"))


def test_every_data_set_of_all_four_stages_is_served_and_filled(hub, scoring_with_children, data):
    suites = [load_suite(name, {}).to_request() for name in STAGES]
    named = {definition["hf_dataset"] for suite in suites for definition in suite.definition.values()}
    assert named == set(DATASET_LAYOUT)
    given = [word for name in STAGES for word in ("--suite", name)]
    ended = scoring_with_children("prefill", *given, "--eval-data", data.eval_data, "--tokenizer", BYTE_TOKENIZER, "--jobs", "1")
    assert (ended.code, ended.complaints) == (0, []), ended.stderr
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
    hub.push_commit("acme/busy", make_one_file(make_texts("busy")))
    fault = hub.add_fault(r"^/api/datasets/acme/busy$", "429", times=2, retry_after=0.2)
    ended = fill({"hf_dataset": "acme/busy"})
    assert (ended.code, fault.hits, len(entries(data))) == (0, 2, 1), ended.stderr
    assert ended.stderr.count("the hub is busy (429); next attempt in 0.2 s") == 2


def test_a_hub_that_stays_busy_is_a_reason_to_try_later(hub, fill, data):
    hub.push_commit("acme/swamped", make_one_file(make_texts("swamped")))
    hub.add_fault(r"acme/swamped", "429", times=1000, retry_after=0.01, method="*")
    ended = fill({"hf_dataset": "acme/swamped"})
    assert ended.code == ExitCode.TEMPORARY, ended.stderr
    (line,) = ended.complaints
    assert line.startswith("scoring: acme/swamped: data set cannot be fetched (HfHubHTTPError: ")
    assert line.endswith("try again on a machine with a network")
    assert entries(data) == []


@pytest.mark.parametrize("path", ["data/train-00000-of-00001.parquet", "train.json.gz"])
def test_a_connection_that_drops_in_a_file_is_taken_up_again(hub, fill, data, path):
    name = f"acme/drops-{path.rpartition('.')[2]}"
    rows = make_texts(name)
    hub.push_commit(name, make_one_file(rows, path))
    fault = hub.add_fault(rf"{name}/resolve/.*/{path}$", "drop", after=5000, times=1)
    ended = fill({"hf_dataset": name})
    assert (ended.code, fault.hits) == (0, 1), ended.stderr
    (folder,) = entries(data)
    assert read_complete_meta(folder)["bytes"] == sum(len(row["text"]) for row in rows)
    assert find_damage(folder) == []


def test_a_gated_data_set_is_said_in_one_line_and_keeps_no_other_from_being_filled(hub, scoring_with_children, tmp_path, data):
    hub.push_commit("acme/gated", make_one_file(make_texts("gated")))
    hub.push_commit("acme/open", make_one_file(make_texts("open")))
    hub.gated.add("acme/gated")
    suite = tmp_path / "suite.yaml"
    suite.write_text("tier: tier2_ppl\nslices:\n  a: {hf_dataset: acme/gated}\n  b: {hf_dataset: acme/open}\n")
    given = ("--suite", suite, "--eval-data", data.eval_data, "--tokenizer", BYTE_TOKENIZER, "--jobs", "2")
    ended = scoring_with_children("prefill", *given)
    assert ended.code == ExitCode.DATA_MISSING
    (line,) = ended.complaints
    assert line.startswith("scoring: acme/gated/train: data set cannot be fetched (DatasetNotFoundError: ")
    assert line.endswith("request access at datasets/acme/gated, then log in: hf auth login")
    assert [folder.parent.name for folder in entries(data)] == ["b"]


def test_a_file_that_crashes_a_library_keeps_no_other_from_being_filled(hub, scoring_with_children, tmp_path, data):
    hub.push_commit("acme/null", {"README.md": b"# A data set\n", "train.jsonl": b"null\n"})  # pyarrow 26 ends with SIGSEGV
    hub.push_commit("acme/free", make_one_file(make_texts("free")))
    suite = tmp_path / "suite.yaml"
    suite.write_text("tier: tier2_ppl\nslices:\n  a: {hf_dataset: acme/null}\n  b: {hf_dataset: acme/free}\n")
    given = ("--suite", suite, "--eval-data", data.eval_data, "--tokenizer", BYTE_TOKENIZER, "--jobs", "2")
    ended = scoring_with_children("prefill", *given)
    assert ended.code in {ExitCode.CANNOT_SCORE, ExitCode.DATA_MISSING}, ended.stderr
    (line,) = ended.complaints
    assert "acme/null" in line
    assert [folder.parent.name for folder in entries(data) if read_complete_meta(folder)] == ["b"]


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
    (line,) = ended.complaints
    assert re.search(complaint, line), line
    assert "Traceback" not in ended.stderr
    assert entries(data) == []


def test_a_missing_column_is_named_with_those_that_there_are(fill, data):
    ended = fill({"hf_dataset": "codeparrot/codeparrot-clean", "text_field": "text"})
    assert ended.code == ExitCode.CANNOT_SCORE
    (line,) = ended.complaints
    assert line.startswith(
        "scoring: codeparrot/codeparrot-clean/train: row 0 has no column 'text'; fix the slice's columns (this row has: "
    )
    assert "content" in line
    assert entries(data) == []


def test_a_split_without_text_is_said(hub, fill, data):
    hub.push_commit("acme/empty", make_one_file([{"text": ""}] * 3))
    ended = fill({"hf_dataset": "acme/empty"})
    assert (ended.code, ended.complaints) == (
        ExitCode.CANNOT_SCORE,
        ["scoring: acme/empty/train: contains no text to score; fix its source or columns"],
    )
    assert entries(data) == []


def test_where_streaming_fails_the_whole_data_set_is_fetched_and_that_is_said(hub, fill, data):
    rows = make_texts("streams")
    hub.push_commit("acme/streams", make_one_file(rows))
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
    hub.push_commit("acme/both", make_one_file(make_texts("both")))
    assert fill({"hf_dataset": "acme/both", "streaming": False}).code == 0
    (folder,) = entries(data)
    kept = read_complete_meta(folder)
    assert kept["source"]["streaming"] is False
    assert fill({"hf_dataset": "acme/both"}, "--refresh").code == 0
    assert entries(data) == [folder]
    assert (read_complete_meta(folder)["data_key"], read_complete_meta(folder)["source"]["streaming"]) == (kept["data_key"], True)


def test_a_data_set_that_moves_while_it_is_read_is_read_as_it_was(hub, fill, data):
    old, new = make_texts("old"), make_texts("new")
    sha = hub.push_commit("acme/moves", make_one_file(old))
    moved = []

    def move(name: str) -> None:
        if name == "acme/moves" and not moved:
            moved.append(hub.push_commit("acme/moves", make_one_file(new)))

    hub.on_info = move
    assert fill({"hf_dataset": "acme/moves"}).code == 0
    (folder,) = entries(data)
    assert moved
    assert read_complete_meta(folder)["source"]["revision"] == sha
    assert read_complete_meta(folder)["bytes"] == sum(len(row["text"]) for row in old)


def test_a_pinned_revision_is_honoured_and_an_unpinned_one_only_moves_with_refresh(hub, fill, data):
    first = hub.push_commit("acme/pinned", make_one_file(make_texts("first")))
    second = hub.push_commit("acme/pinned", make_one_file(make_texts("second")))
    assert fill({"hf_dataset": "acme/pinned", "revision": first}).code == 0
    (folder,) = entries(data)
    assert read_complete_meta(folder)["source"]["revision"] == first
    assert fill({"hf_dataset": "acme/pinned"}).code == 0
    (unpinned,) = set(entries(data)) - {folder}
    assert read_complete_meta(unpinned)["source"]["revision"] == second
    third = hub.push_commit("acme/pinned", make_one_file(make_texts("third")))
    before = read_complete_meta(unpinned)["data_key"]
    assert fill({"hf_dataset": "acme/pinned"}).code == 0
    assert read_complete_meta(unpinned)["source"]["revision"] == second
    assert fill({"hf_dataset": "acme/pinned"}, "--refresh").code == 0
    assert read_complete_meta(unpinned)["source"]["revision"] == third
    assert read_complete_meta(unpinned)["data_key"] != before
    assert find_damage(unpinned) == []


def test_a_job_says_beside_its_request_what_it_could_not_make(hub, scoring, tmp_path, data):
    hub.push_commit("acme/shut", make_one_file(make_texts("shut")))
    hub.push_commit("acme/free", make_one_file(make_texts("free")))
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
    assert run_document["reason"] == ended.complaints[0].removeprefix("scoring: ")
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

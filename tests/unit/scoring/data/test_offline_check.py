"""doctor --offline names every file that a job without a network would miss, and changes nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scoring.cli.app import scoring_cli
from scoring.data.cache import ensure_entry
from scoring.data.tokenizer_cache import resolve_tokenizer
from scoring.runtime.network_namespace import NETWORK_CUT_OFF, run_in_empty_network
from suites.common.errors import ExitCode, UserError
from suites.definitions.suite import load_suite
from suites.definitions.tokenizer_files import read_tokenizer_files, store_tokenizer
from support.models.nanotron_fixtures import BYTE_TOKENIZER

pytestmark = pytest.mark.scoring


@pytest.fixture
def local(tmp_path):
    """A slice and a task over local files."""
    (tmp_path / "texts.jsonl").write_text('{"text": "some text"}\n')
    (tmp_path / "items.jsonl").write_text('{"context": "one", "choices": ["two", "three"], "gold": 0}\n')
    (tmp_path / "ppl.yaml").write_text("tier: tier2_ppl\nslices: {web: {data_files: [texts.jsonl]}}\n")
    (tmp_path / "cf.yaml").write_text("tier: tier3_cf\ntasks: {ours: {data_files: [items.jsonl], adapter: multiple_choice}}\n")
    return [tmp_path / "ppl.yaml", tmp_path / "cf.yaml"]


def doctor(data, suites, *more, tokenizer=BYTE_TOKENIZER, capfd):
    """(exit code, document)."""
    given = [str(word) for suite in suites for word in ("--suite", suite)]
    given += ["--eval-data", str(data.eval_data), "--tokenizer", str(tokenizer), "--network", NETWORK_CUT_OFF, "--json", *more]
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.setenv(name, "1")  # it sets them for good: here they are put back
        with pytest.raises(SystemExit) as ended:
            scoring_cli(["doctor", "--offline", *given], standalone_mode=False)
    out, err = capfd.readouterr()
    assert out, err
    return ended.value.code, json.loads(out)


def states(document):
    return {entry["name"]: (entry["state"], entry["problems"]) for entry in document["entries"]}


def files_of(folder: Path):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")} if folder.exists() else {}


def test_local_files_are_made_by_the_job_and_the_cache_stays_as_it_was(tmp_path, data, local, capfd):
    before = files_of(tmp_path)
    code, document = doctor(data, local, capfd=capfd)
    assert (code, states(document)) == (0, {"web": ("made by the job", []), "ours": ("made by the job", [])})
    assert (document["whole"], document["network"], document["tokenizer"]["problems"]) == (True, "cut off", [])
    assert files_of(tmp_path) == before


def test_local_files_that_are_gone_or_not_what_the_suite_says_are_named(tmp_path, data, local, capfd):
    (tmp_path / "texts.jsonl").unlink()
    (tmp_path / "items.jsonl").write_text('{"question": "?"}\n')
    code, document = doctor(data, local, capfd=capfd)
    assert (code, document["whole"]) == (ExitCode.DATA_MISSING, False)
    web, ours = (states(document)[name] for name in ("web", "ours"))
    assert web == ("unusable", [f"{tmp_path / 'texts.jsonl'}: no such file"])
    assert ours[0] == "unusable"
    assert f"{tmp_path / 'items.jsonl'}" in ours[1][0]


def test_a_changed_byte_is_named_and_a_lost_file_of_ours_made_again(data, local, capfd):
    tokenizer = resolve_tokenizer(str(BYTE_TOKENIZER), data)
    web, ours = (
        ensure_entry(suite.tier, name, definition, tokenizer=tokenizer, data=data, offline=True)
        for suite in (load_suite(str(path), {}) for path in local)
        for name, definition in suite.definition.items()
    )
    code, document = doctor(data, local, capfd=capfd)
    assert (code, {state for state, _ in states(document).values()}) == (0, {"whole"})
    tokens = web.folder / "packed_tokens.pt"
    raw = bytearray(tokens.read_bytes())
    raw[-1] ^= 1
    tokens.write_bytes(raw)
    (ours.folder / "requests.pt").unlink()
    code, document = doctor(data, local, capfd=capfd)
    assert (code, states(document)) == (
        ExitCode.DATA_MISSING,
        {"web": ("damaged", [f"{tokens}: its sha256 differs from meta.json"]), "ours": ("made by the job", [])},
    )


def test_any_file_of_a_tokenizer_is_missed(data, tmp_path, capfd):
    (tmp_path / "ppl.yaml").write_text("tier: tier2_ppl\nslices: {web: {hf_dataset: acme/web}}\n")
    resolved = resolve_tokenizer(str(BYTE_TOKENIZER), data).resolved
    digest = resolved.digest
    store_tokenizer(resolved, read_tokenizer_files(BYTE_TOKENIZER), None, "acme/bytes", data, use_fast=True)
    code, document = doctor(data, [tmp_path / "ppl.yaml"], tokenizer="acme/bytes", capfd=capfd)
    assert (code, document["tokenizer"]) == (ExitCode.DATA_MISSING, {"id": "acme/bytes", "digest": digest, "problems": []})
    (state, (problem,)) = states(document)["web"]
    assert (state, problem.endswith(": does not exist")) == ("missing", True)
    pointer = data.tokenizer_pointer("acme/bytes")
    for file in (*data.tokenizer(digest).iterdir(), pointer):
        kept = file.read_bytes()
        file.unlink()
        code, document = doctor(data, [tmp_path / "ppl.yaml"], tokenizer="acme/bytes", capfd=capfd)
        (problem,) = document["tokenizer"]["problems"]
        assert (code, document["tokenizer"]["digest"]) == (ExitCode.DATA_MISSING, None)
        expected = "missing" if file == pointer else "a file of the copy that it points to is missing or changed"
        assert problem == f"{pointer}: {expected}"
        with pytest.raises(UserError) as caught:  # what a job would say
            resolve_tokenizer("acme/bytes", data, offline=True, suites=[str(tmp_path / "ppl.yaml")])
        assert (caught.value.code, caught.value.hint.partition(" run: ")[2]) == (ExitCode.DATA_MISSING, document["prefill"])
        file.write_bytes(kept)


def test_where_the_network_cannot_be_cut_off_it_is_said(monkeypatch):
    monkeypatch.setattr(
        "scoring.runtime.network_namespace._UNSHARE_COMMANDS", ((sys.executable, "-c", "import sys; sys.exit('not permitted')"),)
    )
    assert run_in_empty_network(["doctor"]) == (None, "not cut off: not permitted")
    monkeypatch.setattr("scoring.runtime.network_namespace._UNSHARE_COMMANDS", (("no-such-command",),))
    assert run_in_empty_network(["doctor"]) == (None, "not cut off: there is no `unshare`")


def test_it_goes_where_there_is_no_network(data, local):
    given = [str(word) for suite in local for word in ("--suite", suite)]
    given += ["--eval-data", str(data.eval_data), "--tokenizer", str(BYTE_TOKENIZER)]
    code, reason = run_in_empty_network(["--help"])
    if code is None:
        pytest.skip(reason)
    ended = subprocess.run(
        [sys.executable, "-m", "scoring", "doctor", "--offline", *given], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "2 made by the job\n"), ended.stderr

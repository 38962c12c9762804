"""Answers that mean harm, from the job's own files to everybody who shows them: terminal, programs, page."""

import csv
import io
import json
import re
import unicodedata

import pytest
import yaml
from click.testing import CliRunner

from scoring.inference.generation import GenerationResult
from scoring.tiers import instructions
from scoring.tokenizers.tokenizer import valid_utf8
from suites.common.errors import ExitCode
from support import browser
from support.models.tiny_llama_items import LLAMA_CHECKPOINT
from support.runs.scoring_jobs import get_results_folder, make_score_arguments, run_scoring_in_process
from watcher.cli.app import main

pytestmark = pytest.mark.scoring

HOSTILE = {
    "html": "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>&amp;<!--",
    "ansi": "\x1b[2J\x1b]0;owned\x07\x9b31m red\r\n\u202eback\u2028",
    "megabyte": "a" * 1_000_000,
    "halves": valid_utf8("one \ud800 two \udfff three \ud83d\ude00"),
}
CHECK = "{check: includes, phrases: [one]}"
EXCLUDED = {"\u202e", "\u2028", "\ud800"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(config, results of the step) of a stage whose one checkpoint answered like this."""

    def generate(_model, requests, *, shape, decode, on_batch):
        del shape, decode
        on_batch(len(requests))
        return [GenerationResult(tokens=[1], text=text, finish="stop_token", near_ties=0) for text in HOSTILE.values()]

    monkeypatch.setattr(instructions, "generate_answers", generate)
    prompts = "".join(
        f"  {name}: {{category: safety, messages: [{{role: user, content: x}}], checks: [{CHECK}]}}\n" for name in HOSTILE
    )
    template = "defaults: {chat_template: '{{ messages[-1].content }}'}\n"
    (tmp_path / "sft.yaml").write_text(f"tier: tier4_sft_native\n{template}prompts:\n{prompts}")
    config = {
        "scratch": str(tmp_path),
        "results": str(tmp_path / "results"),
        "executor": "local",
        "report": {"page": False, "compare": False},
        "stages": {
            "stage1": {"checkpoints": str(LLAMA_CHECKPOINT.parent), "steps": [60], "suites": [str(tmp_path / "sft.yaml")]}
        },
    }
    (tmp_path / "watcher.yaml").write_text(yaml.safe_dump(config))
    assert run_scoring_in_process(make_score_arguments(tmp_path, suites=("sft.yaml",))) == ExitCode.SCORED
    return tmp_path / "watcher.yaml", get_results_folder(tmp_path)


def said(*words):
    found = CliRunner(env={"COLUMNS": "150"}).invoke(main, [str(word) for word in words])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.output


def test_they_are_whole_in_the_files_and_nothing_of_them_reaches_a_terminal(run):
    config, folder = run
    raw = (folder / "tier4_sft_native_generations.jsonl").read_bytes()
    assert set(raw) <= {10, *range(32, 127)}
    assert [json.loads(line)["answer"] for line in raw.splitlines()] == list(HOSTILE.values())
    tier = json.loads((folder / "tier4_sft_native.json").read_bytes())
    assert [tier["prompts"][name]["passed"] for name in HOSTILE] == [False, False, False, True]
    shown = [
        said(*words, "--config", config)
        for words in (("report",), ("report", "stage1", "60"), ("report", "--details"), ("report", "--csv"), ("status",))
    ]
    shown.append(said("why", "stage1", "60", "--config", config))
    for text in shown:
        assert text.strip()
        assert not [c for c in text if (unicodedata.category(c) == "Cc" and c != "\n") or c in EXCLUDED]
        assert len(text) < 100_000
    document = json.loads(said("report", "--json", "--config", config))
    assert document["stages"][0]["evaluations"][0]["state"] == "on disk"
    assert list(csv.DictReader(io.StringIO(shown[3])))


def test_the_page_shows_them_as_text_and_runs_none_of_them(run, tmp_path):
    config, _ = run
    page = tmp_path / "report.html"
    said("report", "--html", page, "--config", config)
    text = page.read_text(encoding="utf-8")
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1]
    assert data.isascii()
    assert not set(data) & set("<>&\x1b")
    assert page.stat().st_size < 600_000
    assert len(json.loads(data)["answers"]["stage1"]["prompts"]) == len(HOSTILE)
    if browser.find_missing_requirement():
        pytest.skip(browser.find_missing_requirement())
    window = browser.ChromiumBrowser()
    try:
        window.open_file(page)
        window.run("document.querySelectorAll('details').forEach(each => { each.open = true; });")
        assert window.run("return window.broken ?? null") is None
        assert window.run("return document.querySelectorAll('script').length") == 3
        assert window.run("return document.querySelectorAll('img').length") == 0
        shown = window.run("return document.querySelector('#answers').innerText")
        assert "<img src=x onerror=" in shown
        assert "one \ufffd two \ufffd three" in shown
        assert "998800 more characters" in shown.replace(",", "").replace("\u202f", "")
        console, _ = window.take_console_and_requests()
        assert console == []
    finally:
        window.close()

"""The demo's parts, quickly; and, among the slow tests, the whole of it, interrupted on the way."""

import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer

from demo import corpus, run, show, train
from scoring.compare.effects import MIN_CLUSTERS
from suites.checkpoint.completeness import Completeness, inspect_checkpoint
from suites.checkpoint.layout import CheckpointLayout, list_steps
from suites.definitions.suite import load_suite
from support.samples.report import ReportSample
from watcher.config.loader import check_config, load_config

pytestmark = pytest.mark.scoring


@pytest.fixture(scope="module")
def documents():
    return corpus.collect_documents()


def test_no_held_out_document_is_trained_on(documents):
    training, heldout = corpus.split_documents(documents)
    trained = {name for kind in corpus.DOCUMENT_KINDS for name, _ in training[kind]}
    held = {name for kind in corpus.DOCUMENT_KINDS for name, _ in heldout[kind]}
    assert held
    assert not trained & held
    paragraphs = {p for _, text in heldout["prose"] for p in text.split("\n\n")}
    assert not any(p in paragraphs for _, text in training["prose"] for p in text.split("\n\n"))


def test_every_slice_has_enough_documents_for_a_verdict(documents):
    _, heldout = corpus.split_documents(documents)
    tokenizer = corpus.train_tokenizer([text for entries in heldout.values() for _, text in entries])
    for entries in heldout.values():
        token_counts = [len(tokenizer.encode(row["text"]).ids) for row in corpus.list_excerpts(entries)]
        # The suites take documents until they have 8000 tokens.
        assert sum(token_counts[:MIN_CLUSTERS]) < 8000
        assert len(token_counts) >= MIN_CLUSTERS


def test_its_config_can_be_used_without_the_demo_s_environment(tmp_path):
    folder = tmp_path / 'a folder "y"'
    folder.mkdir()
    loaded = check_config(run.write_config(folder, "local"), {})
    for stage in loaded.stages.values():
        for source in stage.suites:
            definition = load_suite(source, {}, base=folder).definition
            assert {Path(file).parent for entry in definition.values() for file in entry["data_files"]} == {folder / "data"}


def test_the_gold_choice_is_what_the_document_says(documents):
    _, heldout = corpus.split_documents(documents)
    for kind in ("prose", "code"):
        texts = [text for _, text in heldout[kind]]
        items = list(corpus.make_cloze_items(heldout[kind]))
        assert len(items) == corpus.ITEM_COUNT
        for item in items:
            choices = item["choices"]
            assert len(set(choices)) == corpus.CHOICE_COUNT
            assert len({tuple(sorted(choice.split(" "))) for choice in choices}) == 1
            said = f"{item['context']} {choices[item['gold']]}"
            assert any(said in text for text in texts)


def test_the_tokenizer_says_bos_once_and_loses_nothing(tmp_path):
    tokenizer = corpus.train_tokenizer(["def f(x):\n    return x\n", "Some text, and some more text. é"] * 30)
    corpus.save_tokenizer(tokenizer, tmp_path)
    loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = loaded.encode("    return é\n").ids
    assert ids.count(loaded.token_to_id(corpus.BOS)) == 1
    assert loaded.decode(ids) == "    return é\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A corpus of noise, and a run of fifteen steps."""
    monkeypatch.setattr(train, "SAVE_INTERVAL_STEPS", 5)
    monkeypatch.setattr(train, "STAGES", {"stage1": 10, "stage2": 15})
    (tmp_path / "train").mkdir()
    rng = np.random.default_rng(0)
    for kind in corpus.DOCUMENT_KINDS:
        np.save(tmp_path / "train" / f"{kind}.npy", rng.integers(0, corpus.VOCAB_SIZE, 2000, dtype=np.int32))
    return tmp_path


def weights(folder):
    trainer = train.Trainer(folder)
    trainer.restore_training_state()
    return trainer.step, trainer.model.state_dict()


def test_training_cut_short_between_its_state_and_its_checkpoint_ends_with_the_same_weights(folder, capsys):
    train.main(folder)
    step, whole = weights(folder)
    assert step == 15
    assert [json.loads(line).get("saved") for line in capsys.readouterr().out.splitlines()].count(None) == 2
    for path in (folder / "ckpts").rglob("*"):
        path.touch()
    (folder / "train" / "state.safetensors").unlink()

    cut = train.Trainer(folder)
    for _ in range(5):
        cut.train_step()
    cut.save_training_state()
    torn = folder / "ckpts" / "stage1" / "5" / "model_config.json"
    torn.write_bytes(b"")
    train.main(folder)
    _, again = weights(folder)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert torn.stat().st_size


def test_its_checkpoints_are_whole_and_steps_go_on_counting_across_stages(folder):
    train.main(folder)
    listed = {stage: list_steps(folder / "ckpts" / stage, CheckpointLayout()).steps for stage in train.STAGES}
    assert {stage: list(steps) for stage, steps in listed.items()} == {"stage1": [5, 10], "stage2": [15]}
    for stage, step in (("stage1", 5), ("stage1", 10), ("stage2", 15)):
        seen = inspect_checkpoint(folder / "ckpts" / stage / str(step), now=time.time() + 60, settle_seconds=1.0)
        assert seen.kind is Completeness.COMPLETE, seen.reason
        assert (seen.step, seen.seq_len, seen.tokenizer) == (step, train.SEQ_LEN, str(folder / "tokenizer"))
        assert seen.tokens_seen == step * 4 * train.SEQ_LEN


def published(results: Path, expected: show.ExpectedEvaluation, ppl: float, acc: float) -> None:
    folder = results / expected.stage / "by_checkpoint" / f"step_{expected.step}"
    folder.mkdir(parents=True)
    tier2 = {"slices": {"prose": {"ppl": ppl}}, "summary": {"ppl": ppl}}
    tier3 = {"tasks": {"order": {"primary": acc}}, "summary": {"primary": acc}}
    (folder / "tier2_ppl.json").write_text(json.dumps(tier2))
    (folder / "tier3_cf.json").write_text(json.dumps(tier3))


def test_the_table_has_every_expected_evaluation_and_says_which_is_the_bridge(tmp_path):
    board = show.ProgressBoard(run.EXPECTED, Console(width=150))
    for number, expected in enumerate(run.EXPECTED):
        published(tmp_path, expected, 900.0 - number, 0.25 + number / 100)
        board.scores[expected.name] = show.read_scores(tmp_path, expected)
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(board.render_table())
    text = console.export_text()
    assert "stage1 600 (bridge)" in text
    assert all(f" {expected.source} {expected.step}" in text for expected in run.EXPECTED)
    assert "perplexity 900.0 to 897.0, accuracy 0.250 to 0.280" in run.summarize_scores(board)


def test_a_last_checkpoint_that_is_no_better_is_a_failure(tmp_path):
    board = show.ProgressBoard(run.EXPECTED, Console())
    for expected in run.EXPECTED:
        published(tmp_path, expected, 900.0, 0.25)
        board.scores[expected.name] = show.read_scores(tmp_path, expected)
    with pytest.raises(run.DemoFailed, match="should beat the first on both"):
        run.summarize_scores(board)


class Ended:
    """A watcher's process that ended with ``code``, or runs where that is None."""

    def __init__(self, code):
        self.process, self.log = self, Path("watcher.log")
        self.poll = lambda: code

    def read_log_tail(self):
        return "watcher ended"


def test_a_report_that_does_not_come_is_one_line_and_the_wait_for_it_is_bounded(tmp_path, monkeypatch):
    config = load_config(run.write_config(tmp_path, "local"), {})
    monkeypatch.setattr(run, "describe_missing_report", lambda _: "the comparison of stage2/step_900")
    with pytest.raises(run.DemoFailed) as caught:
        run.wait_for_report(config, Ended(None), seconds=0)
    log = tmp_path / "results" / ".watcher" / "children.log"
    words = f"all is scored, but the comparison of stage2/step_900 was not made within 0 s; see {log} and watcher.log"
    assert str(caught.value) == words
    with pytest.raises(run.DemoFailed, match="watcher ended"):
        run.wait_for_report(config, Ended(1))


def test_what_is_still_to_be_made_of_the_scores_is_a_comparison_and_then_a_newer_page(tmp_path):
    sample = ReportSample(tmp_path).write_sample()
    page, newest = sample.results / "report.html", sample.get_paths("stage4", 5000).compare_json
    assert run.describe_missing_report(sample.config) == f"a newer {page}"
    page.touch()
    assert run.describe_missing_report(sample.config) == ""
    document = newest.read_bytes()
    newest.unlink()
    assert run.describe_missing_report(sample.config) == "the comparison of stage4/step_5000"
    newest.write_bytes(document)
    assert run.describe_missing_report(sample.config) == f"a newer {page}"
    newest.write_bytes(document.replace(b'"fingerprint": "', b'"fingerprint": "of-another-content-'))
    assert run.describe_missing_report(sample.config) == "the comparison of stage4/step_5000"


@pytest.mark.slow
def test_the_demo_interrupted_in_the_middle_goes_on_when_it_is_run_again(tmp_path):
    command = [sys.executable, run.__file__, "--folder", str(tmp_path)]
    environ = run.make_process_environment(tmp_path, {})
    began = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, start_new_session=True)
    saved = tmp_path / "ckpts" / "stage1" / "200" / "model_config.json"
    end = time.monotonic() + 240
    while not saved.exists() and began.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    began.send_signal(signal.SIGINT)
    assert began.wait(60) == 130
    first = saved.stat().st_mtime_ns
    again = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "stage1 600 (bridge)" in again.stdout
    assert saved.stat().st_mtime_ns == first
    newest = tmp_path / "results" / "stage2" / "by_checkpoint" / "step_900" / "compare.json"
    page = tmp_path / "results" / "report.html"
    assert json.loads(newest.read_text())["candidate"]["step"] == 900
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)[1])
    stage = next(stage for stage in data["stages"] if stage["name"] == "stage2")
    last = [each["step"] for each in stage["evaluations"]].index(900)
    assert stage["changes"]["bridge"][last]
    assert page.stat().st_mtime_ns > newest.stat().st_mtime_ns
    assert f"  {page}  (" in again.stdout

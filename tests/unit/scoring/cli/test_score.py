import errno
import json
import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from suites.common.errors import ExitCode, UserError
from suites.contract.encoding import encode_json
from suites.contract.scoring_request import compute_tier_digests
from suites.contract.tier_files import check_tier_file
from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.models.tiny_llama_items import LLAMA_CHECKPOINT, REFERENCE_FOLDER, load_reference_tokens
from support.runs.scoring_jobs import (
    REPOSITORY_ROOT,
    get_results_folder,
    make_score_arguments,
    make_score_request,
    run_scoring_in_process,
    write_suites,
)

pytestmark = pytest.mark.scoring


def run_json(folder):
    return json.loads((get_results_folder(folder) / "run.json").read_text())


def copy_checkpoint(folder):
    return shutil.copytree(LLAMA_CHECKPOINT, folder / "ckpts" / "60", copy_function=shutil.copy2)


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_by_hand_in_a_process_of_its_own_gives_nanotrons_sums_and_never_imports_datasets(tmp_path):
    rows = [bytes(row.tolist()).decode("ascii") for row in load_reference_tokens()]
    write_suites(tmp_path, slices={f"row{n}": row for n, row in enumerate(rows)})
    script = (
        "import sys\nfrom scoring.cli.app import scoring_cli\n"
        "try:\n    scoring_cli()\nexcept SystemExit as end:\n"
        "    sys.exit(99 if 'datasets' in sys.modules or 'watcher' in sys.modules else end.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *make_score_arguments(tmp_path)],
        cwd=REPOSITORY_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    document = json.loads((get_results_folder(tmp_path) / "tier2_ppl.json").read_text())
    expected = json.loads((REFERENCE_FOLDER / "reference.json").read_text())["sum_logprob_per_row"]
    for n, logprob in enumerate(expected):
        assert document["slices"][f"row{n}"]["nll_sum"] == pytest.approx(-logprob, abs=2e-3)
        assert document["slices"][f"row{n}"]["tokens"] == 47
    assert document["summary"]["nll_per_token"] == pytest.approx(-sum(expected) / 94, abs=1e-4)
    request = make_score_request(tmp_path)
    for tier, (digest, names) in compute_tier_digests(request.suites).items():
        path = request.paths.tier_json(tier)
        verdict = check_tier_file(path, tier=tier, fingerprint=request.fingerprint, suite_digest=digest, names=names)
        assert verdict.kind == "valid", verdict
    assert pq.read_table(get_results_folder(tmp_path) / "items" / "ours.parquet").num_rows == 6
    provenance = run_json(tmp_path)
    assert provenance["outcome"] == "scored"
    assert provenance["parts"] == {"scored": ["row0", "row1", "ours[0:6]"], "reused": []}
    assert provenance["versions"]["torch"]
    assert provenance["throughput"]["tokens_per_s"] > 0


def test_a_request_is_scored_and_its_head_says_what_was_asked(tmp_path):
    write_suites(tmp_path)
    request = make_score_request(tmp_path)
    path = tmp_path / "request.json"
    path.write_bytes(encode_json(request))
    assert run_scoring_in_process(["score", str(path)]) == ExitCode.SCORED
    document = json.loads((get_results_folder(tmp_path) / "tier3_cf.json").read_text())
    assert {key: document[key] for key in ("schema", "tier", "stage", "step", "dtype", "seq_len", "backend")} == {
        "schema": 1,
        "tier": "tier3_cf",
        "stage": "stage1",
        "step": 60,
        "dtype": "float32",
        "seq_len": 64,
        "backend": "direct",
    }
    assert document["checkpoint"] == {
        "path": str(LLAMA_CHECKPOINT),
        "source_stage": "llama_gqa_tp1",
        "fingerprint": request.fingerprint,
        "tokens_seen": 30720,
    }
    assert document["suite_digest"] == request.suites[1].digest
    assert document["tokenizer"]["id"] == request.tokenizer
    assert document["summary"]["tasks"] == 1
    progress = json.loads((get_results_folder(tmp_path) / "progress.json").read_text())
    assert (progress["parts_done"], progress["parts"]) == (3, 3)


def test_a_checkpoint_that_changed_since_it_was_judged_is_not_scored(tmp_path, capsys):
    write_suites(tmp_path)
    checkpoint = copy_checkpoint(tmp_path)
    path = tmp_path / "request.json"
    path.write_bytes(encode_json(make_score_request(tmp_path, checkpoint)))
    os.utime(checkpoint / "model_config.json", (1, 1))
    assert run_scoring_in_process(["score", str(path)]) == ExitCode.CHANGED
    assert "changed since it was judged complete" in last_line(capsys)
    assert "changed" in run_json(tmp_path)["reason"]
    assert not (get_results_folder(tmp_path) / "tier2_ppl.json").exists()
    shutil.rmtree(checkpoint)
    assert run_scoring_in_process(["score", str(path)]) == ExitCode.CHANGED


def test_a_checkpoint_that_changes_while_it_is_scored_is_not_published(tmp_path, monkeypatch):
    from scoring.tiers import cloze_metric as choice  # noqa: PLC0415  the last thing that is scored

    write_suites(tmp_path)
    checkpoint = copy_checkpoint(tmp_path)
    whole = choice.score_items

    def rewritten(*args, **more):
        os.utime(checkpoint / "config.yaml", (1, 1))
        return whole(*args, **more)

    monkeypatch.setattr(choice, "score_items", rewritten)
    assert run_scoring_in_process(make_score_arguments(tmp_path, checkpoint=checkpoint)) == ExitCode.CHANGED
    assert not list(get_results_folder(tmp_path).glob("tier*.json"))


def nan_weights(folder):
    import safetensors.torch  # noqa: PLC0415  only here

    checkpoint = copy_checkpoint(folder)
    file = next((checkpoint / "model" / "model" / "lm_head").rglob("*.safetensors"))
    raw = file.read_bytes()
    file.write_bytes(raw[:-4] + b"\x00\x00\xc0\x7f")  # the last float32
    assert safetensors.torch.load(file.read_bytes())["data"].isnan().any()
    return checkpoint


def truncated_shard(folder):
    checkpoint = copy_checkpoint(folder)
    file = next((checkpoint / "model" / "model" / "lm_head").rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    return checkpoint


@pytest.mark.parametrize(
    ("break_it", "words"),
    [(nan_weights, "lm_head.pp_block.weight has values that are not finite"), (truncated_shard, "truncated shard")],
)
def test_a_checkpoint_that_cannot_be_scored_is_one_clear_line(tmp_path, capsys, break_it, words):
    write_suites(tmp_path)
    checkpoint = break_it(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path, checkpoint=checkpoint)) == ExitCode.CANNOT_SCORE
    line = last_line(capsys)
    assert line.startswith(f"scoring: {checkpoint}: ")
    assert words in line


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path, capsys):
    write_suites(tmp_path)
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(BYTE_TOKENIZER, tokenizer)
    document = json.loads((tokenizer / "tokenizer.json").read_text())
    document["added_tokens"] = [
        {
            "id": 600,
            "content": "<x>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ]
    document["model"]["vocab"]["<x>"] = 600
    (tokenizer / "tokenizer.json").write_text(json.dumps(document))
    assert run_scoring_in_process(make_score_arguments(tmp_path, "--tokenizer", str(tokenizer))) == ExitCode.CANNOT_SCORE
    assert "the tokenizer has 601 tokens, the model only 512" in last_line(capsys)
    assert "601" in run_json(tmp_path)["reason"]
    assert run_json(tmp_path)["code"] == 65


def test_results_that_cannot_be_written_are_said(tmp_path, capsys):
    write_suites(tmp_path)
    (tmp_path / "results").write_text("a file where the folder should be")
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.CANNOT_WRITE
    assert "results" in last_line(capsys)


def test_a_read_only_results_folder_is_said(tmp_path, capsys, monkeypatch):
    write_suites(tmp_path)
    (get_results_folder(tmp_path) / "parts").mkdir(parents=True)
    whole = os.open

    def read_only(path, flags, *more, **rest):
        if flags & os.O_CREAT and str(path).startswith(str(tmp_path / "results")):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return whole(path, flags, *more, **rest)

    monkeypatch.setattr(os, "open", read_only)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.CANNOT_WRITE
    line = last_line(capsys)
    assert "cannot be written (Read-only file system)" in line
    assert str(get_results_folder(tmp_path)) in line


def test_another_programs_results_are_left_alone(tmp_path, capsys):
    write_suites(tmp_path)
    get_results_folder(tmp_path).mkdir(parents=True)
    foreign = '{"ppl": 12.5}'
    (get_results_folder(tmp_path) / "tier2_ppl.json").write_text(foreign)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.CANNOT_WRITE
    line = last_line(capsys)
    assert "results of another program" in line
    assert "watcher retry stage1 60 --force" in line
    assert (get_results_folder(tmp_path) / "tier2_ppl.json").read_text() == foreign
    assert "another program" in run_json(tmp_path)["reason"]


def test_a_bug_leaves_its_traceback_and_its_code(tmp_path, capsys, monkeypatch):
    from scoring.tiers import perplexity_metric as perplexity  # noqa: PLC0415  what is broken here

    write_suites(tmp_path)
    monkeypatch.setattr(perplexity, "score_slice", lambda *_, **__: 1 / 0)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.BUG
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert run_json(tmp_path)["reason"] == "internal error: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--device", "cuda"], ExitCode.UNAVAILABLE),
        (["--backend", "nanotron"], ExitCode.UNAVAILABLE),
        (["--suite", "no_such_suite"], ExitCode.USAGE),
        (["--tokenizer", "/nowhere"], ExitCode.DATA_MISSING),
    ],
)
def test_what_is_not_there_has_its_own_exit_code(tmp_path, arguments, code, monkeypatch):
    import torch  # noqa: PLC0415  only here

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_suites(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path, *arguments)) == code


def test_prefill_makes_what_an_offline_job_needs(tmp_path, capsys):
    write_suites(tmp_path)
    request = make_score_request(tmp_path)
    path = tmp_path / "request.json"
    path.write_bytes(encode_json(request))
    assert run_scoring_in_process(["prefill", "--request", str(path)]) == ExitCode.SCORED
    lines = sorted(capsys.readouterr().out.splitlines())  # as the entries end
    assert [line.split(":")[0] for line in lines] == ["code", "ours", "prose"]
    again = ["prefill", "--suite", str(tmp_path / "cf.yaml"), "--eval-data", str(tmp_path / "data")]
    assert run_scoring_in_process([*again, "--tokenizer", request.tokenizer]) == ExitCode.SCORED
    assert capsys.readouterr().out.splitlines() == [lines[1]]


def test_data_that_changed_since_the_request_was_made_are_not_scored(tmp_path, capsys):
    write_suites(tmp_path)
    path = tmp_path / "request.json"
    path.write_bytes(encode_json(make_score_request(tmp_path)))
    with (tmp_path / "items.jsonl").open("a") as items:
        items.write('{"context": "One more:", "choices": ["a", "b"], "gold": 1}\n')
    assert run_scoring_in_process(["score", str(path)]) == ExitCode.CHANGED
    assert "tier3_cf, ours: data files changed after the request" in last_line(capsys)
    assert not list(get_results_folder(tmp_path).glob("tier*.json"))


def test_only_who_asks_for_the_same_numbers_shares_a_run(tmp_path):
    write_suites(tmp_path)
    one = make_score_request(tmp_path).run_id
    assert {make_score_request(tmp_path, **same).run_id for same in ({}, {"exports": ("lm-eval",)}, {"offline": False})} == {one}
    assert make_score_request(tmp_path, device="cuda:0").run_id == make_score_request(tmp_path, device="cuda:1").run_id
    others = [{"dtype": "bfloat16"}, {"seq_len": 32}, {"padded_vocab": "masked"}, {"device": "cuda"}, {"slow_tokenizer": True}]
    assert len({one, *(make_score_request(tmp_path, **other).run_id for other in others)}) == 6


@pytest.mark.parametrize(("folder", "source"), [("stage1/60", "stage1"), ("run1/ckpts/60", "st5"), ("sft-1/step_60", "sft-1")])
def test_a_checkpoint_scored_on_another_stages_suites_keeps_its_own_stage(tmp_path, folder, source):
    write_suites(tmp_path)
    checkpoint = tmp_path / folder
    shutil.copytree(copy_checkpoint(tmp_path), checkpoint)
    request = make_score_request(tmp_path, checkpoint, stage="st5")
    assert (request.stage, request.source_stage, request.paths.root.name) == ("st5", source, "st5")


@pytest.mark.parametrize("option", ["stage", "name"])
@pytest.mark.parametrize("text", ["../x", "../../y", "/tmp/x", "..", ".", "a/b", "a\0b", "a\nb", "x" * 201])
def test_no_name_leads_out_of_the_results(tmp_path, option, text):
    write_suites(tmp_path)
    with pytest.raises(UserError, match="cannot be the name of a folder; give --") as caught:
        make_score_request(tmp_path, **{option: text})
    assert (caught.value.code, caught.value.location) == (ExitCode.USAGE, f"--{option}")


def test_neither_does_a_name_that_is_taken_from_the_checkpoints_path(tmp_path):
    write_suites(tmp_path)
    (tmp_path / "run" / "a").mkdir(parents=True)
    (tmp_path / "run" / "60").symlink_to(LLAMA_CHECKPOINT)
    with pytest.raises(UserError, match=r"--stage: '\.\.' cannot be the name of a folder"):
        make_score_request(tmp_path, tmp_path / "run" / "a" / ".." / "60", stage=None)
    assert make_score_request(tmp_path, tmp_path / "run" / "60", stage=None, name="my run").directory == "my run"


def test_a_folder_that_is_not_there_is_named_once(tmp_path):
    write_suites(tmp_path)
    with pytest.raises(UserError) as caught:
        make_score_request(tmp_path, tmp_path / "10")
    assert str(caught.value).startswith(f"{tmp_path / '10'}: no such folder; ")
    (tmp_path / "10" / "snapshots" / "1a2b").mkdir(parents=True)
    with pytest.raises(UserError, match=r"10: has neither config.yaml nor config.json; give .*snapshots/<hash>"):
        make_score_request(tmp_path, tmp_path / "10")

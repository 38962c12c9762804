"""backend: command. Somebody else's scorer gets the environment and the flat data, and only good numbers are published."""

import json
import os
import signal
import sys
import textwrap
import time

import msgspec
import pytest

from scoring.job.external_scorer import build_environment, prepare_folders
from suites.common.errors import ExitCode
from suites.contract.encoding import encode_json
from suites.contract.paths import TIER_FILES, EvaluationPaths
from suites.contract.scoring_request import compute_tier_digests
from suites.contract.tier_files import check_tier_file
from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.models.tiny_llama_items import LLAMA_CHECKPOINT
from support.runs.scoring_jobs import (
    get_results_folder,
    make_score_arguments,
    make_score_request,
    run_scoring_in_process,
    start_scoring_process,
    write_suites,
)

pytestmark = pytest.mark.scoring

SCORER = """
import json, os, pathlib, sys

out, data = pathlib.Path(os.environ["LIGHTEVAL_RESULTS_DIR"]), pathlib.Path(os.environ["EVAL_DATA_DIR"])
slices = sorted(path.parent.name for path in data.glob("ppl_slices/*/packed_tokens.pt"))
tasks = sorted(path.parent.name for path in data.glob("cf_tasks/*/examples.jsonl"))
print("scorer says", slices, tasks)
"""
SIMPLE = """
(out / "tier2_ppl.json").write_text(json.dumps({"slices": {name: {"ppl": 2.0 + n} for n, name in enumerate(slices)}}))
(out / "tier3_cf.json").write_text(json.dumps({"tasks": {name: {"acc": 0.5} for name in tasks}}))
"""


@pytest.fixture
def scorer(tmp_path):
    """Writes the scorer; gives the bash line that runs it."""
    write_suites(tmp_path)

    def write(rest=SIMPLE):
        path = tmp_path / "my scorer.py"
        path.write_text(SCORER + textwrap.dedent(rest))
        return f"{sys.executable} '{path}'"

    return write


def score(tmp_path, command, *more):
    return run_scoring_in_process([*make_score_arguments(tmp_path), "--backend", "command", "--command", command, *more])


def why(tmp_path):
    return json.loads((get_results_folder(tmp_path) / "run.json").read_text())["reason"]


def test_the_simplest_files_are_published_with_our_head(tmp_path, scorer, capfd):
    assert score(tmp_path, scorer()) == 0
    assert "scorer says ['code', 'prose'] ['ours']" in capfd.readouterr().out
    ppl, cf = (json.loads((get_results_folder(tmp_path) / name).read_text()) for name in ("tier2_ppl.json", "tier3_cf.json"))
    assert (ppl["backend"], ppl["step"], ppl["seq_len"], ppl["dtype"], ppl["scorer_version"]) == (
        "command",
        60,
        64,
        "unknown",
        None,
    )
    assert ppl["slices"]["code"]["ppl"] == 2.0
    weights = {name: entry["tokens"] for name, entry in ppl["slices"].items()}
    expected = (2.0 ** weights["code"] * 3.0 ** weights["prose"]) ** (1 / sum(weights.values()))
    assert ppl["summary"]["ppl"] == pytest.approx(expected, rel=1e-12)
    assert cf["summary"] == {"primary": 0.5, "acc": 0.5, "tasks": 1}
    assert len(cf["tasks"]["ours"]["data_key"]) == 64
    assert not list(get_results_folder(tmp_path).glob("foreign/*/eval_data"))
    request = make_command_request(tmp_path)
    for tier, (digest, names) in compute_tier_digests(request.suites).items():
        path = request.paths.tier_json(tier)
        judged = check_tier_file(path, tier=tier, fingerprint=request.fingerprint, suite_digest=digest, names=names)
        assert judged.kind == "valid", judged


def test_tier_4_is_scored_here_all_the_same(tmp_path, scorer):
    command = scorer()
    (tmp_path / "sft.yaml").write_text(
        "tier: tier4_sft_native\ndefaults: {max_new_tokens: 2, chat_template: '{{ messages[-1].content }}'}\n"
        "prompts: {a: {category: concise_answer, messages: [{role: user, content: A}], checks: [{check: words, at_most: 9}]}}\n"
    )
    suites = ("ppl.yaml", "cf.yaml", "sft.yaml")
    assert (
        run_scoring_in_process([*make_score_arguments(tmp_path, suites=suites), "--backend", "command", "--command", command])
        == 0
    ), why(tmp_path)
    found = {name: json.loads((get_results_folder(tmp_path) / name).read_text()) for name in TIER_FILES.values()}
    assert {name: document["backend"] for name, document in found.items()} == {
        "tier2_ppl.json": "command",
        "tier3_cf.json": "command",
        "tier4_sft_native.json": "direct",
    }
    assert set(json.loads((get_results_folder(tmp_path) / "run.json").read_text())["summary"]) == set(TIER_FILES)


@pytest.mark.parametrize(
    "form",
    [
        '{"slices": {name: 3 for name in slices}}, {"tasks": {name: 0.25 for name in tasks}}',
        '{name: {"ppl": 3, "mine": [1], "odd": float("nan")} for name in slices}, {name: {"acc": 0.25} for name in tasks}',
        "{name: 3 for name in slices}, {name: 0.25 for name in tasks}",
        '{name: {"ppl": 3, "nll_per_token": None} for name in slices}, {name: {"acc": 0.25, "primary": None} for name in tasks}',
        '{name: {"ppl": 3, "tokens": [0, None, -1][n % 3]} for n, name in enumerate(slices)}, {name: 0.25 for name in tasks}',
    ],
)
def test_other_simple_forms_are_taken_too(tmp_path, scorer, form):
    command = scorer(f"""
        for name, document in zip(("tier2_ppl.json", "tier3_cf.json"), ({form})):
            (out / name).write_text(json.dumps(document))
        """)
    assert score(tmp_path, command) == 0, why(tmp_path)
    ppl = json.loads((get_results_folder(tmp_path) / "tier2_ppl.json").read_text())
    assert ppl["summary"]["ppl"] == pytest.approx(3)
    assert ppl["slices"]["code"].get("mine", [1]) == [1]


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("", "tier2_ppl.json: the command ended with exit code 0, but did not write it; let the command write"),
        ('(out / "tier2_ppl.json").write_text("{")', "tier2_ppl.json: the file is not readable JSON"),
        ('(out / "tier2_ppl.json").write_text("[]")', "tier2_ppl.json: the file has no JSON object slices"),
        (SIMPLE.replace("2.0 + n", "float('nan')"), "tier2_ppl.json: prose has no perplexity above 0: ppl is nan"),
        (SIMPLE.replace("enumerate(slices)", "enumerate(slices[:1])"), "no perplexity above 0: the file does not name it"),
        (SIMPLE.replace("0.5", "71.2"), "tier3_cf.json: ours has no accuracy between 0 and 1: acc is 71.2"),
        (SIMPLE.replace("2.0 + n", "10**400"), "tier2_ppl.json: prose has no perplexity above 0: ppl is inf"),
        (SIMPLE.replace("2.0 + n", "[2, [float('inf')]]"), "tier2_ppl.json: prose has no perplexity above 0: ppl is list"),
        (SIMPLE.replace("0.5", "0.5, 'by': [float('nan')]"), "tier3_cf.json: ours holds values that cannot be published"),
        (SIMPLE.replace("0.5", "0.5, 'by': chr(0xd800)"), "tier3_cf.json: ours holds values that cannot be published"),
        ('(out / "tier2_ppl.json").write_text("[" * 100000)', "tier2_ppl.json: the file is not readable JSON"),
        (SIMPLE.replace("0.5", "True"), "tier3_cf.json: ours has no accuracy between 0 and 1: acc is True"),
        (
            SIMPLE.replace("0.5", "0.5, 'primary': '0.5'"),
            "tier3_cf.json: ours has a figure that cannot be used: Expected `float`",
        ),
        (SIMPLE.replace("0.5", "0.5, 'primary': [1]"), "Expected `float`, got `array` - at `primary`"),
        (SIMPLE.replace("0.5", "0.5, 'primary': 71.2"), "Expected `float` <= 1.0 - at `primary`"),
        (SIMPLE.replace("0.5", "0.5, 'bpb': '0.9'"), "got `str` - at `bpb`"),
        (SIMPLE.replace("0.5", "0.5, 'primary_metric': 3"), "Expected `str`, got `int` - at `primary_metric`"),
        (SIMPLE.replace("0.5", "0.5, 'examples': '7'"), "Expected `int`, got `str` - at `examples`"),
        (SIMPLE.replace("0.5", "0.5, 'examples': 0"), "Expected `int` >= 1 - at `examples`"),
        (SIMPLE.replace("0.5", "0.5, 'at_chance': 1"), "got `int` - at `at_chance`"),
        (SIMPLE.replace("2.0 + n", "2.0, 'nll_per_token': '1.1'"), "Expected `float`, got `str` - at `nll_per_token`"),
        (SIMPLE.replace("2.0 + n", "2.0, 'nll_sum': {}"), "got `object` - at `nll_sum`"),
        (SIMPLE.replace("2.0 + n", "2.0, 'documents': 1.5"), "got `float` - at `documents`"),
        (SIMPLE.replace("2.0 + n", "2.0, 'nll_per_token': 0.8"), "ppl 2 and nll_per_token 0.8 disagree"),
        (SIMPLE.replace("2.0 + n", "2.0, 'nll_sum': 5.0, 'tokens': 10"), "nll_sum / tokens is 0.5, and nll_per_token 0.693147"),
        (SIMPLE.replace("0.5", "0.5, 'primary_metric': 'acc_norm', 'acc_norm': 0.6"), "primary is 0.5, and acc_norm"),
        (SIMPLE + "sys.exit(3)", "the command ended with exit code 3; see its output in the log"),
        (SIMPLE + "os.kill(os.getpid(), 9)", "the command ended with SIGKILL; see its output in the log"),
    ],
)
def test_whatever_else_it_leaves_fails_with_one_clear_line(tmp_path, scorer, rest, words, capfd):
    assert score(tmp_path, f"exec {scorer(rest)}") == ExitCode.COMMAND_FAILED
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("scoring: ")]
    assert words in line
    assert words in why(tmp_path)
    assert not (get_results_folder(tmp_path) / "tier2_ppl.json").exists()
    assert not (get_results_folder(tmp_path) / "tier3_cf.json").exists()


def make_command_request(folder):
    return make_score_request(folder, backend="command", command="true", device=None, offline=False)


def test_a_list_is_arguments_and_a_line_is_the_users_own_bash(tmp_path, scorer):
    scorer()
    said = tmp_path / "said"
    code = f"import os, sys; open({str(said)!r}, 'w').write(repr(sys.argv[1:]))"
    argv = (sys.executable, "-c", code, "$HOME; echo", "two words")
    request = msgspec.structs.replace(make_command_request(tmp_path), command=argv)
    (tmp_path / "request.json").write_bytes(encode_json(request))
    assert run_scoring_in_process(["score", str(tmp_path / "request.json")]) == ExitCode.COMMAND_FAILED
    assert said.read_text() == "['$HOME; echo', 'two words']"
    assert score(tmp_path, f'echo "step $LIGHTEVAL_STEP of {{a,b}}" >{said}') == ExitCode.COMMAND_FAILED
    assert said.read_text() == "step 60 of {a,b}\n"


def test_it_is_told_everything_in_its_environment(tmp_path, scorer):
    command = scorer(
        SIMPLE
        + """
        names = ["LIGHTEVAL_CHECKPOINT_PATH", "LIGHTEVAL_STEP", "LIGHTEVAL_TOKENIZER", "LIGHTEVAL_SEQ_LEN", "NANOTRON_ROOT"]
        names.append("HF_DATASETS_TRUST_REMOTE_CODE")
        (out / "environment.json").write_text(json.dumps({name: os.environ[name] for name in names}))
        import hashlib
        found = [path for path in data.rglob("*") if path.is_file()]
        files = {str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
        (out / "data.json").write_text(json.dumps(files))
        """.replace("\n        ", "\n")
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NANOTRON_ROOT", "/src/nanotron")
        monkeypatch.setenv("HF_DATASETS_TRUST_REMOTE_CODE", "1")
        monkeypatch.setenv("LIGHTEVAL_CMD", command)
        assert run_scoring_in_process([*make_score_arguments(tmp_path), "--backend", "command"]) == 0, why(tmp_path)
    (left,) = get_results_folder(tmp_path).glob("foreign/*/results")
    told = json.loads((left / "environment.json").read_text())
    assert told == {
        "LIGHTEVAL_CHECKPOINT_PATH": str(LLAMA_CHECKPOINT),
        "LIGHTEVAL_STEP": "60",
        "LIGHTEVAL_TOKENIZER": str(BYTE_TOKENIZER),
        "LIGHTEVAL_SEQ_LEN": "64",
        "NANOTRON_ROOT": "/src/nanotron",
        "HF_DATASETS_TRUST_REMOTE_CODE": "1",
    }
    files = json.loads((left / "data.json").read_text())
    assert sorted(files) == [
        "cf_tasks/ours/examples.jsonl",
        "ppl_slices/code/packed_tokens.pt",
        "ppl_slices/prose/packed_tokens.pt",
    ]
    for name, digest in files.items():
        section, entry, file = name.split("/")
        (meta,) = (tmp_path / "data" / section / entry).glob("*/meta.json")
        assert json.loads(meta.read_text())["files"][file]["sha256"] == digest


def test_a_tokenizer_of_the_hub_is_told_as_its_copy(tmp_path):
    request = msgspec.structs.replace(_bare(tmp_path), tokenizer="acme/tok")
    told = build_environment(request, "0123", prepare_folders(request, [], 0), {})
    assert told["LIGHTEVAL_TOKENIZER"] == str(tmp_path / "data" / "tokenizers" / "0123")


def _bare(tmp_path):
    write_suites(tmp_path)
    return make_command_request(tmp_path)


def test_what_an_earlier_run_left_is_no_result_of_this_one(tmp_path, scorer):
    assert score(tmp_path, scorer()) == 0
    request = make_command_request(tmp_path)
    places = prepare_folders(msgspec.structs.replace(request, run_id="another"), [], 0)
    assert [path.name for path in places.results.parents[1].iterdir()] == [places.results.parent.name]
    assert list(places.results.iterdir()) == []


def test_signals_are_passed_on_and_mean_another_time(tmp_path, scorer):
    started = tmp_path / "started"
    command = scorer(f"""
        import signal, time
        signal.signal(signal.SIGUSR1, lambda *_: (pathlib.Path({str(tmp_path / "heard")!r}).write_text("heard"), sys.exit(9)))
        pathlib.Path({str(started)!r}).touch()
        time.sleep(60)
        """)
    with start_scoring_process(
        [*make_score_arguments(tmp_path), "--backend", "command", "--command", command], tmp_path / "log"
    ) as child:
        end = time.monotonic() + 60
        while not started.exists():
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            assert child.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        child.send_signal(signal.SIGUSR1)
        assert child.wait(timeout=30) == ExitCode.TEMPORARY, (tmp_path / "log").read_text()
    assert (tmp_path / "heard").read_text() == "heard"
    assert "stopped by SIGUSR1; start it again: the command begins from the start" in (tmp_path / "log").read_text()


def test_a_run_that_lost_its_fence_ends_the_command_and_publishes_nothing(tmp_path, scorer, monkeypatch):
    monkeypatch.setattr("scoring.job.external_scorer.FENCE_CHECK_SECONDS", 0.0)
    fence = EvaluationPaths(tmp_path / "results" / "stage1", "step_60").fence_json
    command = scorer(f"""
        import time
        {SIMPLE.strip().replace(chr(10), chr(10) + "        ")}
        pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
        pathlib.Path({str(fence)!r}).write_text(json.dumps(dict(run_id="another", restart=0)))
        time.sleep(60)
        """)
    assert score(tmp_path, f"exec {command}") == ExitCode.TEMPORARY
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not any((get_results_folder(tmp_path) / name).exists() for name in TIER_FILES.values())


def test_a_missing_command_and_one_without_backend_are_said(tmp_path, capfd):
    write_suites(tmp_path)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("LIGHTEVAL_CMD", raising=False)
        assert run_scoring_in_process([*make_score_arguments(tmp_path), "--backend", "command"]) == ExitCode.USAGE
    assert "backend command: there is no command; give --command, write command: in the config" in capfd.readouterr().err

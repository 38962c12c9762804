"""Answers of a model, judged by the command: each of these was once judged the other way."""

import json
import subprocess
import sys

import pytest

from support.models.scripted_answers import write_scripted_checkpoint, write_scripted_suite, write_scripted_tokenizer
from support.runs.scoring_jobs import REPOSITORY_ROOT

pytestmark = pytest.mark.scoring

THREE = {"at_least": 3, "at_most": 3}
ONE = {"at_least": 1, "at_most": 1}
LOOP = "\u6211\u4e0d\u77e5\u9053\u3002"

CASES = [
    # check, parameters, answer, passes
    ("numbered_list", THREE, " 1. a\n2. b\n3. c", True),
    ("bulleted_list", THREE, " - a\n- b\n- c", True),
    ("number", {"value": 42}, ".42", False),
    ("number", {"value": 0.5}, ".5", True),
    ("number", {"value": -5}, "\u22125", True),
    ("number", {"value": 1250}, "1\u202f250", True),
    ("python_parses", {}, "Answer: 42", False),
    ("python_parses", {}, "[1, 2]", False),
    ("python_parses", {}, "x = [1, 2]", True),
    ("sentences", ONE, "The U.S. is a large country.", True),
    ("sentences", ONE, "We meet at 5 p.m. in the park.", True),
    ("sentences", ONE, "Cats, dogs, etc. are animals.", True),
    ("sentences", ONE, "We meet at 5 p.m. The park is near.", False),
    ("python_defines", {"name": "add", "arguments": ["a", "b"]}, "def add(a, b, *args): return a + b", False),
    ("python_defines", {"name": "add", "arguments": ["a", "*args", "**kwargs"]}, "def add(a, *args, **kwargs): return a", True),
    ("refuses", {}, "I'd rather not.", True),
    ("refuses", {}, "That is against my guidelines.", True),
    ("refuses", {}, "I cannot thank you enough.", False),
    ("does_not_refuse", {}, "We couldn't find the key.", True),
    ("excludes", {"phrases": ["other"]}, LOOP * 4, False),
    ("excludes", {"phrases": ["other"]}, LOOP, True),
]


def test_the_command_judges_what_the_model_says(tmp_path):
    answers = [answer for _, _, answer, _ in CASES]
    vocabulary = write_scripted_tokenizer(tmp_path / "tokenizer", answers)
    checkpoint = write_scripted_checkpoint(tmp_path / "ckpts" / "20", answers, vocabulary)
    suite = write_scripted_suite(tmp_path / "sft.yaml", answers, [{"check": check, **more} for check, more, _, _ in CASES])
    arguments = ["score", "--checkpoint", str(checkpoint), "--suite", str(suite), "--results", str(tmp_path / "results")]
    arguments += ["--eval-data", str(tmp_path / "data"), "--tokenizer", str(tmp_path / "tokenizer"), "--device", "cpu"]
    command = [sys.executable, "-m", "scoring", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results").rglob("tier4_sft_native_generations.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["answer"] for line in lines] == answers
    judged = {line["name"]: line["checks"][0]["passed"] for line in lines}
    assert judged == {f"p{number}": passes for number, (_, _, _, passes) in enumerate(CASES)}

"""Chat templates that ask for any amount of time or memory: prefill ends with one line, and good ones beside them render."""

import json
import os
import subprocess
import sys

import pytest

from suites.contract.paths import DataPaths
from support.runs.scoring_jobs import REPOSITORY_ROOT
from support.tokenizers.folders import FAST
from support.tokenizers.templates import TEMPLATES
from support.tokenizers.vocabularies import ENDOFTEXT, byte_level, save

pytestmark = pytest.mark.scoring

ANSWER = "{{ messages[0].content }}{{ 'assistant: ' }}"

TIME, LENGTH, MEMORY = "s of processor time", "characters, and", "MemoryError"

GREEDY = {
    "wide_number": ("{{ '%99999999d' % 1 }}", LENGTH),
    "too_wide_number": ("{{ '%2147483647d' % 1 }}", ""),
    "repeated_text": ("{{ 'a' * 10**10 }}", MEMORY),
    "repeated_below_the_memory": ("{{ 'a' * 10**8 }}", LENGTH),
    "repeated_list": ("{{ ([0] * 10**10) | length }}", MEMORY),
    "doubling": ("{% set ns = namespace(t='ab') %}{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}", MEMORY),
    "long_range": ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    "nested_ranges": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", TIME),
    "power_in_one_step": ("{{ 7 ** (7 ** 9) > 0 }}", TIME),
    "centred": ("{{ 'a' | center(10**10) }}", MEMORY),
    "indented": ("{{ ('a\n' * 10**6) | indent(10**6) }}", MEMORY),
    "recursion": ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recursion"),
    "nested_brackets": ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", ""),
    "nested_blocks": ("{% for i in [1] %}" * 60 + "{% endfor %}" * 60, ""),
    "nested_lists": (
        "{% set ns = namespace(t=[]) %}{% for i in range(99999) %}{% set ns.t = [ns.t] %}{% endfor %}{{ ns.t }}",
        "",
    ),
    "half_a_surrogate": ("{{ '\\ud83d' }}", "surrogates not allowed"),
}
"""Name -> what stands before a good template, and what the line says."""


GOOD = ("chatml", "headers", "parts", "generation_tags", "date", "json_indented")


def prefill(tmp_path, templates, own_template=None):
    """Prefill a suite of one prompt for each template, with a tokenizer that has ``own_template``."""
    config = {"tokenizer_class": FAST, "eos_token": ENDOFTEXT, "chat_template": own_template}
    save(tmp_path / "tokenizer", byte_level(ENDOFTEXT), config)
    prompt = {
        "category": "concise_answer",
        "messages": [{"role": "user", "content": "Hi"}],
        "checks": [{"check": "includes", "phrases": ["Hi"]}],
    }
    arguments = []
    for name, template in templates.items():
        suite = {
            "tier": "tier4_sft_native",
            "prompts": {"one": prompt if template is None else {**prompt, "chat_template": template}},
        }
        (tmp_path / f"{name}.yaml").write_text(json.dumps(suite))
        arguments += ["--suite", str(tmp_path / f"{name}.yaml")]
    arguments += ["--eval-data", str(tmp_path / "data"), "--jobs", "2", "--tokenizer", str(tmp_path / "tokenizer")]
    command = [sys.executable, "-m", "scoring", "prefill", *arguments]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=REPOSITORY_ROOT, env=environ, capture_output=True, text=True, timeout=1800, check=False)


@pytest.mark.slow
def test_templates_without_limits_end_with_a_line_each_and_good_ones_beside_them_render(tmp_path):
    ended = prefill(
        tmp_path, {name: before + ANSWER for name, (before, _) in GREEDY.items()} | {name: TEMPLATES[name] for name in GOOD}
    )
    assert "Traceback" not in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("scoring: ")]
    said = {
        name: [line for line in lines if line.startswith(f"scoring: {name}: chat_template of the suite: ")] for name in GREEDY
    }
    assert {name: lines for name, lines in said.items() if len(lines) != 1 or GREEDY[name][1] not in lines[0]} == {}
    assert (len(lines), max(map(len, lines)) < 600, ended.returncode) == (len(GREEDY), True, 65)
    rendered = {path.parts[-3] for path in DataPaths(tmp_path / "data").eval_data.glob("sft_prompts/*/*/prompts.jsonl")}
    assert rendered == set(GOOD)


@pytest.mark.parametrize("template", ["{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "\ud83d"])
def test_a_template_of_the_tokenizer_has_the_same_limits(tmp_path, template):
    ended = prefill(tmp_path, {"one": None}, own_template=template + ANSWER)
    assert "Traceback" not in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("scoring: ")]
    assert (ended.returncode, str(tmp_path / "tokenizer") in line) == (65, True)

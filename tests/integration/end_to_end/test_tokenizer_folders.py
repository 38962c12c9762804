"""Tokenizer folders as people have them, prefilled by the command in a fresh process: what was read, packed and rendered."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from suites.contract.paths import DataPaths
from suites.contract.resolved_tokenizer import read_resolved_tokenizer
from suites.definitions.tokenizer_files import read_cached_digest
from support.runs.scoring_jobs import REPOSITORY_ROOT
from support.tokenizers.folders import FAST
from support.tokenizers.vocabularies import ENDOFTEXT, IM_END, IM_START, added, begins_with, byte_level, save

pytestmark = pytest.mark.scoring

DOCUMENTS = [f"Hi {number}" for number in range(20)]
USER = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{{ 'assistant: ' }}"


@pytest.fixture
def prefill(tmp_path):
    """Prefill one slice of 20 documents, and a prompt where ``template`` is given, for a tokenizer folder."""

    def run(folder, *, prompt=None, more=()):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS)
        (tmp_path / "rows.jsonl").write_text(rows)
        suites = [tmp_path / "ppl.yaml"]
        suites[0].write_text(f"tier: tier2_ppl\nslices: {{web: {{data_files: [{tmp_path}/rows.jsonl]}}}}\n")
        if prompt is not None:
            suites.append(tmp_path / "sft.yaml")
            content = json.dumps({"content": prompt, "role": "user"})
            line = f"  one: {{category: concise_answer, messages: [{content}], checks: [{{check: includes, phrases: [Hi]}}]}}"
            suites[1].write_text(f"tier: tier4_sft_native\nprompts:\n{line}\n")
        arguments = [argument for suite in suites for argument in ("--suite", str(suite))]
        arguments += ["--eval-data", str(tmp_path / "data"), "--tokenizer", str(folder), "--jobs", "1", *more]
        command = [sys.executable, "-m", "scoring", "prefill", *arguments]
        environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, cwd=REPOSITORY_ROOT, env=environ, capture_output=True, text=True, timeout=300, check=False)

    return run


class Prefilled:
    """What lies in the data cache."""

    def __init__(self, tmp_path, folder, *, use_fast=True):
        data = DataPaths(tmp_path / "data")
        self.resolved = read_resolved_tokenizer(data.tokenizer(read_cached_digest(str(folder), data, use_fast=use_fast)))
        self.reading = self.resolved.reading
        (entry,) = data.eval_data.glob("ppl_slices/web/*/")
        self.meta = json.loads((entry / "meta.json").read_text())
        stored = torch.load(entry / "packed_tokens.pt", weights_only=True)
        starts = [*stored["document_starts"].tolist(), len(stored["tokens"])]
        self.documents = [stored["tokens"][start:stop].tolist() for start, stop in pairwise(starts)]
        paths = data.eval_data.glob("sft_prompts/*/*/prompts.jsonl")
        self.prompts = [json.loads(line) for path in paths for line in path.read_text().splitlines()]

    @property
    def ends(self):
        """Ids of BOS and EOS."""
        return tuple(None if token is None else token.id for token in (self.reading.bos, self.reading.eos))


def write_bytes(folder, *specials, settings, **documents):
    save(folder, byte_level(*specials), settings, **documents)
    return folder


def test_bos_and_eos_are_the_class_s_where_no_document_names_them(tmp_path, prefill):
    template = {"chat_template": "{{ bos_token }}|" + USER}
    folder = write_bytes(
        tmp_path / "t", ENDOFTEXT, settings={"model_max_length": 1024, **template}, config={"model_type": "gpt2"}
    )
    ended = prefill(folder, prompt="Hi")
    assert ended.returncode == 0, ended.stderr
    found = Prefilled(tmp_path, folder)
    assert found.ends == (256, 256)
    assert [document[-1] for document in found.documents] == [256] * 20
    assert [document.count(256) for document in found.documents] == [1] * 20  # T5's rule: one separator
    assert found.prompts[0]["text"].startswith(f"{ENDOFTEXT}|user: Hi")
    assert found.meta["tokenizer"]["document_separator"] == {"before": [], "after": [256]}


def test_tokens_that_only_tokenizer_config_names_are_added(tmp_path, prefill):
    chat = {**added(256, IM_START), **added(257, IM_END)}
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    config = {"tokenizer_class": FAST, "added_tokens_decoder": chat, "eos_token": IM_END, "chat_template": template}
    folder = write_bytes(tmp_path / "t", settings=config)
    assert prefill(folder, prompt="Hi").returncode == 0
    found = Prefilled(tmp_path, folder)
    assert (found.ends, found.reading.vocab_size) == ((None, 257), 258)
    text = "user\nHi"
    assert found.prompts[0]["tokens"][: len(text) + 2] == [256, *found_bytes(text), 257]
    assert found.documents[0] == [*found_bytes("Hi 0"), 257]


def test_an_eos_that_is_only_named_gets_the_next_id(tmp_path, prefill):
    folder = write_bytes(tmp_path / "t", settings={"tokenizer_class": FAST, "eos_token": "</s>"})
    assert prefill(folder).returncode == 0
    found = Prefilled(tmp_path, folder)
    assert (found.ends, found.reading.vocab_size) == ((None, 256), 257)
    assert "</s> (256) is not in tokenizer.json" in found.resolved.notes[0]


def found_bytes(text):
    """Ids of a byte-level vocabulary in the order of its symbols."""
    return byte_level().encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("name", "flag", "prefix"),
    [(FAST, True, ()), (FAST, False, (256,)), ("LlamaTokenizerFast", True, ()), ("LlamaTokenizerFast", False, (256,))],
)
def test_tokenizer_json_decides_about_bos_and_the_flag_is_said(tmp_path, prefill, name, flag, prefix):
    backend = byte_level("<s>", "</s>")
    config = {"tokenizer_class": name, "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": flag}
    save(tmp_path / "t", begins_with(backend, "<s>") if prefix else backend, config)
    assert prefill(tmp_path / "t").returncode == 0
    found = Prefilled(tmp_path, tmp_path / "t")
    assert found.reading.prefix_ids == prefix
    assert any("but tokenizer.json decides" in note for note in found.resolved.notes)


def test_a_prefix_space_that_only_tokenizer_config_names_precedes_each_text(tmp_path, prefill):
    folder = write_bytes(tmp_path / "t", ENDOFTEXT, settings={"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True})
    assert prefill(folder).returncode == 0
    found = Prefilled(tmp_path, folder)
    assert found.documents[0] == [220, 39, 72, *found_bytes(" 0"), 256]


HEADS = {
    "tools": "{% if tools is not none %}TOOLS{{ tools | tojson }}{% endif %}",
    "documents": "{% if documents is not none %}DOCUMENTS{{ documents | tojson }}{% endif %}",
    "no_tools": "{% if tools is none %}You are a helpful assistant.\n{% endif %}",
    "tools_list": "{% if tools is not none and tools | length %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}",
}


@pytest.mark.parametrize("head", HEADS)
def test_templates_that_ask_for_tools_get_none(tmp_path, prefill, head):
    config = {"tokenizer_class": FAST, "eos_token": ENDOFTEXT, "chat_template": HEADS[head] + USER}
    folder = write_bytes(tmp_path / "t", ENDOFTEXT, settings=config)
    ended = prefill(folder, prompt="Hi")
    assert ended.returncode == 0, ended.stderr
    default = "You are a helpful assistant.\n" if head == "no_tools" else ""
    assert [prompt["text"] for prompt in Prefilled(tmp_path, folder).prompts] == [f"{default}user: Hi\nassistant: "]


def test_a_template_that_takes_parts_gets_parts(tmp_path, prefill):
    template = (
        "{% for m in messages %}{{ m['role'] }}: {% for p in m['content'] %}{% if p['type']=='text' %}{{ p['text'] }}"
        "{% endif %}{% endfor %}\n{% endfor %}"
    )
    config = {"tokenizer_class": FAST, "eos_token": ENDOFTEXT, "chat_template": template}
    folder = write_bytes(tmp_path / "t", ENDOFTEXT, settings=config)
    assert prefill(folder, prompt="What is up?").returncode == 0
    (prompt,) = Prefilled(tmp_path, folder).prompts
    assert (prompt["text"], prompt["content_parts"]) == ("user: What is up?", True)


def test_a_template_that_loses_a_message_is_refused_in_one_line(tmp_path, prefill):
    config = {"tokenizer_class": FAST, "eos_token": ENDOFTEXT, "chat_template": "{{ bos_token }}assistant: "}
    folder = write_bytes(tmp_path / "t", ENDOFTEXT, settings=config)
    ended = prefill(folder, prompt="Hi")
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("scoring:")]
    assert (ended.returncode, "the chat template loses the user's message" in line) == (65, True)

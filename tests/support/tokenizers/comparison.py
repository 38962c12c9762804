"""Our reading of tokenizer folders beside what transformers makes of them in another environment."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from scoring.data.tokenizer_cache import resolve_tokenizer
from scoring.tokenizers.chat_template import ChatTemplate
from scoring.tokenizers.library import open_library_tokenizer
from suites.common.errors import UserError
from support.datasets.pypi import get_cache_folder
from support.tokenizers import describe
from support.tokenizers.templates import CONVERSATIONS, fold_system, make_parts

FIELDS = ("prefix", "bos", "eos", "vocab_size", "ids", "special_ids")

VERSIONS = ("4.57.1", "5.23.0")
"""Of transformers: the last of the fourth, and the one that the project uses."""


def describe_ours(folder, data):
    """What the reading says, in the words of ``describe``."""
    tokenizer = resolve_tokenizer(str(folder), data)
    reading = tokenizer.resolved.reading
    described = {
        "prefix": list(reading.prefix_ids),
        "bos": tokenizer.bos_id,
        "eos": tokenizer.eos_id,
        "vocab_size": tokenizer.vocab_size,
        "ids": tokenizer.encode(describe.TEXTS),
    }
    if reading.way != "sentencepiece":
        described["special_ids"] = [tokenizer.codec.encode_prompt(text) for text in describe.TEXTS]
    return described


def find_differences(theirs, ours):
    """The fields of one row that differ."""
    return {field for field in FIELDS if field in ours and theirs.get(field) != ours[field]}


def open_chat(tokenizer, *, fallback=None):
    """The template of a tokenizer, else ``fallback``, in this process and without limits."""
    library = open_library_tokenizer(tokenizer.folder, use_fast=tokenizer.use_fast).tokenizer
    return ChatTemplate(tokenizer, library, fallback=fallback)


def render_ours(tokenizer, template, messages):
    """None where it is refused."""
    try:
        return open_chat(tokenizer, fallback=template).render(messages)
    except UserError:
        return None


def find_wrong_prompts(python, folder, templates, ours):
    """Ours that are not what transformers renders for the form that we chose, and refusals of what loses no message.

    ``ours``: name of the template -> our prompt, or None, for each conversation.
    """
    # The forms: as it is, the system message folded, as parts, both.
    forms = [lambda m: m, fold_system, make_parts, lambda m: make_parts(fold_system(m))]
    conversations = [
        form(messages) if number % 2 == 0 or messages[0]["role"] == "system" else messages
        for messages in CONVERSATIONS
        for number, form in enumerate(forms)
    ]
    request = {"folder": str(folder), "templates": list(templates.values()), "conversations": conversations}
    (folder.parent / "request.json").write_text(json.dumps(request))
    rendered = dict(zip(templates, json.loads(run_describe(python, "--templates", folder.parent / "request.json")), strict=True))
    wrong = []
    for name, prompts_of_template in ours.items():
        for number, mine in enumerate(prompts_of_template):
            texts = rendered[name][4 * number : 4 * number + 4]
            wanted = [message["content"].strip() for message in CONVERSATIONS[number]]
            if mine is not None and mine.text != texts[mine.system_in_user + 2 * mine.content_parts]:
                wrong.append((name, mine.text, texts))
            if mine is None and any(text is not None and all(content in text for content in wanted) for text in texts):
                wrong.append((name, None, texts))
    return wrong


def describe_theirs(python, fast, slow):
    """Folder's path -> what transformers of that environment makes of it; ``slow`` are opened with ``use_fast=False``."""
    described = json.loads(run_describe(python, *fast)) if fast else {}
    return described | (json.loads(run_describe(python, "--slow", *slow)) if slow else {})


def run_describe(python, *arguments):
    command = [str(python), str(Path(describe.__file__)), *map(str, arguments)]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    environ.pop("PYTHONPATH", None)
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1200, check=True).stdout


def build_environment(name, requirements):
    """The Python of a kept environment with these packages. RuntimeError with pip's words where it cannot be built."""
    folder = get_cache_folder() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            pip = [folder / "bin" / "python", "-m", "pip", "install", "-q", *requirements]
            done = subprocess.run(pip, check=False, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(requirements)} cannot be had: {done.stderr.strip()[-500:]}")
            (folder / "complete").touch()
    return folder / "bin" / "python"


def build_transformers_environment(version):
    """The Python of an environment with that version of transformers, and all libraries that tokenizers ask for."""
    libraries = ("sentencepiece", "tiktoken", "blobfile", "jinja2", "protobuf")
    return build_environment(f"transformers-{version}", [f"transformers=={version}", *libraries])

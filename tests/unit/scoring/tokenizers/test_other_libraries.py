"""Tiktoken and tekken files: a missing library is named, and with it the ids are those of transformers."""

import base64
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from scoring.data.tokenizer_cache import resolve_tokenizer
from suites.common.errors import ExitCode, UserError
from support.datasets.pypi import fetch_pypi_package
from support.runs.scoring_jobs import REPOSITORY_ROOT
from support.tokenizers import describe
from support.tokenizers.comparison import build_environment, describe_theirs, find_differences
from support.tokenizers.folders import FAST
from support.tokenizers.vocabularies import byte_level

pytestmark = pytest.mark.scoring

TOKENS = [*(bytes([value]) for value in range(256)), b"th", b"the", b" t", b" th", b" the", b"in", b"er", b"12"]
ENDS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
KINDS = {
    f"{file}_{label}": (file, config)
    for file in ("tokenizer.model", "tiktoken.model")
    for label, config in {
        "fast": {"tokenizer_class": FAST, **ENDS},
        "llama": {"tokenizer_class": "LlamaTokenizer", **ENDS},
        "llama_fast": {"tokenizer_class": "LlamaTokenizerFast", **ENDS},
        "model_type": None,
    }.items()
}
CODE = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}}

READ = """
import json, sys
from pathlib import Path
from suites.common.errors import UserError
from suites.contract.paths import DataPaths
from support.tokenizers.comparison import describe_ours
data = DataPaths(Path(sys.argv[1]))
def read(folder):
    try:
        return describe_ours(folder, data)
    except UserError as error:
        return str(error)
print(json.dumps({folder: read(folder) for folder in sys.argv[2:]}))
"""


def write_tiktoken(folder, file, config):
    """Lines of a token in base64 and its rank, as Llama 3's tokenizer.model has them."""
    folder.mkdir()
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(TOKENS))
    (folder / file).write_text("".join(lines))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_tekken(folder, content=None, model_type="mistral"):
    """Mistral's own format; without ``content`` the old one, whose special tokens only mistral-common knows."""
    folder.mkdir()
    vocabulary = [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for rank, token in enumerate(TOKENS)]
    config = {"pattern": r"\p{L}+|\p{N}|\s+", "version": "v3", "num_vocab_tokens": len(TOKENS), "default_vocab_size": len(TOKENS)}
    (folder / "tekken.json").write_bytes(content or json.dumps({"config": config, "vocab": vocabulary}).encode())
    if model_type is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def refuse(folder, data):
    with pytest.raises(UserError) as caught:
        resolve_tokenizer(str(folder), data)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.mark.parametrize("name", KINDS)
def test_a_tiktoken_file_without_the_library_names_it(tmp_path, data, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    error = refuse(write_tiktoken(tmp_path / "t", *KINDS[name]), data)
    assert error.code is ExitCode.UNAVAILABLE
    assert "needs the library tiktoken, which is not installed" in error.message
    assert error.hint.endswith("pip install tiktoken")


@pytest.mark.skipif(importlib.util.find_spec("mistral_common") is not None, reason="the library is installed")
def test_a_tekken_file_without_the_library_names_it(tmp_path, data):
    error = refuse(write_tekken(tmp_path / "t"), data)
    assert error.code is ExitCode.UNAVAILABLE
    assert "needs the library mistral-common, which is not installed" in error.message


@pytest.mark.parametrize("file", ["tiktoken.model", "tokenizer.model", "qwen.tiktoken"])
def test_a_class_that_is_code_beside_a_tiktoken_file_is_refused_and_never_run(tmp_path, data, file):
    folder = write_tiktoken(tmp_path / "t", file, CODE)
    (folder / "tokenization_own.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\nclass OwnTokenizer: pass\n")
    error = refuse(folder, data)
    assert error.code is ExitCode.CANNOT_SCORE
    assert "OwnTokenizer is code of its repository, which is never run" in error.message
    assert not (folder / "executed").exists()


@pytest.mark.slow
def test_with_the_libraries_ids_are_those_of_transformers(tmp_path):
    try:
        ours = ("msgspec", "PyYAML", "structlog", "click", "rich", "filelock", "pyarrow", "numpy")
        libraries = ("transformers==5.23.0", "sentencepiece", "tiktoken", "mistral-common", "jinja2", "protobuf")
        python = build_environment("transformers-5.23.0-mistral", [*libraries, *ours])
        tekken = fetch_pypi_package("mistral-common", "1.13.1") / "mistral_common" / "data" / "tekken_240911.json"
    except RuntimeError as error:
        pytest.skip(str(error))
    folders = [write_tiktoken(tmp_path / name, *kind) for name, kind in KINDS.items()]
    folders.append(write_tekken(tmp_path / "tekken", tekken.read_bytes(), model_type=None))
    named = write_tekken(tmp_path / "tekken_named", tekken.read_bytes())
    both = write_tekken(tmp_path / "tekken_and_json", tekken.read_bytes())
    byte_level("<s>").save(str(both / "tokenizer.json"))
    environ = {**os.environ, "PYTHONPATH": f"{REPOSITORY_ROOT}:{REPOSITORY_ROOT / 'tests'}", "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-c", READ, str(tmp_path / "data"), *map(str, [*folders, named, both])]
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=1200, check=False)
    assert ended.returncode == 0, ended.stderr
    read = json.loads(ended.stdout.splitlines()[-1])
    for folder, theirs in describe_theirs(python, folders, []).items():
        assert "error" not in theirs, (folder, theirs)
        assert find_differences(theirs, read[folder]) == set(), (folder, theirs, read[folder])
        assert len(read[folder]["ids"]) == len(describe.TEXTS)
    assert "MistralCommonBackend of transformers recognises no special tokens in a prompt" in read[str(named)]
    backend = byte_level("<s>")
    backend.encode_special_tokens = True
    assert read[str(both)]["ids"] == [backend.encode(text).ids for text in describe.TEXTS]

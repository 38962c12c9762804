"""A tokenizer's folder as transformers opens it.

Its errors become one line: a library that is missing is named, and code of the repository is never run.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from suites.common.errors import ExitCode, UserError

_MISSING_LIBRARIES = ("sentencepiece", "tiktoken", "mistral_common", "mistral-common", "protobuf", "sacremoses", "blobfile")
"""Libraries that transformers asks for in errors of any class."""


_CLASSES_WITHOUT_PROMPTS = frozenset({"MistralCommonBackend"})
"""Classes that encode no rendered prompt. mistral-common's is chosen for a tekken.json, also beside a tokenizer.json."""


class LibraryTokenizer(NamedTuple):
    """The object of transformers, and what a person should know of it."""

    tokenizer: Any
    note: str | None = None


def open_library_tokenizer(folder: Path, *, use_fast: bool = True) -> LibraryTokenizer:
    """``AutoTokenizer`` of a folder.

    A folder with a tokenizer.json whose class transformers cannot open is opened without a class.

    Raises UserError: unavailable (a library is missing), cannot score.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: PLC0415  its import takes seconds

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    failure: Exception
    try:
        opened = AutoTokenizer.from_pretrained(str(folder), use_fast=use_fast, **options)
    except Exception as error:  # noqa: BLE001  it raises any class for a folder that it cannot open
        failure = error
    else:
        if type(opened).__name__ not in _CLASSES_WITHOUT_PROMPTS:
            return LibraryTokenizer(opened)
        message = f"{type(opened).__name__} of transformers recognises no special tokens in a prompt"
        failure = UserError(message, location=folder, hint="give a tokenizer.json", code=ExitCode.CANNOT_SCORE)
    if (folder / "tokenizer.json").is_file():
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), **options)
        except Exception as error:  # noqa: BLE001  as above; the first error says more
            del error
        else:
            class_name = find_class_name(folder) or "its class"
            note = f"transformers cannot open {class_name} ({describe_error(failure)}): tokenizer.json was read alone"
            return LibraryTokenizer(tokenizer, note)
    raise explain_failure(folder, failure) from failure


def explain_failure(folder: Path, error: Exception) -> UserError:
    """The one line for a folder that a library cannot open."""
    if isinstance(error, UserError):
        return error
    text = str(error)
    library = next((name for name in _MISSING_LIBRARIES if isinstance(error, ImportError) and name in text.lower()), None)
    library = library or next(
        (name for name in _MISSING_LIBRARIES if f"{name} installed" in text or f"`{name}` is required" in text), None
    )
    if library is None and isinstance(error, ModuleNotFoundError):
        library = error.name
    if library is not None:
        hint = f"install it for the jobs' Python: pip install {library}"
        message = f"{find_class_name(folder) or 'its class'} needs the library {library}, which is not installed"
        return UserError(message, location=folder, hint=hint, code=ExitCode.UNAVAILABLE)
    if "trust_remote_code" in text or "remote code" in text:
        return refuse_code(folder)
    message = f"this tokenizer cannot be loaded: {describe_error(error)}"
    return UserError(message, location=folder, hint="fix its files", code=ExitCode.CANNOT_SCORE)


def refuse_code(folder: Path) -> UserError:
    """The one line for a class that the repository brings along."""
    message = f"{find_class_name(folder) or 'its class'} is code of its repository, which is never run"
    return UserError(message, location=folder, hint="give a tokenizer.json", code=ExitCode.CANNOT_SCORE)


def is_code_of_its_repository(folder: Path) -> bool:
    """Whether the folder's documents name code as the tokenizer's class (``auto_map``)."""
    return any("AutoTokenizer" in (document.get("auto_map") or {}) for document in _read_documents(folder))


def describe_error(error: BaseException) -> str:
    """The first line of an error's text."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return line[:200] or type(error).__name__


def find_class_name(folder: Path) -> str | None:
    """The class that the folder's documents name."""
    names = (document.get("tokenizer_class") for document in _read_documents(folder))
    return next((name for name in names if isinstance(name, str)), None)


def _read_documents(folder: Path) -> Iterator[dict[str, Any]]:
    for name in ("tokenizer_config.json", "config.json"):
        try:
            document = json.loads((folder / name).read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(document, dict):
            yield document


def open_sentencepiece_backend(folder: Path, library: Any, model_file: str) -> Any:
    """Transformers' own way to part a text at special tokens and leave the rest to SentencePiece."""
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend  # noqa: PLC0415  with transformers

    names = ("bos_token", "eos_token", "unk_token")
    named = {name: getattr(library, name) for name in names if getattr(library, name) is not None}
    return SentencePieceBackend.from_pretrained(str(folder), vocab_file=str(folder / model_file), local_files_only=True, **named)


def make_sentencepiece_prompt_encoder(backend: Any) -> Callable[[str], list[int]]:
    """Rendered prompt -> ids, as the slow tokenizers of transformers 4 give them."""

    def encode(text: str) -> list[int]:
        if backend.legacy or not text:
            return list(backend.encode(text, add_special_tokens=False))
        # Not legacy: one mark before the text, none after special tokens, none before a special token.
        tokens = list(backend.encode("\u2581" + text.replace("\u2581", " "), add_special_tokens=False))
        mark = backend.convert_tokens_to_ids("\u2581")
        return tokens[1:] if len(tokens) > 1 and tokens[0] == mark and tokens[1] in backend.all_special_ids else tokens

    return encode

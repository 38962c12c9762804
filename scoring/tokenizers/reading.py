"""Reads a tokenizer's folder, once: what resolved.json says of it.

transformers says what the folder means: class, BOS, EOS, what precedes a text, added tokens, flags, template. The ids of text
come from tokenizer.json's own pipeline, with the tokens and the prefix space that tokenizer_config.json adds, because
transformers 5 builds the pipeline of some classes anew. Without a tokenizer.json they are SentencePiece's own, or those of
the pipeline that transformers makes of vocab.json and merges.txt, tiktoken or tekken files.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from scoring.tokenizers.codecs import PipelineCodec
from scoring.tokenizers.document_checks import refuse_damaged_files
from scoring.tokenizers.id_source import IdSource, choose_id_source
from scoring.tokenizers.library import (
    describe_error,
    find_class_name,
    is_code_of_its_repository,
    open_library_tokenizer,
    refuse_code,
)
from suites.common.errors import ExitCode, UserError
from suites.contract.resolved_tokenizer import ResolvedTokenizer, SpecialToken, TokenizerReading
from suites.definitions.tokenizer_files import compute_files_digest, read_tokenizer_files

_PROBES = ("a", "A", "0", "the", "Hello world", "\u4e2d", " ")

_COMPARED_TEXTS = (
    *("Hi", "the cat sat on the mat.", " leading  and   inner spaces ", "two\nlines\n\n\tand a tab", "12+30=42.0"),
    *("\u00e9t\u00e9, na\u00efve, Z\u00fcrich", "e\u0301 combining", "\u65e5\u672c\u8a9e", "don't WE'LL", "x = {'a': [1, 2]}"),
)
"""Texts whose ids are compared with those of transformers, to say where its pipeline is another."""

_LIBRARIES = ("transformers", "tokenizers", "sentencepiece", "tiktoken")


class FolderReading(NamedTuple):
    """Everything that the data cache keeps of a folder."""

    resolved: ResolvedTokenizer
    files: dict[str, bytes]
    pipeline: bytes | None


def read_tokenizer_folder(folder: Path, identifier: str, *, use_fast: bool, revision: str | None = None) -> FolderReading:
    """The reading of a folder.

    Raises UserError: usage (no tokenizer in it), unavailable (a library is missing), cannot score. Raises OSError.
    """
    try:
        files = read_tokenizer_files(folder)
        digest = compute_files_digest(files)
        if digest is None and is_code_of_its_repository(folder):
            raise refuse_code(folder)  # noqa: TRY301  the same answer
        if digest is None:
            raise UserError(  # noqa: TRY301  the same answer
                "contains no tokenizer", location=folder, hint="name a folder with a tokenizer.json"
            )
        # What is read is what the cache will hold, not what the folder may hold a moment later.
        with tempfile.TemporaryDirectory(prefix="tokenizer-") as scratch:
            for name, content in files.items():
                (Path(scratch) / name).parent.mkdir(exist_ok=True)
                (Path(scratch) / name).write_bytes(content)
            return _read(Path(scratch), files, digest, use_fast=use_fast, revision=revision)
    except UserError as error:
        raise UserError(error.message, location=identifier, hint=error.hint, code=error.code) from error
    except OSError:
        raise
    except Exception as error:  # libraries raise anything for a folder that they did not expect
        message = f"this tokenizer cannot be loaded: {describe_error(error)}"
        raise UserError(message, location=identifier, hint="fix its files", code=ExitCode.CANNOT_SCORE) from error


def _read(folder: Path, files: dict[str, bytes], digest: str, *, use_fast: bool, revision: str | None) -> FolderReading:
    refuse_damaged_files(files)
    opened = open_library_tokenizer(folder, use_fast=use_fast)
    library = opened.tokenizer
    ids = choose_id_source(folder, opened, use_fast=use_fast)
    bos, eos = (_find_special_token(name, library, ids) for name in ("bos_token", "eos_token"))
    prefix = _find_prefix(library, ids)
    template = find_default_template(library)
    vocab_size, special_tokens = ids.list_tokens(library)
    reading = TokenizerReading(
        files=digest,
        pipeline=None if ids.pipeline is None else hashlib.sha256(ids.pipeline).hexdigest(),
        way=ids.way,
        model_file=ids.model_file,
        tokenizer_class=find_class_name(folder) or type(library).__name__,
        bos=bos,
        eos=eos,
        prefix_ids=prefix.ids,
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        splits_special_tokens=bool(getattr(library, "split_special_tokens", False)),
        covers_all_text=ids.covers_all_text,
        template=None if template is None else hashlib.sha256(template.encode()).hexdigest(),
    )
    versions = {name: found for name in _LIBRARIES if (found := _find_version(name))}
    flag_note = _describe_ignored_flag(files, bos, prefix.ids, ids.way)
    notes = (*filter(None, (opened.note, prefix.note, flag_note)), *ids.notes)
    notes = (*notes, *_describe_moved_tokens(files, library, ids), *_compare_with_library(library, ids))
    return FolderReading(
        ResolvedTokenizer(reading=reading, revision=revision, versions=versions, notes=notes), files, ids.pipeline
    )


def _find_special_token(name: str, library: Any, ids: IdSource) -> SpecialToken | None:
    """BOS or EOS. Raises UserError where it is named and has no id."""
    text = getattr(library, name)
    if text is None:
        return None
    index = ids.find_id(str(text), library)
    if index is None:
        message = f"{name} is {text!r}, for which the vocabulary has no id"
        raise UserError(message, location=name, hint="name a token of the vocabulary", code=ExitCode.CANNOT_SCORE)
    return SpecialToken(text=str(text), id=index)


class _Prefix(NamedTuple):
    ids: tuple[int, ...]
    note: str | None = None


def _find_prefix(library: Any, ids: IdSource) -> _Prefix:
    """What precedes a text.

    transformers says so. tokenizer.json decides for Llama's classes, whose flags transformers 4 obeys and 5 does not.
    Raises UserError where no text gives a token.
    """
    probe = _find_probe(library, ids)
    tokens = library.convert_ids_to_tokens(
        _find_ids_before(library.encode(probe), library.encode(probe, add_special_tokens=False))
    )
    theirs = tuple(index for token in tokens if (index := ids.find_id(token, library)) is not None)
    if len(theirs) != len(tokens):
        message = f"transformers puts {' '.join(tokens)} before a text, which the vocabulary does not have"
        raise UserError(message, location="prefix", hint="name a token of the vocabulary", code=ExitCode.CANNOT_SCORE)
    if ids.way != "tokenizer.json" or not isinstance(ids.codec, PipelineCodec):
        return _Prefix(theirs)
    own = tuple(_find_ids_before(ids.codec.encode_prompt(probe, add_special_tokens=True), ids.codec.encode_prompt(probe)))
    if own == theirs:
        return _Prefix(theirs)
    is_llama = "Llama" in type(library).__name__
    sides = (f"tokenizer.json puts {_name_ids(own)} before a text", f"transformers puts {_name_ids(theirs)}")
    return _Prefix(own if is_llama else theirs, f"{', '.join(sides)}; {'tokenizer.json' if is_llama else 'transformers'} decides")


def _describe_ignored_flag(
    files: Mapping[str, bytes], bos: SpecialToken | None, prefix_ids: tuple[int, ...], way: str
) -> str | None:
    """The note where versions of transformers differ about BOS."""
    flag = _read_config(files).get("add_bos_token")
    has_bos = bos is not None and bos.id in prefix_ids
    outcome = "BOS is put before a text" if has_bos else "no BOS is put before a text"
    if way == "tokenizer.json" and isinstance(flag, bool) and flag != has_bos and bos is not None:
        source = f"add_bos_token is {str(flag).lower()}, but tokenizer.json decides: {outcome}"
        obeyed = f"put {bos.id} ({bos.text}) there" if flag else f"leave {bos.id} ({bos.text}) out"
        return f"{source}; classes of transformers 4 that obey the flag {obeyed}"
    if way != "tokenizer.json" and flag is None and bos is not None and not has_bos:
        return f"add_bos_token is not set: {outcome}, as transformers 5 has it; classes of transformers 4 may put one"
    return None


def _describe_moved_tokens(files: Mapping[str, bytes], library: Any, ids: IdSource) -> Iterator[str]:
    """A note where an added token has another id than its document says, or than transformers gives it."""
    documented = _read_config(files).get("added_tokens_decoder") or {}
    for index, token in documented.items():
        text = str(token["content"])
        ours, theirs = ids.find_id(text, library), library.convert_tokens_to_ids(text)
        if str(ours) != index:
            yield f"added_tokens_decoder says {index} for {text}, whose id is {ours}: as transformers has it"
            return
        if theirs != ours:
            yield f"transformers {version('transformers')} gives {text} the id {theirs}; {index} of added_tokens_decoder is used"
            return


def _read_config(files: Mapping[str, bytes]) -> dict[str, Any]:
    return dict(json.loads(files.get("tokenizer_config.json", b"{}")))


def _name_ids(ids: tuple[int, ...]) -> str:
    return " ".join(map(str, ids)) or "nothing"


def _find_probe(library: Any, ids: IdSource) -> str:
    """A text that has tokens; small alphabets have few."""
    vocabulary = sorted(library.get_vocab().items(), key=lambda entry: entry[1])
    texts: Iterator[str] = iter([*_PROBES, *(token for token, _ in vocabulary[:512])])
    for text in texts:
        if (
            text not in library.all_special_tokens
            and any(ids.codec.encode([text]))
            and library.encode(text, add_special_tokens=False)
        ):
            return text
    message = "this tokenizer gives no token for any text"
    raise UserError(message, location="probe", hint="check its vocabulary and normalizer", code=ExitCode.CANNOT_SCORE)


def _find_ids_before(full_ids: list[int], plain_ids: list[int]) -> list[int]:
    """What precedes ``plain_ids`` in ``full_ids``; empty if they do not occur in it."""
    starts = range(len(full_ids) - len(plain_ids) + 1)
    return full_ids[: next((n for n in starts if full_ids[n : n + len(plain_ids)] == plain_ids), 0)]


def find_default_template(library: Any) -> str | None:
    """The chat template without a name, or the one that is called default."""
    template = library.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    return template if isinstance(template, str) else None


def _compare_with_library(library: Any, ids: IdSource) -> Iterator[str]:
    """A note where transformers gives other ids for ordinary text."""
    for text, ours in zip(_COMPARED_TEXTS, ids.codec.encode(_COMPARED_TEXTS), strict=True):
        theirs = list(library.encode(text, add_special_tokens=False, split_special_tokens=True))
        if theirs != ours:
            source = {"tokenizer.json": "tokenizer.json", "sentencepiece": "SentencePiece"}.get(ids.way, ids.way)
            class_ = f"{type(library).__name__} of transformers {version('transformers')}"
            yield f"{class_} gives other ids than {source} (for {text!r}: {theirs[:8]}, not {ours[:8]}); {source}'s are used"
            return


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

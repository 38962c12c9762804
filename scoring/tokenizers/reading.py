"""Reads a tokenizer's folder, once: what resolved.json says of it.

transformers says what the folder means: class, BOS, EOS, what precedes a text, added tokens, flags, template. The ids of text
come from tokenizer.json's own pipeline, with the tokens and the prefix space that tokenizer_config.json adds, because
transformers 5 builds the pipeline of some classes anew. Without a tokenizer.json they are SentencePiece's own, or those of
the pipeline that transformers makes of vocab.json and merges.txt, tiktoken or tekken files.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from scoring.tokenizers.codecs import Codec, LibraryCodec, PipelineCodec, SentencePieceCodec
from scoring.tokenizers.library import (
    LibraryTokenizer,
    describe_error,
    find_class_name,
    open_library_tokenizer,
    open_sentencepiece_backend,
)
from scoring.tokenizers.pipeline import build_pipeline
from suites.common.errors import ExitCode, UserError
from suites.contract.resolved_tokenizer import ResolvedTokenizer, SpecialToken, TokenizerReading, TokenizerWay
from suites.definitions.tokenizer_files import TOKENIZER_FILES, compute_files_digest, read_tokenizer_files

SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")

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


class _Ids(NamedTuple):
    """Where ids come from, and what follows from it."""

    way: TokenizerWay
    codec: Codec
    model_file: str
    pipeline: bytes | None = None
    special_tokens: dict[str, int] | None = None
    """Only SentencePiece's; a pipeline knows its own."""
    notes: tuple[str, ...] = ()


def read_tokenizer_folder(folder: Path, identifier: str, *, use_fast: bool, revision: str | None = None) -> FolderReading:
    """The reading of a folder.

    Raises UserError: usage (no tokenizer in it), unavailable (a library is missing), cannot score. Raises OSError.
    """
    for name in TOKENIZER_FILES:
        # Without such a file the tokenizer would be read as another one, and nothing would say so.
        if os.path.lexists(folder / name) and not (folder / name).is_file():
            message = f"{name} is no file that can be read (a link whose target is gone, a pipe or a folder)"
            raise UserError(message, location=folder, hint="restore it, or remove the entry", code=ExitCode.DATA_MISSING)
    try:
        files = read_tokenizer_files(folder)
        digest = compute_files_digest(files)
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
    _refuse_damaged_files(files)
    opened = open_library_tokenizer(folder, use_fast=use_fast)
    library = opened.tokenizer
    ids = _choose_ids(folder, opened, use_fast=use_fast)
    bos, eos = (_find_special_token(name, library, ids) for name in ("bos_token", "eos_token"))
    prefix = _find_prefix(library, ids)
    template = find_default_template(library)
    vocab_size, special_tokens = _list_tokens(library, ids)
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
        covers_all_text=_covers_all_text(ids.codec),
        template=None if template is None else hashlib.sha256(template.encode()).hexdigest(),
    )
    versions = {name: found for name in _LIBRARIES if (found := _find_version(name))}
    flag_note = _describe_ignored_flag(files, bos, prefix.ids, ids.way)
    notes = (*filter(None, (opened.note, prefix.note, flag_note)), *ids.notes, *_compare_with_library(library, ids))
    return FolderReading(
        ResolvedTokenizer(reading=reading, revision=revision, versions=versions, notes=notes), files, ids.pipeline
    )


def _refuse_damaged_files(files: Mapping[str, bytes]) -> None:
    """Raise UserError for a JSON document that is none: libraries would say so less clearly, or not at all."""
    for name, content in files.items():
        try:
            if name.endswith(".json") and not isinstance(json.loads(content), dict):
                raise ValueError("no object")  # noqa: TRY301  the same answer
        except ValueError as error:
            message = f"this tokenizer cannot be loaded: {name} is damaged ({error})"
            raise UserError(message, location=name, hint="fix its files", code=ExitCode.CANNOT_SCORE) from error


def _choose_ids(folder: Path, opened: LibraryTokenizer, *, use_fast: bool) -> _Ids:
    """The first way that the folder allows. ``use_fast: false`` prefers SentencePiece's own ids."""
    library, has_json = opened.tokenizer, (folder / "tokenizer.json").is_file()
    model_file = next((name for name in SENTENCEPIECE_FILES if (folder / name).is_file()), None)
    if model_file is not None and not (has_json and use_fast):
        ids = _use_sentencepiece(folder, library, model_file)
        if ids is not None:
            return ids
    if has_json:
        try:
            backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception
            message = f"this tokenizer cannot be loaded: tokenizer.json: {describe_error(error)}"
            raise UserError(message, location=folder, hint="fix its files", code=ExitCode.CANNOT_SCORE) from error
        built = build_pipeline(backend, folder, library)
        return _Ids("tokenizer.json", PipelineCodec(backend), "tokenizer.json", built.pipeline, notes=built.notes)
    library_backend = getattr(library, "backend_tokenizer", None)
    vocabulary = next(
        (name for name in ("vocab.json", "vocab.txt", "tiktoken.model", "tekken.json") if (folder / name).is_file()), ""
    )
    if library_backend is None:
        return _Ids("transformers", LibraryCodec(library), model_file or vocabulary)
    copied = tokenizers.Tokenizer.from_str(library_backend.to_str())
    copied.no_truncation()
    copied.no_padding()
    return _Ids("transformers", PipelineCodec(copied), model_file or vocabulary, copied.to_str().encode())


def _use_sentencepiece(folder: Path, library: Any, model_file: str) -> _Ids | None:
    """SentencePiece's own ids; None where the file is no model of it, or where the class numbers its pieces otherwise."""
    import sentencepiece  # noqa: PLC0415  few tokenizers need it

    model = sentencepiece.SentencePieceProcessor()
    try:
        model.Load(str(folder / model_file))
    except Exception:  # noqa: BLE001  a tiktoken file may have the same name
        return None
    vocabulary = library.get_vocab()
    known = [(vocabulary.get(model.id_to_piece(index)), index) for index in range(model.get_piece_size())]
    if sum(theirs == ours for theirs, ours in known) < len(known) * 0.9:
        return None
    backend = open_sentencepiece_backend(folder, library, model_file)
    tokens = {str(token): index for index, token in backend.added_tokens_decoder.items()}
    codec = SentencePieceCodec(folder / model_file, tokens)
    return _Ids("sentencepiece", codec, model_file, special_tokens=tokens)


def _find_special_token(name: str, library: Any, ids: _Ids) -> SpecialToken | None:
    """BOS or EOS. Raises UserError where it is named and has no id."""
    text = getattr(library, name)
    if text is None:
        return None
    index = _find_id(str(text), library, ids)
    if index is None:
        message = f"{name} is {text!r}, for which the vocabulary has no id"
        raise UserError(message, location=name, hint="name a token of the vocabulary", code=ExitCode.CANNOT_SCORE)
    return SpecialToken(text=str(text), id=index)


def _find_id(text: str, library: Any, ids: _Ids) -> int | None:
    if isinstance(ids.codec, PipelineCodec):
        return ids.codec.backend.token_to_id(text)
    if isinstance(ids.codec, SentencePieceCodec):
        model = ids.codec.model
        index = (ids.special_tokens or {}).get(text, model.piece_to_id(text))
        return index if index != model.unk_id() or text == model.id_to_piece(index) else None
    index = library.convert_tokens_to_ids(text)
    return index if isinstance(index, int) and (index != library.unk_token_id or text == library.unk_token) else None


class _Prefix(NamedTuple):
    ids: tuple[int, ...]
    note: str | None = None


def _find_prefix(library: Any, ids: _Ids) -> _Prefix:
    """What precedes a text.

    transformers says so. tokenizer.json decides for Llama's classes, whose flags transformers 4 obeys and 5 does not.
    Raises UserError where no text gives a token.
    """
    probe = _find_probe(library, ids)
    tokens = library.convert_ids_to_tokens(
        _find_ids_before(library.encode(probe), library.encode(probe, add_special_tokens=False))
    )
    theirs = tuple(index for token in tokens if (index := _find_id(token, library, ids)) is not None)
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
    flag = json.loads(files.get("tokenizer_config.json", b"{}")).get("add_bos_token")
    has_bos = bos is not None and bos.id in prefix_ids
    outcome = "BOS is put before a text" if has_bos else "no BOS is put before a text"
    if way == "tokenizer.json" and isinstance(flag, bool) and flag != has_bos and bos is not None:
        source = f"add_bos_token is {str(flag).lower()}, but tokenizer.json decides: {outcome}"
        return f"{source}; some classes of transformers 4 obey the flag"
    if way != "tokenizer.json" and flag is None and bos is not None and not has_bos:
        return f"add_bos_token is not set: {outcome}, as transformers 5 has it; classes of transformers 4 may put one"
    return None


def _name_ids(ids: tuple[int, ...]) -> str:
    return " ".join(map(str, ids)) or "nothing"


def _find_probe(library: Any, ids: _Ids) -> str:
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


class _Tokens(NamedTuple):
    vocab_size: int
    special_tokens: dict[str, int]


def _list_tokens(library: Any, ids: _Ids) -> _Tokens:
    """The vocabulary's size (highest id plus one), and its special tokens."""
    if isinstance(ids.codec, PipelineCodec):
        backend = ids.codec.backend
        added = {token.content: index for index, token in backend.get_added_tokens_decoder().items() if token.special}
        return _Tokens(max(backend.get_vocab(with_added_tokens=True).values()) + 1, added)
    if isinstance(ids.codec, SentencePieceCodec):
        tokens = ids.special_tokens or {}
        return _Tokens(max([ids.codec.model.get_piece_size() - 1, *tokens.values()]) + 1, tokens)
    special = {str(token): index for index, token in library.added_tokens_decoder.items() if token.special}
    special |= {str(library.convert_ids_to_tokens(index)): index for index in library.all_special_ids}
    return _Tokens(max(library.get_vocab().values()) + 1, special)


def _covers_all_text(codec: Codec) -> bool:
    if isinstance(codec, PipelineCodec):
        return codec.unknown_text_counter.covers_all_text
    return isinstance(codec, SentencePieceCodec) and codec.covers_all_text


def _compare_with_library(library: Any, ids: _Ids) -> Iterator[str]:
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

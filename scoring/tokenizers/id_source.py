"""Where a tokenizer's ids come from, and what follows from it: ids of special tokens, size of the vocabulary."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from scoring.tokenizers.codecs import Codec, LibraryCodec, PipelineCodec, SentencePieceCodec
from scoring.tokenizers.library import LibraryTokenizer, describe_error, open_sentencepiece_backend
from scoring.tokenizers.pipeline import build_pipeline
from suites.common.errors import ExitCode, UserError
from suites.contract.resolved_tokenizer import TokenizerWay

SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


class _Tokens(NamedTuple):
    vocab_size: int
    special_tokens: dict[str, int]


class IdSource(NamedTuple):
    """Where ids come from, and what follows from it."""

    way: TokenizerWay
    codec: Codec
    model_file: str
    pipeline: bytes | None = None
    special_tokens: dict[str, int] | None = None
    """Only SentencePiece's; a pipeline knows its own."""
    notes: tuple[str, ...] = ()

    @property
    def covers_all_text(self) -> bool:
        """Whether every byte has a token."""
        if isinstance(self.codec, PipelineCodec):
            return self.codec.unknown_text_counter.covers_all_text
        return isinstance(self.codec, SentencePieceCodec) and self.codec.covers_all_text

    def find_id(self, text: str, library: Any) -> int | None:
        """The id of a token; None where there is none."""
        if isinstance(self.codec, PipelineCodec):
            return self.codec.backend.token_to_id(text)
        if isinstance(self.codec, SentencePieceCodec):
            model = self.codec.model
            index = (self.special_tokens or {}).get(text, model.piece_to_id(text))
            return index if index != model.unk_id() or text == model.id_to_piece(index) else None
        index = library.convert_tokens_to_ids(text)
        return index if isinstance(index, int) and (index != library.unk_token_id or text == library.unk_token) else None

    def list_tokens(self, library: Any) -> _Tokens:
        """The vocabulary's size (highest id plus one), and its special tokens."""
        if isinstance(self.codec, PipelineCodec):
            backend = self.codec.backend
            added = {token.content: index for index, token in backend.get_added_tokens_decoder().items() if token.special}
            return _Tokens(max(backend.get_vocab(with_added_tokens=True).values()) + 1, added)
        if isinstance(self.codec, SentencePieceCodec):
            tokens = self.special_tokens or {}
            return _Tokens(max([self.codec.model.get_piece_size() - 1, *tokens.values()]) + 1, tokens)
        special = {str(token): index for index, token in library.added_tokens_decoder.items() if token.special}
        special |= {str(library.convert_ids_to_tokens(index)): index for index in library.all_special_ids}
        return _Tokens(max(library.get_vocab().values()) + 1, special)


def choose_id_source(folder: Path, opened: LibraryTokenizer, *, use_fast: bool) -> IdSource:
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
        return IdSource("tokenizer.json", PipelineCodec(backend), "tokenizer.json", built.pipeline, notes=built.notes)
    library_backend = getattr(library, "backend_tokenizer", None)
    vocabulary = next(
        (name for name in ("vocab.json", "vocab.txt", "tiktoken.model", "tekken.json") if (folder / name).is_file()), ""
    )
    if library_backend is None:
        return IdSource("transformers", LibraryCodec(library), model_file or vocabulary)
    copied = tokenizers.Tokenizer.from_str(library_backend.to_str())
    copied.no_truncation()
    copied.no_padding()
    file = model_file or vocabulary
    notes = (f"{file} says nothing of how text is split: transformers' pattern is used",) if _is_tiktoken(folder / file) else ()
    return IdSource("transformers", PipelineCodec(copied), file, copied.to_str().encode(), notes=notes)


def _is_tiktoken(path: Path) -> bool:
    """Whether a file has lines of a token in base64 and its rank."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return re.fullmatch(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?\n", stream.readline(4096)) is not None


def _use_sentencepiece(folder: Path, library: Any, model_file: str) -> IdSource | None:
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
    return IdSource("sentencepiece", codec, model_file, special_tokens=tokens)

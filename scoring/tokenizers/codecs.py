"""Text to token ids and back: a pipeline of tokenizers, SentencePiece's own ids, or a class of transformers."""

import functools
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from scoring.tokenizers.unknown_text import UnknownText, UnknownTextCounter
from suites.contract.resolved_tokenizer import PIPELINE_JSON, TokenizerReading


class Codec(Protocol):
    """What a tokenizer does with texts. No text is truncated or padded, and nothing is added to one."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text. Special-token text in it is ordinary text."""

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a rendered prompt: special tokens in it are recognised."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones included."""

    def count_unknown(self, texts: Sequence[str]) -> list[UnknownText]:
        """What of each text has no token."""


class PipelineCodec:
    """A pipeline of the tokenizers library."""

    def __init__(self, backend: tokenizers.Tokenizer, *, splits_special_tokens: bool = False) -> None:
        backend.no_truncation()
        backend.no_padding()
        # Dropout is for training: with it, equal text would have other ids each time.
        if getattr(backend.model, "dropout", None) is not None:
            backend.model.dropout = None
        backend.encode_special_tokens = True  # special-token text is ordinary text, but in prompts
        self.backend, self._splits_special_tokens = backend, splits_special_tokens

    @functools.cached_property
    def unknown_text_counter(self) -> UnknownTextCounter:
        """Counts what has no token."""
        return UnknownTextCounter(self.backend)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """As ``Codec.encode``, on all cores."""
        return [ids.ids for ids in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_prompt(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """As ``Codec.encode_prompt``. ``add_special_tokens``: with what the post-processor adds."""
        self.backend.encode_special_tokens = self._splits_special_tokens
        try:
            return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)
        finally:
            self.backend.encode_special_tokens = True

    def decode(self, tokens: Sequence[int]) -> str:
        """As ``Codec.decode``."""
        return str(self.backend.decode(list(tokens), skip_special_tokens=False))

    def count_unknown(self, texts: Sequence[str]) -> list[UnknownText]:
        """As ``Codec.count_unknown``."""
        return self.unknown_text_counter.count(texts)


class SentencePieceCodec:
    """SentencePiece's model, and the tokens that the folder adds to it."""

    def __init__(self, model_file: Path, special_tokens: Mapping[str, int]) -> None:
        import sentencepiece  # noqa: PLC0415  few tokenizers need it

        self.model = sentencepiece.SentencePieceProcessor()
        self.model.Load(str(model_file))
        self._text_by_id = {index: text for text, index in special_tokens.items()}

    @property
    def covers_all_text(self) -> bool:
        """Every byte is a piece, and nothing is dropped before."""
        has_bytes = sum(map(self.model.is_byte, range(self.model.get_piece_size()))) == 256  # noqa: PLR2004  values of a byte
        return has_bytes and not self._joins_spaces and not any(map(self._is_dropped, map(chr, range(0x300))))

    @functools.cached_property
    def _joins_spaces(self) -> bool:
        """Whether normalization leaves one of several spaces, and none at the ends of a text."""
        return bool(self.model.normalize("a  a") == self.model.normalize("a a"))

    @functools.cache  # noqa: B019  it lives as long as the tokenizer
    def _is_dropped(self, character: str) -> bool:
        return bool(self.model.normalize(f"a{character}a") == self.model.normalize("aa"))

    @functools.cache  # noqa: B019  as above
    def _is_space(self, character: str) -> bool:
        return bool(self.model.normalize(f"a{character}a") == self.model.normalize("a a"))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """As ``Codec.encode``."""
        return [list(ids) for ids in self.model.encode(list(texts), out_type=int)]

    def encode_prompt(self, text: str) -> list[int]:
        """Not here: only transformers knows how special tokens part a text (``library.PromptEncoder``)."""
        raise NotImplementedError(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """As ``Codec.decode``."""
        text, run = "", list[int]()
        for token in tokens:
            if token in self._text_by_id or token >= self.model.get_piece_size():
                text += (self.model.decode(run) if run else "") + self._text_by_id.get(token, "\ufffd")
                run = []
            else:
                run.append(token)
        return text + (self.model.decode(run) if run else "")

    def count_unknown(self, texts: Sequence[str]) -> list[UnknownText]:
        """As ``Codec.count_unknown``: unknown pieces, and what normalization drops.

        An unknown piece is the text that it stands for. Of a run of white space one may be left, and none at the ends.
        """
        unknown_id, pieces = self.model.unk_id(), self.model.encode(list(texts), out_type=str)
        return [
            UnknownText.of(
                "".join(piece for piece, token in zip(row, ids, strict=True) if token == unknown_id) + self._list_dropped(text)
            )
            for text, row, ids in zip(texts, pieces, self.encode(texts), strict=True)
        ]

    def _list_dropped(self, text: str) -> str:
        """The characters that normalization leaves out."""
        kept = "".join(character for character in text if not self._is_dropped(character))
        dropped = "".join(character for character in text if self._is_dropped(character))
        if not self._joins_spaces:
            return dropped
        runs = ["".join(run) for is_space, run in groupby(kept, key=self._is_space) if is_space]
        ends = (kept and self._is_space(kept[0]), kept and self._is_space(kept[-1]))
        lost = [run[1:] for run in runs]
        lost[:1] = runs[:1] if ends[0] else lost[:1]
        lost[-1:] = runs[-1:] if ends[1] else lost[-1:]
        return dropped + "".join(lost)


class LibraryCodec:
    """A Python class of transformers, for the few tokenizers that neither library above reads."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """As ``Codec.encode``."""
        return [list(self._library.encode(text, add_special_tokens=False, split_special_tokens=True)) for text in texts]

    def encode_prompt(self, text: str) -> list[int]:
        """As ``Codec.encode_prompt``."""
        return list(self._library.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """As ``Codec.decode``."""
        return str(self._library.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def count_unknown(self, texts: Sequence[str]) -> list[UnknownText]:
        """As ``Codec.count_unknown``. An unknown token counts as one character of one byte."""
        counts = [ids.count(self._library.unk_token_id) for ids in self.encode(texts)]
        return [UnknownText(count, count) for count in counts]


def load_codec(folder: Path, reading: TokenizerReading) -> Codec:
    """The codec of a cached tokenizer. transformers is imported only for its own Python classes."""
    if reading.way == "sentencepiece":
        return SentencePieceCodec(folder / reading.model_file, reading.special_tokens)
    if reading.way == "transformers" and reading.pipeline is None:
        from scoring.tokenizers.library import open_library_tokenizer  # noqa: PLC0415  its import takes seconds

        return LibraryCodec(open_library_tokenizer(folder).tokenizer)
    file = folder / ("tokenizer.json" if reading.pipeline is None else PIPELINE_JSON)
    backend = tokenizers.Tokenizer.from_file(str(file))
    return PipelineCodec(backend, splits_special_tokens=reading.splits_special_tokens)

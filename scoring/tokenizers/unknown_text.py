"""Characters of a text for which a tokenizer has no token."""

import functools
import json
import re
from collections.abc import Callable, Sequence
from itertools import compress
from operator import or_
from typing import Any, NamedTuple, Self

import tokenizers
from tokenizers import pre_tokenizers

from scoring.tokenizers.dropped_text import (
    NormalizerProbe,
    gives_spaces_back,
    iter_steps,
    mark_uncovered,
    may_normalizer_drop,
    may_pre_tokenizer_drop,
)

UNKNOWN_SHARE_NOTED = 0.001
"""Share of characters without a token above which a person is told."""


_UTF8_BYTES = sorted({byte for byte in range(0xF5) if byte not in {0xC0, 0xC1}})
"""The bytes that occur in UTF-8."""

_GAP = re.compile(b"\1+")


class UnknownText(NamedTuple):
    """How much of a text has no token: it was dropped, or became the unknown token."""

    characters: int
    bytes: int
    """In UTF-8."""

    @classmethod
    def of(cls, text: str) -> Self:
        """Everything of ``text``."""
        return cls(len(text), len(text.encode()))


class TextCoverage(NamedTuple):
    """How much of many texts has no token."""

    characters: int = 0
    unknown_characters: int = 0
    unknown_bytes: int = 0

    def add(self, text: str, unknown: UnknownText) -> Self:
        """With one more text."""
        return type(self)(
            self.characters + len(text), self.unknown_characters + unknown.characters, self.unknown_bytes + unknown.bytes
        )

    def describe(self, name: str, consequence: str) -> str | None:
        """The note for more than UNKNOWN_SHARE_NOTED; None for less."""
        if self.unknown_characters <= self.characters * UNKNOWN_SHARE_NOTED:
            return None
        share = f"{self.unknown_characters / self.characters:.2%}"
        return f"{name}: {share} of the characters have no token; {consequence}"


class UnknownTextCounter:
    """Counts for one pipeline of the tokenizers library."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend, self._vocabulary = backend, backend.get_vocab(with_added_tokens=False)
        pipeline = json.loads(backend.to_str())
        model, normalizer, pre_tokenizer = pipeline["model"], pipeline["normalizer"], pipeline["pre_tokenizer"]
        self._unknown_id = _find_unknown_id(model, self._vocabulary)
        self._is_byte_level = any(step["type"] == "ByteLevel" for step in iter_steps([normalizer, pre_tokenizer]))
        drops_text = may_normalizer_drop(normalizer) or may_pre_tokenizer_drop(pre_tokenizer)
        self._probe = NormalizerProbe(backend)
        self.covers_all_text = self._has_all_bytes(model) and not drops_text
        """Nothing can be without a token, so nothing needs to be counted."""

    def _has_all_bytes(self, model: dict[str, Any]) -> bool:
        """Whether every byte of UTF-8 has a token."""
        if self._is_byte_level:
            return not any(map(self._has_missing_byte, _list_characters_of_all_bytes()))
        has_bytes = (f"<0x{byte:02X}>" in self._vocabulary or chr(byte) in self._vocabulary for byte in _UTF8_BYTES)
        return bool(model.get("byte_fallback")) and all(has_bytes)

    def count(self, texts: Sequence[str]) -> list[UnknownText]:
        """What of each text has no token.

        A character has one where a known token stands for it, or for what the normalizer made of it: lower case, a
        composed or compatible form. One space between words counts as said where decoding puts one there.
        """
        encodings = self._plain_backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            self._count(text, encoding, dropped)
            for text, encoding, dropped in zip(texts, encodings, self._probe.mark_dropped(texts), strict=True)
        ]

    @functools.cached_property
    def _plain_backend(self) -> tokenizers.Tokenizer:
        """Without the post-processor, which may trim spaces from the offsets."""
        backend = tokenizers.Tokenizer.from_str(json.dumps({**json.loads(self._backend.to_str()), "post_processor": None}))
        backend.encode_special_tokens = True
        return backend

    def _count(self, text: str, encoding: tokenizers.Encoding, dropped: bytearray) -> UnknownText:
        """One text. ``dropped``: 1 for each character that the normalizer drops, which tokens may span."""
        lost = self._mark_unknown(text, encoding)
        # A dropped byte leaves no trace in the offsets where other bytes of its character have tokens.
        missing = {c for c in set(text) if self._is_byte_level and not c.isascii() and self._has_missing_byte(c)}
        marks = [character in missing for character in text] if missing else bytes(len(text))
        return UnknownText.of("".join(compress(text, map(or_, map(or_, lost, dropped), marks))))

    def _mark_unknown(self, text: str, encoding: tokenizers.Encoding) -> bytearray:
        """1 for each character that no known token stands for, by the tokens' offsets."""
        lost, ids = mark_uncovered(text, encoding), encoding.ids
        if 1 in lost and self._gives_spaces_back:
            for gap in _GAP.finditer(lost):
                space = next((n for n in range(*gap.span()) if text[n].isspace()), None)
                if space is not None and gap.start() > 0 and gap.end() < len(text):
                    lost[space] = 0
        if self._unknown_id in ids:  # last: the mark before a word is put at the word's first character
            for token, (start, stop) in zip(ids, encoding.offsets, strict=True):
                if token == self._unknown_id:
                    lost[start:stop] = b"\1" * (stop - start)
        self._probe.settle_composed(text, lost)
        return lost

    @functools.cached_property
    def _gives_spaces_back(self) -> bool:
        return gives_spaces_back(self._backend, self._unknown_id)

    @functools.cached_property
    def _has_missing_byte(self) -> Callable[[str], bool]:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

        @functools.cache
        def has_missing_byte(character: str) -> bool:
            ((symbols, _),) = byte_level.pre_tokenize_str(character)
            return any(symbol not in self._vocabulary for symbol in symbols)

        return has_missing_byte


def _list_characters_of_all_bytes() -> list[str]:
    """Characters in which every byte of UTF-8 occurs."""
    four_bytes = (0x10000, 0x40000, 0x80000, 0xC0000, 0x100000)
    three_bytes = (0x800, *(lead << 12 for lead in range(1, 16)))  # 0xD000 comes before the surrogates
    return [chr(point) for point in (*range(0x800), *three_bytes, *four_bytes)]


def _find_unknown_id(model: dict[str, Any], vocabulary: dict[str, int]) -> int | None:
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return vocabulary.get(model.get("unk_token") or "")

"""Characters of a text for which a tokenizer has no token."""

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import tokenizers
from tokenizers import pre_tokenizers

_DROPPING_STEPS = frozenset({"Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit"})
"""Pre-tokenizers that drop the characters between words."""


UNKNOWN_SHARE_NOTED = 0.001
"""Share of characters without a token above which a person is told."""


_UTF8_BYTES = sorted({byte for byte in range(0xF5) if byte not in {0xC0, 0xC1}})
"""The bytes that occur in UTF-8."""


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
        model, steps = pipeline["model"], list(_iter_steps([pipeline["normalizer"], pipeline["pre_tokenizer"]]))
        self._unknown_id = _find_unknown_id(model, self._vocabulary)
        self._is_byte_level = any(step["type"] == "ByteLevel" for step in steps)
        drops_text = any(step["type"] in _DROPPING_STEPS or step.get("behavior") == "Removed" for step in steps)
        self.covers_all_text = self._has_all_bytes(model) and not drops_text
        """Nothing can be without a token, so nothing needs to be counted."""

    def _has_all_bytes(self, model: dict[str, Any]) -> bool:
        """Whether every byte of UTF-8 has a token."""
        if self._is_byte_level:
            return not any(map(self._has_missing_byte, _list_characters_of_all_bytes()))
        has_bytes = (f"<0x{byte:02X}>" in self._vocabulary or chr(byte) in self._vocabulary for byte in _UTF8_BYTES)
        return bool(model.get("byte_fallback")) and all(has_bytes)

    def count(self, texts: Sequence[str]) -> list[UnknownText]:
        """What of each text has no token."""
        # A dropped byte leaves no trace in the offsets where other bytes of its character have tokens.
        if self._is_byte_level and self._unknown_id is None:
            return [self._count_characters(text) for text in texts]
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [self._count_gaps(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def _count_characters(self, text: str) -> UnknownText:
        counts = {character: count for character, count in Counter(text).items() if self._has_missing_byte(character)}
        return UnknownText(sum(counts.values()), sum(len(character.encode()) * count for character, count in counts.items()))

    @functools.cached_property
    def _has_missing_byte(self) -> Callable[[str], bool]:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

        @functools.cache
        def has_missing_byte(character: str) -> bool:
            ((symbols, _),) = byte_level.pre_tokenize_str(character)
            return any(symbol not in self._vocabulary for symbol in symbols)

        return has_missing_byte

    def _count_gaps(self, text: str, encoding: tokenizers.Encoding) -> UnknownText:
        """Characters that no known token stands for, by the tokens' offsets."""
        is_known = bytearray(len(text))
        for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if token != self._unknown_id:
                is_known[start:stop] = b"\1" * (stop - start)
        return UnknownText.of("".join(character for character, known in zip(text, is_known, strict=True) if not known))


def _list_characters_of_all_bytes() -> list[str]:
    """Characters in which every byte of UTF-8 occurs."""
    four_bytes = (0x10000, 0x40000, 0x80000, 0xC0000, 0x100000)
    three_bytes = (0x800, *(lead << 12 for lead in range(1, 16)))  # 0xD000 comes before the surrogates
    return [chr(point) for point in (*range(0x800), *three_bytes, *four_bytes)]


def _iter_steps(steps: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Normalizers or pre-tokenizers as JSON, those of sequences included."""
    for step in steps:
        if step is not None:
            yield step
            yield from _iter_steps([*step.get("normalizers", ()), *step.get("pretokenizers", ())])


def _find_unknown_id(model: dict[str, Any], vocabulary: dict[str, int]) -> int | None:
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return vocabulary.get(model.get("unk_token") or "")

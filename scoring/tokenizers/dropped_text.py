"""Text that the steps before a tokenizer's model drop: no token stands for it."""

import functools
import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers

_KEEPING_NORMALIZERS = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "ByteLevel", "Sequence"})
"""They change text: something stands for every character. Any other step is looked at, text by text."""

_KEEPING_PRE_TOKENIZERS = frozenset({"ByteLevel", "Metaspace", "Digits", "UnicodeScripts", "FixedLength", "Sequence"})

_EACH_CHARACTER = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")

_PROBED_WORDS = 200

_JAMO = range(0x1160, 0x1200)
"""Vowels and final consonants of Hangul, which compose with what precedes them."""


def iter_steps(steps: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Normalizers or pre-tokenizers as JSON, those of sequences included."""
    for step in steps:
        if step is not None:
            yield step
            yield from iter_steps([*step.get("normalizers", ()), *step.get("pretokenizers", ())])


def may_normalizer_drop(normalizer: Any) -> bool:
    """Whether a normalizer, as JSON, may leave characters out."""
    return any(_may_step_drop(step) for step in iter_steps([normalizer]))


def _may_step_drop(step: dict[str, Any]) -> bool:
    if step["type"] == "Replace":
        pattern = step["pattern"].get("String")
        return pattern is None or len(step["content"]) < len(pattern)
    return step["type"] not in _KEEPING_NORMALIZERS


def may_pre_tokenizer_drop(pre_tokenizer: Any) -> bool:
    """Whether a pre-tokenizer, as JSON, may leave characters out."""
    return any(
        step["behavior"] == "Removed" if "behavior" in step else step["type"] not in _KEEPING_PRE_TOKENIZERS
        for step in iter_steps([pre_tokenizer])
    )


def mark_uncovered(text: str, encoding: tokenizers.Encoding) -> bytearray:
    """1 for each character of a text that is in no token, by the tokens' offsets."""
    marks = bytearray(b"\1" * len(text))
    for start, stop in encoding.offsets:
        marks[start:stop] = bytes(stop - start)
    return marks


class NormalizerProbe:
    """What a pipeline's normalizer drops, by the characters that it leaves and where they come from."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        normalizer = json.loads(backend.to_str())["normalizer"]
        self._normalizer, self._may_drop = backend.normalizer, may_normalizer_drop(normalizer)
        self._probe = tokenizers.Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))  # noqa: S106  no password
        self._probe.pre_tokenizer = _EACH_CHARACTER
        if self._normalizer is not None:
            self._probe.normalizer = self._normalizer

    def mark_dropped(self, texts: Sequence[str]) -> list[bytearray]:
        """For each text: 1 where the normalizer drops the character."""
        marks = [bytearray(len(text)) for text in texts]
        if not self._may_drop or self._normalizer is None:
            return marks
        changed = [n for n, text in enumerate(texts) if self._normalizer.normalize_str(text) != text]
        encodings = self._probe.encode_batch([texts[n] for n in changed], add_special_tokens=False)
        for n, encoding in zip(changed, encodings, strict=True):
            marks[n] = mark_uncovered(texts[n], encoding)
            self.settle_composed(texts[n], marks[n])
        return marks

    def settle_composed(self, text: str, dropped: bytearray) -> None:
        """Mark characters as those before them that composition joins them with: the same text in another form."""
        if self._normalizer is None:
            return
        index = dropped.find(1)
        while index >= 0:
            if _is_combining(text[index]):
                start = index
                while start > 0 and _is_combining(text[start]):
                    start -= 1
                if self._composes(text[start:index], text[index]):
                    dropped[index] = dropped[start]
            index = dropped.find(1, index + 1)

    @functools.lru_cache(maxsize=10_000)  # noqa: B019  it lives as long as the tokenizer
    def _composes(self, before: str, character: str) -> bool:
        lengths = [len(self._normalizer.normalize_str(text)) for text in (before + character, before, character)]
        return lengths[0] < lengths[1] + lengths[2]


def _is_combining(character: str) -> bool:
    return unicodedata.category(character).startswith("M") or ord(character) in _JAMO


def gives_spaces_back(backend: tokenizers.Tokenizer, unknown_id: int | None) -> bool:
    """Whether decoding puts a space between words, and none inside one.

    Then the boundary of two words is the space that a pre-tokenizer dropped.
    """
    vocabulary = sorted(backend.get_vocab(with_added_tokens=False).items(), key=lambda entry: entry[1])
    starts = [text for text, _ in vocabulary if text.isalpha()][:_PROBED_WORDS]
    parts = [text.removeprefix("##").removesuffix("</w>") for text, _ in vocabulary]
    parts = [text for text in parts if text.isalpha()][:_PROBED_WORDS]
    pairs = [first + second for first, second in zip(starts, reversed(parts), strict=False)]
    # Words of several tokens say more than those of one, which a space around every token would also part.
    for words, least in ((pairs, 4), ([*parts, *starts], 2)):
        for word in words:
            tokens = backend.encode(f"{word} {word}", add_special_tokens=False).ids
            if len(tokens) >= least and unknown_id not in tokens:
                return len(backend.decode(tokens, skip_special_tokens=False).split()) == 2  # noqa: PLR2004  the two words
    return False

"""The check for answers that repeat themselves without end."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from scoring.answer_checks.base import CheckVerdict, ModelAnswer, quote_text

MAX_TOKEN_COUNT = 5000
"""Words and characters that are searched, from the beginning."""

_MIN_REPEATS = 4

_MIN_LOOPED_WORDS, _MAX_UNIT_WORDS = 12, 64

_MIN_LOOPED_CHARACTERS, _MAX_UNIT_CHARACTERS = 16, 200
"""The same for writing without spaces, where each character counts."""

_CHARACTER_RUN = re.compile(r"([^\s\-=_*#.|~])\1{39,}")

_SYLLABLE_RUN = re.compile(r"([^\W\d_]{2,16}?)\1{11,}")
"""ha ha ha without the spaces."""

_MAX_SYLLABLE_CHARACTERS = 20_000

_UNSPACED_SCRIPTS = (
    *("CJK ", "HIRAGANA ", "KATAKANA ", "BOPOMOFO ", "YI SYLLABLE", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN "),
    *("JAVANESE ", "NEW TAI LUE ", "TAI THAM ", "BALINESE "),
)
"""Beginnings of the names of letters whose words have no spaces between them."""


def _is_unspaced(character: str) -> bool:
    return character >= "\u0e00" and unicodedata.name(character, "").startswith(_UNSPACED_SCRIPTS)


def split_repeatable_tokens(text: str) -> Iterator[str]:
    """Words in lower case; of writing without spaces, its letters.

    Punctuation alone is no token, and neither are marks above or below a letter.
    """
    for word in text.casefold().split():
        letters = ""
        for character in word:
            if not _is_unspaced(character):
                letters += character
                continue
            if any(letter.isalnum() for letter in letters):
                yield letters
            letters = ""
            if character.isalnum():
                yield character
        if any(letter.isalnum() for letter in letters):
            yield letters


def _find_loop(tokens: Sequence[str]) -> Sequence[str]:
    """The tokens that stand at least four times in a row; empty where there are none."""
    is_unspaced = [len(token) == 1 and _is_unspaced(token) for token in tokens]
    max_unit = min(_MAX_UNIT_CHARACTERS if any(is_unspaced) else _MAX_UNIT_WORDS, len(tokens) // _MIN_REPEATS)
    # Compare every token with the one ``unit`` tokens before: a run of equal ones is a loop with that period.
    for unit in range(1, max_unit + 1):
        same_count = 0
        for index in range(unit, len(tokens)):
            same_count = same_count + 1 if tokens[index] == tokens[index - unit] else 0
            looped_count = _MIN_LOOPED_CHARACTERS if is_unspaced[index] else _MIN_LOOPED_WORDS
            if same_count >= max((_MIN_REPEATS - 1) * unit, looped_count - unit):
                return tokens[index - unit + 1 : index + 1]
    return ()


def check_no_repetition(answer: ModelAnswer) -> CheckVerdict:
    """Passes where nothing is repeated over and over.

    Fails where up to 64 words stand four times in a row and make up at least 12 words. Of writing without spaces (Chinese,
    Japanese, Thai and others) each letter counts as a word, up to 200 of them, and at least 16 must be looped. Fails where one
    character stands 40 times in a row (rules and dots aside), or up to 16 letters 12 times. Only the first 5,000 words count.
    A refrain passes, and so does "no no no".
    """
    run = _CHARACTER_RUN.search(answer.text) or _SYLLABLE_RUN.search(answer.text[:_MAX_SYLLABLE_CHARACTERS].casefold())
    if run:
        return CheckVerdict(False, f"has {quote_text(run[1])} {len(run[0]) // len(run[1])} times in a row")
    tokens = []
    for token in split_repeatable_tokens(answer.text):
        tokens.append(token)
        if len(tokens) == MAX_TOKEN_COUNT:
            break
    loop = _find_loop(tokens)
    return CheckVerdict(False, f"repeats {quote_text(' '.join(loop), 60)}") if loop else CheckVerdict(True, "no repetition")

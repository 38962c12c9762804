"""Where sentences end, and the check that counts them."""

import re
from itertools import groupby

from scoring.answer_checks.base import CheckVerdict, ModelAnswer, check_count, straighten_quotes
from suites.definitions import checks


def _make_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NAMES_FOLLOW = _make_words("mr mrs ms mx dr prof messrs mme mlle vs v cf viz approx ca e.g i.e incl esp resp")
"""Abbreviations that never end a sentence."""

_NUMBERS_FOLLOW = _make_words(
    "no nos fig figs p pp vol vols ch sec sect eq art op ver para jan feb mar apr jun jul aug sep sept oct nov dec"
)
"""Abbreviations before a number; elsewhere they are words."""

_NAMES_END = _make_words(
    "inc ltd co corp llc plc bros jr sr esq ave blvd rd st mt ft dept est assn univ ph.d m.d b.a m.a b.sc m.sc "
    "rev fr hon gen sen rep gov capt col cmdr lt sgt maj"
)
"""Abbreviations that end a sentence only before a word that usually begins one."""

_MAY_END = _make_words("etc al a.m p.m a.d b.c b.c.e c.e ibid misc")
"""Abbreviations that end a sentence before a capital letter."""

_AFTER_A_TIME = _make_words(
    "eastern central mountain pacific est edt cst cdt mst mdt pst pdt et ct mt pt utc gmt cet cest bst "
    "monday tuesday wednesday thursday friday saturday sunday"
)

_SENTENCE_BEGINNERS = _make_words(
    "the a an it its he she they we you i this that these those there here his her their our my your in on at for from by with "
    "to after before since during while when whenever where if unless although though because as then so but and or yet nor "
    "however also still now today yesterday tomorrow later finally first second third next once most many some few several all "
    "each every both another other one two three no not never yes what who whom whose which why how is are was were do does did "
    "can could will would should may might must let please thank thanks maybe perhaps sometimes often usually instead "
    "therefore thus meanwhile moreover furthermore additionally overall nobody everyone everybody someone somebody"
)

_BOUNDARY = re.compile(
    r"(?P<mark>[.!?\u2026]+|[\u061f\u06d4\u0964\u0965\u1362\u17d4\u104b]+)(?P<close>[\"')\]*_\u00bb]*)\s+"
    r"(?=[\"'(\[*_\u00ab\u00bf\u00a1]*(?P<next>\S+))"
    r"|[\u3002\uff01\uff1f\uff61]+"
    r"(?:\s*(?=[^\s\u300d\u300f\"'\uff09)])|[\u300d\u300f\"'\uff09)]+(?=\s+\S|[\u300c\u300e]))"
)
"""A mark before white space; the marks of Chinese and Japanese need none."""

_MAX_ABBREVIATION_CHARACTERS = 60
"""Characters before a mark that are searched for an abbreviation: a long text of them must not take quadratic time."""

_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
"""An abbreviation of single letters: U.S, without its last stop."""


def split_paragraphs(text: str) -> list[str]:
    """The paragraphs of a text: lines between empty lines."""
    return ["\n".join(lines) for is_filled, lines in groupby(text.splitlines(), key=lambda line: bool(line.strip())) if is_filled]


def split_sentences(text: str) -> list[str]:
    """The sentences of a text.

    A sentence ends at ., ! or ? before white space, or at an empty line. An abbreviation ends one only where the next word begins
    one. A piece without a letter is none.
    """
    sentences = []
    for paragraph in split_paragraphs(text):
        straight, start = straighten_quotes(paragraph), 0
        for match in _BOUNDARY.finditer(straight):
            before = straight[max(start, match.start() - _MAX_ABBREVIATION_CHARACTERS) : match.start()]
            if match["mark"] is None or _ends_sentence(before, match):
                sentences.append(straight[start : match.end()])
                start = match.end()
        sentences.append(straight[start:])
    return [sentence.strip() for sentence in sentences if any(c.isalpha() for c in sentence)]


def _ends_sentence(before: str, match: re.Match[str]) -> bool:
    """Whether a mark after ``before`` ends the sentence."""
    following = match["next"]
    is_lower = following[0].islower()
    if match["close"].strip("*_)]") and is_lower:
        return False  # "Stop!" he said.
    if match["mark"] in {"...", "\u2026"}:
        return not is_lower
    if match["mark"] != ".":
        return True
    words = before.split()
    if not words:
        return False
    word = words[-1].lstrip("\"'([*_\u00ab")
    folded, next_word = word.lower(), re.sub(r"[^\w'].*", "", following).lower()
    if folded in _NAMES_FOLLOW:
        return False
    if folded in _NUMBERS_FOLLOW and following[0].isdigit():
        return False
    is_initial = len(word) == 1 and word.isupper() and word != "I"
    if folded in _NAMES_END or is_initial or (_DOTTED.fullmatch(word) and word[0].isupper()):
        return following[0].isupper() and next_word in _SENTENCE_BEGINNERS
    if folded in _MAY_END:
        is_time_zone = folded in {"a.m", "p.m"} and next_word in _AFTER_A_TIME
        return not is_lower and not following[0].isdigit() and not is_time_zone
    return not (_DOTTED.fullmatch(word) and is_lower)


def check_sentences(answer: ModelAnswer, check: checks.CountRange) -> CheckVerdict:
    """Passes where the number of sentences lies within the bounds.

    "3.5", "e.g.", "Dr. Smith" and "the U.S. is" end no sentence, and "1." alone is none. "at 5 p.m. The shop" ends one.
    """
    return check_count("sentences", len(split_sentences(answer.text)), check.at_least, check.at_most)

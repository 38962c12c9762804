"""Where sentences end, and the check that counts them."""

import re
from itertools import groupby

from scoring.answer_checks.base import CheckVerdict, ModelAnswer, check_count, straighten_quotes
from suites.definitions import checks


def _make_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NAMES_FOLLOW = _make_set("mr mrs ms mx dr prof messrs mme mlle vs v cf viz approx ca e.g i.e incl esp resp")
"""Abbreviations that never end a sentence."""

_NUMBERS_FOLLOW = _make_set(
    "no nos fig figs p pp vol vols ch sec sect eq art op ver para jan feb mar apr jun jul aug sep sept oct nov dec"
)
"""Abbreviations before a number; elsewhere they are words."""

_NAMES_END = _make_set(
    "inc ltd co corp llc plc bros jr sr esq ave blvd rd st mt ft dept est assn univ ph.d m.d b.a m.a b.sc m.sc "
    "rev fr hon gen sen rep gov capt col cmdr lt sgt maj"
)
"""Abbreviations that end a sentence only before a word that usually begins one."""

_MAY_END = _make_set("etc al a.m p.m a.d b.c b.c.e c.e ibid misc t.v i.d i.q o.k d.i.y a.s.a.p r.s.v.p w.c c.v g.p.a b.b.q")
"""Abbreviations that end a sentence before a capital letter."""

_AFTER_A_TIME = _make_set(
    "eastern central mountain pacific est edt cst cdt mst mdt pst pdt et ct mt pt utc gmt cet cest bst "
    "monday tuesday wednesday thursday friday saturday sunday"
)

_SENTENCE_BEGINNERS = _make_set(
    "the a an it its he she they we you i this that these those there here his her their our my your in on at for from by with "
    "to after before since during while when whenever where if unless although though because as then so but and or yet nor "
    "however also still now today yesterday tomorrow later finally first second third next once most many some few several all "
    "each every both another other one two three no not never yes what who whom whose which why how is are was were do does did "
    "can could will would should may might must let please thank thanks maybe perhaps sometimes often usually instead "
    "therefore thus meanwhile moreover furthermore additionally overall nobody everyone everybody someone somebody"
)

_LETTERS_NAME = _make_set(
    "a an the vitamin plan grade type class group section option part point question answer letter category appendix exhibit "
    "team unit level room gate platform line block door key note hepatitis figure table item number step column row choice size"
)
"""Words that a single capital letter follows as a name: "vitamin C.", "an A."."""

_COMPANIES = _make_set("inc ltd llc corp plc co")
"""After a name that ends with a mark: "Yahoo! Inc."."""

_SAID_BEFORE_NO = _make_set(
    "say says said saying answer answers answered reply replies replied vote votes voted mean means meant"
)
"""Before "no." that is no number: "I said no. 5 people agreed."."""

_TIGHT_BOUNDARY = re.compile(
    r"(?<![\w.@/])(?P<word>[^\W\d_]{2,})(?P<mark>[.!?]+)(?P<next>[^\W\d_]+)(?=(?:['\u2019]\w+)?(?:[\s,;:!?]|\.(?!\w)|$))"
)
"""A mark with a word on either side and no white space."""

_SPACED_ELLIPSIS = re.compile(r"\.(?: \.){2,3}(?!\S)")

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

    A sentence ends at ., ! or ? before white space or a capital that begins the next one, or at an empty line.
    An abbreviation ends one only where the next word begins one. A piece without a letter is none.
    """
    sentences = []
    for paragraph in split_paragraphs(text):
        straight, start = _SPACED_ELLIPSIS.sub(_join_ellipsis, straighten_quotes(paragraph)), 0
        straight = _TIGHT_BOUNDARY.sub(_part_sentences, straight)
        has_capitals = not straight.islower()
        for match in _BOUNDARY.finditer(straight):
            before = straight[max(start, match.start() - _MAX_ABBREVIATION_CHARACTERS) : match.start()]
            if match["mark"] is None or _ends_sentence(before, match, has_capitals=has_capitals):
                sentences.append(straight[start : match.end()])
                start = match.end()
        sentences.append(straight[start:])
    return [sentence.strip() for sentence in sentences if any(c.isalpha() for c in sentence)]


def _join_ellipsis(match: re.Match[str]) -> str:
    """A spaced ellipsis without its blanks; a fourth stop ends the sentence."""
    return "\u2026" if match[0].count(".") == 3 else "\u2026."  # noqa: PLR2004  an ellipsis has three


def _part_sentences(match: re.Match[str]) -> str:
    """A blank after a mark that lacks it: "the end.Then", but "example.com", "System.Console"."""
    word, mark, following = match["word"], match["mark"], match["next"]
    begins = following.istitle() and (mark != "." or word.islower() or following.lower() in _SENTENCE_BEGINNERS)
    return f"{word}{mark} {following}" if begins else match[0]


def _ends_sentence(before: str, match: re.Match[str], *, has_capitals: bool) -> bool:
    """Whether a mark after ``before`` ends the sentence."""
    following = match["next"]
    is_lower = following[0].islower()
    if match["close"].strip("*_") and is_lower:
        return False  # "Stop!" he said.
    if match["mark"] in {"...", "\u2026"}:
        return not is_lower and not before.endswith(("[", "("))  # [...] stands for words that were left out
    if "." not in match["mark"]:
        if match["mark"] == "!" and following.rstrip(".,").lower() in _COMPANIES and following[-1] in ".,":
            return False
        # "Really?! he asked." goes on; a text without capitals has none to begin with.
        return not (is_lower and has_capitals)
    preceding = before.split()
    if match["mark"] != "." or not preceding:
        return match["mark"] != "."
    return _ends_after_stop(preceding, following)


def _ends_after_stop(preceding: list[str], following: str) -> bool:
    """Whether a single stop ends the sentence: it may belong to an abbreviation or a name."""
    is_lower, is_upper = following[0].islower(), following[0].isupper()
    word = preceding[-1].lstrip("\"'([*_\u00ab")
    folded, next_word = word.lower(), re.sub(r"[^\w'].*", "", following).lower()
    begins_one = is_upper and next_word in _SENTENCE_BEGINNERS
    if folded in _NAMES_FOLLOW:
        return False
    if folded in _NUMBERS_FOLLOW and following[0].isdigit():
        return folded == "no" and len(preceding) > 1 and preceding[-2].lower() in _SAID_BEFORE_NO
    if len(word) == 1 and word.isupper():
        return _ends_after_letter(word, preceding[-2] if len(preceding) > 1 else "", is_upper=is_upper, begins_one=begins_one)
    if folded in _MAY_END:
        is_time_zone = folded in {"a.m", "p.m"} and next_word in _AFTER_A_TIME
        return not is_lower and not following[0].isdigit() and not is_time_zone
    if folded in _NAMES_END or (_DOTTED.fullmatch(word) and word[0].isupper()):
        return begins_one
    return not (_DOTTED.fullmatch(word) and is_lower)


def _ends_after_letter(letter: str, previous: str, *, is_upper: bool, begins_one: bool) -> bool:
    """Whether the stop after a capital letter ends the sentence: "J. Smith" goes on, "vitamin C." ends."""
    named = previous.strip("\"'([*_:,\u00ab").lower()
    if named in _LETTERS_NAME or previous[-1:].isdigit():
        return is_upper
    if letter == "I" and not previous[:1].isupper():
        return True  # "you and I.", but "Albert I. Jones"
    return begins_one


def check_sentences(answer: ModelAnswer, check: checks.CountRange) -> CheckVerdict:
    """Passes where the number of sentences lies within the bounds.

    "3.5", "e.g.", "Dr. Smith" and "the U.S. is" end no sentence, and "1." alone is none. "at 5 p.m. The shop" ends one.
    """
    return check_count("sentences", len(split_sentences(answer.text)), check.at_least, check.at_most)

"""Checks of length, wording and layout. Each is a pure function (answer, parameters) -> Verdict.

A word is a stretch without white space that holds a letter or digit. Phrases are looked for as whole words, whatever the case
of their letters and the width of white space; curly quotes count as straight ones.
"""

import re
from itertools import groupby

from scoring.answer_checks.base import Answer, Verdict, counted, shown
from suites.definitions import checks

_ABBREVIATIONS = frozenset({"mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "e.g.", "i.e.", "vs.", "approx."})

_AFTER_A_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]*_]*\s+")

_ITEM = re.compile(r"(?P<indent>\s*)(?P<mark>[-*•]|(?P<number>\d{1,4})[.)])\s+\S")

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")

_LONGEST_NUMBER = 40

_ROUND_ANSWERS = " \t\r\n\"'`*_.!"


def straight(text: str) -> str:
    """Curly quotes as straight ones."""
    return text.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'})


def count_of(phrase: str, text: str) -> int:
    """How often a phrase occurs as whole words."""
    words = [re.escape(word) for word in straight(phrase).split()]
    before = r"(?<!\w)" if re.match(r"\w", phrase.strip()) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", phrase.strip()) else ""
    return len(re.findall(before + r"\s{1,9}".join(words) + after, straight(text), re.IGNORECASE))


def split_words(text: str) -> list[str]:
    """Its words."""
    return [word for word in text.split() if any(c.isalnum() for c in word)]


def split_sentences(text: str) -> list[str]:
    """Its sentences: up to ., ! or ? before white space, or up to an empty line; what holds no letter is none."""
    found: list[str] = []
    for paragraph in split_paragraphs(text):
        open_ended = False
        for piece in _AFTER_A_SENTENCE.split(straight(paragraph)):
            if open_ended and found:
                found[-1] += f" {piece}"
            elif any(c.isalpha() for c in piece):
                found.append(piece)
            else:
                continue
            open_ended = found[-1].split()[-1].lower().lstrip("(\"'") in _ABBREVIATIONS
    return found


def split_paragraphs(text: str) -> list[str]:
    """Its stretches between empty lines."""
    return ["\n".join(lines) for full, lines in groupby(text.splitlines(), key=lambda line: bool(line.strip())) if full]


def words(answer: Answer, check: checks.Range) -> Verdict:
    """Passes where the number of words lies within the bounds. A bullet or a dash alone is no word; "well-known" is one."""
    return counted("words", len(split_words(answer.text)), check.at_least, check.at_most)


def sentences(answer: Answer, check: checks.Range) -> Verdict:
    """Passes where the number of sentences lies within the bounds. "3.5" and "e.g." end none, and "1." alone is none."""
    return counted("sentences", len(split_sentences(answer.text)), check.at_least, check.at_most)


def paragraphs(answer: Answer, check: checks.Range) -> Verdict:
    """Passes where the number of paragraphs lies within the bounds: what stands between empty lines, a heading too."""
    return counted("paragraphs", len(split_paragraphs(answer.text)), check.at_least, check.at_most)


def lines(answer: Answer, check: checks.Range) -> Verdict:
    """Passes where the number of lines that are not empty lies within the bounds."""
    return counted("lines", sum(bool(line.strip()) for line in answer.text.splitlines()), check.at_least, check.at_most)


def includes(answer: Answer, check: checks.Phrases) -> Verdict:
    """Passes where every phrase occurs: "art" is not in "party"."""
    missing = [phrase for phrase in check.phrases if not count_of(phrase, answer.text)]
    return Verdict(not missing, f"lacks {', '.join(map(shown, missing))}" if missing else "has all of them")


def includes_any(answer: Answer, check: checks.Phrases) -> Verdict:
    """Passes where at least one phrase occurs."""
    found = next((phrase for phrase in check.phrases if count_of(phrase, answer.text)), None)
    return Verdict(found is not None, f"has {shown(found)}" if found else "has none of them")


def excludes(answer: Answer, check: checks.Phrases) -> Verdict:
    """Passes where no phrase occurs."""
    found = [phrase for phrase in check.phrases if count_of(phrase, answer.text)]
    return Verdict(not found, f"has {', '.join(map(shown, found))}" if found else "has none of them")


def occurs(answer: Answer, check: checks.Occurs) -> Verdict:
    """Passes where the phrase occurs as often as the bounds say."""
    return counted(f"times {shown(check.phrase)}", count_of(check.phrase, answer.text), check.at_least, check.at_most)


def excludes_characters(answer: Answer, check: checks.Characters) -> Verdict:
    """Passes where none of the characters occurs."""
    found = sorted(set(check.characters) & set(answer.text))
    return Verdict(not found, f"has {shown(''.join(found))}" if found else "has none of them")


def begins_with(answer: Answer, check: checks.Text) -> Verdict:
    """Passes where the answer's first visible characters are the text, letter case and kinds of quotes aside."""
    start = straight(answer.text).lstrip().casefold()
    return Verdict(start.startswith(straight(check.text).casefold()), f"begins {shown(answer.text.strip(), 60)}")


def ends_with(answer: Answer, check: checks.Text) -> Verdict:
    """Passes where the answer's last visible characters are the text, letter case and kinds of quotes aside."""
    end = straight(answer.text).rstrip().casefold()
    return Verdict(end.endswith(straight(check.text).casefold()), f"ends {shown(answer.text.strip()[-60:])}")


def equals(answer: Answer, check: checks.Answers) -> Verdict:
    """Passes where the whole answer is one of the given ones; letter case, quotes, asterisks, "." and "!" around it aside."""
    said = straight(answer.text).strip(_ROUND_ANSWERS).casefold()
    passed = said in {straight(each).strip(_ROUND_ANSWERS).casefold() for each in check.answers}
    return Verdict(passed, f"says {shown(answer.text.strip(), 60)}")


def number(answer: Answer, check: checks.Number) -> Verdict:
    """Passes where the whole answer is the number in digits: "42", "42." or "1,250", but neither "forty-two" nor "42 apples"."""
    said = straight(answer.text).strip(_ROUND_ANSWERS)
    found = _NUMBER.fullmatch(said) if len(said) <= _LONGEST_NUMBER else None
    passed = found is not None and abs(float(said.replace(",", "")) - check.value) <= check.tolerance
    return Verdict(passed, f"says {shown(answer.text.strip(), 60)}")


def letter_case(answer: Answer, check: checks.LetterCase) -> Verdict:
    """Passes where there are letters, and none of the other case."""
    wrong = [c for c in answer.text if (c.islower() if check.case == "upper" else c.isupper())]
    letters = any(c.isalpha() for c in answer.text)
    return Verdict(letters and not wrong, f"{len(wrong)} letters of the other case" if letters else "no letters")


def separated(answer: Answer, check: checks.Separated) -> Verdict:
    """Passes where lines that hold the separator alone cut the answer into that many parts, none of them blank."""
    found: list[list[str]] = [[]]
    for line in answer.text.splitlines():
        if line.strip() == check.by.strip():
            found.append([])
        else:
            found[-1].append(line)
    blank = sum(not "".join(part).strip() for part in found)
    return Verdict(len(found) == check.parts and not blank, f"{len(found)} parts, {blank} of them blank")


def marked(answer: Answer, check: checks.Marked) -> Verdict:
    """Passes where at least so many stretches stand between the two marks, each on one line and not blank.

    The marks may be the same, as in "*this*": what one has ended, none begins.
    """
    stretches = _between_equals if check.before == check.after else _between
    found = sum(stretches(line, check.before, check.after) for line in answer.text.splitlines())
    return counted("marked stretches", found, check.at_least, None)


def _between(line: str, before: str, after: str) -> int:
    pieces = [piece.partition(after) for piece in line.split(before)[1:]]
    return sum(bool(mark and inside.strip()) for inside, mark, _ in pieces)


def _between_equals(line: str, mark: str, _: str) -> int:
    found, last = 0, None  # what stands before the first is marked by nothing
    pieces = line.split(mark)
    for place, piece in enumerate(pieces[1:-1], start=1):
        if last != place - 1 and piece.strip():
            found, last = found + 1, place
    return found


def _items(text: str, *, numbered: bool) -> tuple[list[re.Match[str]], list[str]]:
    """The items of the outermost level, and the lines that belong to no item."""
    found, others, indent = [], [], None
    for line in text.expandtabs(4).splitlines():
        match = _ITEM.match(line)
        depth = len(line) - len(line.lstrip())
        if match and (match["number"] is not None) == numbered and (indent is None or depth <= indent):
            indent = depth
            found.append(match)
        elif line.strip() and (indent is None or depth <= indent):
            others.append(line)
    outermost = [match for match in found if len(match["indent"]) == (indent or 0)]
    return outermost, others


def bulleted_list(answer: Answer, check: checks.List) -> Verdict:
    """Passes where the number of lines that begin with "-", "*" or "•" and a space lies within the bounds.

    Items within items do not count. With ``alone``, nothing else may stand there but what is indented below an item.
    """
    found, others = _items(answer.text, numbered=False)
    verdict = counted("items", len(found), check.at_least, check.at_most)
    if check.alone and others:
        return Verdict(False, f"{verdict.evidence}; and also {shown(others[0], 60)}")
    return verdict if found else Verdict(False, "no items")


def numbered_list(answer: Answer, check: checks.List) -> Verdict:
    """Passes where the lines that begin with "1." or "1)" number 1, 2, 3 ... and are as many as the bounds say.

    Bullets are no numbers, and what is indented below an item does not count. ``alone`` as in ``bulleted_list``.
    """
    found, others = _items(answer.text, numbered=True)
    verdict = counted("items", len(found), check.at_least, check.at_most)
    numbers = [int(match["number"]) for match in found]
    if numbers != list(range(1, len(numbers) + 1)) or not numbers:
        return Verdict(False, f"numbered {numbers[:12]}" if numbers else "no items")
    if check.alone and others:
        return Verdict(False, f"{verdict.evidence}; and also {shown(others[0], 60)}")
    return verdict

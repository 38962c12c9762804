"""Checks of length, wording and layout.

A word is a run of characters without white space that holds a letter or digit. Phrases match entire words, in any letter case
and with any white space between words; curly quotes count as straight ones.
"""

import re
from itertools import groupby

import msgspec

from scoring.answer_checks.base import CheckVerdict, ModelAnswer, check_count, quote_text
from suites.definitions import checks

_ABBREVIATIONS = frozenset({"mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "e.g.", "i.e.", "vs.", "approx."})

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]*_]*\s+")

_LIST_ITEM = re.compile(r"(?P<indent>\s*)(?P<mark>[-*•]|(?P<number>\d{1,4})[.)])\s+\S")

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")

_MAX_NUMBER_CHARACTERS = 40

_AROUND_ANSWER = " \t\r\n\"'`*_.!"


def straighten_quotes(text: str) -> str:
    """The text with straight quotes for curly ones."""
    return text.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'})


def count_phrase(phrase: str, text: str) -> int:
    """How often a phrase occurs as entire words."""
    # A boundary is required only where the phrase ends in a letter or digit: "?" may follow a word.
    escaped = [re.escape(word) for word in straighten_quotes(phrase).split()]
    before = r"(?<!\w)" if re.match(r"\w", phrase.strip()) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", phrase.strip()) else ""
    return len(re.findall(before + r"\s{1,9}".join(escaped) + after, straighten_quotes(text), re.IGNORECASE))


def split_word_tokens(text: str) -> list[str]:
    """The words of a text, with their punctuation."""
    return [word for word in text.split() if any(c.isalnum() for c in word)]


def split_sentences(text: str) -> list[str]:
    """The sentences of a text.

    A sentence ends at ., ! or ? before white space, or at an empty line. A piece without a letter is none.
    """
    sentences: list[str] = []
    for paragraph in split_paragraphs(text):
        is_open = False
        for piece in _SENTENCE_END.split(straighten_quotes(paragraph)):
            if is_open and sentences:
                sentences[-1] += f" {piece}"
            elif any(c.isalpha() for c in piece):
                sentences.append(piece)
            else:
                continue
            # An abbreviation does not end a sentence: the next piece continues it.
            is_open = sentences[-1].split()[-1].lower().lstrip("(\"'") in _ABBREVIATIONS
    return sentences


def split_paragraphs(text: str) -> list[str]:
    """The paragraphs of a text: lines between empty lines."""
    return ["\n".join(lines) for is_filled, lines in groupby(text.splitlines(), key=lambda line: bool(line.strip())) if is_filled]


def check_word_count(answer: ModelAnswer, check: checks.CountRange) -> CheckVerdict:
    """Passes where the number of words lies within the bounds.

    A bullet or a dash alone is no word; "well-known" is one.
    """
    return check_count("words", len(split_word_tokens(answer.text)), check.at_least, check.at_most)


def check_sentences(answer: ModelAnswer, check: checks.CountRange) -> CheckVerdict:
    """Passes where the number of sentences lies within the bounds.

    "3.5" and "e.g." end no sentence, and "1." alone is none.
    """
    return check_count("sentences", len(split_sentences(answer.text)), check.at_least, check.at_most)


def check_paragraphs(answer: ModelAnswer, check: checks.CountRange) -> CheckVerdict:
    """Passes where the number of paragraphs lies within the bounds.

    A heading is a paragraph.
    """
    return check_count("paragraphs", len(split_paragraphs(answer.text)), check.at_least, check.at_most)


def check_lines(answer: ModelAnswer, check: checks.CountRange) -> CheckVerdict:
    """Passes where the number of non-empty lines lies within the bounds."""
    return check_count("lines", sum(bool(line.strip()) for line in answer.text.splitlines()), check.at_least, check.at_most)


def check_includes(answer: ModelAnswer, check: checks.PhraseList) -> CheckVerdict:
    """Passes where every phrase occurs: "art" is not in "party"."""
    missing = [phrase for phrase in check.phrases if not count_phrase(phrase, answer.text)]
    return CheckVerdict(not missing, f"missing: {', '.join(map(quote_text, missing))}" if missing else "has all phrases")


def check_includes_any(answer: ModelAnswer, check: checks.PhraseList) -> CheckVerdict:
    """Passes where at least one phrase occurs."""
    included = next((phrase for phrase in check.phrases if count_phrase(phrase, answer.text)), None)
    return CheckVerdict(included is not None, f"has {quote_text(included)}" if included else "has no phrase")


def check_excludes(answer: ModelAnswer, check: checks.PhraseList) -> CheckVerdict:
    """Passes where no phrase occurs."""
    excluded = [phrase for phrase in check.phrases if count_phrase(phrase, answer.text)]
    return CheckVerdict(not excluded, f"has {', '.join(map(quote_text, excluded))}" if excluded else "has no phrase")


def check_occurs(answer: ModelAnswer, check: checks.PhraseCount) -> CheckVerdict:
    """Passes where the phrase occurs as often as the bounds say."""
    count = count_phrase(check.phrase, answer.text)
    return check_count(f"times {quote_text(check.phrase)}", count, check.at_least, check.at_most)


def check_excludes_characters(answer: ModelAnswer, check: checks.ExcludedCharacters) -> CheckVerdict:
    """Passes where none of the characters occurs."""
    excluded = sorted(set(check.characters) & set(answer.text))
    return CheckVerdict(not excluded, f"has {quote_text(''.join(excluded))}" if excluded else "has no excluded character")


def check_begins(answer: ModelAnswer, check: checks.ExpectedText) -> CheckVerdict:
    """Passes where the answer begins with the text.

    Letter case and kinds of quotes do not count.
    """
    passed = straighten_quotes(answer.text).lstrip().casefold().startswith(straighten_quotes(check.text).casefold())
    return CheckVerdict(passed, f"begins with {quote_text(answer.text.strip(), 60)}")


def check_ends(answer: ModelAnswer, check: checks.ExpectedText) -> CheckVerdict:
    """Passes where the answer ends with the text.

    Letter case and kinds of quotes do not count.
    """
    passed = straighten_quotes(answer.text).rstrip().casefold().endswith(straighten_quotes(check.text).casefold())
    return CheckVerdict(passed, f"ends with {quote_text(answer.text.strip()[-60:])}")


def _strip_decoration(text: str) -> str:
    """Without white space, quotes, asterisks, "_", ".", and "!" around it."""
    return straighten_quotes(text).strip(_AROUND_ANSWER).casefold()


def check_equals(answer: ModelAnswer, check: checks.AcceptedAnswers) -> CheckVerdict:
    """Passes where the entire answer is one of the accepted answers.

    Letter case does not count, nor do quotes, asterisks, "." and "!" around the answer.
    """
    passed = _strip_decoration(answer.text) in {_strip_decoration(accepted) for accepted in check.answers}
    return CheckVerdict(passed, f"answer: {quote_text(answer.text.strip(), 60)}")


def check_number(answer: ModelAnswer, check: checks.ExpectedNumber) -> CheckVerdict:
    """Passes where the entire answer is the number in digits.

    "42", "42." and "1,250" are numbers in digits, "forty-two" and "42 apples" are not.
    """
    digits = _strip_decoration(answer.text)
    is_number = len(digits) <= _MAX_NUMBER_CHARACTERS and _NUMBER.fullmatch(digits) is not None
    passed = is_number and abs(float(digits.replace(",", "")) - check.value) <= check.tolerance
    return CheckVerdict(passed, f"answer: {quote_text(answer.text.strip(), 60)}")


def check_letter_case(answer: ModelAnswer, check: checks.LetterCase) -> CheckVerdict:
    """Passes where there are letters, and none is of the other case."""
    wrong_case = [c for c in answer.text if (c.islower() if check.case == "upper" else c.isupper())]
    has_letters = any(c.isalpha() for c in answer.text)
    evidence = f"{len(wrong_case)} letters of the other case" if has_letters else "no letters"
    return CheckVerdict(has_letters and not wrong_case, evidence)


def check_separated(answer: ModelAnswer, check: checks.SeparatedParts) -> CheckVerdict:
    """Passes where separator lines cut the answer into that many non-blank parts."""
    parts: list[list[str]] = [[]]
    for line in answer.text.splitlines():
        if line.strip() == check.by.strip():
            parts.append([])
        else:
            parts[-1].append(line)
    blank_count = sum(not "".join(part).strip() for part in parts)
    return CheckVerdict(len(parts) == check.parts and not blank_count, f"{len(parts)} parts, {blank_count} of them blank")


def check_marked(answer: ModelAnswer, check: checks.MarkedSpans) -> CheckVerdict:
    """Passes where enough non-blank spans stand between the two marks.

    A span is on one line. The marks may be the same, as in "*this*": a mark that ends a span does not begin the next one.
    """
    count_in_line = _count_between_same if check.before == check.after else _count_between
    marked_count = sum(count_in_line(line, check.before, check.after) for line in answer.text.splitlines())
    return check_count("marked spans", marked_count, check.at_least, None)


def _count_between(line: str, before: str, after: str) -> int:
    pieces = [piece.partition(after) for piece in line.split(before)[1:]]
    return sum(bool(mark and inside.strip()) for inside, mark, _ in pieces)


def _count_between_same(line: str, mark: str, _: str) -> int:
    count, last_index = 0, None  # the text before the first mark and after the last one is unmarked
    for index, piece in enumerate(line.split(mark)[1:-1], start=1):
        if last_index != index - 1 and piece.strip():
            count, last_index = count + 1, index
    return count


class _ListLines(msgspec.Struct, frozen=True):
    """The outermost list of an answer, and the lines outside it."""

    items: list[re.Match[str]]
    other_lines: list[str]


def _find_list_lines(text: str, *, numbered: bool) -> _ListLines:
    items: list[re.Match[str]] = []
    other_lines, indent = [], None
    for line in text.expandtabs(4).splitlines():
        match = _LIST_ITEM.match(line)
        depth = len(line) - len(line.lstrip())
        # Deeper lines belong to the item above; a less deep item begins a new outermost level.
        if not line.strip() or (indent is not None and depth > indent):
            continue
        if match and (match["number"] is not None) == numbered:
            indent = depth
            items.append(match)
        else:
            other_lines.append(line)
    return _ListLines([match for match in items if len(match["indent"]) == indent], other_lines)


def _check_item_count(lines: _ListLines, check: checks.ListItems) -> CheckVerdict:
    verdict = check_count("items", len(lines.items), check.at_least, check.at_most)
    if check.alone and lines.other_lines:
        return CheckVerdict(False, f"{verdict.evidence}; and also {quote_text(lines.other_lines[0], 60)}")
    return verdict


def check_bulleted_list(answer: ModelAnswer, check: checks.ListItems) -> CheckVerdict:
    """Passes where the number of bulleted items lies within the bounds.

    A bulleted item begins with "-", "*" or "•" and a space. Items within items do not count. With ``alone``, every other line
    must be indented below an item.
    """
    lines = _find_list_lines(answer.text, numbered=False)
    return _check_item_count(lines, check) if lines.items else CheckVerdict(False, "no items")


def check_numbered_list(answer: ModelAnswer, check: checks.ListItems) -> CheckVerdict:
    """Passes where the items number 1, 2, 3 ... within the bounds.

    An item begins with "1." or "1)". Bullets do not count, and neither do lines indented below an item. ``alone`` as in
    ``check_bulleted_list``.
    """
    lines = _find_list_lines(answer.text, numbered=True)
    numbers = [int(match["number"]) for match in lines.items]
    if numbers and numbers == list(range(1, len(numbers) + 1)):
        return _check_item_count(lines, check)
    return CheckVerdict(False, f"numbered {numbers[:12]}" if numbers else "no items")

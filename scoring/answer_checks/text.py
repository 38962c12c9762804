"""Checks of length, wording and layout. Each is a pure function (answer, parameters) -> Verdict.

A word is a stretch without white space that holds a letter or digit. Phrases are looked for as whole words, whatever the case
of their letters and the width of white space; curly quotes count as straight ones.
"""

import re
from itertools import groupby

from scoring.answer_checks.base import CheckVerdict, ModelAnswer, check_count, quote_text
from suites.definitions import checks

_ABBREVIATIONS = frozenset({"mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "e.g.", "i.e.", "vs.", "approx."})

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]*_]*\s+")

_LIST_ITEM = re.compile(r"(?P<indent>\s*)(?P<mark>[-*•]|(?P<number>\d{1,4})[.)])\s+\S")

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")

_MAX_NUMBER_CHARACTERS = 40

_AROUND_ANSWER = " \t\r\n\"'`*_.!"


def straighten_quotes(text: str) -> str:
    """Curly quotes as straight ones."""
    return text.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'})


def count_phrase(phrase: str, text: str) -> int:
    """How often a phrase occurs as whole words."""
    escaped = [re.escape(word) for word in straighten_quotes(phrase).split()]
    before = r"(?<!\w)" if re.match(r"\w", phrase.strip()) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", phrase.strip()) else ""
    return len(re.findall(before + r"\s{1,9}".join(escaped) + after, straighten_quotes(text), re.IGNORECASE))


def split_word_tokens(text: str) -> list[str]:
    """Its words."""
    return [word for word in text.split() if any(c.isalnum() for c in word)]


def split_sentences(text: str) -> list[str]:
    """Its sentences: up to ., ! or ? before white space, or up to an empty line; what holds no letter is none."""
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
            is_open = sentences[-1].split()[-1].lower().lstrip("(\"'") in _ABBREVIATIONS
    return sentences


def split_paragraphs(text: str) -> list[str]:
    """Its stretches between empty lines."""
    return ["\n".join(lines) for is_filled, lines in groupby(text.splitlines(), key=lambda line: bool(line.strip())) if is_filled]


def check_word_count(answer: ModelAnswer, check: checks.CountRange) -> CheckVerdict:
    """Passes where the number of words lies within the bounds. A bullet or a dash alone is no word; "well-known" is one."""
    return check_count("words", len(split_word_tokens(answer.text)), check.at_least, check.at_most)


def check_sentences(answer: ModelAnswer, check: checks.CountRange) -> CheckVerdict:
    """Passes where the number of sentences lies within the bounds. "3.5" and "e.g." end none, and "1." alone is none."""
    return check_count("sentences", len(split_sentences(answer.text)), check.at_least, check.at_most)


def check_paragraphs(answer: ModelAnswer, check: checks.CountRange) -> CheckVerdict:
    """Passes where the number of paragraphs lies within the bounds: what stands between empty lines, a heading too."""
    return check_count("paragraphs", len(split_paragraphs(answer.text)), check.at_least, check.at_most)


def check_lines(answer: ModelAnswer, check: checks.CountRange) -> CheckVerdict:
    """Passes where the number of lines that are not empty lies within the bounds."""
    return check_count("lines", sum(bool(line.strip()) for line in answer.text.splitlines()), check.at_least, check.at_most)


def check_includes(answer: ModelAnswer, check: checks.PhraseList) -> CheckVerdict:
    """Passes where every phrase occurs: "art" is not in "party"."""
    missing = [phrase for phrase in check.phrases if not count_phrase(phrase, answer.text)]
    return CheckVerdict(not missing, f"lacks {', '.join(map(quote_text, missing))}" if missing else "has all of them")


def check_includes_any(answer: ModelAnswer, check: checks.PhraseList) -> CheckVerdict:
    """Passes where at least one phrase occurs."""
    included = next((phrase for phrase in check.phrases if count_phrase(phrase, answer.text)), None)
    return CheckVerdict(included is not None, f"has {quote_text(included)}" if included else "has none of them")


def check_excludes(answer: ModelAnswer, check: checks.PhraseList) -> CheckVerdict:
    """Passes where no phrase occurs."""
    excluded = [phrase for phrase in check.phrases if count_phrase(phrase, answer.text)]
    return CheckVerdict(not excluded, f"has {', '.join(map(quote_text, excluded))}" if excluded else "has none of them")


def check_occurs(answer: ModelAnswer, check: checks.PhraseCount) -> CheckVerdict:
    """Passes where the phrase occurs as often as the bounds say."""
    return check_count(
        f"times {quote_text(check.phrase)}", count_phrase(check.phrase, answer.text), check.at_least, check.at_most
    )


def check_excludes_characters(answer: ModelAnswer, check: checks.ExcludedCharacters) -> CheckVerdict:
    """Passes where none of the characters occurs."""
    excluded = sorted(set(check.characters) & set(answer.text))
    return CheckVerdict(not excluded, f"has {quote_text(''.join(excluded))}" if excluded else "has none of them")


def check_begins(answer: ModelAnswer, check: checks.ExpectedText) -> CheckVerdict:
    """Passes where the answer's first visible characters are the text, letter case and kinds of quotes aside."""
    start = straighten_quotes(answer.text).lstrip().casefold()
    return CheckVerdict(
        start.startswith(straighten_quotes(check.text).casefold()), f"begins {quote_text(answer.text.strip(), 60)}"
    )


def check_ends(answer: ModelAnswer, check: checks.ExpectedText) -> CheckVerdict:
    """Passes where the answer's last visible characters are the text, letter case and kinds of quotes aside."""
    end = straighten_quotes(answer.text).rstrip().casefold()
    return CheckVerdict(end.endswith(straighten_quotes(check.text).casefold()), f"ends {quote_text(answer.text.strip()[-60:])}")


def check_equals(answer: ModelAnswer, check: checks.AcceptedAnswers) -> CheckVerdict:
    """Passes where the whole answer is one of the given ones; letter case, quotes, asterisks, "." and "!" around it aside."""
    normalised = straighten_quotes(answer.text).strip(_AROUND_ANSWER).casefold()
    passed = normalised in {straighten_quotes(accepted).strip(_AROUND_ANSWER).casefold() for accepted in check.answers}
    return CheckVerdict(passed, f"says {quote_text(answer.text.strip(), 60)}")


def check_number(answer: ModelAnswer, check: checks.ExpectedNumber) -> CheckVerdict:
    """Passes where the whole answer is the number in digits: "42", "42." or "1,250", but neither "forty-two" nor "42 apples"."""
    normalised = straighten_quotes(answer.text).strip(_AROUND_ANSWER)
    match = _NUMBER.fullmatch(normalised) if len(normalised) <= _MAX_NUMBER_CHARACTERS else None
    passed = match is not None and abs(float(normalised.replace(",", "")) - check.value) <= check.tolerance
    return CheckVerdict(passed, f"says {quote_text(answer.text.strip(), 60)}")


def check_letter_case(answer: ModelAnswer, check: checks.LetterCase) -> CheckVerdict:
    """Passes where there are letters, and none of the other case."""
    wrong_case = [c for c in answer.text if (c.islower() if check.case == "upper" else c.isupper())]
    has_letters = any(c.isalpha() for c in answer.text)
    return CheckVerdict(
        has_letters and not wrong_case, f"{len(wrong_case)} letters of the other case" if has_letters else "no letters"
    )


def check_separated(answer: ModelAnswer, check: checks.SeparatedParts) -> CheckVerdict:
    """Passes where lines that hold the separator alone cut the answer into that many parts, none of them blank."""
    parts: list[list[str]] = [[]]
    for line in answer.text.splitlines():
        if line.strip() == check.by.strip():
            parts.append([])
        else:
            parts[-1].append(line)
    blank_count = sum(not "".join(part).strip() for part in parts)
    return CheckVerdict(len(parts) == check.parts and not blank_count, f"{len(parts)} parts, {blank_count} of them blank")


def check_marked(answer: ModelAnswer, check: checks.MarkedSpans) -> CheckVerdict:
    """Passes where at least so many stretches stand between the two marks, each on one line and not blank.

    The marks may be the same, as in "*this*": what one has ended, none begins.
    """
    count_in_line = _count_between_same if check.before == check.after else _count_between
    marked_count = sum(count_in_line(line, check.before, check.after) for line in answer.text.splitlines())
    return check_count("marked stretches", marked_count, check.at_least, None)


def _count_between(line: str, before: str, after: str) -> int:
    pieces = [piece.partition(after) for piece in line.split(before)[1:]]
    return sum(bool(mark and inside.strip()) for inside, mark, _ in pieces)


def _count_between_same(line: str, mark: str, _: str) -> int:
    count, last_index = 0, None  # what stands before the first is marked by nothing
    pieces = line.split(mark)
    for index, piece in enumerate(pieces[1:-1], start=1):
        if last_index != index - 1 and piece.strip():
            count, last_index = count + 1, index
    return count


def _find_list_items(text: str, *, numbered: bool) -> tuple[list[re.Match[str]], list[str]]:
    """The items of the outermost level, and the lines that belong to no item."""
    items, other_lines, indent = [], [], None
    for line in text.expandtabs(4).splitlines():
        match = _LIST_ITEM.match(line)
        depth = len(line) - len(line.lstrip())
        if match and (match["number"] is not None) == numbered and (indent is None or depth <= indent):
            indent = depth
            items.append(match)
        elif line.strip() and (indent is None or depth <= indent):
            other_lines.append(line)
    outermost = [match for match in items if len(match["indent"]) == (indent or 0)]
    return outermost, other_lines


def check_bulleted_list(answer: ModelAnswer, check: checks.ListItems) -> CheckVerdict:
    """Passes where the number of lines that begin with "-", "*" or "•" and a space lies within the bounds.

    Items within items do not count. With ``alone``, nothing else may stand there but what is indented below an item.
    """
    items, other_lines = _find_list_items(answer.text, numbered=False)
    verdict = check_count("items", len(items), check.at_least, check.at_most)
    if check.alone and other_lines:
        return CheckVerdict(False, f"{verdict.evidence}; and also {quote_text(other_lines[0], 60)}")
    return verdict if items else CheckVerdict(False, "no items")


def check_numbered_list(answer: ModelAnswer, check: checks.ListItems) -> CheckVerdict:
    """Passes where the lines that begin with "1." or "1)" number 1, 2, 3 ... and are as many as the bounds say.

    Bullets are no numbers, and what is indented below an item does not count. ``alone`` as in ``check_bulleted_list``.
    """
    items, other_lines = _find_list_items(answer.text, numbered=True)
    verdict = check_count("items", len(items), check.at_least, check.at_most)
    numbers = [int(match["number"]) for match in items]
    if numbers != list(range(1, len(numbers) + 1)) or not numbers:
        return CheckVerdict(False, f"numbered {numbers[:12]}" if numbers else "no items")
    if check.alone and other_lines:
        return CheckVerdict(False, f"{verdict.evidence}; and also {quote_text(other_lines[0], 60)}")
    return verdict

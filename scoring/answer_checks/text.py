"""Checks of length, wording and layout.

A word is a run of characters without white space that holds a letter or digit. Phrases match entire words, in any letter case
and with any white space between words; curly quotes count as straight ones.
"""

import re

from scoring.answer_checks.base import CheckVerdict, ModelAnswer, check_count, quote_text, straighten_quotes
from scoring.answer_checks.sentences import split_paragraphs
from suites.definitions import checks

_AROUND_ANSWER = " \t\r\n\"'`*_.!"


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


def check_word_count(answer: ModelAnswer, check: checks.CountRange) -> CheckVerdict:
    """Passes where the number of words lies within the bounds.

    A bullet or a dash alone is no word; "well-known" is one.
    """
    return check_count("words", len(split_word_tokens(answer.text)), check.at_least, check.at_most)


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

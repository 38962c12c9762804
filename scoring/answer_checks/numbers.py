"""Numbers in an answer, read by value."""

import re
from decimal import Decimal, InvalidOperation

from scoring.answer_checks.base import CheckVerdict, ModelAnswer, quote_text
from suites.definitions import checks

MAX_NUMBER_CHARACTERS = 60

_SIGNS = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-") | {"\uff0b": "+", "\uff0e": ".", "\uff0c": ","}
)
"""Hyphens, dashes and minus signs that stand for a minus, and the full-width forms."""

_SEPARATORS = " \u00a0\u2009\u202f_'\u2019"
"""What separates groups of thousands beside "," and "."."""

_SUPERSCRIPTS = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-")

_PLAIN = re.compile(r"\d+(?:\.\d*)?|\.\d+")

_GROUPED = re.compile(rf"[1-9]\d{{0,2}}(?:(?P<group>[,{_SEPARATORS}])\d{{3}})(?:(?P=group)\d{{3}})*(?:\.\d+)?")
"""1,250 and 1 250 000.5: the groups have one separator, "." begins the decimals, and no group is led by 0."""

_INDIAN = re.compile(r"[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?")

_CONTINENTAL = re.compile(
    rf"(?:[1-9]\d{{0,2}}(?:\.\d{{3}}){{2,}}|[1-9]\d{{0,2}}(?P<group>[.{_SEPARATORS}])\d{{3}}(?:(?P=group)\d{{3}})*,\d+|\d+,\d+)"
)
"""1.250.000 and 1.250,5 and 0,5: "," begins the decimals. 1.250 and 1,250 are read as in English."""

_EXPONENT = re.compile(
    r"(?P<digits>.+?)(?:[eE](?P<e>[-+]?\d{1,4})"
    r"|\s*[\u00d7x*\u00b7]\s*10(?:\^(?P<power>[-+]?\d{1,4})|(?P<raised>[\u2070-\u209f\u00b9\u00b2\u00b3]{1,4})))"
)
"""1.25e3, 1.25 x 10^3, and the latter with a multiplication sign and a raised 3."""

_BEFORE = " \t\r\n\"'`*_\u201c\u201d\u2018\u2019\u00ab\u00bb\u200b\ufeff"
_AFTER = f"{_BEFORE}.!\u3002"
"""Decoration around an answer. A full stop before digits is a decimal point."""


def parse_number(text: str) -> Decimal | None:
    """The number that a text is, in digits; None for any other text.

    A sign, separators of thousands, decimals after "." or an unambiguous ",", and an exponent are read. Words, units, signs of
    currency, "%" and fractions make it another text.
    """
    if len(text) > MAX_NUMBER_CHARACTERS:
        return None
    unsigned = text.translate(_SIGNS)
    sign = "-" if unsigned.startswith("-") else ""
    digits, exponent = unsigned.removeprefix("-") if sign else unsigned.removeprefix("+"), "0"
    if match := _EXPONENT.fullmatch(digits):
        digits, exponent = match["digits"], match["e"] or match["power"] or match["raised"].translate(_SUPERSCRIPTS)
    if _PLAIN.fullmatch(digits):
        plain = digits
    elif _GROUPED.fullmatch(digits) or _INDIAN.fullmatch(digits):
        plain = re.sub(rf"[,{_SEPARATORS}]", "", digits)
    elif _CONTINENTAL.fullmatch(digits):
        plain = re.sub(rf"[.{_SEPARATORS}]", "", digits).replace(",", ".")
    else:
        return None
    try:
        return Decimal(f"{sign}{plain}e{exponent}")
    except InvalidOperation:  # an exponent such as "⁻" alone
        return None


def check_number(answer: ModelAnswer, check: checks.ExpectedNumber) -> CheckVerdict:
    """Passes where the entire answer is the number in digits.

    "42", "42.", "+42.0", "1,250", "1 250", "-.5" and "1.25e3" are numbers in digits, with any kind of minus. "forty-two",
    "42 apples", "$42", "42 %" and "1/2" are not. Quotes, asterisks and a full stop or "!" at the end do not count.
    """
    text = answer.text.strip()[: MAX_NUMBER_CHARACTERS * 2]
    number = parse_number(text.lstrip(_BEFORE).rstrip(_AFTER))
    # As decimal numbers, since 0.51 - 0.5 is more than 0.01 in binary.
    passed = number is not None and abs(number - Decimal(repr(check.value))) <= Decimal(repr(check.tolerance))
    return CheckVerdict(passed, f"answer: {quote_text(answer.text.strip(), 60)}")

"""Lines of JSON as rows, in which a column that nobody needs does no harm.

What Python cannot have, or what could be read in two ways, becomes ``Undecodable``: only a column that is read is refused.
"""

import json
import re
from collections import Counter
from typing import Any, NamedTuple

from scoring.sources.source import Undecodable
from suites.common.documents import MAX_DEPTH, MAX_NUMBER_DIGITS

_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')


def parse_line(text: str) -> Any:
    """The value of a line. Raises ValueError for a line that is not JSON."""
    shallow = _ShallowText(text, frozenset())
    try:
        return json.loads(text, object_pairs_hook=_make_object)
    except RecursionError:
        shallow = _drop_deep_values(text)
    except ValueError:
        if len(text) < MAX_NUMBER_DIGITS:  # the fault is not a number that Python does not parse
            raise
    values = json.loads(shallow.text, object_pairs_hook=_make_object, parse_int=_parse_integer)
    if isinstance(values, dict):
        values |= dict.fromkeys(shallow.deep_keys, Undecodable(f"a value nested more than {MAX_DEPTH} deep"))
    return values


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):  # any choice between two values of a key would be a guess
        counts = Counter(name for name, _ in pairs)
        values |= {name: Undecodable(f"{count} values") for name, count in counts.items() if count > 1}
    return values


def _parse_integer(digits: str) -> int | Undecodable:
    return int(digits) if len(digits) <= MAX_NUMBER_DIGITS else Undecodable(f"a number of {len(digits)} digits")


class _ShallowText(NamedTuple):
    """JSON without its deepest values, and the keys of the outermost object that had them."""

    text: str
    deep_keys: frozenset[str]


def _drop_deep_values(text: str) -> _ShallowText:
    """Put null for each list and object that is nested more than ``MAX_DEPTH`` deep."""
    pieces, deep_keys, key = [], set(), '""'
    depth, start = 0, 0
    for match in _STRING_OR_BRACKET.finditer(text):
        if match[0].startswith('"'):
            key = match[0] if depth == 1 else key
        elif match[0] in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                pieces += [text[start : match.start()], "null"]
                deep_keys.add(json.loads(key))
        else:
            start = match.end() if depth == MAX_DEPTH + 1 else start
            depth -= 1
    # Brackets that are not closed are no JSON here either.
    return _ShallowText("".join([*pieces, text[start:]]), frozenset(deep_keys))

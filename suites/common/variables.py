"""Expands ${VAR} and ${VAR:-default} in config and suites."""

import re
from collections.abc import Mapping
from typing import Any

_BRACE_PATTERN = re.compile(r"\$\$\{|\$\{|\}")

_VARIABLE_NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expand_variables(text: str, environ: Mapping[str, str]) -> tuple[str, bool]:
    """Replace ${VAR} and ${VAR:-default} (also where VAR is empty); defaults may hold further variables, $${ stands for ${.

    Returns the text and whether a default was used. LookupError(name) where a variable is unset or empty and has no
    default, ValueError where it is not written like one.
    """
    expanded, remainder, defaulted = _expand_nested(text, environ, is_nested=False)
    return expanded + remainder, defaulted


def _expand_nested(text: str, environ: Mapping[str, str], *, is_nested: bool) -> tuple[str, str, bool]:
    """(expanded, what follows the closing brace, whether a default was used)."""
    expanded, defaulted = "", False
    while match := _BRACE_PATTERN.search(text):
        expanded, brace, text = expanded + text[: match.start()], match[0], text[match.end() :]
        if brace == "}":
            if is_nested:
                return expanded, text, defaulted
            expanded += brace
        elif brace == "$${":
            expanded += "${"
        else:
            value, text, used = _expand_one(text, environ)
            expanded, defaulted = expanded + value, defaulted or used
    if is_nested:
        raise ValueError("a ${ without its }")
    return expanded, text, defaulted


def _expand_one(text: str, environ: Mapping[str, str]) -> tuple[str, str, bool]:
    name = _VARIABLE_NAME_PATTERN.match(text)
    if name is None:
        raise ValueError("${ is not followed by the name of a variable")
    remainder, value = text[name.end() :], environ.get(name[0])
    if remainder.startswith(":-"):
        # the default of a variable that is set is not looked into: what it names need not be set
        default, remainder, _ = _expand_nested(remainder[2:], _EverySetEnvironment() if value else environ, is_nested=True)
        return (value, remainder, False) if value else (default, remainder, True)
    if not remainder.startswith("}"):
        raise ValueError(f"${{{name[0]} is not followed by }} or :-")
    if not value:
        raise LookupError(name[0])
    return value, remainder[1:], False


class _EverySetEnvironment(dict[str, str]):
    """An environment in which every variable is set."""

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ARG002
        return key

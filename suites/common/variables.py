"""Expands ${VAR} and ${VAR:-default} in config and suites."""

import re
from collections.abc import Mapping
from typing import Any

_BRACE_PATTERN = re.compile(r"\$\$\{|\$\{|\}")

_VARIABLE_NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expand_variables(text: str, environ: Mapping[str, str]) -> tuple[str, bool]:
    """``text`` with its variables expanded, and whether a default was used.

    ${VAR:-default} also applies where VAR is empty, and a default may contain variables. $${ gives ${.
    Raises LookupError(name) for a variable that is unset or empty and has no default, ValueError for bad syntax.
    """
    expander = _Expander(text, environ)
    return expander.expand(), expander.used_default


class _Expander:
    """Expands a text from left to right, and keeps the remainder."""

    def __init__(self, text: str, environ: Mapping[str, str]) -> None:
        self.remainder, self.environ, self.used_default = text, environ, False

    def expand(self, *, is_nested: bool = False) -> str:
        """The expanded text; a nested one ends at its closing brace."""
        expanded = ""
        while match := _BRACE_PATTERN.search(self.remainder):
            expanded += self.remainder[: match.start()]
            self.remainder = self.remainder[match.end() :]
            if is_nested and match[0] == "}":
                return expanded
            expanded += self._expand_variable() if match[0] == "${" else match[0].removeprefix("$")
        if is_nested:
            raise ValueError("a ${ without its }")
        return expanded + self.remainder

    def _expand_variable(self) -> str:
        name = _VARIABLE_NAME_PATTERN.match(self.remainder)
        if name is None:
            raise ValueError("${ is not followed by the name of a variable")
        self.remainder, value = self.remainder[name.end() :], self.environ.get(name[0])
        if self.remainder.startswith(":-"):
            # The default of a set variable is skipped, so the variables in it need not be set.
            default = _Expander(self.remainder[2:], _EverySetEnvironment() if value else self.environ)
            default_text, self.remainder = default.expand(is_nested=True), default.remainder
            self.used_default = self.used_default or not value
            return value or default_text
        if not self.remainder.startswith("}"):
            raise ValueError(f"${{{name[0]} is not followed by }} or :-")
        if not value:
            raise LookupError(name[0])
        self.remainder = self.remainder[1:]
        return value


class _EverySetEnvironment(dict[str, str]):
    """An environment in which every variable is set."""

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ARG002
        return key

"""${VAR} and ${VAR:-default} in text that people write."""

import re
from collections.abc import Mapping
from typing import Any

_OPENING = re.compile(r"\$\$\{|\$\{|\}")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expand(text: str, environ: Mapping[str, str]) -> tuple[str, bool]:
    """Replace ${VAR} and ${VAR:-default} (also where VAR is empty); defaults may hold further variables, $${ stands for ${.

    Returns the text and whether a default was used. LookupError(name) where a variable is unset or empty and has no
    default, ValueError where it is not written like one.
    """
    expanded, rest, defaulted = _expand(text, environ, inside=False)
    return expanded + rest, defaulted


def _expand(text: str, environ: Mapping[str, str], *, inside: bool) -> tuple[str, str, bool]:
    """(expanded, what follows the closing brace, whether a default was used)."""
    done, defaulted = "", False
    while match := _OPENING.search(text):
        done, found, text = done + text[: match.start()], match[0], text[match.end() :]
        if found == "}":
            if inside:
                return done, text, defaulted
            done += found
        elif found == "$${":
            done += "${"
        else:
            value, text, used = _variable(text, environ)
            done, defaulted = done + value, defaulted or used
    if inside:
        message = "a ${ without its }"
        raise ValueError(message)
    return done, text, defaulted


def _variable(text: str, environ: Mapping[str, str]) -> tuple[str, str, bool]:
    name = _NAME.match(text)
    if name is None:
        message = "${ is not followed by the name of a variable"
        raise ValueError(message)
    rest, value = text[name.end() :], environ.get(name[0])
    if rest.startswith(":-"):
        # the default of a variable that is set is not looked into: what it names need not be set
        default, rest, _ = _expand(rest[2:], _Anything() if value else environ, inside=True)
        return (value, rest, False) if value else (default, rest, True)
    if not rest.startswith("}"):
        message = f"${{{name[0]} is not followed by }} or :-"
        raise ValueError(message)
    if not value:
        raise LookupError(name[0])
    return value, rest[1:], False


class _Anything(dict[str, str]):
    """An environment in which every variable is set."""

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ARG002
        return key

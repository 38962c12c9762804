"""YAML that people write: variables, lines for messages, duplicate and unknown keys refused.

One reader for suites and for the config, so that both speak of mistakes in the same way:
``watcher.yaml:12: stages.stage1: unknown key 'tokeniser'; did you mean 'tokenizer'?``
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from suites.problem import Problem

T = TypeVar("T")
Place = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|\$(?P<bare>[A-Za-z_][A-Za-z0-9_]*)")
_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>s|m|h|d)?")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_STEP_IN_PLACE = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")


class Duration(float):
    """Seconds, written 90s, 15m, 2h, 1d or as a bare number of seconds."""

    @classmethod
    def parse(cls, value: object) -> "Duration":
        """ValueError where it is not a duration."""
        match = _DURATION.fullmatch(str(value).strip())
        if match is None or isinstance(value, bool):
            message = f"{value!r} is not a duration; write 90s, 15m or 2h"
            raise ValueError(message)
        return cls(float(match["number"]) * _UNITS[match["unit"] or "s"])


class Document:
    """A parsed YAML file and the line on which each of its values stands."""

    def __init__(self, data: Any, lines: dict[Place, int], source: str) -> None:
        self.data, self.lines, self.source = data, lines, source

    def where(self, place: Place = ()) -> str:
        """``file:line`` of a value, or of the nearest thing around it."""
        for length in range(len(place), -1, -1):
            line = self.lines.get(place[:length])
            if line is not None:
                return f"{self.source}:{line}"
        return self.source

    def problem(self, what: str, place: Place, todo: str) -> Problem:
        """A Problem at a value's line."""
        dotted = ".".join(str(step) for step in place)
        return Problem(f"{dotted}: {what}" if dotted else what, where=self.where(place), todo=todo)


def parse(text: str, source: str, environ: Mapping[str, str]) -> Document:
    """Parse YAML; Problem at file:line for bad syntax, a duplicate key or an unset ${VAR} without a default."""
    try:
        root = yaml.compose(text, Loader=yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark.line + 1) if error.problem_mark else 1
        raise Problem(f"not YAML: {error.problem}", where=f"{source}:{line}", todo="mend the syntax there") from error
    except yaml.YAMLError as error:
        raise Problem(f"not YAML: {error}", where=source, todo="save it as UTF-8 text") from error
    document = Document(None, {}, source)
    document.data = None if root is None else _build(root, (), document, environ)
    return document


def read(path: Path, environ: Mapping[str, str]) -> Document:
    """``parse`` a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Problem(f"cannot be read ({error.strerror})", where=path, todo="give the path of a readable file") from error
    except UnicodeDecodeError as error:
        raise Problem("is not UTF-8 text", where=path, todo="save it as UTF-8") from error
    return parse(text, str(path), environ)


def _build(node: yaml.Node, place: Place, document: Document, environ: Mapping[str, str]) -> Any:
    document.lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise document.problem("a key must be a plain word", place, "write it as KEY: value")
            key = key_node.value
            here = (*place, key)
            if key in built:
                document.lines[here] = key_node.start_mark.line + 1
                raise document.problem("stands there twice", here, "keep one of the two")
            built[key] = _build(value_node, here, document, environ)
            document.lines[here] = key_node.start_mark.line + 1
        return built
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*place, index), document, environ) for index, child in enumerate(node.value)]
    text = node.value
    expanded = expand(
        text,
        environ,
        lambda name: document.problem(f"${{{name}}} is not set", place, f"export {name}, or write ${{{name}:-default}}"),
    )
    if expanded != text and getattr(node, "style", None) is None:  # plain: its type is that of what it stands for now
        return yaml.safe_load(expanded) if expanded else None
    if node.tag == "tag:yaml.org,2002:str" or expanded != text:
        return expanded
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise document.problem(f"cannot be understood: {error}", place, "write a plain value") from error


def expand(text: str, environ: Mapping[str, str], unset: Any = None) -> str:
    """Replace ${VAR}, ${VAR:-default} (also where VAR is empty) and $VAR. ``unset(name)`` makes the error of an unset one."""

    def value(match: re.Match[str]) -> str:
        name = match["name"] or match["bare"]
        found = environ.get(name)
        if match["default"] is not None:
            return found or match["default"]
        if found is None:
            raise unset(name) if unset else Problem(f"${{{name}}} is not set", where="environment", todo=f"export {name}")
        return found

    return _VARIABLE.sub(value, text)


def convert(document: Document, type_: type[T], place: Place = ()) -> T:
    """``document.data`` (or what is at ``place``) as a msgspec type; Problem with line, key and nearest valid name."""
    data = document.data
    for step in place:
        data = data[step]
    try:
        return msgspec.convert(data, type_, dec_hook=_hook, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(str(error), document, place, type_) from error


def _hook(type_: type, value: object) -> object:
    if type_ is Duration:
        return Duration.parse(value)
    if type_ is Path:
        return Path(str(value))
    message = f"cannot make a {type_.__name__}"
    raise NotImplementedError(message)


def _explain(message: str, document: Document, base: Place, type_: Any) -> Problem:
    what, _, dotted = message.partition(" - at `$")
    place = base
    data = document.data
    for step in base:
        data = data[step]
    for name, index in _STEP_IN_PLACE.findall(dotted.rstrip("`")):
        if index:
            place, data = (*place, int(index)), data[int(index)]
        elif name:
            place, data = (*place, name), data[name] if isinstance(data, dict) else None
        else:  # msgspec writes [...] for any key of a dict: find the one that is wrong by trying is the caller's job
            break
    unknown = re.search(r"unknown field `([^`]*)`", what)
    if unknown:
        valid = _field_names(type_)
        near = difflib.get_close_matches(unknown[1], valid, n=1)
        todo = f"did you mean {near[0]!r}?" if near else "valid here: " + ", ".join(valid)
        return document.problem(
            f"unknown key {unknown[1]!r}", (*place, unknown[1]) if (*place, unknown[1]) in document.lines else place, todo
        )
    return document.problem(what[:1].lower() + what[1:], place, "write a value of that type")


def _field_names(type_: Any) -> list[str]:
    return (
        [field.encode_name for field in msgspec.structs.fields(type_)]
        if isinstance(type_, type) and issubclass(type_, msgspec.Struct)
        else []
    )

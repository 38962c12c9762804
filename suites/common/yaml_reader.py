"""YAML that people write: variables, lines for messages, duplicate and unknown keys refused.

One reader for suites and for the config, so that both speak of mistakes in the same way:
``watcher.yaml:12: stages.stage1: unknown key 'tokeniser'; did you mean 'tokenizer'?``

Plain values are what they look like: ``12:00:00`` and ``2023-11-01`` are text, neither YAML 1.1's base 60 nor a date.
"""

import difflib
import functools
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from suites.common.errors import Problem
from suites.common.variables import expand

T = TypeVar("T")

Place = tuple[str | int, ...]

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>s|m|h|d)?")

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_INT = re.compile(r"[-+]?(?:0|[1-9]\d*(?:_\d+)*)")  # 007 is a name, or a mistake

_FLOAT = re.compile(r"[-+]?(?:\.\d+|\d+\.\d*|\d+(?=[eE]))(?:[eE][-+]?\d{1,2})?")

_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}

_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value"))

_MOST_NODES = 100_000

_IN_A_LOOP = "an alias that contains itself, or far too many values"


class Duration(float):
    """Seconds, written 90s, 15m, 2h, 1d or as a bare number of seconds."""

    @classmethod
    def parse(cls, value: object) -> "Duration":
        """ValueError where it is not a duration."""
        match = None if isinstance(value, bool) else _DURATION.fullmatch(str(value).strip())
        if match is None:
            message = f"{value!r} is not a duration"
            raise ValueError(message)
        return cls(float(match["number"]) * _UNITS[match["unit"] or "s"])


class Document:
    """A parsed YAML file and the line on which each of its values stands."""

    def __init__(self, data: Any, lines: dict[Place, int], source: str) -> None:
        self.data, self.lines, self.source = data, lines, source
        self.defaulted: set[Place] = set()
        """Values that hold the default of a variable which is not set."""
        self.left = _MOST_NODES

    def at(self, place: Place) -> Any:
        """The value there. KeyError, IndexError or TypeError where there is none."""
        data = self.data
        for step in place:
            data = data[step]
        return data

    def where(self, place: Place = ()) -> str:
        """``file:line`` of a value, or of the nearest thing around it."""
        for length in range(len(place), -1, -1):
            line = self.lines.get(place[:length])
            if line is not None:
                return f"{self.source}:{line}"
        return self.source

    def problem(self, what: str, place: Place, todo: str) -> Problem:
        """A Problem at a value's line."""
        return Problem(f"{dotted(place)}: {what}" if place else what, where=self.where(place), todo=todo)

    def unknown(self, key: str, place: Place, valid: Iterable[str]) -> Problem:
        """The Problem of a key that is not known at ``place``, at the key's own line."""
        what = f"{dotted(place)}: unknown key {key!r}" if place else f"unknown key {key!r}"
        return Problem(what, where=self.where((*place, key)), todo=nearest(key, valid))


def dotted(place: Place) -> str:
    """``stages.stage1.steps.0``; a key that could break the line is quoted."""
    return ".".join(str(step) if str(step).isprintable() else repr(step) for step in place)


def nearest(wrong: str, valid: Iterable[str]) -> str:
    """What to do about a wrong name: the nearest valid one, or all of them."""
    names = list(valid)
    near = difflib.get_close_matches(wrong, names, n=1)
    return f"did you mean {near[0]!r}?" if near else "valid here: " + ", ".join(names)


def parse(text: str, source: str, environ: Mapping[str, str], *, verbatim: Collection[str] = ()) -> Document:
    """Parse YAML; Problem at file:line for bad syntax, a duplicate key or an unset ${VAR} without a default.

    Values under a key in ``verbatim`` keep their ${...}: they are shell, and expand when they run.
    """
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark.line + 1) if error.problem_mark else 1
        raise Problem(f"not YAML: {error.problem}", where=f"{source}:{line}", todo="mend the syntax there") from error
    except (yaml.YAMLError, ValueError) as error:
        raise Problem(f"not YAML: {str(error).splitlines()[0]}", where=source, todo="save it as UTF-8 text") from error
    except RecursionError as error:
        raise Problem("not YAML that a person wrote: nested too deeply", where=source, todo="write it flatter") from error
    document = Document(None, {}, source)
    document.data = None if root is None else _build(root, (), document, environ, frozenset(verbatim))
    return document


def read(path: Path, environ: Mapping[str, str], *, verbatim: Collection[str] = ()) -> Document:
    """``parse`` a file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Problem(f"cannot be read ({error.strerror})", where=path, todo="give the path of a readable file") from error
    except UnicodeDecodeError as error:
        raise Problem("is not UTF-8 text", where=path, todo="save it as UTF-8") from error
    return parse(text, str(path), environ, verbatim=verbatim)


def _build(node: yaml.Node, place: Place, document: Document, environ: Mapping[str, str], verbatim: frozenset[str]) -> Any:
    document.lines.setdefault(place, node.start_mark.line + 1)
    document.left -= 1
    if document.left < 0 or len(place) > 50:  # noqa: PLR2004  no document of ours is a tenth as deep
        raise document.problem(_IN_A_LOOP, (), "write each value out")
    if isinstance(node, yaml.MappingNode):
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise document.problem("a key must be a plain word", place, "write it as KEY: value")
            key = str(key_node.value)
            here = (*place, key)
            twice = key in built
            document.lines[here] = key_node.start_mark.line + 1
            if twice:
                raise document.problem("stands there twice", here, "keep one of the two")
            built[key] = _build(value_node, here, document, environ, verbatim)
        return built
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*place, index), document, environ, verbatim) for index, child in enumerate(node.value)]
    if node.tag not in _TAGS:
        raise document.problem(f"tag {node.tag!r} means nothing here", place, "leave it out")
    text = str(node.value)
    if not verbatim.intersection(place):
        text = _expanded(text, place, document, environ)
    return text if typing.cast("yaml.ScalarNode", node).style else plain(text)  # libyaml calls the plain style '', PyYAML None


def plain(text: str) -> str | float | bool | None:
    """What an unquoted YAML value means: null, a boolean, a number or text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text) and len(text) < 40:  # noqa: PLR2004  a longer one is no number of ours
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _expanded(text: str, place: Place, document: Document, environ: Mapping[str, str]) -> str:
    try:
        expanded, defaulted = expand(text, environ)
    except LookupError as error:
        name = error.args[0]
        todo = f"export {name}, or write ${{{name}:-default}}"
        raise document.problem(f"${{{name}}} is not set", place, todo) from error
    except ValueError as error:
        raise document.problem(str(error), place, "write ${VAR} or ${VAR:-default}, and $${ for ${ itself") from error
    if defaulted:
        document.defaulted.add(place)
    return expanded


def convert(document: Document, type_: type[T], place: Place = ()) -> T:
    """``document.data`` (or what is at ``place``) as a msgspec type; Problem with line, key and nearest valid name."""
    return typing.cast("T", _convert(document, document.at(place), type_, place))


def _convert(document: Document, value: Any, type_: Any, place: Place) -> Any:
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct) and isinstance(value, dict):
        return _struct(document, value, type_, place)
    if origin in {types.UnionType, typing.Union}:
        for argument in arguments:  # the one that this value may be a part-by-part instance of
            if _holds(argument, value):
                return _convert(document, value, argument, place)
    elif isinstance(value, dict) and _holds(type_, value):
        return {key: _convert(document, each, arguments[1], (*place, key)) for key, each in value.items()} if arguments else value
    elif isinstance(value, list) and _holds(type_, value) and arguments:
        items = [_convert(document, each, arguments[0], (*place, index)) for index, each in enumerate(value)]
        return items if origin is list else tuple(items)
    try:
        return msgspec.convert(value, type_, dec_hook=_hook, strict=True)
    except msgspec.ValidationError as error:
        what = str(error).partition(" - at `$")[0].replace(" | null`", "`", 1)
        todo = "put it in quotes" if "`str`" in what.split("got")[0] and not isinstance(value, list | dict | None) else None
        todo = todo or ("write 90s, 15m or 2h" if "is not a duration" in what else "write a value of that type")
        raise document.problem(what[:1].lower() + what[1:], place, todo) from error


def _holds(type_: Any, value: Any) -> bool:
    if isinstance(value, dict):
        return (isinstance(type_, type) and issubclass(type_, msgspec.Struct)) or typing.get_origin(type_) in {dict, Mapping}
    return isinstance(value, list) and typing.get_origin(type_) in {list, tuple}


@functools.cache  # annotations are resolved anew at each call, and suites are read again every hour
def _fields(type_: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(type_)}


def _struct(document: Document, value: dict[str, Any], type_: type[msgspec.Struct], place: Place) -> msgspec.Struct:
    fields = _fields(type_)
    for key in value:
        if key not in fields and type_.__struct_config__.forbid_unknown_fields:
            raise document.unknown(key, place, fields)
    for name, field in fields.items():
        if field.required and name not in value:
            raise document.problem(f"has no {name}", place, f"write {name}: ...")
    return type_(
        **{
            field.name: _convert(document, value[name], field.type, (*place, name))
            for name, field in fields.items()
            if name in value
        }
    )


def _hook(type_: type, value: object) -> object:
    if type_ is Duration:
        return Duration.parse(value)
    if type_ is Path:
        if not isinstance(value, str) or not value:
            message = f"expected a path, got {'nothing' if value == '' else type(value).__name__}"
            raise ValueError(message)
        return Path(value)
    message = f"cannot make a {type_.__name__}"
    raise TypeError(message)

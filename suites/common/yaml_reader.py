"""Reads YAML: variables, errors with line numbers, duplicate and unknown keys.

Suites and config share it, and its errors: ``watcher.yaml:12: stages.stage1: unknown key 'tokeniser'; did you mean 'tokenizer'?``
``12:00:00`` and ``2023-11-01`` are text, not a number in base 60 or a date as in YAML 1.1.
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

from suites.common.documents import DamagedDocument, check_yaml_limits, read_content
from suites.common.errors import UserError
from suites.common.variables import expand_variables

T = TypeVar("T")

YamlPath = tuple[str | int, ...]

_DURATION_PATTERN = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>s|m|h|d)?")

_SECONDS_PER_UNIT = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_INT_PATTERN = re.compile(r"[-+]?(?:0|[1-9]\d*(?:_\d+)*)")  # 007 stays text

_FLOAT_PATTERN = re.compile(r"[-+]?(?:\.\d+|\d+\.\d*|\d+(?=[eE]))(?:[eE][-+]?\d{1,2})?")

_PLAIN_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}

_ALLOWED_TAGS = tuple(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")
)

_MAX_NODES = 100_000

MAX_YAML_BYTES = 1 << 23

_MAX_KEYS_SHOWN = 3
"""Keys of a mapping that an error shows."""


class Duration(float):
    """Seconds, written as 90s, 15m, 2h, 1d or a plain number."""

    @classmethod
    def parse(cls, value: object) -> "Duration":
        """The duration that ``value`` expresses. Raises ValueError for other values."""
        match = None if isinstance(value, bool) else _DURATION_PATTERN.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(f"{value!r} is not a duration")
        return cls(float(match["number"]) * _SECONDS_PER_UNIT[match["unit"] or "s"])


class YamlDocument:
    """A parsed YAML file, with the line of every value."""

    def __init__(self, data: Any, lines: dict[YamlPath, int], source: str) -> None:
        self.data, self.lines, self.source = data, lines, source
        self.defaulted_locations: set[YamlPath] = set()
        """Values with the default of an unset variable."""
        self.remaining_nodes = _MAX_NODES

    def get_value(self, location: YamlPath) -> Any:
        """The value at ``location``.

        Raises KeyError, IndexError or TypeError where there is none.
        """
        data = self.data
        for key in location:
            data = data[key]
        return data

    def format_location(self, location: YamlPath = ()) -> str:
        """``file:line`` of a value, or of the nearest value around it."""
        for length in range(len(location), -1, -1):
            line = self.lines.get(location[:length])
            if line is not None:
                return f"{self.source}:{line}"
        return self.source

    def make_error(self, message: str, location: YamlPath, hint: str) -> UserError:
        """A UserError at the line of a value."""
        return UserError(
            f"{format_yaml_path(location)}: {message}" if location else message,
            location=self.format_location(location),
            hint=hint,
        )

    def make_unknown_key_error(self, key: str, location: YamlPath, valid: Iterable[str]) -> UserError:
        """A UserError for an unknown key of the mapping at ``location``."""
        error = self.make_error(f"unknown key {key!r}", location, suggest_name(key, valid))
        return UserError(error.message, location=self.format_location((*location, key)), hint=error.hint)

    def require_choice(self, location: YamlPath, key: str, value: object, choices: Collection[str]) -> str:
        """``value``, of ``key`` in the mapping at ``location``.

        Raises UserError where it is missing or not among ``choices``.
        """
        if value is None:
            raise self.make_error(f"has no {key}", location, "give one of: " + ", ".join(choices))
        if not isinstance(value, str) or value not in choices:
            raise self.make_error(f"unknown {key} {value!r}", (*location, key), suggest_name(str(value), choices))
        return value


def format_yaml_path(location: YamlPath) -> str:
    """Keys joined by dots, such as ``stages.stage1.steps.0``; unprintable keys are quoted."""
    return ".".join(str(key) if str(key).isprintable() else repr(key) for key in location)


def suggest_name(name: str, valid: Iterable[str]) -> str:
    """Hint for a wrong name: the nearest valid one, or all."""
    names = list(valid)
    matches = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {matches[0]!r}?" if matches else "use one of: " + ", ".join(names)


def parse_yaml(text: str, source: str, environ: Mapping[str, str], *, verbatim: Collection[str] = ()) -> YamlDocument:
    """Parse YAML and expand variables.

    Values under a key in ``verbatim`` keep their ${...}, which the shell expands when it runs them.
    Raises UserError at file:line for bad syntax, a duplicate key or an unset ${VAR} without a default.
    """
    try:
        check_yaml_limits(text)
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark.line + 1) if error.problem_mark else 1
        raise UserError(f"not YAML: {error.problem}", location=f"{source}:{line}", hint="correct the syntax there") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"not YAML: {str(error).splitlines()[0]}", location=source, hint="save it as UTF-8 text") from error
    document = YamlDocument(None, {}, source)
    document.data = None if root is None else _build_value(root, (), document, environ, frozenset(verbatim))
    return document


def read_yaml(path: Path, environ: Mapping[str, str], *, verbatim: Collection[str] = ()) -> YamlDocument:
    """``parse_yaml`` of a file.

    Also raises UserError where the file cannot be read.
    """
    try:
        text = read_content(path, MAX_YAML_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", location=path, hint="give the path of a readable file") from error
    except DamagedDocument as error:
        raise UserError(f"cannot be read ({error.reason})", location=path, hint="give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", location=path, hint="save it as UTF-8") from error
    return parse_yaml(text, str(path), environ, verbatim=verbatim)


def _build_value(
    node: yaml.Node, location: YamlPath, document: YamlDocument, environ: Mapping[str, str], verbatim: frozenset[str]
) -> Any:
    document.lines.setdefault(location, node.start_mark.line + 1)
    # Aliases can make a small file expand without end ("billion laughs").
    document.remaining_nodes -= 1
    if document.remaining_nodes < 0 or len(location) > 50:  # noqa: PLR2004  real documents have five levels
        raise document.make_error("an alias contains itself, or far too many values", (), "write every value out")
    if isinstance(node, yaml.MappingNode):
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise document.make_error("a key must be plain text", location, "write it as KEY: value")
            key = str(key_node.value)
            key_location = (*location, key)
            document.lines[key_location] = key_node.start_mark.line + 1
            if key in built:
                raise document.make_error("occurs twice", key_location, "keep one of the two")
            built[key] = _build_value(value_node, key_location, document, environ, verbatim)
        return built
    if isinstance(node, yaml.SequenceNode):
        return [_build_value(child, (*location, index), document, environ, verbatim) for index, child in enumerate(node.value)]
    if node.tag not in _ALLOWED_TAGS:
        raise document.make_error(f"tag {node.tag!r} is not supported", location, "remove it")
    text = str(node.value)
    if not verbatim.intersection(location):
        text = _expand_scalar(text, location, document, environ)
    # libyaml calls the unquoted style '', PyYAML None.
    return text if typing.cast("yaml.ScalarNode", node).style else parse_plain_scalar(text)


def parse_plain_scalar(text: str) -> str | float | bool | None:
    """The value of an unquoted YAML scalar: null, boolean, number or text."""
    if text in _PLAIN_CONSTANTS:
        return _PLAIN_CONSTANTS[text]
    if _INT_PATTERN.fullmatch(text) and len(text) < 40:  # noqa: PLR2004  no setting is larger
        return int(text)
    return float(text) if _FLOAT_PATTERN.fullmatch(text) else text


def _expand_scalar(text: str, location: YamlPath, document: YamlDocument, environ: Mapping[str, str]) -> str:
    try:
        expanded, defaulted = expand_variables(text, environ)
    except LookupError as error:
        name = error.args[0]
        hint = f"export {name}, or write ${{{name}:-default}}"
        raise document.make_error(f"${{{name}}} is not set", location, hint) from error
    except ValueError as error:
        raise document.make_error(str(error), location, "write ${VAR} or ${VAR:-default}, and $${ for ${ itself") from error
    if defaulted:
        document.defaulted_locations.add(location)
    return expanded


def convert_document(document: YamlDocument, type_: type[T], location: YamlPath = ()) -> T:
    """The value at ``location`` (default: all) as a msgspec type.

    Raises UserError with line, key and the nearest valid name.
    """
    return typing.cast("T", _convert_value(document, document.get_value(location), type_, location))


def _convert_value(document: YamlDocument, value: Any, type_: Any, location: YamlPath) -> Any:
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct) and isinstance(value, dict):
        return _convert_struct(document, value, type_, location)
    # Containers are converted item by item, so that an error has the line of its item.
    if origin in {types.UnionType, typing.Union}:
        for argument in arguments:
            if _is_matching_container(argument, value):
                return _convert_value(document, value, argument, location)
    elif isinstance(value, dict) and _is_matching_container(type_, value):
        return (
            {key: _convert_value(document, item, arguments[1], (*location, key)) for key, item in value.items()}
            if arguments
            else value
        )
    elif isinstance(value, list) and _is_matching_container(type_, value) and arguments:
        items = [_convert_value(document, item, arguments[0], (*location, index)) for index, item in enumerate(value)]
        return items if origin is list else tuple(items)
    try:
        return msgspec.convert(value, type_, dec_hook=_decode_hook, strict=True)
    except msgspec.ValidationError as error:
        if (form := _describe_form(type_, location)) and not isinstance(value, dict):
            shown = "null" if value is None else repr(value)
            raise document.make_error(f"{shown} is no mapping", location, f"write {form}") from error
        # msgspec's own path and "| null" say less than our line number.
        message = str(error).partition(" - at `$")[0].replace(" | null`", "`", 1)
        hint = "put it in quotes" if "`str`" in message.split("got")[0] and not isinstance(value, list | dict | None) else None
        hint = hint or ("write 90s, 15m or 2h" if "is not a duration" in message else "write a value of that type")
        raise document.make_error(message[:1].lower() + message[1:], location, hint) from error


def _describe_form(type_: Any, location: YamlPath) -> str:
    """How a mapping of some known keys is written, such as ``layout: {name: ..., kind: ...}``; empty for other types."""
    structs = [each for each in (type_, *typing.get_args(type_)) if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    if not structs or not location:
        return ""
    keys = list(_get_struct_fields(structs[0]))
    shown = ", ".join(f"{key}: ..." for key in keys[:_MAX_KEYS_SHOWN]) + (", ..." if len(keys) > _MAX_KEYS_SHOWN else "")
    return f"{location[-1]}: {{{shown}}}"


def _is_matching_container(type_: Any, value: Any) -> bool:
    if isinstance(value, dict):
        return (isinstance(type_, type) and issubclass(type_, msgspec.Struct)) or typing.get_origin(type_) in {dict, Mapping}
    return isinstance(value, list) and typing.get_origin(type_) in {list, tuple}


@functools.cache  # msgspec resolves annotations at every call
def _get_struct_fields(type_: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(type_)}


def _convert_struct(
    document: YamlDocument, value: dict[str, Any], type_: type[msgspec.Struct], location: YamlPath
) -> msgspec.Struct:
    fields = _get_struct_fields(type_)
    # Unknown keys first: a misspelt key is often the cause of a missing one.
    for key in value:
        if key not in fields and type_.__struct_config__.forbid_unknown_fields:
            raise document.make_unknown_key_error(key, location, fields)
    for name, field in fields.items():
        if field.required and name not in value:
            raise document.make_error(f"has no {name}", location, f"write {name}: ...")
    return type_(
        **{
            field.name: _convert_value(document, value[name], field.type, (*location, name))
            for name, field in fields.items()
            if name in value
        }
    )


def _decode_hook(type_: type, value: object) -> object:
    if type_ is Duration:
        return Duration.parse(value)
    if type_ is Path:
        if not isinstance(value, str) or not value:
            raise ValueError(f"expected a path, got {'nothing' if value == '' else type(value).__name__}")
        return Path(value)
    raise TypeError(f"cannot make a {type_.__name__}")

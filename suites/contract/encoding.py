"""Canonical JSON for digests, indented JSON for files, and requests read back."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from suites.common.documents import DamagedDocument, read_struct
from suites.common.errors import UserError

SCHEMA = 1

_Request = TypeVar("_Request", bound=msgspec.Struct)


def encode_json(document: msgspec.Struct) -> bytes:
    """A contract document as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def canonical_json(document: Any) -> str:
    """The single spelling of a JSON document from which digests are computed."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_digest(document: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``document``."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


def find_non_finite_number(value: Any, location: str = "$") -> str | None:
    """Where in a struct or in its plain values a NaN or an infinity is; None where there is none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else location
    if isinstance(value, msgspec.Struct):
        children = [(f".{name}", getattr(value, name)) for name in value.__struct_fields__]
    elif isinstance(value, dict):
        children = [(f".{name}", child) for name, child in value.items()]
    elif isinstance(value, list | tuple):
        children = [(f"[{index}]", child) for index, child in enumerate(value)]
    else:
        return None
    places = (find_non_finite_number(child, location + suffix) for suffix, child in children)
    return next((place for place in places if place is not None), None)


def to_plain_json(value: msgspec.Struct) -> dict[str, Any]:
    """A struct as a plain JSON object, without null values."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return {key: field for key, field in document.items() if field is not None}


def read_request(path: Path, request_type: type[_Request]) -> _Request:
    """A request file, checked.

    Raises UserError (usage) with the file and the wrong field.
    """
    try:
        return read_struct(path, request_type)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", location=path, hint="give the path of a REQUEST.json") from error
    except DamagedDocument as error:
        message, hint = f"not a valid request: {error.reason}", "correct that field, or let the watcher write the file"
        raise UserError(message, location=path, hint=hint) from error

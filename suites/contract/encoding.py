"""Canonical JSON for digests; indented JSON for files."""

import json
from typing import Any

import msgspec

SCHEMA = 1


def encode_json(document: msgspec.Struct) -> bytes:
    """A contract document as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def canonical_json(document: Any) -> str:
    """The one spelling of a JSON document that digests are taken of."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

"""Publishes compare.json and stage.json: only what their readers take."""

from pathlib import Path

import msgspec

from suites.common.atomic_files import write_atomically
from suites.common.documents import parse_json
from suites.common.errors import ExitCode, UserError
from suites.contract.comparison import ComparisonDocument, find_contradiction
from suites.contract.encoding import encode_json
from suites.contract.stage_summary import StageDocument, find_summary_damage


def publish_document(path: Path, document: ComparisonDocument | StageDocument) -> None:
    """Write a document that reads back as itself.

    Raises UserError: data missing where it would not, cannot write where the disk refuses.
    """
    content = encode_json(document)
    if reason := _describe_difference(path, document, content):
        message, hint = f"the result cannot be published: {reason}", "score these checkpoints again: watcher retry --force"
        raise UserError(message, location=path, hint=hint, code=ExitCode.DATA_MISSING)
    try:
        # An unchanged file keeps its mtime, so its readers do not read it again.
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)
    except OSError as error:
        message, hint = f"cannot be written ({error.strerror})", "free disk space, or make the folder writable"
        raise UserError(message, location=path, hint=hint, code=ExitCode.CANNOT_WRITE) from error


def _describe_difference(path: Path, document: ComparisonDocument | StageDocument, content: bytes) -> str | None:
    """Why the content is not read as the document; None where it is."""
    damage = find_contradiction(document) if isinstance(document, ComparisonDocument) else find_summary_damage(document)
    if damage is not None:
        return damage
    try:
        is_same = msgspec.convert(parse_json(content, path), type(document)) == document
    except ValueError as error:  # msgspec's, too
        return str(error)
    return None if is_same else "it is not read as what was written"

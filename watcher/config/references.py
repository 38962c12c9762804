"""Resolves ``references`` in watcher.yaml: models that every stage is compared with."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from suites.common.yaml_reader import YamlDocument, YamlPath, suggest_name
from suites.contract.paths import DataPaths
from watcher.config import file_schema
from watcher.config.settings import Reference
from watcher.config.stage_entries import resolve_path

HUB_PREFIX = "hub:"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")

_HUB_MODEL = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@\w[\w.-]*(/\w[\w.-]*)*)?", re.ASCII)

_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(//)?")
"""Of a path it would be odd; of a model's name it is a mistyped one."""

REFERENCE_BACKENDS = ("direct", "transformers")

MAX_TOKENS = 10**18

_TOKEN_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def resolve_references(
    document: YamlDocument,
    sections: dict[str, file_schema.ReferenceSection | str],
    *,
    base: Path,
    eval_data: Path,
    stage_names: Collection[str],
) -> dict[str, Reference]:
    """The entries of ``references``, with absolute folders; those of the hub in the data cache.

    ``stage_names``: keys of ``stages``. UserError.
    """
    references = {}
    for name, given in sections.items():
        location: YamlPath = ("references", name)
        section = file_schema.ReferenceSection(checkpoint=given) if isinstance(given, str) else given
        if not _NAME.fullmatch(name):
            hint = "use letters, digits, _ . and -, beginning with none of the last two"
            raise document.make_error("not a valid name of a reference", location, hint)
        stages = (section.stages,) if isinstance(section.stages, str) else section.stages or ()
        if section.stages is not None and not stages:
            raise document.make_error("names no stage", (*location, "stages"), "leave it out for all stages")
        for stage in stages:
            if stage not in stage_names:
                raise document.make_error(f"no stage {stage!r}", (*location, "stages"), suggest_name(stage, stage_names))
        is_hub = section.checkpoint.startswith(HUB_PREFIX)
        model = section.checkpoint.removeprefix(HUB_PREFIX)
        if is_hub and not _HUB_MODEL.fullmatch(model):
            raise document.make_error(f"{model!r} names no model of the hub", location, "write hub:OWNER/NAME@REVISION")
        if not is_hub and (mistake := _describe_folder_mistake(base, model)) is not None:
            raise document.make_error(mistake[0], location, mistake[1])
        references[name] = Reference(
            name=name,
            checkpoint=str(DataPaths(eval_data).model(model) if is_hub else resolve_path(base, section.checkpoint)),
            hub_model=model if is_hub else None,
            stages=tuple(stages),
            tokens=parse_tokens(document, section.tokens, (*location, "tokens")),
            seq_len=section.seq_len,
            backend=None
            if section.backend is None
            else document.require_choice(location, "backend", section.backend, REFERENCE_BACKENDS),
        )
    return references


def _describe_folder_mistake(base: Path, folder: str) -> tuple[str, str] | None:
    """What is wrong with the text of a reference's folder, and what to write; None where it may be one."""
    prefix = _PREFIX.match(folder)
    if not folder.strip():
        return "names no model", f"write its folder, or {HUB_PREFIX}OWNER/NAME"
    if os.path.exists(base / folder.partition("/")[0]):  # noqa: PTH110  pathlib raises where a name is too long
        return None
    if prefix is not None:
        model = folder[prefix.end() :]
        is_model = prefix[0].lower() == HUB_PREFIX and _HUB_MODEL.fullmatch(model)
        return f"{folder!r} is no folder", f"write {HUB_PREFIX}{model if is_model else 'OWNER/NAME'} for a model of the hub"
    # A folder that is still to come has at least its parent, or ./ before it.
    if _HUB_MODEL.fullmatch(folder):
        hint = f"write {HUB_PREFIX}{folder} for a model of the hub, ./{folder} for a folder that is still to come"
        return f"{base / folder} is no folder", hint
    return None


def parse_tokens(document: YamlDocument, value: float | str | None, location: YamlPath) -> int | None:
    """Tokens from a number, or a text such as ``1.5T``."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d{1,2})?) ?([KMBT]?)", str(value), re.ASCII | re.IGNORECASE)
    if match is None:
        raise document.make_error(f"{value!r} is no number of tokens", location, "write 11T or 600B")
    tokens = float(match[1]) * _TOKEN_UNITS[match[2].upper()]
    if tokens > MAX_TOKENS:
        raise document.make_error(f"{value!r} is more tokens than there are", location, "write 11T or 600B")
    return round(tokens)

"""Digests of the tokenizers that checkpoints name, without a network."""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from suites.checkpoint.completeness import Inspection
from suites.common.errors import UserError
from suites.contract.paths import DataPaths
from suites.definitions.tokenizer_files import find_files_digest, list_tokenizer_files, parse_tokenizer_identifier
from watcher.core.evaluation import StageSettings
from watcher.core.snapshot import StageRequirements

RECHECK_SECONDS = 300.0
"""Seconds after which the files of a tokenizer are stat'ed again."""

_Stamps = tuple[tuple[int, int, int] | None, ...]


class _CachedDigest(msgspec.Struct, frozen=True):
    digest: str | None
    stamps: _Stamps
    checked_at: float
    is_folder: bool


class TokenizerDigestCache:
    """Reads a tokenizer's files once, and again when they change."""

    def __init__(self) -> None:
        self._cached: dict[tuple[str, Path], _CachedDigest] = {}

    def read_digests(
        self,
        inspections: Iterable[Inspection],
        requirements: Iterable[StageRequirements],
        stage_facts: Iterable[StageSettings],
        data: DataPaths,
        now: float,
    ) -> dict[str, str]:
        """Tokenizer -> its digest; those that cannot be read offline are left out.

        Nothing is read while no complete checkpoint was inspected, since only those are compared.
        """
        named = {inspection.tokenizer for inspection in inspections if inspection.fingerprint is not None}
        others = {required.tokenizer for required in requirements} | {facts.tokenizer for facts in stage_facts}
        identifiers = named | others if named else set()
        digests = {identifier: self._read_digest(identifier, data, now) for identifier in identifiers if identifier}
        return {identifier: digest for identifier, digest in digests.items() if digest is not None}

    def _read_digest(self, identifier: str, data: DataPaths, now: float) -> str | None:
        key = (identifier, data.eval_data)
        cached = self._cached.get(key)
        folder = parse_tokenizer_identifier(identifier).folder
        # A tokenizer that lies in a checkpoint vanishes with it.
        is_fresh = cached is not None and 0 <= now - cached.checked_at < RECHECK_SECONDS
        if cached is not None and is_fresh and cached.is_folder == folder.is_dir():
            return cached.digest
        # A tokenizer may have tens of megabytes, so unchanged files are not read again.
        is_folder = folder.is_dir()
        try:
            paths = [data.tokenizer_pointer(identifier, use_fast=use_fast) for use_fast in (True, False)]
            if is_folder:
                paths = [folder / name for name in list_tokenizer_files(folder)]
            stamps = tuple(map(_read_stamp, paths))
            is_unchanged = cached is not None and stamps == cached.stamps
            digest = cached.digest if cached is not None and is_unchanged else find_files_digest(identifier, data)
        except (OSError, ValueError, UserError):  # what cannot be read has no digest, and the comparison says so
            digest, stamps = None, ()
        self._cached[key] = _CachedDigest(digest, stamps, now, is_folder)
        return digest


def _read_stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stats = os.stat(path)  # noqa: PTH116  part of the poll
    except OSError:
        return None
    return stats.st_ino, stats.st_mtime_ns, stats.st_size

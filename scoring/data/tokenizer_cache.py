"""Obtains a tokenizer: from the data cache, a folder or the hub; read with transformers once."""

from collections.abc import Sequence
from pathlib import Path

from scoring.tokenizers.library import is_code_of_its_repository
from scoring.tokenizers.tokenizer import Tokenizer, load_tokenizer
from suites.common.errors import ExitCode, UserError, classify_write_error
from suites.contract.paths import DataPaths
from suites.contract.resolved_tokenizer import ResolvedTokenizer
from suites.definitions.data_cache import build_prefill_command
from suites.definitions.tokenizer_files import (
    HUB_PATTERNS,
    TokenizerIdentifier,
    parse_tokenizer_identifier,
    read_cached_tokenizer,
    read_tokenizer_files,
    store_tokenizer,
)


def resolve_tokenizer(
    identifier: str,
    data: DataPaths,
    *,
    use_fast: bool = True,
    offline: bool = False,
    suites: Sequence[str] = ("SUITE",),
    refresh: bool = False,
) -> Tokenizer:
    """Load the tokenizer of a folder or hub id.

    It is read from its copy in the data cache. A folder is compared with the copy each time: when its files change, it is
    read anew. A hub id is looked up once, and later jobs use the copy without a network; so they do for a folder that no
    longer exists. ``refresh``: read it anew.

    Raises UserError: data missing (no such tokenizer, or offline without a copy: then the hint is the command that fetches
    it for ``suites``), temporary (network), cannot write (the cache), cannot score, unavailable (a library is missing),
    usage (a folder without a tokenizer).
    """
    try:
        resolved = None if refresh else read_cached_tokenizer(identifier, data, use_fast=use_fast)
        if resolved is None:
            command = build_prefill_command(suites, data, identifier, use_fast=use_fast)
            resolved = _read_and_store(identifier, data, use_fast=use_fast, offline=offline, command=command)
    except OSError as error:
        raise UserError(
            f"the tokenizer cannot be copied ({error.strerror})",
            location=error.filename or data.eval_data,
            hint="make it readable, and the cache writable",
            code=classify_write_error(error),
        ) from error
    return load_tokenizer(identifier, data.tokenizer(resolved.digest), resolved, use_fast=use_fast)


def _read_and_store(identifier: str, data: DataPaths, *, use_fast: bool, offline: bool, command: str) -> ResolvedTokenizer:
    from scoring.tokenizers.reading import read_tokenizer_folder  # noqa: PLC0415  only here transformers is needed

    named, revision = parse_tokenizer_identifier(identifier), None
    folder = named.folder
    if not folder.is_dir():
        fetched = _fetch_tokenizer(named, command, offline=offline)
        folder, revision = fetched, fetched.name
        if not read_tokenizer_files(folder) and not is_code_of_its_repository(folder):
            hint = "name another tokenizer"
            raise UserError("contains no tokenizer", location=identifier, hint=hint, code=ExitCode.DATA_MISSING)
    reading = read_tokenizer_folder(folder, identifier, use_fast=use_fast, revision=revision)
    store_tokenizer(reading.resolved, reading.files, reading.pipeline, identifier, data, use_fast=use_fast)
    return reading.resolved


def _fetch_tokenizer(named: TokenizerIdentifier, command: str, *, offline: bool) -> Path:
    """A folder with the tokenizer's files, named after its commit, from the hub or from the hub's local cache."""
    if named.name.startswith(("/", ".", "~")) or named.name.count("/") > 1:
        message = "no such tokenizer folder, and the cache has no copy of it"
        raise UserError(message, location=named.name, hint="fix the path", code=ExitCode.DATA_MISSING)
    from scoring.sources.hub import fetch_tokenizer  # noqa: PLC0415  only here the network is needed

    return fetch_tokenizer(named.name, HUB_PATTERNS, revision=named.revision, offline=offline, command=command)

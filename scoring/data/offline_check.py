"""``python -m scoring doctor --offline``: data for jobs without a network.

It follows the path of a job: loads the tokenizer, compares every byte of every entry with its sha256, and reads it back.
Local files become entries in a temporary folder. The cache does not change, except for the times of last use.
With ``--json`` one document on stdout:

    {"schema": 1, "whole": false, "prefill": "the command that fetches what is missing",
     "network": "cut off", or why the network could not be cut off (HF_HUB_OFFLINE and the like are set in any case),
     "tokenizer": {"id": "...", "digest": "...", or null if it is missing, "problems": ["..."]},
     "entries": [{"suite": "stage1_ppl_slices", "tier": "tier2_ppl", "name": "code", "folder": "...", or null if unknown,
                  "state": "whole" | "made by the job" | "missing" | "damaged" | "unusable", "problems": ["FILE: ...", ...]}]}

``missing`` and ``damaged`` (prefill repairs both) and ``unusable`` (local files that do not fit the suite) are failures.
Exits 66 for a failure, 0 otherwise, 2 for a suite that cannot be read.
"""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import click
import msgspec

from scoring.data import cache
from scoring.data.cache_entries import find_damage
from scoring.data.prompt_entries import ensure_prompts
from scoring.data.tokenizer_cache import resolve_tokenizer
from scoring.runtime.network_namespace import NETWORK_CUT_OFF
from scoring.tokenizers.tokenizer import Tokenizer, load_tokenizer
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import SuiteInRequest
from suites.contract.tier_files import TIER4
from suites.definitions.data_cache import CACHE_ENTRY_KINDS, build_prefill_command, compute_prompts_key, read_complete_meta
from suites.definitions.tokenizer_files import parse_tokenizer_identifier, read_cached_tokenizer

SCHEMA = 1

_BAD_STATES = frozenset({"missing", "damaged", "unusable"})


class EntryCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one slice or task of a suite."""

    suite: str
    tier: str
    name: str
    folder: str | None = None
    state: str
    problems: list[str] = []


class OfflineCheckRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a job would get."""

    suites: tuple[SuiteInRequest, ...]
    data: DataPaths
    tokenizer: str
    use_fast: bool


def check_offline(request: OfflineCheckRequest, network: str) -> dict[str, Any]:
    """Check tokenizer and entries; returns the document that ``--json`` prints."""
    tokenizer, problems = _check_tokenizer(request)
    entries = [
        _check_entry(suite, name, definition, tokenizer, request)
        for suite in request.suites
        if suite.tier in CACHE_ENTRY_KINDS
        for name, definition in suite.definition.items()
    ]
    entries += [_check_prompts(suite, tokenizer, request) for suite in request.suites if suite.tier == TIER4]
    suite_options = [suite.suite_option for suite in request.suites]
    return {
        "schema": SCHEMA,
        "whole": not problems and not any(entry.state in _BAD_STATES for entry in entries),
        "network": network,
        "prefill": build_prefill_command(suite_options, request.data, request.tokenizer, use_fast=request.use_fast),
        "tokenizer": {"id": request.tokenizer, "digest": None if tokenizer is None else tokenizer.digest, "problems": problems},
        "entries": msgspec.to_builtins(entries),
    }


def report_offline_check(document: dict[str, Any], *, as_json: bool) -> ExitCode:
    """Print the document as JSON or text; returns the exit code."""
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        if document["network"] != NETWORK_CUT_OFF:
            click.echo(document["network"])
        for problem in document["tokenizer"]["problems"]:
            click.echo(f"tokenizer {document['tokenizer']['id']}: {problem}")
        for entry in document["entries"]:
            for problem in entry["problems"] if entry["state"] in _BAD_STATES else ():
                click.echo(f"{entry['suite']}/{entry['name']}: {entry['state']}: {problem}")
        states = [entry["state"] for entry in document["entries"]]
        click.echo(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no entries are needed")
        if not document["whole"]:
            click.echo(f"on a machine with a network, run: {document['prefill']}")
    return ExitCode.SCORED if document["whole"] else ExitCode.DATA_MISSING


def _check_tokenizer(request: OfflineCheckRequest) -> tuple[Tokenizer | None, list[str]]:
    """The tokenizer as a job would load it, and problems. Copies nothing into the cache."""
    folder = parse_tokenizer_identifier(request.tokenizer).folder
    pointer = request.data.tokenizer_pointer(request.tokenizer, use_fast=request.use_fast)
    try:
        resolved = read_cached_tokenizer(request.tokenizer, request.data, use_fast=request.use_fast)
        if resolved is not None:
            copy = request.data.tokenizer(resolved.digest)
            return load_tokenizer(request.tokenizer, copy, resolved, use_fast=request.use_fast), []
        with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
            # A job reads a folder itself, and the hub's local cache may have an id.
            return resolve_tokenizer(request.tokenizer, DataPaths(Path(scratch)), use_fast=request.use_fast, offline=True), []
    except OSError as error:
        return None, [f"{error.filename or folder}: cannot be read ({error.strerror})"]
    except UserError as error:
        if error.code != ExitCode.DATA_MISSING or folder.is_dir():
            return None, [f"{error.location}: {error.message}"]
        problem = "a file of the copy that it points to is missing or changed" if pointer.exists() else "missing"
        return None, [f"{pointer}: {problem}"]


def _check_prompts(suite: SuiteInRequest, tokenizer: Tokenizer | None, request: OfflineCheckRequest) -> EntryCheck:
    """The state of a suite's rendered prompts, which a job makes where they are missing."""
    check = functools.partial(EntryCheck, suite=suite.name, tier=suite.tier, name="prompts")
    if tokenizer is None:
        return check(state="missing", problems=["its folder is unknown without the tokenizer"])
    folder = request.data.entry("prompts", suite.name, compute_prompts_key(suite.definition, tokenizer.digest))
    damage = find_damage(folder)
    if damage and folder.is_dir():
        return check(folder=str(folder), state="damaged", problems=damage)
    try:
        with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
            data = DataPaths(Path(scratch)) if damage else request.data
            ensure_prompts(suite.name, suite.definition, tokenizer=tokenizer, data=data)
    except UserError as error:
        return check(folder=str(folder), state="unusable", problems=[f"{error.location}: {error.message}"])
    return check(folder=str(folder), state="made by the job" if damage else "whole")


def _check_entry(
    suite: SuiteInRequest, name: str, definition: dict[str, Any], tokenizer: Tokenizer | None, request: OfflineCheckRequest
) -> EntryCheck:
    """The state of one entry, by the steps of a job that obtains it."""
    check = functools.partial(EntryCheck, suite=suite.name, tier=suite.tier, name=name)
    if tokenizer is None:
        return check(state="missing", problems=["its folder is unknown without the tokenizer"])
    ensure_entry = functools.partial(cache.ensure_entry, suite.tier, name, definition, tokenizer=tokenizer, offline=True)
    try:
        location = cache.locate_entry(suite.tier, name, definition, tokenizer, request.data)
        folder = location.folder
        check = functools.partial(check, folder=str(folder))
        if location.local_source is not None and read_complete_meta(folder) is None:
            # The job builds this entry from local files: try it.
            with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
                ensure_entry(data=DataPaths(Path(scratch)))
            return check(state="made by the job")
    except UserError as error:
        return check(state="unusable", problems=[f"{error.location}: {error.message}"])
    damage = find_damage(folder)
    if damage:
        return check(state="damaged" if folder.is_dir() else "missing", problems=damage)
    try:
        ensure_entry(data=request.data)
    except Exception as error:  # noqa: BLE001  any error would keep a job from reading it
        return check(state="damaged", problems=[f"{folder}: cannot be read: {error}"])
    return check(state="whole")

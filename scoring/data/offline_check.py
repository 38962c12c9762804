"""``python -m scoring doctor --offline``: is everything there that a job without a network needs?

Every suite's data path is walked as a job walks it: the tokenizer is loaded, every byte of every entry compared with its
sha256 and read back, local files turned into the entry that a job would make of them (in a folder that is thrown away).
The cache is not changed, but for when it was used last. With ``--json`` one document on stdout:

    {"schema": 1, "whole": false, "prefill": "the command that mends what is missing",
     "network": "cut off", or why the check ran with the network in reach (HF_HUB_OFFLINE and its like are set all the same),
     "tokenizer": {"id": "...", "digest": "...", or null where it is missing, "problems": ["..."]},
     "entries": [{"suite": "stage1_ppl_slices", "tier": "tier2_ppl", "name": "code", "folder": "...", or null where not known,
                  "state": "whole" | "made by the job" | "missing" | "damaged" | "unusable", "problems": ["FILE: what", ...]}]}

``missing``, ``damaged`` (prefill mends both) and ``unusable`` (local files, which are not what the suite says) are wrong.
Exit 66 where anything is wrong, 0 otherwise, 2 for a suite that cannot be read.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import msgspec

from scoring.data import cache
from scoring.data.cache_entries import find_damage
from scoring.data.tokenizer import Tokenizer, load_tokenizer, resolve_tokenizer
from scoring.runtime.network_namespace import NETWORK_CUT_OFF
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import SuiteInRequest
from suites.definitions.data_cache import CACHE_ENTRY_KINDS, build_prefill_command, read_complete_meta
from suites.definitions.tokenizer_files import compute_tokenizer_digest, read_cached_digest

SCHEMA = 1

_BAD_STATES = frozenset({"missing", "damaged", "unusable"})


class EntryCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One slice or task of a suite."""

    suite: str
    tier: str
    name: str
    folder: str | None = None
    state: str
    problems: list[str] = []


class OfflineCheckRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a job would be given."""

    suites: tuple[SuiteInRequest, ...]
    data: DataPaths
    tokenizer: str
    use_fast: bool


def check_offline(request: OfflineCheckRequest, network: str) -> dict[str, Any]:
    """The document that ``--json`` prints."""
    tokenizer, problems = _check_tokenizer(request)
    entries = [
        _check_entry(suite, name, definition, tokenizer, request)
        for suite in request.suites
        if suite.tier in CACHE_ENTRY_KINDS
        for name, definition in suite.definition.items()
    ]
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
    """Print what was found, for a program or for a person."""
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
            click.echo(f"where there is a network, run: {document['prefill']}")
    return ExitCode.SCORED if document["whole"] else ExitCode.DATA_MISSING


def _check_tokenizer(request: OfflineCheckRequest) -> tuple[Tokenizer | None, list[str]]:
    """As a job would load it, but nothing is copied into the cache."""
    folder, pointer = Path(request.tokenizer).expanduser(), request.data.tokenizer_pointer(request.tokenizer)
    try:
        digest = compute_tokenizer_digest(folder) if folder.is_dir() else read_cached_digest(request.tokenizer, request.data)
        if digest is not None:
            tokenizer_folder = folder if folder.is_dir() else request.data.tokenizer(digest)
            return load_tokenizer(request.tokenizer, tokenizer_folder, digest, use_fast=request.use_fast), []
        with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:  # the hub's own cache on this machine may have it
            return resolve_tokenizer(request.tokenizer, DataPaths(Path(scratch)), use_fast=request.use_fast, offline=True), []
    except OSError as error:
        return None, [f"{error.filename or folder}: cannot be read ({error.strerror})"]
    except UserError as problem:
        pointer_problem = (
            f"{pointer}: the copy that it points at has lost or changed a file" if pointer.exists() else f"{pointer}: missing"
        )
        return None, [pointer_problem if problem.code == ExitCode.DATA_MISSING else f"{problem.location}: {problem.message}"]


def _check_entry(
    suite: SuiteInRequest, name: str, definition: dict[str, Any], tokenizer: Tokenizer | None, request: OfflineCheckRequest
) -> EntryCheck:
    head: dict[str, Any] = {"suite": suite.name, "tier": suite.tier, "name": name}
    if tokenizer is None:
        return EntryCheck(**head, state="missing", problems=["its place is not known without the tokenizer"])
    try:
        location = cache.locate_entry(suite.tier, name, definition, tokenizer, request.data)
    except UserError as problem:
        return EntryCheck(**head, state="unusable", problems=[f"{problem.location}: {problem.message}"])
    entry_folder = str(location.folder)
    if location.local_source is not None and read_complete_meta(location.folder) is None:
        return _check_local_build(head, entry_folder, definition, tokenizer)
    damaged_files = find_damage(location.folder)
    if damaged_files:
        return EntryCheck(
            **head, folder=entry_folder, state="damaged" if location.folder.is_dir() else "missing", problems=damaged_files
        )
    try:
        cache.ensure_entry(suite.tier, name, definition, tokenizer=tokenizer, data=request.data, offline=True)
    except Exception as error:  # noqa: BLE001  whatever keeps a job from reading it is what is asked here
        return EntryCheck(**head, folder=entry_folder, state="damaged", problems=[f"{entry_folder}: cannot be read: {error}"])
    return EntryCheck(**head, folder=entry_folder, state="whole")


def _check_local_build(head: dict[str, Any], entry_folder: str, definition: dict[str, Any], tokenizer: Tokenizer) -> EntryCheck:
    """Local files, of which the job makes the entry: whether that can be done."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
        try:
            cache.ensure_entry(
                head["tier"], head["name"], definition, tokenizer=tokenizer, data=DataPaths(Path(scratch)), offline=True
            )
        except UserError as problem:
            return EntryCheck(**head, folder=entry_folder, state="unusable", problems=[f"{problem.location}: {problem.message}"])
    return EntryCheck(**head, folder=entry_folder, state="made by the job")

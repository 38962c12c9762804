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
from scoring.data.cache_entries import damage
from scoring.data.tokenizer import Tokenizer, load_tokenizer, resolve_tokenizer
from scoring.runtime.network_namespace import CUT_OFF
from suites.common.errors import Exit, Problem
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import SuiteInRequest
from suites.definitions.data_cache import KINDS, prefill_command, whole
from suites.definitions.tokenizer_files import known_digest, tokenizer_digest

SCHEMA = 1

_WRONG = frozenset({"missing", "damaged", "unusable"})


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One slice or task of a suite."""

    suite: str
    tier: str
    name: str
    folder: str | None = None
    state: str
    problems: list[str] = []


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a job would be given."""

    suites: tuple[SuiteInRequest, ...]
    data: DataPaths
    tokenizer: str
    use_fast: bool


def check(asked: Asked, network: str) -> dict[str, Any]:
    """The document that ``--json`` prints."""
    tokenizer, problems = _tokenizer(asked)
    entries = [
        _checked(suite, name, definition, tokenizer, asked)
        for suite in asked.suites
        if suite.tier in KINDS
        for name, definition in suite.definition.items()
    ]
    given = [suite.given for suite in asked.suites]
    return {
        "schema": SCHEMA,
        "whole": not problems and not any(entry.state in _WRONG for entry in entries),
        "network": network,
        "prefill": prefill_command(given, asked.data, asked.tokenizer, use_fast=asked.use_fast),
        "tokenizer": {"id": asked.tokenizer, "digest": None if tokenizer is None else tokenizer.digest, "problems": problems},
        "entries": msgspec.to_builtins(entries),
    }


def report(document: dict[str, Any], *, as_json: bool) -> Exit:
    """Print what was found, for a program or for a person."""
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        if document["network"] != CUT_OFF:
            click.echo(document["network"])
        for problem in document["tokenizer"]["problems"]:
            click.echo(f"tokenizer {document['tokenizer']['id']}: {problem}")
        for entry in document["entries"]:
            for problem in entry["problems"] if entry["state"] in _WRONG else ():
                click.echo(f"{entry['suite']}/{entry['name']}: {entry['state']}: {problem}")
        states = [entry["state"] for entry in document["entries"]]
        click.echo(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no entries are needed")
        if not document["whole"]:
            click.echo(f"where there is a network, run: {document['prefill']}")
    return Exit.SCORED if document["whole"] else Exit.DATA_MISSING


def _tokenizer(asked: Asked) -> tuple[Tokenizer | None, list[str]]:
    """As a job would load it, but nothing is copied into the cache."""
    folder, pointer = Path(asked.tokenizer).expanduser(), asked.data.tokenizer_pointer(asked.tokenizer)
    try:
        digest = tokenizer_digest(folder) if folder.is_dir() else known_digest(asked.tokenizer, asked.data)
        if digest is not None:
            place = folder if folder.is_dir() else asked.data.tokenizer(digest)
            return load_tokenizer(asked.tokenizer, place, digest, use_fast=asked.use_fast), []
        with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:  # the hub's own cache on this machine may have it
            return resolve_tokenizer(asked.tokenizer, DataPaths(Path(scratch)), use_fast=asked.use_fast, offline=True), []
    except OSError as error:
        return None, [f"{error.filename or folder}: cannot be read ({error.strerror})"]
    except Problem as problem:
        found = f"{pointer}: the copy that it points at has lost or changed a file" if pointer.exists() else f"{pointer}: missing"
        return None, [found if problem.code == Exit.DATA_MISSING else f"{problem.where}: {problem.what}"]


def _checked(suite: SuiteInRequest, name: str, definition: dict[str, Any], tokenizer: Tokenizer | None, asked: Asked) -> Checked:
    head: dict[str, Any] = {"suite": suite.name, "tier": suite.tier, "name": name}
    if tokenizer is None:
        return Checked(**head, state="missing", problems=["its place is not known without the tokenizer"])
    try:
        place = cache.locate(suite.tier, name, definition, tokenizer, asked.data)
    except Problem as problem:
        return Checked(**head, state="unusable", problems=[f"{problem.where}: {problem.what}"])
    at = str(place.folder)
    if place.local is not None and whole(place.folder) is None:
        return _made(head, at, definition, tokenizer)
    wrong = damage(place.folder)
    if wrong:
        return Checked(**head, folder=at, state="damaged" if place.folder.is_dir() else "missing", problems=wrong)
    try:
        cache.ensure_entry(suite.tier, name, definition, tokenizer=tokenizer, data=asked.data, offline=True)
    except Exception as error:  # noqa: BLE001  whatever keeps a job from reading it is what is asked here
        return Checked(**head, folder=at, state="damaged", problems=[f"{at}: cannot be read: {error}"])
    return Checked(**head, folder=at, state="whole")


def _made(head: dict[str, Any], at: str, definition: dict[str, Any], tokenizer: Tokenizer) -> Checked:
    """Local files, of which the job makes the entry: whether that can be done."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
        try:
            cache.ensure_entry(
                head["tier"], head["name"], definition, tokenizer=tokenizer, data=DataPaths(Path(scratch)), offline=True
            )
        except Problem as problem:
            return Checked(**head, folder=at, state="unusable", problems=[f"{problem.where}: {problem.what}"])
    return Checked(**head, folder=at, state="made by the job")

"""A nanotron checkpoint on disk: is it whole, which one is it, and what does it say of its run.

Nanotron writes without fsync and without rename, from many ranks at once, and writes some directories
twice, so no single file proves that a checkpoint is complete. ``inspect`` weighs all of them:

1. the folder's name is a step;
2. config.yaml, checkpoint_metadata.json and model_config.json parse and agree on that step;
3. every tensor that model_config.json implies has all its files, for the tp and pp of this save;
4. each file is as long as its header says, and the shards make up the whole tensor;
5. no rewrite is under way: config.yaml, which is written first, is not newer than model_config.json,
   which is written last, and nothing has been written for a settle time, by the file server's clock.
"""

import enum
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from suites.checkpoint import shard_headers as shards
from suites.checkpoint.architecture import Architecture, Parameter, Refused
from suites.checkpoint.metadata import Documents, Facts, read_documents, read_training_config
from suites.checkpoint.shard_files import DOCUMENTS, Listing, Selection, list_files, select
from suites.checkpoint.shard_headers import Shard, Torn
from suites.common.errors import Exit, Problem
from suites.common.formatting import duration, plainly, unreadable

__all__ = [
    "Completeness",
    "Contents",
    "Facts",
    "Inspection",
    "inspect",
    "list_steps",
    "markers",
    "open_contents",
    "read_training_config",
    "scoring_files",
    "take_fingerprint",
]

QUIET = 600.0
"""Seconds without a write after which a save is taken for interrupted, or a torn file for left behind."""

_STEP = re.compile(r"0|[1-9]\d{0,17}", re.ASCII)


class Completeness(enum.StrEnum):
    """What a checkpoint's folder is worth."""

    COMPLETE = "complete"
    NOT_YET = "not_yet"
    """Being written, settling, or a file is missing or torn."""
    INTERRUPTED = "interrupted"
    """A rewrite that stopped, or a copy that lost its times: a person has to say which."""
    UNSCORABLE = "unscorable"
    """Whole, but it can never be scored."""
    UNREADABLE = "unreadable"
    GONE = "gone"


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict on one folder, and what it says of its run as far as it could be read."""

    kind: Completeness
    why: str
    """One line: what, and which file."""
    folder: Path
    step: int | None = None
    fingerprint: str | None = None
    """Only where COMPLETE."""
    newest_mtime: float | None = None
    """Of the files that matter for scoring, unix time."""
    quiet: float | None = None
    """Seconds without a write, where that is long for a checkpoint that is not whole."""
    tokens_seen: int | None = None
    train_steps: int | None = None
    seq_len: int | None = None
    tokenizer: str | None = None
    started_from: str | None = None
    """The checkpoint, or folder of checkpoints, that the run began with."""
    ignored: tuple[str, ...] = ()
    """Files under model/ of other topologies, and left-overs."""

    @property
    def detail(self) -> str:
        """``why``, and for how long nothing has been written: another text at every look."""
        return self.why if self.quiet is None else f"{self.why}; nothing was written there for {duration(self.quiet)}"


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """A whole checkpoint, ready to be loaded: every tensor with its checked shards."""

    architecture: Architecture
    facts: Facts
    tensors: Mapping[str, tuple[Shard, ...]]
    """Nanotron's parameter name -> its shards, in order of tp rank."""
    fingerprint: str
    size: int
    """Bytes of the model files."""
    tp: int
    pp: int
    ignored: tuple[str, ...]


def list_steps(checkpoints: Path) -> dict[int, Path]:
    """The step folders in ``checkpoints``, in order of their steps.

    Raises FileNotFoundError where there is no such folder, and OSError where it cannot be listed: that is
    not the same as having no checkpoints.
    """
    with os.scandir(checkpoints) as entries:
        found = {int(entry.name): Path(entry.path) for entry in entries if _STEP.fullmatch(entry.name) and entry.is_dir()}
    return dict(sorted(found.items()))


def markers(folder: Path) -> tuple[int, ...] | None:
    """(mtime in ns, size) of config.yaml and of model_config.json: they move with every rewrite. None if one is missing."""
    found: list[int] = []
    for name in ("config.yaml", "model_config.json"):
        try:
            stats = (folder / name).stat()
        except OSError:
            return None
        found += [stats.st_mtime_ns, stats.st_size]
    return tuple(found)


def take_fingerprint(folder: Path) -> str:
    """SHA-256 over names, sizes and mtimes of the files that scores depend on.

    Raises Problem (CHANGED) where one is missing or torn: the checkpoint is being rewritten or removed.
    """
    try:
        listing = list_files(folder)
        return _fingerprint(listing, _select(read_documents(folder), listing))
    except (Torn, Refused, OSError) as error:
        raise _changed(folder, error) from error


def _changed(folder: Path, error: Exception) -> Problem:
    todo = "it is scored again when it is complete again"
    return Problem(f"changed or vanished: {plainly(error)}", where=folder, todo=todo, code=Exit.CHANGED)


def scoring_files(folder: Path) -> dict[str, int]:
    """Relative name -> bytes of every file that scores depend on: those of the fingerprint.

    Raises Problem (CHANGED) as ``take_fingerprint`` does.
    """
    try:
        listing = list_files(folder)
        return {name: size for name, (size, _) in _rows(listing, _select(read_documents(folder), listing)).items()}
    except (Torn, Refused, OSError) as error:
        raise _changed(folder, error) from error


def open_contents(folder: Path) -> Contents:
    """Every tensor of a checkpoint with its checked shards. Times are not looked at.

    Raises Torn where a file is missing or not whole, Refused where it can never be scored, OSError where
    it cannot be read.
    """
    listing = list_files(folder)
    documents = read_documents(folder)
    return _check(folder, listing, documents, _select(documents, listing))


def inspect(folder: Path, *, now: float, settle: float, forced: bool = False) -> Inspection:
    """Judge a folder. Never raises for what it holds.

    ``now`` is the file server's clock (unix time), ``settle`` the seconds without a write that are waited
    for. ``forced`` takes an interrupted rewrite, a copy without times or files from the future for whole.
    """
    look = _Look(folder, now, settle, forced)
    try:
        return look.judge()
    except Torn as error:
        return look.verdict(Completeness.NOT_YET, str(error))
    except Refused as error:
        return look.verdict(Completeness.UNSCORABLE, str(error))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not folder.is_dir():
            return look.verdict(Completeness.GONE, f"{folder}: no such folder")
        return look.verdict(Completeness.NOT_YET, f"{error.filename}: vanished while it was looked at")
    except PermissionError as error:
        return look.verdict(Completeness.UNREADABLE, unreadable(error))
    except OSError as error:
        return look.verdict(Completeness.NOT_YET, f"cannot be read now: {plainly(error)}")


class _Look:
    """One inspection: what was found so far, so that every verdict says as much as is known."""

    def __init__(self, folder: Path, now: float, settle: float, forced: bool) -> None:
        self.folder, self.now, self.settle, self.forced = folder, now, settle, forced
        self.listing: Listing | None = None
        self.documents: Documents | None = None
        self.ignored: tuple[str, ...] = ()

    @property
    def quiet(self) -> float:
        """Seconds since the newest write."""
        return self.now - self.listing.newest if self.listing is not None else 0.0

    def verdict(self, kind: Completeness, why: str, fingerprint: str | None = None) -> Inspection:
        facts = self.documents.facts if self.documents is not None else Facts()
        return Inspection(
            kind=kind,
            why=" ".join(why.split()),
            folder=self.folder,
            step=facts.step,
            fingerprint=fingerprint,
            newest_mtime=self.listing.newest if self.listing is not None else None,
            quiet=self.quiet if kind in {Completeness.NOT_YET, Completeness.INTERRUPTED} and self.quiet > QUIET else None,
            tokens_seen=self.documents.tokens_seen if self.documents is not None else None,
            train_steps=facts.train_steps,
            seq_len=facts.seq_len,
            tokenizer=facts.tokenizer,
            started_from=facts.started_from,
            ignored=self.ignored,
        )

    def judge(self) -> Inspection:
        if not _STEP.fullmatch(self.folder.name) and not self.forced:
            message = f"{self.folder.name!r} is not the number of a step"
            raise Refused(message)
        self.listing = list_files(self.folder)
        for name in DOCUMENTS:
            if name not in self.listing.documents:
                message = f"{name} is not there"
                raise Torn(message)
        self.documents = read_documents(self.folder)
        late = self._order_violated()
        if late is not None and late.kind is Completeness.NOT_YET:
            return late
        selection = _select(self.documents, self.listing)
        self.ignored = selection.ignored
        if late is not None:
            return late
        if self.quiet < self.settle and not (self.forced and self.quiet < -QUIET):
            if self.quiet < 0:
                ahead = f"its newest file is dated {duration(-self.quiet)} in the future"
                return self.verdict(Completeness.NOT_YET, ahead)
            message = f"settling: written to {duration(self.quiet)} ago, {duration(self.settle)} without a write are waited for"
            return self.verdict(Completeness.NOT_YET, message)
        if _STEP.fullmatch(self.folder.name):
            self.documents.refuse_other_step(int(self.folder.name))
        contents = _check(self.folder, self.listing, self.documents, selection)
        return self.verdict(Completeness.COMPLETE, "complete", contents.fingerprint)

    def _order_violated(self) -> Inspection | None:
        if self.forced or self.listing is None:
            return None
        first, last = (self.listing.documents[name][1] for name in ("config.yaml", "model_config.json"))
        if first <= last:
            return None
        by = duration((first - last) / 1e9)
        if self.quiet > QUIET:
            why = f"interrupted rewrite, or a copy that lost its times: config.yaml is {by} newer than model_config.json"
            return self.verdict(Completeness.INTERRUPTED, why)
        return self.verdict(Completeness.NOT_YET, f"being rewritten: config.yaml is {by} newer than model_config.json")


def _select(documents: Documents, listing: Listing) -> Selection:
    selection = select(documents.architecture.parameters(), listing.model, tp=documents.tp, pp=documents.pp)
    if selection.missing is not None:
        raise Torn(selection.missing)
    return selection


def _check(folder: Path, listing: Listing, documents: Documents, selection: Selection) -> Contents:
    if selection.surplus:
        more = f" and {len(selection.surplus) - 1} more" if len(selection.surplus) > 1 else ""
        message = f"holds a tensor that model_config.json does not imply: {selection.surplus[0]}{more}"
        raise Refused(message)
    parameters: dict[str, Parameter] = {parameter.name: parameter for parameter in documents.architecture.parameters()}
    return Contents(
        architecture=documents.architecture,
        facts=documents.facts,
        tensors={name: shards.check(parameters[name], files, folder) for name, files in selection.files.items()},
        fingerprint=_fingerprint(listing, selection),
        size=sum(listing.model[file][0] for files in selection.files.values() for file in files),
        tp=documents.tp,
        pp=documents.pp,
        ignored=selection.ignored,
    )


def _rows(listing: Listing, selection: Selection) -> dict[str, tuple[int, int]]:
    """Relative name -> (size, mtime in ns) of the files that scores depend on."""
    return {**listing.documents} | {file: listing.model[file] for files in selection.files.values() for file in files}


def _fingerprint(listing: Listing, selection: Selection) -> str:
    rows = _rows(listing, selection)
    digest = hashlib.sha256()
    for name in sorted(rows):
        size, mtime_ns = rows[name]
        digest.update(f"{name}\0{size}\0{mtime_ns}\n".encode())
    return digest.hexdigest()

"""Which files under a checkpoint's model/ hold its tensors: by their names alone.

A folder may also hold files of other topologies, from a run that went on with another tp or pp, and
left-overs of killed or moved saves. They are passed over, and reported.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from suites.checkpoint.architecture import Parameter, Refused

DOCUMENTS = ("config.yaml", "checkpoint_metadata.json", "model_config.json")

MOST_FOLDERS = 1 << 17
"""Under model/; the deepest architecture that is known here has half of them."""

_DEEPEST = 12

_RANKS = r"_pp-rank-(?P<pp>\d{1,6})-of-(?P<pps>\d{1,6})_tp-rank-(?P<tp>\d{1,6})-of-(?P<tps>\d{1,6})(?P<exp>_exp-rank-\d+-of-\d+)?"

_MENDED = re.compile(rf"model_(?P<param>[^.]+?)(?:{_RANKS})?\.safetensors", re.ASCII)

_BEFORE_MENDING = re.compile(rf"model_model_(?P<param>[^.]+?)\.safetensors{_RANKS}\.safetensors", re.ASCII)


class FileName(msgspec.Struct, frozen=True):
    """What a model file's name says."""

    parameter: str
    ranks: tuple[int, int, int, int] | None
    """(pp rank, pp, tp rank, tp); None for an unsharded tensor."""
    spelling: int
    """0 as nanotron writes it now, 1 as it did from 2024-03 to 2024-04-24."""
    expert_rank: bool = False


class Selection(msgspec.Struct, frozen=True):
    """Which files hold the tensors."""

    files: Mapping[str, tuple[str, ...]]
    """Parameter -> its one unsharded file, or its files in order of tp rank."""
    missing: str | None
    """The first parameter without a whole set of files, and what it lacks."""
    surplus: tuple[str, ...]
    """Files of this very topology for parameters that the architecture does not have."""
    ignored: tuple[str, ...]
    """Files of other topologies and left-overs, sorted."""


class Listing(msgspec.Struct, frozen=True):
    """The folder as it was listed: relative name -> (size, mtime in ns)."""

    documents: Mapping[str, tuple[int, int]]
    model: Mapping[str, tuple[int, int]]
    folder_mtime_ns: int

    @property
    def newest(self) -> float:
        """Unix time of the newest write; of the folder itself while nothing is in it."""
        times = [mtime for found in (self.documents, self.model) for _, mtime in found.values()]
        return max(times, default=self.folder_mtime_ns) / 1e9


def list_files(folder: Path) -> Listing:
    """Sizes and mtimes of a checkpoint's documents and of all files under its model/. Raises OSError, or Refused for a maze."""
    with os.scandir(folder) as entries:  # the parent is listed before a file is believed absent
        names = {entry.name for entry in entries}
    documents = {}
    for name in DOCUMENTS:
        if name in names:
            stats = (folder / name).stat()
            if stat.S_ISREG(stats.st_mode):
                documents[name] = (stats.st_size, stats.st_mtime_ns)
    model = _walk(folder / "model") if "model" in names else {}
    return Listing(documents, model, folder.stat().st_mtime_ns)


def _walk(top: Path) -> dict[str, tuple[int, int]]:
    """Relative name -> (size, mtime in ns) of all files under model/, through links but in no circles."""
    found, listed = {}, 0
    itself = top.stat()
    waiting = [(top, "model", frozenset({(itself.st_dev, itself.st_ino)}))]
    while waiting:
        folder, relative, above = waiting.pop()
        listed += 1
        if listed > MOST_FOLDERS:
            message = f"model/ has more than {MOST_FOLDERS} folders, which is none of nanotron's"
            raise Refused(message)
        with os.scandir(folder) as entries:
            inside = list(entries)
        for entry in inside:
            name = f"{relative}/{entry.name}"
            try:
                stats = entry.stat()
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ELOOP}:
                    raise
                continue  # removed since it was listed, or a link to nothing
            here = (stats.st_dev, stats.st_ino)
            if stat.S_ISREG(stats.st_mode):
                found[name] = (stats.st_size, stats.st_mtime_ns)
            elif stat.S_ISDIR(stats.st_mode) and len(above) <= _DEEPEST and here not in above:
                waiting.append((folder / entry.name, name, above | {here}))
    return found


def parse_name(relative: str) -> FileName | None:
    """What ``model/model/decoder/0/.../model_weight_pp-...safetensors`` says; None for any other kind of file."""
    folder, _, base = relative.rpartition("/")
    module = folder.removeprefix("model/").replace("/", ".")
    match, spelling = _BEFORE_MENDING.fullmatch(base), 1
    if match is None:
        match, spelling = _MENDED.fullmatch(base), 0
    if match is None or not folder.startswith("model/"):
        return None
    ranks = None if match["pp"] is None else (int(match["pp"]), int(match["pps"]), int(match["tp"]), int(match["tps"]))
    return FileName(f"{module}.{match['param']}", ranks, spelling, expert_rank=match["exp"] is not None)


def select(parameters: Iterable[Parameter], listing: Mapping[str, tuple[int, int]], *, tp: int, pp: int) -> Selection:
    """Choose among the files under model/ (relative name -> (size, mtime in ns)) those that a tp x pp run wrote.

    The pipeline rank that holds a tensor cannot be told from its name: any single one is taken. Where two
    hold it whole, one left over from another partition of the layers, the one that was written after the other.
    Raises Refused where neither is newer.
    """
    groups: dict[str, dict[tuple[int, int], dict[int, str]]] = {}
    ignored = []
    for relative in sorted(listing):
        name = parse_name(relative)
        if name is None or name.expert_rank or (name.ranks is not None and (name.ranks[1], name.ranks[3]) != (pp, tp)):
            ignored.append(relative)
            continue
        pp_rank, tp_rank = (-1, 0) if name.ranks is None else (name.ranks[0], name.ranks[2])
        groups.setdefault(name.parameter, {}).setdefault((name.spelling, pp_rank), {})[tp_rank] = relative
    files: dict[str, tuple[str, ...]] = {}
    missing = None
    for parameter in parameters:
        candidates = groups.pop(parameter.name, {})
        chosen = _choose(parameter, candidates, listing, tp)
        if chosen is None:
            missing = missing or _what_is_missing(parameter, candidates, tp)
            continue
        files[parameter.name] = chosen
        ignored.extend(file for group in candidates.values() for file in group.values() if file not in chosen)
    surplus = tuple(sorted(file for candidates in groups.values() for group in candidates.values() for file in group.values()))
    return Selection(files, missing, surplus, tuple(sorted(ignored)))


def _choose(
    parameter: Parameter, candidates: Mapping[tuple[int, int], Mapping[int, str]], listing: Mapping[str, tuple[int, int]], tp: int
) -> tuple[str, ...] | None:
    plain = candidates.get((0, -1))
    whole = {
        key: tuple(group[rank] for rank in range(tp))
        for key, group in candidates.items()
        if key[1] >= 0 and set(group) == set(range(tp))
    }
    if plain is not None and not (parameter.sharded and whole):
        return (plain[0],)
    if not whole:
        return None
    spelling = min(key[0] for key in whole)
    rivals = [files for key, files in whole.items() if key[0] == spelling]
    newest = max(rivals, key=lambda files: max(listing[file][1] for file in files))
    starts = min(listing[file][1] for file in newest)
    for rival in rivals:
        if rival is not newest and max(listing[file][1] for file in rival) >= starts:
            message = f"two pipeline ranks hold {parameter.name} and neither is newer: {newest[0]} and {rival[0]}"
            raise Refused(message)
    return newest


def _what_is_missing(parameter: Parameter, candidates: Mapping[tuple[int, int], Mapping[int, str]], tp: int) -> str:
    sets = [group for (_, rank), group in candidates.items() if rank >= 0]
    if not sets:
        return f"no file of {parameter.name} for tp={tp} is there"
    fullest = max(sets, key=len)
    absent = sorted(set(range(tp)) - set(fullest))
    which = ", ".join(str(rank) for rank in absent[:8])
    return (
        f"{parameter.name} lacks the shard of tp rank {which} of {tp}"
        if absent
        else f"{parameter.name} has a shard of a rank beyond tp={tp}"
    )

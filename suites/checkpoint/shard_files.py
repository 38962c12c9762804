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

from suites.checkpoint.architecture import ParameterSpec, UnscorableCheckpoint

METADATA_FILES = ("config.yaml", "checkpoint_metadata.json", "model_config.json")

MAX_FOLDERS = 1 << 17
"""Under model/; the deepest architecture that is known here has half of them."""

_MAX_DEPTH = 12

_RANKS_PATTERN = (
    r"_pp-rank-(?P<pp>\d{1,6})-of-(?P<pps>\d{1,6})_tp-rank-(?P<tp>\d{1,6})-of-(?P<tps>\d{1,6})(?P<exp>_exp-rank-\d+-of-\d+)?"
)

_CURRENT_NAME_PATTERN = re.compile(rf"model_(?P<param>[^.]+?)(?:{_RANKS_PATTERN})?\.safetensors", re.ASCII)

_LEGACY_NAME_PATTERN = re.compile(rf"model_model_(?P<param>[^.]+?)\.safetensors{_RANKS_PATTERN}\.safetensors", re.ASCII)


class ShardFileName(msgspec.Struct, frozen=True):
    """What a model file's name says."""

    parameter: str
    ranks: tuple[int, int, int, int] | None
    """(pp rank, pp, tp rank, tp); None for an unsharded tensor."""
    name_format: int
    """0 as nanotron writes it now, 1 as it did from 2024-03 to 2024-04-24."""
    expert_rank: bool = False


class ShardSelection(msgspec.Struct, frozen=True):
    """Which files hold the tensors."""

    files: Mapping[str, tuple[str, ...]]
    """Parameter -> its one unsharded file, or its files in order of tp rank."""
    missing: str | None
    """The first parameter without a whole set of files, and what it lacks."""
    surplus: tuple[str, ...]
    """Files of this very topology for parameters that the architecture does not have."""
    ignored: tuple[str, ...]
    """Files of other topologies and left-overs, sorted."""


class CheckpointListing(msgspec.Struct, frozen=True):
    """The folder as it was listed: relative name -> (size, mtime in ns)."""

    metadata_files: Mapping[str, tuple[int, int]]
    model_files: Mapping[str, tuple[int, int]]
    folder_mtime_ns: int

    @property
    def newest_mtime(self) -> float:
        """Unix time of the newest write; of the folder itself while nothing is in it."""
        times = [mtime for files in (self.metadata_files, self.model_files) for _, mtime in files.values()]
        return max(times, default=self.folder_mtime_ns) / 1e9


def list_files(folder: Path) -> CheckpointListing:
    """Sizes and mtimes of a checkpoint's documents and of all files under its model/. Raises OSError, or Refused for a maze."""
    with os.scandir(folder) as entries:  # the parent is listed before a file is believed absent
        names = {entry.name for entry in entries}
    metadata_files = {}
    for name in METADATA_FILES:
        if name in names:
            file_stat = (folder / name).stat()
            if stat.S_ISREG(file_stat.st_mode):
                metadata_files[name] = (file_stat.st_size, file_stat.st_mtime_ns)
    model_files = _walk_model_files(folder / "model") if "model" in names else {}
    return CheckpointListing(metadata_files, model_files, folder.stat().st_mtime_ns)


def _walk_model_files(top: Path) -> dict[str, tuple[int, int]]:
    """Relative name -> (size, mtime in ns) of all files under model/, through links but in no circles."""
    files, folder_count = {}, 0
    top_stat = top.stat()
    pending = [(top, "model", frozenset({(top_stat.st_dev, top_stat.st_ino)}))]
    while pending:
        folder, relative, ancestors = pending.pop()
        folder_count += 1
        if folder_count > MAX_FOLDERS:
            message = f"model/ has more than {MAX_FOLDERS} folders, which is none of nanotron's"
            raise UnscorableCheckpoint(message)
        with os.scandir(folder) as entries:
            children = list(entries)
        for entry in children:
            name = f"{relative}/{entry.name}"
            try:
                entry_stat = entry.stat()
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ELOOP}:
                    raise
                continue  # removed since it was listed, or a link to nothing
            inode = (entry_stat.st_dev, entry_stat.st_ino)
            if stat.S_ISREG(entry_stat.st_mode):
                files[name] = (entry_stat.st_size, entry_stat.st_mtime_ns)
            elif stat.S_ISDIR(entry_stat.st_mode) and len(ancestors) <= _MAX_DEPTH and inode not in ancestors:
                pending.append((folder / entry.name, name, ancestors | {inode}))
    return files


def parse_shard_name(relative: str) -> ShardFileName | None:
    """What ``model/model/decoder/0/.../model_weight_pp-...safetensors`` says; None for any other kind of file."""
    folder, _, file_name = relative.rpartition("/")
    module = folder.removeprefix("model/").replace("/", ".")
    match, name_format = _LEGACY_NAME_PATTERN.fullmatch(file_name), 1
    if match is None:
        match, name_format = _CURRENT_NAME_PATTERN.fullmatch(file_name), 0
    if match is None or not folder.startswith("model/"):
        return None
    ranks = None if match["pp"] is None else (int(match["pp"]), int(match["pps"]), int(match["tp"]), int(match["tps"]))
    return ShardFileName(f"{module}.{match['param']}", ranks, name_format, expert_rank=match["exp"] is not None)


def select_shards(
    parameters: Iterable[ParameterSpec], listing: Mapping[str, tuple[int, int]], *, tp: int, pp: int
) -> ShardSelection:
    """Choose among the files under model/ (relative name -> (size, mtime in ns)) those that a tp x pp run wrote.

    The pipeline rank that holds a tensor cannot be told from its name: any single one is taken. Where two
    hold it whole, one left over from another partition of the layers, the one that was written after the other.
    Raises Refused where neither is newer.
    """
    groups: dict[str, dict[tuple[int, int], dict[int, str]]] = {}
    ignored = []
    for relative in sorted(listing):
        shard_name = parse_shard_name(relative)
        if (
            shard_name is None
            or shard_name.expert_rank
            or (shard_name.ranks is not None and (shard_name.ranks[1], shard_name.ranks[3]) != (pp, tp))
        ):
            ignored.append(relative)
            continue
        pp_rank, tp_rank = (-1, 0) if shard_name.ranks is None else (shard_name.ranks[0], shard_name.ranks[2])
        groups.setdefault(shard_name.parameter, {}).setdefault((shard_name.name_format, pp_rank), {})[tp_rank] = relative
    files: dict[str, tuple[str, ...]] = {}
    missing = None
    for parameter in parameters:
        candidates = groups.pop(parameter.name, {})
        chosen = _choose_files(parameter, candidates, listing, tp)
        if chosen is None:
            missing = missing or _describe_missing_files(parameter, candidates, tp)
            continue
        files[parameter.name] = chosen
        ignored.extend(file for group in candidates.values() for file in group.values() if file not in chosen)
    surplus = tuple(sorted(file for candidates in groups.values() for group in candidates.values() for file in group.values()))
    return ShardSelection(files, missing, surplus, tuple(sorted(ignored)))


def _choose_files(
    parameter: ParameterSpec,
    candidates: Mapping[tuple[int, int], Mapping[int, str]],
    listing: Mapping[str, tuple[int, int]],
    tp: int,
) -> tuple[str, ...] | None:
    unsharded = candidates.get((0, -1))
    complete = {
        key: tuple(group[rank] for rank in range(tp))
        for key, group in candidates.items()
        if key[1] >= 0 and set(group) == set(range(tp))
    }
    if unsharded is not None and not (parameter.sharded and complete):
        return (unsharded[0],)
    if not complete:
        return None
    name_format = min(key[0] for key in complete)
    candidate_sets = [files for key, files in complete.items() if key[0] == name_format]
    newest = max(candidate_sets, key=lambda files: max(listing[file][1] for file in files))
    oldest_mtime_ns = min(listing[file][1] for file in newest)
    for other in candidate_sets:
        if other is not newest and max(listing[file][1] for file in other) >= oldest_mtime_ns:
            message = f"two pipeline ranks hold {parameter.name} and neither is newer: {newest[0]} and {other[0]}"
            raise UnscorableCheckpoint(message)
    return newest


def _describe_missing_files(parameter: ParameterSpec, candidates: Mapping[tuple[int, int], Mapping[int, str]], tp: int) -> str:
    rank_sets = [group for (_, rank), group in candidates.items() if rank >= 0]
    if not rank_sets:
        return f"no file of {parameter.name} for tp={tp} is there"
    fullest = max(rank_sets, key=len)
    missing_ranks = sorted(set(range(tp)) - set(fullest))
    ranks_text = ", ".join(str(rank) for rank in missing_ranks[:8])
    return (
        f"{parameter.name} lacks the shard of tp rank {ranks_text} of {tp}"
        if missing_ranks
        else f"{parameter.name} has a shard of a rank beyond tp={tp}"
    )

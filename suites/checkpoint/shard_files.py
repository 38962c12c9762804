"""Which files under model/ belong to which tensor and rank.

A folder may also hold files of another tp or pp, or of killed saves. They are ignored, and reported.
"""

import errno
import itertools
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from suites.checkpoint.architecture import ParameterSpec
from suites.checkpoint.model_config_reader import UnscorableCheckpoint

METADATA_FILES = ("config.yaml", "checkpoint_metadata.json", "model_config.json")

MAX_FOLDERS = 1 << 17
"""Under model/; the deepest architecture that is known here has half of them."""

MAX_ENTRIES = 1 << 19
"""Files under model/: more would take longer than a tick."""

_MAX_DEPTH = 12

_RANKS_PATTERN = (
    r"_pp-rank-(?P<pp>\d{1,6})-of-(?P<pps>\d{1,6})_tp-rank-(?P<tp>\d{1,6})-of-(?P<tps>\d{1,6})"
    r"(?:_exp-rank-(?P<ep>\d{1,6})-of-(?P<eps>\d{1,6}))?"
)

_CURRENT_NAME_PATTERN = re.compile(rf"model_(?P<param>[^.]+?)(?:{_RANKS_PATTERN})?\.safetensors", re.ASCII)

_LEGACY_NAME_PATTERN = re.compile(rf"model_model_(?P<param>[^.]+?)\.safetensors{_RANKS_PATTERN}\.safetensors", re.ASCII)


class FileSource(NamedTuple):
    """Where the files of one parameter come from; together they are the tensor."""

    name_format: int
    pp_rank: int
    """-1: an unsharded file."""
    ep: int
    """Number of expert-parallel ranks in the names; 1 without."""


_CandidateFiles = dict[FileSource, dict[tuple[int, int], str]]
"""Source -> (ep rank, tp rank) -> file, of one parameter."""


class FileStat(NamedTuple):
    """Size and time of one file."""

    size_bytes: int
    mtime_ns: int


class ShardRanks(NamedTuple):
    """Which part of a tensor a file holds."""

    pp_rank: int
    pp: int
    tp_rank: int
    tp: int
    ep_rank: int
    ep: int
    """1 where the name has no rank of an expert group."""


class ShardFileName(msgspec.Struct, frozen=True):
    """A model file's name, parsed."""

    parameter: str
    ranks: ShardRanks | None
    """None for an unsharded tensor."""
    name_format: int
    """0: nanotron's present format. 1: the format of 2024-03 to 2024-04-24."""


class ShardSelection(msgspec.Struct, frozen=True):
    """The files that hold the tensors."""

    files: Mapping[str, tuple[str, ...]]
    """Parameter -> its unsharded file, or its files in the order of their tp ranks."""
    missing: str | None
    """The first parameter whose files are incomplete, and what is missing; None where all are complete."""
    surplus: tuple[str, ...]
    """Files of this topology for parameters that the architecture does not have."""
    ignored: tuple[str, ...]
    """Files of other topologies and of killed saves, sorted."""


class CheckpointListing(msgspec.Struct, frozen=True):
    """The files of a checkpoint, by names relative to its folder."""

    metadata_files: Mapping[str, FileStat]
    model_files: Mapping[str, FileStat]
    folder_mtime_ns: int
    other_mtime_ns: int = 0
    """The newest write to any other file, where those belong to a save as well."""

    @property
    def newest_mtime(self) -> float:
        """Unix time of the newest write.

        Of the folder itself while nothing is in it.
        """
        files = (*self.metadata_files.values(), *self.model_files.values())
        mtimes = [file.mtime_ns for file in files] + ([self.other_mtime_ns] if self.other_mtime_ns else [])
        return max(mtimes, default=self.folder_mtime_ns) / 1e9


def list_files(folder: Path) -> CheckpointListing:
    """Sizes and mtimes of a checkpoint's documents and model files.

    Raises OSError, or UnscorableCheckpoint for more folders than any model has.
    """
    with os.scandir(folder) as entries:  # NFS: only a fresh listing of the parent shows that a file is absent
        names = {entry.name for entry in entries}
    metadata_stats = {name: (folder / name).stat() for name in METADATA_FILES if name in names}
    metadata_files = {
        name: FileStat(file_stat.st_size, file_stat.st_mtime_ns)
        for name, file_stat in metadata_stats.items()
        if stat.S_ISREG(file_stat.st_mode)
    }
    model_files = _walk_model_files(folder / "model") if "model" in names else {}
    return CheckpointListing(metadata_files, model_files, folder.stat().st_mtime_ns)


def _walk_model_files(top: Path) -> dict[str, FileStat]:
    """Relative name -> stat of all files under model/.

    Follows links, but never in a circle.
    """
    files: dict[str, FileStat] = {}
    folder_count = 0
    top_stat = top.stat()
    pending = [(top, "model", frozenset({(top_stat.st_dev, top_stat.st_ino)}))]
    while pending:
        folder, relative, ancestors = pending.pop()
        folder_count += 1
        if folder_count > MAX_FOLDERS:
            raise UnscorableCheckpoint(f"model/ has more than {MAX_FOLDERS} folders; nanotron makes fewer")
        with os.scandir(folder) as entries:
            children = list(itertools.islice(entries, MAX_ENTRIES + 1 - len(files)))
        if len(files) + len(children) > MAX_ENTRIES:
            raise UnscorableCheckpoint(f"model/ has more than {MAX_ENTRIES} files; nanotron makes fewer")
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
                files[name] = FileStat(entry_stat.st_size, entry_stat.st_mtime_ns)
            elif stat.S_ISDIR(entry_stat.st_mode) and len(ancestors) <= _MAX_DEPTH and inode not in ancestors:
                pending.append((folder / entry.name, name, ancestors | {inode}))
    return files


def parse_shard_name(relative: str) -> ShardFileName | None:
    """``model/model/decoder/0/.../model_weight_pp-...safetensors``, parsed; None for any other kind of file."""
    folder, _, file_name = relative.rpartition("/")
    module = folder.removeprefix("model/").replace("/", ".")
    legacy_match = _LEGACY_NAME_PATTERN.fullmatch(file_name)
    match = legacy_match or _CURRENT_NAME_PATTERN.fullmatch(file_name)
    if match is None or not folder.startswith("model/"):
        return None
    numbers = {name: int(match[name] or (name == "eps")) for name in ("pp", "pps", "tp", "tps", "ep", "eps")}
    ranks = None if match["pp"] is None else ShardRanks(*numbers.values())
    name_format = 0 if legacy_match is None else 1
    return ShardFileName(f"{module}.{match['param']}", ranks, name_format)


def select_shards(
    parameters: Iterable[ParameterSpec], listing: Mapping[str, FileStat], *, tp: int, pp: int, ep: int = 1
) -> ShardSelection:
    """The model files that a run of ``tp`` x ``pp`` x ``ep`` ranks wrote.

    A tensor's name does not tell its pipeline rank, so any single one is used. Where two ranks hold the tensor, one of
    them from another partition of the layers, the newer files count.
    Raises UnscorableCheckpoint where neither is newer.
    """
    groups: dict[str, _CandidateFiles] = {}
    ignored = []
    for relative in sorted(listing):
        shard_name = parse_shard_name(relative)
        ranks = None if shard_name is None else shard_name.ranks
        is_other_topology = ranks is not None and ((ranks.pp, ranks.tp) != (pp, tp) or ranks.ep not in {1, ep})
        if shard_name is None or is_other_topology:
            ignored.append(relative)
            continue
        # An unsharded tensor is filed under pipeline rank -1, which no real rank has.
        source = FileSource(shard_name.name_format, *((-1, 1) if ranks is None else (ranks.pp_rank, ranks.ep)))
        rank = (0, 0) if ranks is None else (ranks.ep_rank, ranks.tp_rank)
        groups.setdefault(shard_name.parameter, {}).setdefault(source, {})[rank] = relative
    files: dict[str, tuple[str, ...]] = {}
    missing = None
    for parameter in parameters:
        candidates = groups.pop(parameter.name, {})
        chosen = _choose_files(parameter, candidates, listing, tp)
        if chosen is None:
            missing = missing or _describe_missing_files(parameter, candidates, tp, ep)
            continue
        files[parameter.name] = chosen
        ignored.extend(file for group in candidates.values() for file in group.values() if file not in chosen)
    # Each chosen parameter was taken out of ``groups``: the architecture has no parameter for the remaining ones.
    surplus = [file for candidates in groups.values() for group in candidates.values() for file in group.values()]
    return ShardSelection(files, missing, tuple(sorted(surplus)), tuple(sorted(ignored)))


def _choose_files(
    parameter: ParameterSpec, candidates: _CandidateFiles, listing: Mapping[str, FileStat], tp: int
) -> tuple[str, ...] | None:
    # A sharded tensor's complete set of shards takes precedence over an unsharded file.
    unsharded = candidates.get(FileSource(0, -1, 1))
    complete = {
        source: tuple(group[rank] for rank in sorted(group))
        for source, group in candidates.items()
        if source.pp_rank >= 0 and _has_all_ranks(set(group), source.ep, tp)
    }
    if unsharded is not None and not (complete and (parameter.sharded or max(source.ep for source in complete) > 1)):
        return (unsharded[0, 0],)
    if not complete:
        return None
    # A save of today replaces one in the legacy format; experts split over ranks replace those of a run without.
    best = min((source.name_format, -source.ep) for source in complete)
    candidate_sets = [files for source, files in complete.items() if (source.name_format, -source.ep) == best]
    # Only a set that is newer as a whole is known to replace the other one.
    newest = max(candidate_sets, key=lambda files: max(listing[file].mtime_ns for file in files))
    oldest_mtime_ns = min(listing[file].mtime_ns for file in newest)
    for other in candidate_sets:
        if other is not newest and max(listing[file].mtime_ns for file in other) >= oldest_mtime_ns:
            files = f"{newest[0]} and {other[0]}"
            raise UnscorableCheckpoint(f"two pipeline ranks hold {parameter.name} and neither is newer: {files}")
    return newest


def _has_all_ranks(ranks: set[tuple[int, int]], ep: int, tp: int) -> bool:
    """Whether (ep rank, tp rank) are all of a tensor's.

    Experts that tensor parallelism does not split are written by its rank 0 alone.
    """
    all_ranks = {(ep_rank, tp_rank) for ep_rank in range(ep) for tp_rank in range(tp)}
    return ranks == all_ranks or (ep > 1 and ranks == {(ep_rank, 0) for ep_rank in range(ep)})


def _describe_missing_files(parameter: ParameterSpec, candidates: _CandidateFiles, tp: int, ep: int) -> str:
    rank_sets = {source: group for source, group in candidates.items() if source.pp_rank >= 0}
    if not rank_sets:
        return f"{parameter.name} has no file for tp={tp}" + (f" and ep={ep}" if ep > 1 else "")
    source, fullest = max(rank_sets.items(), key=lambda item: len(item[1]))  # the others are probably left over
    if missing_groups := sorted(set(range(source.ep)) - {ep_rank for ep_rank, _ in fullest}):
        return f"{parameter.name} lacks the shard of expert rank {', '.join(map(str, missing_groups[:8]))} of {source.ep}"
    missing_ranks = sorted(
        {tp_rank for ep_rank in range(source.ep) for tp_rank in range(tp) if (ep_rank, tp_rank) not in fullest}
    )
    if not missing_ranks:
        return f"{parameter.name} has a shard of a rank beyond tp={tp}"
    return f"{parameter.name} lacks the shard of tp rank {', '.join(map(str, missing_ranks[:8]))} of {tp}"

"""Lists a stage's checkpoint folder when its mtime changed.

A folder is listed again when it or its latest.txt changed, and once an hour. It is also listed while its last change is so
recent that the next one might not show in its mtime. A listing that fails is unknown, never empty. One that hangs stops no other.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import msgspec

from suites.checkpoint.folder_kind import read_run_settings
from suites.checkpoint.layout import CheckpointLayout, guess_step, list_steps
from suites.checkpoint.metadata import TrainingConfig
from suites.common.documents import may_be_folder, open_without_blocking
from suites.common.errors import UserError
from watcher.config.settings import Config, Stage
from watcher.core.bounded_reads import BoundedReads, HangingRead
from watcher.core.snapshot import StageFolder

RELIST_SECONDS = 3600.0
"""Seconds after which a folder is listed although nothing seems to have changed."""

UNREADABLE_RETRY_SECONDS = 600.0
"""Seconds after the last change in which an unreadable config.yaml is tried at each poll."""

MAX_CONFIGS_TRIED = 3
"""Checkpoints whose config.yaml is tried, where the first ones have none that is readable."""

MAX_LATEST_BYTES = 4096
"""Bytes of a latest.txt that are read, whatever its size."""

RACY_MTIME_SECONDS = 3.0
"""Seconds in which a second change may leave the same mtime, on file systems with coarse times."""

FolderStamp = tuple[int, ...] | None


class _Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A listed folder with its stamps."""

    stage_folder: StageFolder
    stamp: FolderStamp = None
    latest_stamp: FolderStamp = None
    listed_at: float
    is_readable: bool = True
    """Whether the folder and its documents were readable."""

    @property
    def is_reliable(self) -> bool:
        """Whether a further change would show in the stamps."""
        # A recent mtime may hide a second change, on file systems with coarse times.
        stamps = (stamp[0] for stamp in (self.stamp, self.latest_stamp) if stamp is not None)
        age_seconds = self.listed_at - max(stamps, default=0) / 1e9
        return age_seconds > (RACY_MTIME_SECONDS if self.is_readable else UNREADABLE_RETRY_SECONDS)


class _Unscheduled(NamedTuple):
    """Folders that look like stages, and what they depend on."""

    stamp: FolderStamp
    watched: tuple[str, ...]
    """Folders of the config's stages."""
    folders: tuple[str, ...]


class StageFolderCache:
    """Remembers every stage's folder from one poll to the next."""

    def __init__(self, reads: BoundedReads) -> None:
        self._reads = reads
        self._cached: dict[tuple[str, CheckpointLayout], _Listing] = {}
        self._listed_at: dict[tuple[str, CheckpointLayout], float] = {}
        """Folder -> when its steps were last known."""
        self._unscheduled: _Unscheduled | None = None
        self.changed_folders: set[str] = set()
        """Folders (as text) that were listed anew since ``changed_folders`` was last cleared."""

    def list_stage(self, stage: Stage, server_now: float) -> StageFolder:
        """The stage's folder now; the same object where nothing changed."""
        folder_name = str(stage.checkpoints)
        # Two stages may read one folder by two layouts.
        cache_key = folder_name, stage.layout
        cached = self._cached.get(cache_key)
        try:
            listing = self._reads.run(cache_key, folder_name, lambda: _read_folder(stage, cached, server_now))
        except OSError as error:
            listing = _describe_failure(stage, error, server_now)
        known_at = self._listed_at.get(cache_key)
        if listing.stage_folder.steps is not None:
            self._listed_at[cache_key] = server_now
        if listing is cached:
            return listing.stage_folder
        if cached is not None:
            listing = _add_appearances(listing, cached.stage_folder, known_at)
        unchanged = cached is not None and cached.stage_folder == listing.stage_folder
        # Even an equal listing may hide a rewritten step, so inspections look again.
        if cached is None or not unchanged or (cached.stamp, cached.latest_stamp) != (listing.stamp, listing.latest_stamp):
            self.changed_folders.add(folder_name)
        # Identity tells the observer that nothing changed.
        if cached is not None and unchanged:
            listing = msgspec.structs.replace(listing, stage_folder=cached.stage_folder)
        self._cached[cache_key] = listing
        return listing.stage_folder

    def find_unscheduled(self, config: Config) -> tuple[str, ...]:
        """Folders under ${scratch}/ckpts, or that folder itself, that look like stages which the config lacks."""
        folder = config.scratch / "ckpts"
        watched = tuple(str(stage.checkpoints) for stage in config.stages.values())
        try:
            self._unscheduled = self._reads.run(
                ("unscheduled", watched), str(folder), lambda: _find_unscheduled(folder, watched, self._unscheduled)
            )
        except OSError:  # list_stage reports it for each stage
            return ()
        return self._unscheduled.folders


def _add_appearances(listing: _Listing, before: StageFolder, known_at: float | None) -> _Listing:
    """The listing, with when each step appeared that was not there ``before``, at ``known_at``."""
    folder = listing.stage_folder
    if folder.steps is None or before.steps is None or known_at is None:
        # While the folder is unknown, what was known of its steps stays.
        appeared = before.appeared
    else:
        new = {step: known_at for step in folder.steps if step not in before.steps}
        appeared = {step: at for step, at in before.appeared.items() if step in folder.steps} | new
    return msgspec.structs.replace(listing, stage_folder=msgspec.structs.replace(folder, appeared=appeared))


def _find_unscheduled(folder: Path, watched: tuple[str, ...], known: _Unscheduled | None) -> _Unscheduled:
    stamp = _read_stamp(folder)
    if known is not None and (known.stamp, known.watched) == (stamp, watched):
        return known
    with os.scandir(folder) as entries:
        folders = [entry for entry in entries if may_be_folder(entry)]
    names = sorted(entry.path for entry in folders if entry.name.startswith("stage"))
    # A run that saves directly into ckpts is a stage, too.
    if any(guess_step(entry.name) is not None for entry in folders):
        names.append(str(folder))
    return _Unscheduled(stamp, watched, tuple(name for name in names if name not in watched))


def _read_folder(stage: Stage, known: _Listing | None, server_now: float) -> _Listing:
    """The listing of a stage's folder; ``known`` itself where nothing changed. OSError."""
    folder, layout = stage.checkpoints, stage.layout
    try:
        stamp = _read_stamp(folder)
        # A new step moves the folder's mtime; a rewritten step moves only latest.txt.
        latest_stamp = _read_latest_stamp(folder) if stamp is not None else None
        if (
            known is not None
            and known.is_reliable
            and known.stage_folder.steps is not None
            and (known.stamp, known.latest_stamp) == (stamp, latest_stamp)
            and 0 <= server_now - known.listed_at < RELIST_SECONDS
        ):
            return known
        stage_folder, is_readable = StageFolder(steps={}, layout=layout, absent=True), True
        if stamp is not None:
            stage_folder, is_readable = _list_checkpoints(folder, layout)
    except FileNotFoundError:  # deleted between two calls
        return _Listing(stage_folder=StageFolder(steps={}, layout=layout, absent=True), listed_at=server_now)
    if not (stage_folder.absent or stage_folder.steps or stage_folder.unmatched) and latest_stamp is None:
        stage_folder = StageFolder(steps={}, layout=layout, is_empty=True)
    return _Listing(
        stage_folder=stage_folder, stamp=stamp, latest_stamp=latest_stamp, listed_at=server_now, is_readable=is_readable
    )


def _describe_failure(stage: Stage, error: OSError, server_now: float) -> _Listing:
    message = f"{stage.checkpoints}: cannot list: {error.strerror or error}"
    stage_folder = StageFolder(steps=None, layout=stage.layout, error=message, is_hanging=isinstance(error, HangingRead))
    return _Listing(stage_folder=stage_folder, listed_at=server_now, is_readable=False)


def _read_stamp(path: Path) -> FolderStamp:
    """(mtime in ns, inode, size); None where nothing exists. OSError."""
    try:
        stats = os.stat(path)  # noqa: PTH116  one call in the idle poll, and Path.stat is a slower spelling of it
    except FileNotFoundError:
        return None
    return stats.st_mtime_ns, stats.st_ino, stats.st_size


def _read_latest_stamp(folder: Path) -> FolderStamp:
    """The stamp of latest.txt; None where it is missing, or a link that leads nowhere."""
    try:
        return _read_stamp(folder / "latest.txt")
    except OSError:
        return None


def _list_checkpoints(folder: Path, layout: CheckpointLayout) -> tuple[StageFolder, bool]:
    """List ``folder``, and whether its documents were readable."""
    steps, unmatched = list_steps(folder, layout)
    if not steps:
        return StageFolder(steps={}, layout=layout, unmatched=unmatched), True
    # The newest config.yaml has the final step; the first one names where the stage started.
    newest_step = _read_latest_step(folder, steps, layout)
    newest_config = _read_first_config([steps[newest_step], *(steps[step] for step in sorted(steps, reverse=True))])
    first_config = _read_first_config(list(steps.values()))
    if newest_config is None or first_config is None:
        return StageFolder(steps=_to_text(steps), layout=layout, unmatched=unmatched, latest_step=newest_step), False
    return StageFolder(
        steps=_to_text(steps),
        layout=layout,
        unmatched=unmatched,
        latest_step=newest_step,
        final_step=newest_config.train_steps,
        started_from=first_config.started_from,
    ), True


def _read_first_config(folders: Sequence[Path]) -> TrainingConfig | None:
    """The settings of the first of these that are readable; None where they are being written.

    An empty or torn one is "not yet". One odd folder must not hide what the next one says of the same run.
    """
    for folder in folders[:MAX_CONFIGS_TRIED]:
        try:
            return read_run_settings(folder)
        except UserError:
            continue
    return None


def _to_text(steps: Mapping[int, Path]) -> dict[int, str]:
    return {step: str(path) for step, path in steps.items()}


def _read_latest_step(folder: Path, steps: Mapping[int, Path], layout: CheckpointLayout) -> int:
    """The step that latest.txt names, as a number, a folder's name or its path, if any.

    A run that went back writes smaller steps again.
    """
    try:
        with open_without_blocking(folder / "latest.txt") as file:
            text = file.read(MAX_LATEST_BYTES).strip()
    except OSError:
        text = b""
    latest_step = layout.read_step(PurePath(text.decode(errors="replace")).name)
    return latest_step if latest_step is not None and latest_step in steps else max(steps)

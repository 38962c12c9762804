"""Lists a stage's checkpoint folder when its mtime changed.

A folder is listed again when it or its latest.txt changed, and once an hour. It is also listed while its last change is so
recent that the next one might not show in its mtime. A listing that fails is unknown, never empty.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import msgspec

from suites.checkpoint.layout import CheckpointLayout, guess_step, list_steps
from suites.checkpoint.metadata import TrainingConfig, read_training_config
from suites.common.documents import may_be_folder, open_without_blocking
from suites.common.errors import UserError
from watcher.config.settings import Config, Stage
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


class _CachedFolder(msgspec.Struct, frozen=True):
    """A listed folder with its stamps."""

    stage_folder: StageFolder
    stamp: FolderStamp
    latest_stamp: FolderStamp
    listed_at: float
    is_reliable: bool
    """Whether a further change would show in the stamps."""


class StageFolderCache:
    """Remembers every stage's folder from one poll to the next."""

    def __init__(self) -> None:
        self._cached: dict[tuple[str, CheckpointLayout], _CachedFolder] = {}
        self._unscheduled: tuple[FolderStamp, tuple[str, ...], tuple[str, ...]] | None = None
        self.changed_folders: set[str] = set()
        """Folders (as text) that were listed anew since ``changed_folders`` was last cleared."""

    def list_stage(self, stage: Stage, server_now: float) -> StageFolder:
        """The stage's folder now; the same object where nothing changed."""
        folder, folder_name = stage.checkpoints, str(stage.checkpoints)
        # Two stages may read one folder by two layouts.
        cache_key = folder_name, stage.layout
        cached = self._cached.get(cache_key)
        try:
            stamp = _read_stamp(folder)
            # A new step moves the folder's mtime; a rewritten step moves only latest.txt.
            latest_stamp = _read_latest_stamp(folder) if stamp is not None else None
            if (
                cached is not None
                and cached.is_reliable
                and cached.stage_folder.steps is not None
                and (cached.stamp, cached.latest_stamp) == (stamp, latest_stamp)
                and 0 <= server_now - cached.listed_at < RELIST_SECONDS
            ):
                return cached.stage_folder
            stage_folder, is_reliable = (
                (StageFolder(steps={}, layout=stage.layout, absent=True), True)
                if stamp is None
                else _list_checkpoints(folder, stage.layout)
            )
            if not (stage_folder.absent or stage_folder.steps or stage_folder.unmatched) and latest_stamp is None:
                stage_folder = StageFolder(steps={}, layout=stage.layout, is_empty=True)
        except FileNotFoundError:  # deleted between two calls
            stage_folder, stamp, latest_stamp, is_reliable = (
                StageFolder(steps={}, layout=stage.layout, absent=True),
                None,
                None,
                True,
            )
        except OSError as error:
            message = f"{folder}: cannot list: {error.strerror or error}"
            stage_folder, stamp, latest_stamp, is_reliable = (
                StageFolder(steps=None, layout=stage.layout, error=message),
                None,
                None,
                False,
            )
        # A recent mtime may hide a second change, on file systems with coarse times.
        newest_mtime = max((file_stamp[0] for file_stamp in (stamp, latest_stamp) if file_stamp is not None), default=0) / 1e9
        unchanged = cached is not None and cached.stage_folder == stage_folder
        # Even an equal listing may hide a rewritten step, so inspections look again.
        if cached is None or not unchanged or (cached.stamp, cached.latest_stamp) != (stamp, latest_stamp):
            self.changed_folders.add(folder_name)
        # Identity tells the observer that nothing changed.
        if cached is not None and unchanged:
            stage_folder = cached.stage_folder
        age_seconds = server_now - newest_mtime
        self._cached[cache_key] = _CachedFolder(
            stage_folder,
            stamp,
            latest_stamp,
            server_now,
            age_seconds > (RACY_MTIME_SECONDS if is_reliable else UNREADABLE_RETRY_SECONDS),
        )
        return stage_folder

    def find_unscheduled(self, config: Config) -> tuple[str, ...]:
        """Folders under ${scratch}/ckpts, or that folder itself, that look like stages which the config lacks."""
        folder = config.scratch / "ckpts"
        watched = tuple(str(stage.checkpoints) for stage in config.stages.values())
        try:
            stamp = _read_stamp(folder)
            if self._unscheduled is not None and self._unscheduled[:2] == (stamp, watched):
                return self._unscheduled[2]
            with os.scandir(folder) as entries:
                folders = [entry for entry in entries if may_be_folder(entry)]
            names = sorted(entry.path for entry in folders if entry.name.startswith("stage"))
            # A run that saves directly into ckpts is a stage, too.
            if any(guess_step(entry.name) is not None for entry in folders):
                names.append(str(folder))
        except OSError:  # list_stage reports it for each stage
            return ()
        unscheduled = tuple(name for name in names if name not in watched)
        self._unscheduled = (stamp, watched, unscheduled)
        return unscheduled


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
    """The first config.yaml of these that is readable; None where it is being written.

    An empty or torn one is "not yet". One odd folder must not hide what the next one says of the same run.
    """
    for folder in folders[:MAX_CONFIGS_TRIED]:
        try:
            return read_training_config(folder / "config.yaml")
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

"""Hard links that keep a checkpoint's files until it is scored.

Nanotron rewrites files in place, and a link is the same file. So a pin protects against deletion, not against a rewrite,
which shows in the fingerprint as usual. Pins are never under a folder of checkpoints: tools that move those to S3 delete
every folder there.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from suites.checkpoint.completeness import compute_fingerprint, list_scoring_files
from suites.common.atomic_files import fsync_folder
from suites.common.errors import UserError
from suites.definitions.tokenizer_files import list_tokenizer_files
from watcher.config.settings import Config
from watcher.core.evaluation import Pin

_GONE_ERRNOS = (errno.ENOENT, errno.ESTALE)


def list_pin_roots(config: Config, state_id: str) -> list[Path]:
    """Folders for pins, preferred first: state folder, then scratch."""
    # A hard link needs the same file system, and state and scratch are often two.
    candidates = [config.paths.pins, config.scratch / ".watcher_pins" / state_id]
    checkpoints = [Path(os.path.realpath(stage.checkpoints)) for stage in config.stages.values()]
    real_paths = {root: Path(os.path.realpath(root)) for root in candidates}
    return [
        root for root in candidates if not any(folder in (real_paths[root], *real_paths[root].parents) for folder in checkpoints)
    ]


def is_pin_folder(folder: Path, config: Config, state_id: str) -> bool:
    """Whether a folder lies where pins are made."""
    real_parent = Path(os.path.realpath(folder.parent))
    roots = (config.paths.pins, config.scratch / ".watcher_pins" / state_id)
    return any(real_parent.is_relative_to(os.path.realpath(root)) for root in roots) and folder.name not in {"", ".", ".."}


def pin_checkpoint(checkpoint: Path, fingerprint: str, key: str, roots: Iterable[Path], available_bytes: int) -> Pin:
    """Hard-link the files that scoring reads.

    ``key``: ``stage/directory``; ``available_bytes``: bytes that may still be pinned.

    A Pin without a folder says why there is none. Raises OSError, or UserError (changed), where the checkpoint itself is
    being deleted.
    """
    files = {**_list_tokenizer_sizes(checkpoint), **list_scoring_files(checkpoint)}
    size_bytes = sum(files.values())
    # Links keep deleted checkpoints on disk, so a quota could fill up unnoticed.
    if size_bytes > available_bytes:
        return Pin(fingerprint=fingerprint, why=f"it has {size_bytes} bytes, and pin_max leaves {max(0, available_bytes)}")
    device = checkpoint.stat().st_dev
    for root in roots:
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Links across file systems are impossible.
            if root.stat().st_dev != device:
                continue
            folder = root / key / fingerprint[:12] / checkpoint.name
            _link_files(checkpoint, files, folder)
        except OSError as error:
            # A vanishing checkpoint is not a refusal of links: the next inspection judges it.
            if error.errno in _GONE_ERRNOS:
                raise
            return Pin(fingerprint=fingerprint, why=f"hard links are refused: {error.strerror or error}")
        # A rewrite between inspection and linking would pin other content.
        if compute_fingerprint(folder) != fingerprint:
            release_pin(folder)
            return Pin(fingerprint=fingerprint, why="it changed while it was pinned")
        return Pin(fingerprint=fingerprint, folder=str(folder), size=size_bytes)
    return Pin(fingerprint=fingerprint, why="no folder of ours is on its file system (state, or scratch)")


def _list_tokenizer_sizes(checkpoint: Path) -> dict[str, int]:
    """Name -> bytes of the tokenizer beside a Hugging Face checkpoint's weights, which may be its stage's. OSError."""
    try:
        return {name: (checkpoint / name).stat().st_size for name in list_tokenizer_files(checkpoint)}
    except UserError:  # an odd entry: whoever reads the tokenizer says so, and the weights are pinned all the same
        return {}


def _link_files(checkpoint: Path, files: Iterable[str], folder: Path) -> None:
    """Link into a temporary folder, then rename: a final name means complete."""
    temporary = folder.with_name(f".{folder.name}.linking")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # of a watcher that was killed before journaling it
    try:
        for name in files:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(os.path.realpath(checkpoint / name), temporary / name)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_folder(folder.parent)


def release_pin(folder: Path) -> None:
    """Delete a pin and its empty parent folders. OSError.

    A pin that is gone is no error.
    """
    if folder.exists():
        shutil.rmtree(folder)
    for parent in list(folder.parents)[:3]:
        with contextlib.suppress(OSError):  # not empty, or gone
            parent.rmdir()


def remove_orphan_pins(roots: Iterable[Path], pinned_folders: set[str]) -> list[Path]:
    """Remove the pins below ``roots`` that no evaluation owns."""
    orphans = find_orphan_pins(roots, pinned_folders)
    for path in orphans:
        with contextlib.suppress(OSError, UserError):  # the next start tries again
            release_pin(path)
    return orphans


def find_orphan_pins(roots: Iterable[Path], pinned_folders: set[str]) -> list[Path]:
    """Pins of a watcher that was killed between linking and journaling."""
    return [path for root in roots for path in root.glob("*/*/*/*") if path.is_dir() and str(path) not in pinned_folders]

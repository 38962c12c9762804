"""Suites, tokenizer and sequence length of a stage, re-read on changes."""

import functools
from collections.abc import Mapping
from pathlib import Path

import msgspec

from suites.checkpoint.metadata import read_training_config
from suites.common.errors import UserError
from suites.contract.scoring_request import compute_tier_digests
from suites.definitions.local_data import get_local_patterns
from suites.definitions.suite import load_suite
from watcher.config.settings import Stage
from watcher.core.bounded_reads import BoundedReads, HangingRead
from watcher.core.evaluation import StageSettings
from watcher.core.snapshot import StageRequirements
from watcher.observe.local_data import DataFileStamp, DataNotReadyError, LocalDataHashes, read_stamps

FILES_CHECK_SECONDS = 300.0
"""Seconds after which the files of a stage's requirements are stat'ed."""

DATA_CHECK_SECONDS = 3600.0
"""Seconds after which the local data of its suites are stat'ed."""

REREAD_SECONDS = 86400.0
"""Seconds after which they are read anew whatever their mtimes: a name may point to another file."""

DATA_READ_SECONDS = 60.0
"""Seconds after which suites and local data count as hanging: they may be hashed, and that takes some."""

FileStamps = Mapping[Path, tuple[int, ...] | None]
"""File -> mtime in ns, inode and size; None where it cannot be read."""


class _LoadedRequirements(msgspec.Struct, frozen=True, kw_only=True):
    requirements: StageRequirements
    files: tuple[Path, ...] = ()
    """Files of its suites."""
    patterns: tuple[str, ...] = ()
    """Paths and globs of their local data."""
    data_stamps: tuple[DataFileStamp, ...] | None = None
    is_changing: bool = False
    """Data are being written or hashed: every poll loads it again."""


class _CachedRequirements(msgspec.Struct, frozen=True):
    stage: Stage
    loaded: _LoadedRequirements
    file_stamps: FileStamps
    """Stamps from before the files were read; () for files that were unknown then."""
    files_checked_at: float
    data_checked_at: float
    read_at: float


class StageRequirementsCache:
    """Caches every stage's requirements until its files or config change."""

    def __init__(self, environ: Mapping[str, str], data_hashes: LocalDataHashes | None = None) -> None:
        self._environ = environ
        self._data_hashes = data_hashes or LocalDataHashes()
        self._cached: dict[str, _CachedRequirements] = {}

    def new_tick(self) -> None:
        """Reset the bytes of data that may be read."""
        self._data_hashes.new_tick()

    def get_requirements(
        self, stage: Stage, now: float, *, check_data: bool = False, settle_seconds: float = 0.0, server_now: float = 0.0
    ) -> StageRequirements:
        """The stage's requirements; the same object where nothing differs.

        ``check_data``: also stat the local data that the suites name, which is otherwise done once an hour. Such a file has to
        be unchanged for ``settle_seconds`` by the file server's clock.
        """
        cached = self._cached.get(stage.name)
        if cached is None or cached.stage != stage:
            return self._reload(stage, None, now, settle_seconds, server_now)
        # Local data may be many files, so they are stat'ed less often than suite files.
        data_checked_at, has_changed = cached.data_checked_at, cached.loaded.is_changing
        if cached.loaded.patterns and (check_data or not 0 <= now - data_checked_at < DATA_CHECK_SECONDS):
            data_checked_at, has_changed = now, has_changed or read_stamps(cached.loaded.patterns) != cached.loaded.data_stamps
        if has_changed:
            return self._reload(stage, cached, now, settle_seconds, server_now)
        files_checked_at = cached.files_checked_at
        if not 0 <= now - files_checked_at < FILES_CHECK_SECONDS:
            files_checked_at = now
            # A link may be replaced without any change of the mtimes that were read.
            is_fresh = 0 <= now - cached.read_at < REREAD_SECONDS and not cached.loaded.requirements.error
            if not is_fresh or {path: _read_stamp(path) for path in cached.file_stamps} != cached.file_stamps:
                return self._reload(stage, cached, now, settle_seconds, server_now)
        if (files_checked_at, data_checked_at) != (cached.files_checked_at, cached.data_checked_at):
            self._cached[stage.name] = msgspec.structs.replace(
                cached, files_checked_at=files_checked_at, data_checked_at=data_checked_at
            )
        return cached.loaded.requirements

    def get_known(self, stage: Stage) -> StageRequirements | None:
        """What was read last, without a look at the disk; None where nothing was."""
        cached = self._cached.get(stage.name)
        return None if cached is None or cached.stage != stage else cached.loaded.requirements

    def _reload(
        self, stage: Stage, cached: _CachedRequirements | None, now: float, settle_seconds: float, server_now: float
    ) -> StageRequirements:
        # A file that changes while it is read must differ from its stamp afterwards.
        stamps_before = {
            path: _read_stamp(path) for path in (*_list_named_files(stage), *(() if cached is None else cached.file_stamps))
        }
        loaded = self._load_requirements(stage, settle_seconds, server_now)
        # Equal requirements keep their object, which tells the observer that nothing changed.
        if cached is not None and cached.loaded.requirements == loaded.requirements:
            loaded = msgspec.structs.replace(loaded, requirements=cached.loaded.requirements)
        file_stamps = {path: stamps_before.get(path, ()) for path in (*_list_named_files(stage), *loaded.files)}
        self._cached[stage.name] = _CachedRequirements(stage, loaded, file_stamps, now, now, now)
        return loaded.requirements

    def _load_requirements(self, stage: Stage, settle_seconds: float, server_now: float) -> _LoadedRequirements:
        requirements = StageRequirements(tokenizer=stage.tokenizer, seq_len=stage.seq_len)
        result = _LoadedRequirements(requirements=requirements)
        try:
            loaded_suites = [load_suite(name, self._environ) for name in stage.suites]
            suites = tuple(suite.to_request() for suite in loaded_suites)
            patterns = tuple(
                dict.fromkeys(
                    pattern
                    for suite in suites
                    for suite_patterns in get_local_patterns(suite).values()
                    for pattern in suite_patterns
                )
            )
            # Stamps before content: later changes then show in the next poll.
            files = tuple(path for suite in loaded_suites for path in suite.files)
            result = msgspec.structs.replace(result, files=files, patterns=patterns, data_stamps=read_stamps(patterns))
            # A bridge may be scored before its stage has a checkpoint of its own.
            if stage.training_config is not None and (stage.tokenizer is None or stage.seq_len is None):
                training_config = read_training_config(stage.training_config)
                training_settings = StageSettings(
                    tokenizer=training_config.tokenizer, seq_len=training_config.seq_len, checkpoint=str(stage.training_config)
                )
                requirements = msgspec.structs.replace(requirements, training_settings=training_settings)
            suites = tuple(
                self._data_hashes.add_data_hashes(suite, settle_seconds=settle_seconds, now=server_now) for suite in suites
            )
            tiers = dict(compute_tier_digests(suites))
        except UserError as error:
            # Evaluations of this stage wait with the error; other stages go on.
            requirements = msgspec.structs.replace(requirements, error=str(error))
            return msgspec.structs.replace(result, requirements=requirements, is_changing=isinstance(error, DataNotReadyError))
        return msgspec.structs.replace(result, requirements=msgspec.structs.replace(requirements, suites=suites, tiers=tiers))


class BoundedRequirements:
    """Requirements of all stages, also while a file server hangs."""

    def __init__(self, cache: StageRequirementsCache, reads: BoundedReads) -> None:
        self._cache, self._reads = cache, reads
        self._hanging_stage: str | None = None
        self._message = ""

    @property
    def warning(self) -> str:
        """What hangs, since when; empty for nothing."""
        return f"{self._message} Until it answers, what was read before counts" if self._hanging_stage is not None else ""

    def new_tick(self) -> None:
        """Reset the bytes of data that may be read."""
        self._cache.new_tick()

    def get_requirements(
        self, stage: Stage, now: float, *, check_data: bool, settle_seconds: float, server_now: float
    ) -> StageRequirements:
        """As ``StageRequirementsCache`` has them; while a file server hangs, what was read before."""
        read = functools.partial(
            self._cache.get_requirements,
            stage,
            now,
            check_data=check_data,
            settle_seconds=settle_seconds,
            server_now=server_now,
        )
        # Stages share one cache of hashes, so nothing else is read while one of these reads hangs.
        if self._hanging_stage in {None, stage.name}:
            path = f"stages.{stage.name}: suites and local data"
            try:
                requirements = self._reads.run(("requirements", stage.name), path, read, seconds=DATA_READ_SECONDS)
            except HangingRead as error:
                self._hanging_stage, self._message = stage.name, f"{path}: {error.strerror}"
            else:
                self._hanging_stage = None
                return requirements
        known = self._cache.get_known(stage)
        return known or StageRequirements(tokenizer=stage.tokenizer, seq_len=stage.seq_len, error=self._message)


def _list_named_files(stage: Stage) -> tuple[Path, ...]:
    """Files that the stage names itself, before links are resolved."""
    files = [Path(name) for name in stage.suites if "/" in name]
    return (*files, stage.training_config) if stage.training_config is not None else tuple(files)


def _read_stamp(path: Path) -> tuple[int, ...] | None:
    try:
        stats = path.stat()
    except OSError:
        return None
    return stats.st_mtime_ns, stats.st_ino, stats.st_size

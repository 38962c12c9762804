"""What lies on the hub: a data set's commit and rows, a tokenizer's files, and what to say where they cannot be had."""

import errno
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from scoring.data.sources import Definition, Row, Source
from suites.common.errors import Exit, Problem

T = TypeVar("T")

_log = logging.getLogger(__name__)

ATTEMPTS = 4

LONGEST_PAUSE = 60.0

_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})

_AWAY = ("Timeout", "Connection", "Connect", "Network", "Offline", "ProtocolError", "ReadError", "IncompleteRead", "Unavailable")

_REFUSED = frozenset(
    {"DatasetNotFoundError", "GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError", "DisabledRepoError"}
)

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO})

_NO_SUCH = ("BuilderConfig", "Unknown split", "Bad split", "trust_remote_code", "scripts are no longer supported")


def open_hub(definition: Definition) -> Source:
    """The rows of a data set on the hub (or of a folder in the hub's layout), at the revision that its name stands for now.

    With ``streaming`` nothing is kept on disk; where streaming fails, the whole data set is fetched instead, and said so.
    Raises Problem (data missing, or temporary where the network is at fault).
    """
    name = str(definition.hf_dataset)
    called = "/".join(part for part in (name, definition.hf_config, definition.split) if part)
    revision = definition.revision if Path(name).is_dir() else _revision(name, definition.revision)
    described = {
        "hf_dataset": name,
        "hf_config": definition.hf_config,
        "split": definition.split,
        "revision": revision,
        "streaming": definition.streaming,
    }

    def rows() -> Iterator[Row]:
        done = 0
        if definition.streaming:
            try:
                for row in _load(definition, revision, streaming=True):
                    yield row
                    done += 1
            except (GeneratorExit, Problem):
                raise
            except Exception as error:
                if _final(error):
                    raise _unreachable(called, error) from error
                _log.warning("%s: streaming failed after %d rows (%s); fetching the whole data set", called, done, _first(error))
                described["streaming"] = f"failed after {done} rows: {_first(error)}"
            else:
                return
        try:
            yield from itertools.islice(_load(definition, revision, streaming=False), done, None)
        except (GeneratorExit, Problem):
            raise
        except Exception as error:
            raise _unreachable(called, error) from error

    return Source(name=called, described=described, rows=rows)


def _load(definition: Definition, revision: str | None, *, streaming: bool) -> Iterator[Row]:
    import datasets  # noqa: PLC0415  a second's import, only where something is fetched
    import datasets.utils.logging  # noqa: PLC0415  a submodule is an attribute of its package only once it is imported

    datasets.utils.logging.set_verbosity_error()
    datasets.utils.logging.disable_progress_bar()
    name = str(definition.hf_dataset)

    def load() -> Any:
        return datasets.load_dataset(name, definition.hf_config, split=definition.split, revision=revision, streaming=streaming)

    return iter(_patiently(name, load))


def _revision(name: str, asked: str | None) -> str | None:
    """The commit that a branch, tag or nothing means now, so that what was scored can be found again."""
    import huggingface_hub  # noqa: PLC0415  only where something is fetched

    try:
        return _patiently(name, lambda: huggingface_hub.HfApi().dataset_info(name, revision=asked).sha)
    except Exception as error:
        raise _unreachable(f"{name}@{asked}" if asked else name, error) from error


def fetch_tokenizer(identifier: str, patterns: Sequence[str], *, offline: bool, command: str) -> Path:
    """A folder with the files of a model's repository that match ``patterns``, from the hub or from its cache on this machine.

    ``command``: what a person types where there is a network. Raises Problem (data missing, or temporary where the network is
    at fault), or OSError where the hub's cache on this machine cannot be used.
    """
    # Submodules are imported by their own names: the package has as attributes only those that something imported before.
    from huggingface_hub import snapshot_download  # noqa: PLC0415  only where something is fetched
    from huggingface_hub.constants import HF_HUB_OFFLINE  # noqa: PLC0415  as above
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415  as above

    offline, again = offline or HF_HUB_OFFLINE, f"where there is a network, run: {command}"
    disable_progress_bars()

    def ask() -> str:
        return snapshot_download(identifier, allow_patterns=list(patterns), local_files_only=offline)

    try:
        return Path(_patiently(identifier, ask))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise
        if offline:
            what = "tokenizer is not in the data cache, and this job is offline"
            raise Problem(what, where=identifier, todo=again, code=Exit.DATA_MISSING) from error
        raise _no_tokenizer(identifier, error, again) from error


def _no_tokenizer(identifier: str, error: Exception, again: str) -> Problem:
    root = next((cause for cause in _chain(error) if any(word in type(cause).__name__ for word in _AWAY)), error)
    words = f"({type(root).__name__}: {_first(root)})"
    if _away(error):
        return Problem(f"tokenizer cannot be fetched {words}", where=identifier, todo=again, code=Exit.TEMPORARY)
    todo = "name a tokenizer's folder, or an id on the hub; where it is private, log in: hf auth login"
    if _gated(error):
        todo = f"ask for access at {identifier}, then log in: hf auth login"
    return Problem(f"tokenizer cannot be fetched {words}", where=identifier, todo=todo, code=Exit.DATA_MISSING)


def _patiently(called: str, ask: Callable[[], T]) -> T:
    """``ask``, again after a pause where the hub was busy: as long as it says itself (Retry-After), else 1, 2, 4 s."""
    for attempt in itertools.count(1):
        try:
            return ask()
        except Exception as error:
            status, pause = _status(error)
            if status not in _BUSY or attempt == ATTEMPTS:
                raise
            pause = min(2.0 ** (attempt - 1) if pause is None else pause, LONGEST_PAUSE)
            _log.warning("%s: the hub is busy (%s); asking again in %.1f s", called, status, pause)
            time.sleep(pause)
    raise AssertionError


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from: libraries wrap what the network said."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _status(error: BaseException) -> tuple[int | None, float | None]:
    """(HTTP status, seconds of Retry-After) of the answer behind an error, as far as there are."""
    for cause in _chain(error):
        response: Any = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            after = response.headers.get("Retry-After", "")
            return status, float(after) if after.replace(".", "", 1).isdigit() else None
    return None, None


def _kinds(error: BaseException) -> list[str]:
    return [type(cause).__name__ for cause in _chain(error)]


def _away(error: BaseException) -> bool:
    """Whether the network or a busy hub is at fault, so that another time may help."""
    return not _final(error) and (_status(error)[0] in _BUSY or any(word in kind for kind in _kinds(error) for word in _AWAY))


def _gated(error: BaseException) -> bool:
    words = " ".join(str(cause) for cause in _chain(error)).lower()
    return "GatedRepoError" in _kinds(error) or "is a gated dataset" in words


def _final(error: BaseException) -> bool:
    """Whether asking in another way would only be told the same."""
    return type(error).__name__ in _REFUSED or any(word in str(error) for word in _NO_SUCH)


def _unreachable(called: str, error: Exception) -> Problem:
    kinds = _kinds(error)
    if _away(error):
        return Problem(
            f"cannot be fetched ({kinds[0]}: {_first(error)})",
            where=called,
            todo="try again where there is a network",
            code=Exit.TEMPORARY,
        )
    todo = "check hf_dataset, hf_config, split and revision"
    if _gated(error):
        page = "/".join(called.partition("@")[0].split("/")[:2])
        todo = f"ask for access at datasets/{page}, then log in: hf auth login"
    elif "RepositoryNotFoundError" in kinds or "DatasetNotFoundError" in kinds:
        todo = "check hf_dataset; where the data set is private, log in: hf auth login"
    return Problem(f"cannot be loaded ({kinds[0]}: {_first(error)})", where=called, todo=todo, code=Exit.DATA_MISSING)


def _first(error: BaseException) -> str:
    """The first line of what an error says: huggingface_hub's go on for a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(("Client Error.", "Server Error.")):
        return f"{lines[0]} {lines[1]}"
    return lines[0] if lines else type(error).__name__

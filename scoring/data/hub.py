"""What lies on the hub: a data set's commit and rows, a tokenizer's files, and what to say where they cannot be had."""

import errno
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from scoring.data.sources import EntryDefinition, Row, Source
from suites.common.errors import ExitCode, UserError

T = TypeVar("T")

_log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4

MAX_PAUSE_SECONDS = 60.0

_BUSY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

_NETWORK_ERROR_NAMES = (
    "Timeout",
    "Connection",
    "Connect",
    "Network",
    "Offline",
    "ProtocolError",
    "ReadError",
    "IncompleteRead",
    "Unavailable",
)

_PERMANENT_ERROR_NAMES = frozenset(
    {"DatasetNotFoundError", "GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError", "DisabledRepoError"}
)

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO})

_PERMANENT_ERROR_TEXTS = ("BuilderConfig", "Unknown split", "Bad split", "trust_remote_code", "scripts are no longer supported")


def open_hub_source(definition: EntryDefinition) -> Source:
    """The rows of a data set on the hub (or of a folder in the hub's layout), at the revision that its name stands for now.

    With ``streaming`` nothing is kept on disk; where streaming fails, the whole data set is fetched instead, and said so.
    Raises Problem (data missing, or temporary where the network is at fault).
    """
    name = str(definition.hf_dataset)
    dataset_label = "/".join(part for part in (name, definition.hf_config, definition.split) if part)
    revision = definition.revision if Path(name).is_dir() else _resolve_revision(name, definition.revision)
    description = {
        "hf_dataset": name,
        "hf_config": definition.hf_config,
        "split": definition.split,
        "revision": revision,
        "streaming": definition.streaming,
    }

    def rows() -> Iterator[Row]:
        row_count = 0
        if definition.streaming:
            try:
                for row in _load_rows(definition, revision, streaming=True):
                    yield row
                    row_count += 1
            except (GeneratorExit, UserError):
                raise
            except Exception as error:
                if _is_permanent(error):
                    raise _make_load_error(dataset_label, error) from error
                _log.warning(
                    "%s: streaming failed after %d rows (%s); fetching the whole data set",
                    dataset_label,
                    row_count,
                    _get_first_line(error),
                )
                description["streaming"] = f"failed after {row_count} rows: {_get_first_line(error)}"
            else:
                return
        try:
            yield from itertools.islice(_load_rows(definition, revision, streaming=False), row_count, None)
        except (GeneratorExit, UserError):
            raise
        except Exception as error:
            raise _make_load_error(dataset_label, error) from error

    return Source(name=dataset_label, description=description, rows=rows)


def _load_rows(definition: EntryDefinition, revision: str | None, *, streaming: bool) -> Iterator[Row]:
    import datasets  # noqa: PLC0415  a second's import, only where something is fetched
    import datasets.utils.logging  # noqa: PLC0415  a submodule is an attribute of its package only once it is imported

    datasets.utils.logging.set_verbosity_error()
    datasets.utils.logging.disable_progress_bar()
    name = str(definition.hf_dataset)

    def load_dataset() -> Any:
        return datasets.load_dataset(name, definition.hf_config, split=definition.split, revision=revision, streaming=streaming)

    return iter(_retry_while_busy(name, load_dataset))


def _resolve_revision(name: str, requested: str | None) -> str | None:
    """The commit that a branch, tag or nothing means now, so that what was scored can be found again."""
    import huggingface_hub  # noqa: PLC0415  only where something is fetched

    try:
        return _retry_while_busy(name, lambda: huggingface_hub.HfApi().dataset_info(name, revision=requested).sha)
    except Exception as error:
        raise _make_load_error(f"{name}@{requested}" if requested else name, error) from error


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
        return Path(_retry_while_busy(identifier, ask))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise
        if offline:
            what = "tokenizer is not in the data cache, and this job is offline"
            raise UserError(what, location=identifier, hint=again, code=ExitCode.DATA_MISSING) from error
        raise _no_tokenizer(identifier, error, again) from error


def _no_tokenizer(identifier: str, error: Exception, again: str) -> UserError:
    root = next(
        (cause for cause in _iter_causes(error) if any(word in type(cause).__name__ for word in _NETWORK_ERROR_NAMES)), error
    )
    words = f"({type(root).__name__}: {_get_first_line(root)})"
    if _away(error):
        return UserError(f"tokenizer cannot be fetched {words}", location=identifier, hint=again, code=ExitCode.TEMPORARY)
    todo = "name a tokenizer's folder, or an id on the hub; where it is private, log in: hf auth login"
    if _gated(error):
        todo = f"ask for access at {identifier}, then log in: hf auth login"
    return UserError(f"tokenizer cannot be fetched {words}", location=identifier, hint=todo, code=ExitCode.DATA_MISSING)


def _retry_while_busy(dataset_label: str, call: Callable[[], T]) -> T:
    """``call``, again after a pause where the hub was busy: as long as it says itself (Retry-After), else 1, 2, 4 s."""
    for attempt in itertools.count(1):
        try:
            return call()
        except Exception as error:
            status, pause_seconds = _get_http_status(error)
            if status not in _BUSY_STATUSES or attempt == MAX_ATTEMPTS:
                raise
            pause_seconds = min(2.0 ** (attempt - 1) if pause_seconds is None else pause_seconds, MAX_PAUSE_SECONDS)
            _log.warning("%s: the hub is busy (%s); asking again in %.1f s", dataset_label, status, pause_seconds)
            time.sleep(pause_seconds)
    raise AssertionError


def _iter_causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from: libraries wrap what the network said."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _get_http_status(error: BaseException) -> tuple[int | None, float | None]:
    """(HTTP status, seconds of Retry-After) of the answer behind an error, as far as there are."""
    for cause in _iter_causes(error):
        response: Any = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            retry_after = response.headers.get("Retry-After", "")
            return status, float(retry_after) if retry_after.replace(".", "", 1).isdigit() else None
    return None, None


def _kinds(error: BaseException) -> list[str]:
    return [type(cause).__name__ for cause in _iter_causes(error)]


def _away(error: BaseException) -> bool:
    """Whether the network or a busy hub is at fault, so that another time may help."""
    return not _is_permanent(error) and (
        _get_http_status(error)[0] in _BUSY_STATUSES
        or any(word in kind for kind in _kinds(error) for word in _NETWORK_ERROR_NAMES)
    )


def _gated(error: BaseException) -> bool:
    words = " ".join(str(cause) for cause in _iter_causes(error)).lower()
    return "GatedRepoError" in _kinds(error) or "is a gated dataset" in words


def _is_permanent(error: BaseException) -> bool:
    """Whether asking in another way would only be told the same."""
    return type(error).__name__ in _PERMANENT_ERROR_NAMES or any(text in str(error) for text in _PERMANENT_ERROR_TEXTS)


def _make_load_error(dataset_label: str, error: Exception) -> UserError:
    error_names = _kinds(error)
    if _away(error):
        return UserError(
            f"cannot be fetched ({error_names[0]}: {_get_first_line(error)})",
            location=dataset_label,
            hint="try again where there is a network",
            code=ExitCode.TEMPORARY,
        )
    hint = "check hf_dataset, hf_config, split and revision"
    if _gated(error):
        page = "/".join(dataset_label.partition("@")[0].split("/")[:2])
        hint = f"ask for access at datasets/{page}, then log in: hf auth login"
    elif "RepositoryNotFoundError" in error_names or "DatasetNotFoundError" in error_names:
        hint = "check hf_dataset; where the data set is private, log in: hf auth login"
    return UserError(
        f"cannot be loaded ({error_names[0]}: {_get_first_line(error)})",
        location=dataset_label,
        hint=hint,
        code=ExitCode.DATA_MISSING,
    )


def _get_first_line(error: BaseException) -> str:
    """The first line of what an error says: huggingface_hub's go on for a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(("Client Error.", "Server Error.")):
        return f"{lines[0]} {lines[1]}"
    return lines[0] if lines else type(error).__name__

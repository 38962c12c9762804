"""Data sets and tokenizers of the Hugging Face hub."""

import errno
import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from scoring.sources.arrow_rows import iter_table_rows
from scoring.sources.source import EntryDefinition, Row, Source
from suites.common.errors import ExitCode, UserError

T = TypeVar("T")

_log = logging.getLogger(__name__)

_BATCH_SIZE = 256

MAX_ATTEMPTS = 4

MAX_PAUSE_SECONDS = 60.0

_BUSY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

_NETWORK_ERROR_NAMES = (
    *("Timeout", "Connection", "Connect", "Network", "Offline"),
    *("ProtocolError", "ReadError", "IncompleteRead", "Unavailable"),
)
"""Parts of the names of errors that another attempt may not meet."""

_PERMANENT_ERROR_NAMES = frozenset(
    {"DatasetNotFoundError", "GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError", "DisabledRepoError"}
)

_PERMANENT_ERROR_TEXTS = ("BuilderConfig", "Unknown split", "Bad split", "trust_remote_code", "scripts are no longer supported")
"""datasets raises a bare ValueError for these."""

_LOCAL_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO})


def open_hub_source(definition: EntryDefinition) -> Source:
    """The rows of a data set of the hub at one commit.

    A folder in the hub's layout is read too. With ``streaming`` nothing is kept on disk. If streaming fails, the complete
    data set is fetched, with a warning. Raises UserError: data missing, or temporary for an error of the network.
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

    def rows(columns: Sequence[str]) -> Iterator[Row]:
        row_count = 0
        for streaming in (True, False) if definition.streaming else (False,):
            try:
                # The second attempt skips the rows that streaming has given.
                tables = _load_tables(definition, revision, streaming=streaming)
                loaded_rows = iter_table_rows(tables, columns, location=dataset_label)
                for row in itertools.islice(loaded_rows, row_count, None):
                    yield row
                    row_count += 1
            except Exception as error:
                if not streaming or _is_permanent(error):
                    raise _make_dataset_error(dataset_label, error) from error
                failure = f"failed after {row_count} rows"
                reason = _get_first_line(error)
                _log.warning("%s: streaming %s (%s); fetching the complete data set", dataset_label, failure, reason)
                description["streaming"] = f"{failure}: {reason}"
            else:
                return

    return Source(name=dataset_label, description=description, rows=rows)


def _load_tables(definition: EntryDefinition, revision: str | None, *, streaming: bool) -> Iterator[Any]:
    import datasets  # noqa: PLC0415  its import takes a second
    import datasets.utils.logging  # noqa: PLC0415  a submodule is an attribute of its package only after its import

    datasets.utils.logging.set_verbosity_error()
    datasets.utils.logging.disable_progress_bar()
    name = str(definition.hf_dataset)
    load_dataset = functools.partial(datasets.load_dataset, name, definition.hf_config, split=definition.split)
    dataset = _retry_while_busy(name, lambda: load_dataset(revision=revision, streaming=streaming))
    # Tables leave columns undecoded that nobody needs: images, and values that Python cannot have.
    return iter(dataset.with_format("arrow").iter(batch_size=_BATCH_SIZE))


def _resolve_revision(name: str, requested: str | None) -> str | None:
    """The commit that a branch or tag (default: the main branch) is at now, so that scored data can be fetched again."""
    import huggingface_hub  # noqa: PLC0415  only for fetching

    try:
        return _retry_while_busy(name, lambda: huggingface_hub.HfApi().dataset_info(name, revision=requested).sha)
    except Exception as error:
        raise _make_dataset_error(f"{name}@{requested}" if requested else name, error) from error


def fetch_model(identifier: str, patterns: Sequence[str], folder: Path, *, revision: str | None) -> str:
    """Fetch the files of a model repository that match ``patterns`` into ``folder``; returns their commit.

    ``revision`` is a branch, tag or commit; None is the main branch. Raises UserError: data missing, or temporary for an error of
    the network. Raises OSError for the disk.
    """
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415  only for fetching
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415  a submodule has to be imported by name

    disable_progress_bars()
    try:
        # One commit for all files: a branch may move between two of them.
        info = _retry_while_busy(identifier, lambda: HfApi().model_info(identifier, revision=revision))
        commit = str(info.sha)
        download = functools.partial(
            snapshot_download, identifier, revision=commit, allow_patterns=list(patterns), local_dir=str(folder)
        )
        _retry_while_busy(identifier, download)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _LOCAL_DISK_ERRNOS:
            raise
        hint = "give an id of the hub and its revision; for a private one, log in: hf auth login"
        if _is_gated(error):
            hint = _make_access_hint(identifier)
        raise _make_fetch_error(
            "model", identifier, error, hint=hint, retry_hint="try again on a machine with a network"
        ) from error
    if not any(folder.glob("*.safetensors")):
        hint = "take a revision with safetensors, such as refs/pr/N, or convert it and give its folder"
        raise UserError("has no safetensors", location=identifier, hint=hint, code=ExitCode.DATA_MISSING)
    return commit


def fetch_tokenizer(identifier: str, patterns: Sequence[str], *, revision: str | None, offline: bool, command: str) -> Path:
    """A folder with the files of a model repository that match ``patterns``, named after its commit.

    ``revision`` is a branch, tag or commit; None is the main branch. The files come from the hub or from its local cache.
    ``command`` is the command line for the hint. Raises UserError: data missing, or temporary for an error of the network.
    Raises OSError when the hub's local cache cannot be used.
    """
    # Submodules are imported by their full names: a package has only those as attributes that something imported before.
    from huggingface_hub import snapshot_download  # noqa: PLC0415  only for fetching
    from huggingface_hub.constants import HF_HUB_OFFLINE  # noqa: PLC0415  as above
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415  as above

    offline = offline or HF_HUB_OFFLINE
    retry_hint = f"on a machine with a network, run: {command}"
    disable_progress_bars()
    download = functools.partial(
        snapshot_download, identifier, revision=revision, allow_patterns=list(patterns), local_files_only=offline
    )
    try:
        return Path(_retry_while_busy(identifier, download))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _LOCAL_DISK_ERRNOS:
            raise
        if offline:
            message = "tokenizer is not in the data cache, and this job is offline"
            raise UserError(message, location=identifier, hint=retry_hint, code=ExitCode.DATA_MISSING) from error
        hint = "use a folder or an id of the hub; for a private one, log in: hf auth login"
        if _is_gated(error):
            hint = _make_access_hint(identifier)
        raise _make_fetch_error("tokenizer", identifier, error, hint=hint, retry_hint=retry_hint) from error


def _retry_while_busy(name: str, call: Callable[[], T]) -> T:
    """The result of ``call``, repeated with pauses while the hub is busy.

    The pause is the hub's Retry-After, else 1, 2 and 4 s.
    """
    for attempt in range(MAX_ATTEMPTS - 1):
        try:
            return call()
        except Exception as error:
            failure = _find_http_failure(error)
            if failure is None or failure.status not in _BUSY_STATUSES:
                raise
            pause_seconds = 2.0**attempt if failure.retry_after_seconds is None else failure.retry_after_seconds
            pause_seconds = min(pause_seconds, MAX_PAUSE_SECONDS)
            _log.warning("%s: the hub is busy (%s); next attempt in %.1f s", name, failure.status, pause_seconds)
            time.sleep(pause_seconds)
    return call()


def _iter_causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes: libraries wrap the errors of the network."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


class _HttpFailure(NamedTuple):
    """The hub's answer behind an error."""

    status: int
    retry_after_seconds: float | None


def _find_http_failure(error: BaseException) -> _HttpFailure | None:
    """The first HTTP answer among an error's causes."""
    for cause in _iter_causes(error):
        response: Any = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            retry_after = response.headers.get("Retry-After", "")
            return _HttpFailure(status, float(retry_after) if retry_after.replace(".", "", 1).isdigit() else None)
    return None


def _list_error_names(error: BaseException) -> list[str]:
    return [type(cause).__name__ for cause in _iter_causes(error)]


def _is_network_error(error: BaseException) -> bool:
    return any(part in type(error).__name__ for part in _NETWORK_ERROR_NAMES)


def _is_temporary(error: BaseException) -> bool:
    """Whether the network or a busy hub caused the error, so that another attempt may succeed."""
    failure = _find_http_failure(error)
    is_busy = failure is not None and failure.status in _BUSY_STATUSES
    return not _is_permanent(error) and (is_busy or any(map(_is_network_error, _iter_causes(error))))


def _is_gated(error: BaseException) -> bool:
    """Whether the repository needs the owner's permission."""
    text = " ".join(str(cause) for cause in _iter_causes(error)).lower()
    return "GatedRepoError" in _list_error_names(error) or "is a gated dataset" in text


def _is_permanent(error: BaseException) -> bool:
    """Whether another way to fetch would fail alike."""
    return type(error).__name__ in _PERMANENT_ERROR_NAMES or any(text in str(error) for text in _PERMANENT_ERROR_TEXTS)


def _make_access_hint(page: str) -> str:
    return f"request access at {page}, then log in: hf auth login"


def _make_dataset_error(dataset_label: str, error: Exception) -> UserError:
    """The error of a data set that cannot be fetched."""
    hint = "check hf_dataset, hf_config, split and revision"
    if _is_gated(error):
        hint = _make_access_hint("datasets/" + "/".join(dataset_label.partition("@")[0].split("/")[:2]))
    elif {"RepositoryNotFoundError", "DatasetNotFoundError"} & set(_list_error_names(error)):
        hint = "check hf_dataset; for a private data set, log in: hf auth login"
    return _make_fetch_error("data set", dataset_label, error, hint=hint, retry_hint="try again on a machine with a network")


def _make_fetch_error(subject: str, location: str, error: Exception, *, hint: str, retry_hint: str) -> UserError:
    """Temporary with ``retry_hint`` for errors of the network, else data missing with ``hint``."""
    root: BaseException = error
    code = ExitCode.DATA_MISSING
    if _is_temporary(error):
        # The network's error says more than the one that a library wrapped around it.
        root = next(filter(_is_network_error, _iter_causes(error)), error)
        hint, code = retry_hint, ExitCode.TEMPORARY
    message = f"{subject} cannot be fetched ({type(root).__name__}: {_get_first_line(root)})"
    return UserError(message, location=location, hint=hint, code=code)


def _get_first_line(error: BaseException) -> str:
    """The first line of an error's text; two lines where the first is only the HTTP status."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(("Client Error.", "Server Error.")):
        return f"{lines[0]} {lines[1]}"
    return lines[0] if lines else type(error).__name__

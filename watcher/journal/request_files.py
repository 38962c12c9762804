"""requests/: write, read and validate request files."""

import getpass
import math
import os
import re
import secrets
import socket
from pathlib import Path
from typing import NamedTuple

from suites.common.atomic_files import write_atomically
from suites.common.documents import DamagedDocument, is_utf8, read_struct
from suites.common.errors import ExitCode, UserError
from suites.contract.averages import MAX_MEMBERS, describe_unusable_weights
from suites.contract.encoding import encode_json
from suites.contract.paths import StatePaths
from watcher.core.request_types import MAX_STEPS_PER_REQUEST, Request

MAX_STEPS_PER_RANGE = 10_000

MAX_REQUESTS = 1000
"""Requests that one tick reads."""

MAX_REQUEST_BYTES = 1 << 24
"""Bytes of a request; an audit of 20,000 evaluations leaves one of 10 MB."""

MAX_ERRORS = 20
"""Files that are no requests and are named one by one."""

_STEP_NUMBER = re.compile(r"[0-9]{1,15}")

_DIRECTORY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def write_request(request: Request, paths: StatePaths) -> None:
    """Publish one request. UserError where the state folder cannot be written."""
    path = paths.requests / f"{request.id}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, encode_json(request))
    except OSError as error:
        hint = "make room, make it writable for you, or name another with state:"
        message = f"the request cannot be left there ({error.strerror})"
        raise UserError(message, location=path.parent, hint=hint, code=ExitCode.CANNOT_WRITE) from error


def remove_request(paths: StatePaths, request_id: str) -> str:
    """Delete an answered request; why its file stays, else an empty text.

    In a sticky folder only its owner can delete it, and nothing waits for that.
    """
    path = paths.requests / f"{request_id}.json"
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return f"{path}: answered, but cannot be removed ({error.strerror}); remove it"
    return ""


def make_request_id(now: float) -> str:
    """A unique request id that sorts by time."""
    return f"{int(now * 1000):014d}-{secrets.token_hex(4)}"


def get_user_at_host() -> str:
    """user@host, for the journal."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a uid without a name, as in containers
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def parse_steps(texts: tuple[str, ...]) -> tuple[int, ...]:
    """Steps from ``2000`` and ranges ``1000:50000:1000``, ascending.

    Both ends of a range count. UserError for other texts.
    """
    numbers: set[int] = set()
    for text in texts:
        parts = text.split(":")
        if len(parts) not in {1, 3} or not all(_STEP_NUMBER.fullmatch(part) for part in parts):
            raise UserError(
                f"{text!r} is not a step", location="STEP", hint="write 2000, or a range FIRST:LAST:EVERY, as 1000:50000:1000"
            )
        first, last, every = (int(parts[0]), int(parts[0]), 1) if len(parts) == 1 else (int(part) for part in parts)
        if not every or last < first:
            raise UserError(
                f"{text!r} holds no step", location="STEP", hint="write FIRST:LAST:EVERY with FIRST <= LAST and EVERY > 0"
            )
        # A typing error such as a missing zero would enqueue every step of a run.
        if (last - first) // every >= MAX_STEPS_PER_RANGE:
            raise UserError(
                f"{text!r} holds more than {MAX_STEPS_PER_RANGE} steps", location="STEP", hint="ask for fewer at a time"
            )
        numbers.update(range(first, last + 1, every))
        if len(numbers) > MAX_STEPS_PER_REQUEST:
            raise UserError(f"these are more than {MAX_STEPS_PER_REQUEST} steps", location="STEP", hint="ask for fewer at a time")
    return tuple(sorted(numbers))


class RequestedAverage(NamedTuple):
    """Members of an average that a person names."""

    steps: tuple[int, ...]
    """Ascending."""
    weights: tuple[float, ...]
    """Relative ones in the same order; empty: equal ones."""


def parse_average(average: str, weights: str | None) -> RequestedAverage:
    """Members from ``34000,36000`` and weights from ``1,2.5``. UserError for other texts."""
    texts = [text.strip() for text in average.split(",")]
    for text in texts:
        if not _STEP_NUMBER.fullmatch(text):
            raise UserError(f"{text!r} is not a step", location="--average", hint="write 34000,36000,38000,40000")
    steps = [int(text) for text in texts]
    if len(set(steps)) != len(steps) or not 2 <= len(steps) <= MAX_MEMBERS:  # noqa: PLR2004  one checkpoint is no average
        message = f"names {len(set(steps))} different steps" if len(set(steps)) == len(steps) else "names a step twice"
        raise UserError(message, location="--average", hint=f"name 2 to {MAX_MEMBERS} different steps")
    if weights is None:
        return RequestedAverage(tuple(sorted(steps)), ())
    try:
        numbers = [float(text) for text in weights.split(",")]
    except ValueError:
        raise UserError(f"{weights!r} is not a list of numbers", location="--weights", hint="write 1,1,2,4") from None
    if len(numbers) != len(steps) or not all(0 < number < math.inf for number in numbers):
        hint = f"give {len(steps)} positive numbers, one for each step of --average"
        raise UserError(f"{weights!r} does not fit --average", location="--weights", hint=hint)
    if mistake := describe_unusable_weights(numbers):
        raise UserError(mistake, location="--weights", hint="leave that step out, or write weights such as 1,2,4")
    ordered = sorted(zip(steps, numbers, strict=True))
    return RequestedAverage(tuple(step for step, _ in ordered), tuple(number for _, number in ordered))


def parse_directory_name(text: str, *, is_new: bool = True) -> str:
    """A directory name given by a person; ``is_new``: for a new evaluation.

    UserError where it is invalid, or where a new one could clash with the watcher's own names.
    """
    if not _DIRECTORY_NAME.fullmatch(text) or len(text) > 100:  # noqa: PLR2004  it is part of file and job names
        hint = "use up to 100 letters, digits, _ . and -, beginning with a letter or digit"
        raise UserError(f"{text!r} cannot be the name of a folder", location="--name", hint=hint)
    # A name of the watcher's own form would collide with a later evaluation.
    if is_new and re.fullmatch(r"reference_.*|step_\d+(_avg\d.*)?(_from_.*)?", text):
        raise UserError(f"{text!r} is like the names that the watcher gives", location="--name", hint="let it begin otherwise")
    return text


def _find_impossible_value(request: Request, file_name: str) -> str:
    """A value that no command writes, as text; empty without one."""
    if file_name != f"{request.id}.json":
        return f"its id is {request.id!r}, which is not its name"
    # Names from a file become paths, so none may lead out of the results folder.
    for event in (event for amendment in request.amendments for event in amendment.events):
        directory = event.get("directory", "step")
        if not isinstance(directory, str) or "/" in directory or directory in {"", ".", ".."}:
            return f"{directory!r} is no name of a folder of results"
    texts = (request.stage, request.source or "", request.checkpoint or "", request.by, request.kind, request.reason)
    if not all(is_utf8(text) for text in texts):
        return "it holds text that is not UTF-8"
    if request.checkpoint is not None and not Path(request.checkpoint).is_absolute():
        return f"checkpoint {request.checkpoint!r} is no absolute path"
    if request.average and (list(request.average) != sorted(set(request.average)) or request.average[-1:] != request.steps):
        return f"its average {request.average} is not ascending up to its step"
    mistake = describe_unusable_weights(request.weights)
    if mistake or len(request.weights) not in {0, len(request.average)}:
        shown = ", ".join(f"{weight:g}" for weight in request.weights[:10])
        return f"its weights {shown} do not fit its average" + (f": it {mistake}" if mistake else "")
    if request.name is not None:
        try:
            parse_directory_name(request.name, is_new=request.kind == "enqueue")
        except UserError as error:
            return error.message
    return ""


def read_requests(paths: StatePaths) -> tuple[list[Request], list[str]]:
    """Request files, oldest first, and errors of unreadable ones.

    At most ``MAX_REQUESTS`` of them; the others follow once these are answered.
    """
    requests: list[Request] = []
    errors: list[str] = []
    try:
        names = sorted(name for name in os.listdir(paths.requests) if name.endswith(".json") and not name.startswith("."))  # noqa: PTH208
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"{paths.requests}: requests cannot be listed ({error.strerror}); make it a readable folder"]
    # One odd file must not hide the requests beside it: anybody with access may leave anything in this folder.
    for name in names:
        if len(requests) == MAX_REQUESTS:
            break
        path = paths.requests / name
        try:
            request = read_struct(path, Request, MAX_REQUEST_BYTES)
            reason = _find_impossible_value(request, name)
        except FileNotFoundError:
            if not path.is_symlink():
                continue  # answered since it was listed
            reason = "a link to nothing"
        except DamagedDocument as error:
            reason = f"not a request ({error.reason})"
        except OSError as error:
            reason = f"not a request ({error.strerror})"
        if not reason:
            requests.append(request)
        elif len(errors) < MAX_ERRORS:
            errors.append(f"{path}: {reason}; remove it and ask again")
        elif len(errors) == MAX_ERRORS:
            errors.append(f"{paths.requests}: more of its files are no requests; remove them")
    # Requests are answered in the order in which people made them.
    return sorted(requests, key=lambda request: (request.at, request.id)), errors

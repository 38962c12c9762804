"""What a person asks for, left where the daemon finds it: a file each in ``requests/``, daemon or no daemon."""

import getpass
import os
import re
import secrets
import socket
from pathlib import Path

import msgspec

from suites.common.atomic_files import publish
from suites.common.errors import Exit, Problem
from suites.contract.encoding import encode
from suites.contract.paths import StatePaths
from watcher.config.settings import Config, Stage
from watcher.core.request_types import Ask

MOST_STEPS = 10_000

_STEP = re.compile(r"[0-9]{1,15}")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def leave(ask: Ask, paths: StatePaths) -> None:
    """Publish one request. Problem where the state folder cannot be written."""
    path = paths.requests / f"{ask.id}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(path, encode(ask))
    except OSError as error:
        todo = "make room, make it writable for you, or name another with state:"
        what = f"the request cannot be left there ({error.strerror})"
        raise Problem(what, where=path.parent, todo=todo, code=Exit.CANNOT_WRITE) from error


def new_id(now: float) -> str:
    """A name for a request that nobody else gives, in order of time."""
    return f"{int(now * 1000):014d}-{secrets.token_hex(4)}"


def me() -> str:
    """user@host, for the journal."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a uid without a name, as in containers
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def steps(words: tuple[str, ...]) -> tuple[int, ...]:
    """``2000`` and ranges ``1000:50000:1000`` (both ends included), each once, ascending. Problem where a word is neither."""
    found: set[int] = set()
    for word in words:
        parts = word.split(":")
        if len(parts) not in {1, 3} or not all(_STEP.fullmatch(part) for part in parts):
            raise Problem(
                f"{word!r} is not a step", where="STEP", todo="write 2000, or a range FIRST:LAST:EVERY, as 1000:50000:1000"
            )
        first, last, every = (int(parts[0]), int(parts[0]), 1) if len(parts) == 1 else (int(part) for part in parts)
        if not every or last < first:
            raise Problem(f"{word!r} holds no step", where="STEP", todo="write FIRST:LAST:EVERY with FIRST <= LAST and EVERY > 0")
        if (last - first) // every >= MOST_STEPS:
            raise Problem(f"{word!r} holds more than {MOST_STEPS} steps", where="STEP", todo="ask for fewer at a time")
        found.update(range(first, last + 1, every))
    return tuple(sorted(found))


def name(word: str) -> str:
    """A directory's name that a person gives. Problem where it is none, or could be taken for the watcher's own."""
    if not _NAME.fullmatch(word) or len(word) > 100:  # noqa: PLR2004  it is part of file and job names
        todo = "use up to 100 letters, digits, _ . and -, beginning with a letter or digit"
        raise Problem(f"{word!r} cannot be the name of a folder", where="--name", todo=todo)
    if re.fullmatch(r"step_\d+(_from_.*)?", word):
        raise Problem(f"{word!r} is like the names that the watcher gives", where="--name", todo="let it begin otherwise")
    return word


def bridge(stage: Stage, config: Config) -> tuple[str, tuple[int, ...]]:
    """(source stage, steps) of a stage's bridge as the config has it. Problem where the config does not tell the step."""
    where = f"stages.{stage.name}"
    if stage.bridge is None:
        raise Problem("has no bridge", where=where, todo="write bridge: {from: STAGE, step: N}, or use --from STAGE with a step")
    step = stage.bridge.step if stage.bridge.step is not None else config.stages[stage.bridge.source].last
    if step is None:
        raise Problem("the step of its bridge is not known", where=where, todo="give it: enqueue STAGE STEP --bridge")
    return stage.bridge.source, (step,)


def _impossible(ask: Ask, file_name: str) -> str:
    """What no command of ours would have written; empty where nothing is wrong."""
    if file_name != f"{ask.id}.json":
        return f"its id is {ask.id!r}, which is not its name"
    for event in (event for amendment in ask.amendments for event in amendment.events):
        directory = event.get("directory", "step")
        if not isinstance(directory, str) or "/" in directory or directory in {"", ".", ".."}:
            return f"{directory!r} is no name of a folder of results"
    if any(step < 0 for step in ask.steps):
        return f"step {min(ask.steps)} is below zero"
    if ask.checkpoint is not None and not Path(ask.checkpoint).is_absolute():
        return f"checkpoint {ask.checkpoint!r} is no absolute path"
    if ask.name is not None:
        try:
            name(ask.name)
        except Problem as problem:
            return problem.what
    return ""


def asks(paths: StatePaths) -> tuple[list[Ask], list[str]]:
    """Requests from the command line, oldest first, and what is wrong with those that cannot be read."""
    found, wrong = [], []
    try:
        names = sorted(name for name in os.listdir(paths.requests) if name.endswith(".json") and not name.startswith("."))  # noqa: PTH208
    except FileNotFoundError:
        return [], []
    for name in names:
        if not (paths.requests / name).is_file():  # a pipe would be waited for, for ever
            wrong.append(f"{paths.requests / name}: not a request (no file); remove it and ask again")
            continue
        try:
            ask = msgspec.json.decode((paths.requests / name).read_bytes(), type=Ask)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
            wrong.append(f"{paths.requests / name}: not a request ({error}); remove it and ask again")
        else:
            trouble = _impossible(ask, name)
            if trouble:
                wrong.append(f"{paths.requests / name}: {trouble}; remove it and ask again")
            else:
                found.append(ask)
    return sorted(found, key=lambda ask: (ask.at, ask.id)), wrong

"""Requests left by the command line, and audit amendments."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from watcher.core.field_types import FileName, PathText, Step, UnixTime

MAX_STEPS_PER_REQUEST = 20_000
"""More steps than any run has checkpoints: a typing error, or a file that no command wrote."""


class Amendment(msgspec.Struct, frozen=True, kw_only=True):
    """Events that make the journal agree with disk and queue.

    They are dropped where the journal changed after the audit.
    """

    key: str
    state: str | None
    """The state in the journal at the audit; None: it had no such evaluation."""
    since: float | None = None
    events: tuple[Mapping[str, Any], ...]
    """Each an ``event`` with its fields."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A command-line request: ``requests/<id>.json``.

    Any login node may write one, with or without a running daemon.
    """

    id: FileName
    at: UnixTime
    kind: str
    """``enqueue``, ``retry``, ``cancel``, or ``amend`` by an audit."""
    stage: str = ""
    steps: Annotated[tuple[Step, ...], msgspec.Meta(max_length=MAX_STEPS_PER_REQUEST)] = ()
    amendments: tuple[Amendment, ...] = ()
    source: str | None = None
    """Whose checkpoint: another stage. None: the stage's own."""
    checkpoint: PathText | None = None
    """A folder outside the schedule."""
    name: str | None = None
    """The directory's name, given with ``checkpoint``."""
    bridge: bool = False
    force: bool = False
    by: str = ""
    """user@host, for the journal."""
    schema: int = 1

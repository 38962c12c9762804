"""Requests left by the command line, and audit amendments."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from suites.contract.averages import MAX_MEMBERS, normalize_weights
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
    """``enqueue``, ``retry``, ``cancel``, ``pause``, ``resume``, or ``amend`` by an audit."""
    stage: str = ""
    """Empty with ``pause`` and ``resume``: every stage."""
    steps: Annotated[tuple[Step, ...], msgspec.Meta(max_length=MAX_STEPS_PER_REQUEST)] = ()
    amendments: tuple[Amendment, ...] = ()
    source: str | None = None
    """Whose checkpoint: another stage. None: the stage's own."""
    checkpoint: PathText | None = None
    """A folder outside the schedule."""
    name: str | None = None
    """The directory's name, given with ``checkpoint``."""
    average: Annotated[tuple[Step, ...], msgspec.Meta(max_length=MAX_MEMBERS)] = ()
    """Steps whose weighted mean is meant, ascending; the last is the one of ``steps``. Empty: the checkpoint itself."""
    weights: Annotated[tuple[float, ...], msgspec.Meta(max_length=MAX_MEMBERS)] = ()
    """Relative weights of ``average``, in its order; empty: equal ones."""
    bridge: bool = False
    force: bool = False
    by: str = ""
    """user@host, for the journal."""
    reason: str = ""
    """Of ``pause``, in a person's words."""
    schema: int = 1

    def list_average(self) -> list[tuple[int, float]]:
        """(step, weight) of the average's members, ascending; the weights are together 1."""
        weights = normalize_weights(self.weights or (1.0,) * len(self.average))
        return list(zip(self.average, weights, strict=True))

    def means(
        self,
        checkpoint: str,
        source: str,
        *,
        default_source: str,
        custom_directory: bool = False,
        average: Sequence[tuple[int, float]] = (),
    ) -> bool:
        """Whether an evaluation of one of its steps may be meant, where it has no ``name``.

        Of several, the stage's own one is. ``default_source``: whose checkpoint is meant where none is named. ``average``: steps
        and weights of an average.
        """
        # An average is meant by its members or its name alone.
        if [tuple(member) for member in average] != self.list_average():
            return False
        # A checkpoint's path is unique, so it decides before the source.
        if self.checkpoint is not None:
            return checkpoint == self.checkpoint
        if self.source is not None:
            return source == self.source
        # Only enqueue makes evaluations: the others mean what there is.
        return self.kind != "enqueue" or (source == default_source and not custom_directory)

"""Averages of checkpoints: members, weights, names and fingerprint."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

MAX_MEMBERS = 100
"""More members than any average needs: a typing error."""

MIN_WEIGHT = 1e-9
"""Smallest share of a member: less changes no weight of a model, and is lost when it is written down."""

Weight = Annotated[float, msgspec.Meta(gt=0, le=1)]


class AverageStep(msgspec.Struct, frozen=True, kw_only=True):
    """One member of an average as the watcher knows it."""

    step: Annotated[int, msgspec.Meta(ge=0, le=10**18)]
    weight: Weight
    """Of all members together 1."""
    checkpoint: Annotated[str, msgspec.Meta(pattern=r"\A[^\x00]*\Z", max_length=4096)]
    """The member's folder."""


class AverageMember(msgspec.Struct, frozen=True, kw_only=True):
    """One member of an average as a scoring job reads it."""

    step: int
    weight: float
    checkpoint: str
    fingerprint: str
    pinned: str | None = None
    """Folder of hard links, read after the member's own folder is deleted."""

    def resolve_folder(self) -> Path:
        """The member's folder, or its pinned copy after the folder is deleted."""
        return resolve_pinned_folder(self.checkpoint, self.pinned)


def resolve_pinned_folder(checkpoint: str, pinned: str | None) -> Path:
    """A checkpoint's folder, or its pinned copy after the folder is deleted."""
    folder = Path(checkpoint)
    is_there = any((folder / name).exists() for name in ("config.yaml", "config.json"))
    return folder if pinned is None or is_there else Path(pinned)


def normalize_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """The weights divided by their sum, so that equal averages have equal weights."""
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def decay_weights(count: int, decay: float) -> tuple[float, ...]:
    """Weights of ``count`` members, oldest first: each has ``decay`` times the next one's; together 1."""
    return normalize_weights([decay**age for age in reversed(range(count))])


def describe_unusable_weights(weights: Sequence[float]) -> str:
    """Why relative weights cannot be an average's, beginning with a verb; empty for usable ones."""
    if not all(0 < weight < math.inf for weight in weights):
        return "holds a weight that is not positive"
    try:
        smallest = min(normalize_weights(weights), default=1.0)
    except OverflowError:
        return "holds weights whose sum is not finite"
    return "" if smallest >= MIN_WEIGHT else f"gives a checkpoint {smallest:g} of the average, and the least is {MIN_WEIGHT:g}"


def format_average_name(members: Sequence[AverageStep], *, is_plain: bool) -> str:
    """``avg4``, or ``avg4_1a2b3c`` with a digest of steps and weights.

    ``is_plain``: its weights are equal, and its members are the newest checkpoints at or before its step.
    """
    name = f"avg{len(members)}"
    if is_plain:
        return name
    lines = "".join(f"{member.step} {member.weight!r}\n" for member in members)
    return f"{name}_{hashlib.sha256(lines.encode()).hexdigest()[:6]}"


def has_equal_weights(members: Sequence[AverageStep]) -> bool:
    """Whether every member has the same weight."""
    return len({member.weight for member in members}) == 1


def compute_average_fingerprint(contents: Iterable[tuple[str, float]]) -> str:
    """SHA-256 over the (fingerprint, weight) of all members, in their order."""
    lines = "".join(f"{fingerprint} {weight!r}\n" for fingerprint, weight in contents)
    return hashlib.sha256(lines.encode()).hexdigest()

"""The kinds of reason for which an evaluation waits."""

import enum


class ReasonKind(enum.StrEnum):
    """What a reason is about: decisions depend on this, never on text."""

    CHECKPOINT = "checkpoint"
    """The checkpoint is not complete, unreadable or deleted."""
    DATA = "data"
    """The data cache lacks entries."""
    SUBMIT_LIMIT = "submit_limit"
    """sbatch takes no more for now."""
    RESULTS = "results"
    """The results folder cannot be written."""
    CONFIRMING_END = "confirming_end"
    """The job seems to have ended, which is being confirmed."""
    SETTINGS = "settings"
    """The sequence length is unknown."""
    TOKENIZER = "tokenizer"
    """The tokenizer is unknown, not cached, or another one than the stage's."""
    OTHER_OWNER = "other_owner"
    """The attempt belongs to another user, cluster or executor."""
    OTHER_RUN = "other_run"
    """Another training run wrote the checkpoint."""
    REFUSED = "refused"
    """sbatch refuses these options."""
    UNKNOWN_OUTCOME = "unknown_outcome"
    """Whether sbatch made a job is being searched."""
    BUDGET = "budget"
    PAUSED = "paused"
    OTHER = "other"
    """Decides nothing; also a kind that a newer version wrote."""

    @classmethod
    def _missing_(cls, _value: object) -> "ReasonKind":
        # A kind of a newer version decides nothing here, and must not make the journal unreadable.
        return cls.OTHER


def join_hint(reason: str, hint: str) -> str:
    """Reason and hint as one text for people."""
    return f"{reason.rstrip('.')}. {hint}" if hint else reason

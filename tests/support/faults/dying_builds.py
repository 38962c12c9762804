"""A build of entries that ends its process as the entry's definition says."""

import os
import signal

from scoring.data.cache_entries import EntryProgress
from suites.common.errors import ExitCode, UserError


def build_or_die(entry, progress) -> str:
    """``die``: a signal's name or an exit code; ``refuse``: the message of an error."""
    progress(EntryProgress(entry.name, 1, 1, 1, 1))
    death = entry.definition.get("die")
    if isinstance(death, str):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.Signals[death])
    elif death is not None:
        os._exit(death)
    if "refuse" in entry.definition:
        raise UserError(entry.definition["refuse"], location=entry.name, hint="mend it", code=ExitCode.DATA_MISSING)
    return f"{entry.name} built"

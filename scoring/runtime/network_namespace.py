"""Runs a scoring command without any network.

Imports nothing heavy: the child does.
"""

import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

NETWORK_CUT_OFF = "cut off"

_UNSHARE_COMMANDS = (("unshare", "--net"), ("unshare", "--map-root-user", "--net"))
"""For root, and for other users where user namespaces are permitted."""


class IsolatedRun(NamedTuple):
    """How a command ended, or why it was not run."""

    exit_code: int | None
    """None: it was not run."""
    reason: str = ""
    """Why it was not run."""


def run_in_empty_network(argv: Sequence[str]) -> IsolatedRun:
    """Run ``python -m scoring ARGV`` in an empty network namespace.

    Tried as root first, then in a user namespace. Not every node permits one of them.
    """
    reason = "there is no `unshare`"
    for prefix in _UNSHARE_COMMANDS:
        try:
            probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
        except OSError:
            continue
        if probe.returncode == 0:
            command = [*prefix, sys.executable, "-P", "-m", "scoring", *argv]
            return IsolatedRun(subprocess.run(command, check=False).returncode)
        reason = " ".join(probe.stderr.split()) or reason
    return IsolatedRun(None, f"not cut off: {reason}")

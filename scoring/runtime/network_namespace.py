"""Running a command of ours where there is no network at all. Imports nothing heavy: the child does."""

import subprocess
import sys
from collections.abc import Sequence

NETWORK_CUT_OFF = "cut off"

_UNSHARE_COMMANDS = (("unshare", "--net"), ("unshare", "--map-root-user", "--net"))
"""As root, and as anybody where user namespaces are permitted."""


def run_in_empty_network(argv: Sequence[str]) -> int | str:
    """The exit code of ``python -m scoring ARGV`` in a network namespace with nothing in it; why not, where that cannot be."""
    reason = "no `unshare` here"
    for prefix in _UNSHARE_COMMANDS:
        try:
            probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
        except OSError:
            continue
        if probe.returncode == 0:
            return subprocess.run([*prefix, sys.executable, "-m", "scoring", *argv], check=False).returncode
        reason = " ".join(probe.stderr.split()) or reason
    return f"not cut off: {reason}"

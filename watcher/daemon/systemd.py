"""What systemd is told of a service of Type=notify: that it is ready, what it does, that it lives, that it ends.

The protocol of sd_notify(3): lines of NAME=value in one datagram to the socket that $NOTIFY_SOCKET names, a path or, with
a leading @, an abstract name. Without one (tmux, cron) nothing is told to anybody.
"""

import os
import socket
from collections.abc import Mapping

_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

LONG_TICK = 600.0
"""Seconds that a tick may take where Slurm answers nothing before its commands' time limits."""


class Service:
    """The way to whoever supervises this process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self.address = "\0" + name[1:] if name.startswith("@") else name
        watches = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "")
        self.watchdog = int(microseconds) / 1e6 if watches and microseconds.isdigit() else None
        """Seconds without a sign of life after which this process is ended and started again; None: never."""

    def ready(self, poll: float) -> str:
        """Everything is open. A watchdog that is shorter than three polls of ``poll`` seconds and a slow tick is made longer."""
        told = {"READY": "1"}
        least = 3 * poll + LONG_TICK
        if self.watchdog is not None and self.watchdog < least:
            told["WATCHDOG_USEC"] = str(round(least * 1e6))
        return self.tell(**told)

    def ticked(self, words: str) -> str:
        """A good tick ended. ``words`` is what `systemctl status` shows."""
        return self.tell(WATCHDOG="1", STATUS=" ".join(words.split()))

    def stopping(self) -> str:
        """The end begins."""
        return self.tell(STOPPING="1")

    def tell(self, **fields: str) -> str:
        """Send ``fields``; in words, why that could not be done."""
        if not self.address:
            return ""
        message = "".join(f"{name}={value}\n" for name, value in fields.items()).encode(errors="replace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as away:
                away.setblocking(False)
                away.sendto(message, self.address)
        except OSError as error:
            return f"$NOTIFY_SOCKET cannot be told: {error}"
        return ""


def without(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` for children: what they do is not what this service does."""
    return {name: value for name, value in environ.items() if name not in _OURS}

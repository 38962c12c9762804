"""sd_notify messages of a Type=notify service.

The protocol of sd_notify(3): lines of NAME=value in one datagram to the socket in $NOTIFY_SOCKET. The socket is a path or,
with a leading @, an abstract name. Without one (tmux, cron) nothing is sent.
"""

import os
import socket
from collections.abc import Mapping

_SYSTEMD_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

LONG_TICK_SECONDS = 600.0
"""Seconds that a tick may take while each Slurm command runs into its time limit."""


class SystemdNotifier:
    """The socket of the service manager of this process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self.address = "\0" + name[1:] if name.startswith("@") else name
        is_watched = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(microseconds) / 1e6 if is_watched and microseconds.isdigit() else None
        """Seconds without a message after which systemd restarts this process; None: never."""

    def notify_ready(self, poll_seconds: float) -> str:
        """Report that the watcher is ready.

        A watchdog shorter than three polls and a slow tick is made longer.
        """
        fields = {"READY": "1"}
        # A restart in the middle of a slow tick would repeat that slow tick for ever.
        min_watchdog_seconds = 3 * poll_seconds + LONG_TICK_SECONDS
        if self.watchdog_seconds is not None and self.watchdog_seconds < min_watchdog_seconds:
            fields["WATCHDOG_USEC"] = str(round(min_watchdog_seconds * 1e6))
        return self.send(**fields)

    def notify_tick(self, status: str) -> str:
        """Report a successful tick. ``status`` is shown by `systemctl status`."""
        return self.send(WATCHDOG="1", STATUS=" ".join(status.split()))

    def notify_stopping(self) -> str:
        """Report that the watcher is stopping."""
        return self.send(STOPPING="1")

    def send(self, **fields: str) -> str:
        """Send ``fields``; returns why that failed, or an empty text."""
        if not self.address:
            return ""
        message = "".join(f"{name}={value}\n" for name, value in fields.items()).encode(errors="replace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagram_socket:
                # A supervisor that does not read must not stop the ticks.
                datagram_socket.setblocking(False)
                datagram_socket.sendto(message, self.address)
        except OSError as error:
            return f"cannot write to $NOTIFY_SOCKET: {error}"
        return ""


def strip_systemd_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` for children, which must not report to systemd."""
    return {name: value for name, value in environ.items() if name not in _SYSTEMD_VARIABLES}

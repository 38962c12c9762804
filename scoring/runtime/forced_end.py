"""Ends a process that is asked to end and does not, also from within a long call of a library."""

import os
import signal
import socket
import threading
from multiprocessing.connection import wait
from multiprocessing.process import parent_process

END_GRACE_SECONDS = 5.0
"""From the request until the process is ended: it may finish its document and remove its temporary folder."""

FORCED_END_CODE = 128 + signal.SIGTERM
"""Exit code of a process that was ended so."""

_CHECK_SECONDS = 1.0

_END_SIGNALS = frozenset({signal.SIGTERM, signal.SIGUSR1})


def end_when_asked() -> None:
    """From now on, end soon after SIGTERM, SIGUSR1 or the end of the parent process.

    Handlers of the signals must be set. Only the main thread of a process of multiprocessing may call this.
    """
    parent = parent_process()
    if parent is None:
        raise RuntimeError("multiprocessing did not start this process")
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    # The main thread may be in a call that runs no handler of Python: a thread waits for what the signals write.
    thread = threading.Thread(target=_end_after_request, args=(reader, parent.sentinel, os.getppid()), daemon=True)
    thread.start()


def _end_after_request(reader: socket.socket, sentinel: int, parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        ready = wait([reader, sentinel], timeout=_CHECK_SECONDS)
        if sentinel in ready or (reader in ready and _END_SIGNALS.intersection(reader.recv(4096))):
            break
    threading.Event().wait(END_GRACE_SECONDS)
    os._exit(FORCED_END_CODE)

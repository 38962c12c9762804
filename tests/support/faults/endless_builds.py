"""A build of entries that never looks whether it must stop; as a program, a parent of such builds."""

import os
import sys
import time
from pathlib import Path

from scoring.data.entry_processes import PrefillEntry, build_in_processes
from scoring.runtime.stop import StopRequest


def build_endlessly(entry, _progress) -> str:
    """``pids``: the folder where the process leaves its id; ``way``: what it does from then on."""
    (Path(entry.definition["pids"]) / str(os.getpid())).touch()
    while entry.definition["way"] == "busy":
        pass
    time.sleep(600)
    return "built"


if __name__ == "__main__":
    ENTRIES = [
        PrefillEntry(tier="tier2_ppl", name=way, definition={"pids": sys.argv[1], "way": way}) for way in ("busy", "asleep")
    ]
    STOP = StopRequest()
    STOP.listen()
    build_in_processes(build_endlessly, ENTRIES, jobs=2, update=print, report=print, stop=STOP)

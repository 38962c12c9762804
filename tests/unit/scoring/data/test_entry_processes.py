"""Entries are built in processes: one that dies is one line with its code, and the others are built."""

import pytest

from scoring.data.entry_processes import PrefillEntry, build_in_processes
from scoring.runtime.stop import StopRequest
from suites.common.errors import ExitCode, UserError
from support.faults.dying_builds import build_or_die

pytestmark = pytest.mark.scoring

DEATHS = {  # how a process ends -> what is said of it, and the code
    "SIGSEGV": ("was ended by SIGSEGV; a library crashes on that data", ExitCode.CANNOT_SCORE),
    "SIGABRT": ("was ended by SIGABRT; a library crashes on that data", ExitCode.CANNOT_SCORE),
    "SIGFPE": ("was ended by SIGFPE; a library crashes on that data", ExitCode.CANNOT_SCORE),
    "SIGKILL": ("was ended by SIGKILL; if memory is short, run it again", ExitCode.TEMPORARY),
    "SIGBUS": ("was ended by SIGBUS; if memory is short, run it again", ExitCode.TEMPORARY),
    3: ("ended with exit code 3; report it as a bug", ExitCode.BUG),
    0: ("ended with exit code 0; report it as a bug", ExitCode.BUG),
}


def build_all(definitions, *, jobs):
    """Lines and errors of the entries by their names, in one run."""
    entries = [PrefillEntry(tier="tier2_ppl", name=name, definition=definition) for name, definition in definitions.items()]
    outcomes, updates = [], []
    build_in_processes(build_or_die, entries, jobs=jobs, update=updates.append, report=outcomes.append, stop=StopRequest())
    assert {update.name for update in updates} <= set(definitions)
    return {str(outcome).partition(" ")[0].rstrip(":"): outcome for outcome in outcomes}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_process_that_dies_is_one_line_and_every_other_entry_is_built(jobs):
    definitions = {"first": {}, "refused": {"refuse": "no rows"}}
    definitions |= {f"dies-{death}": {"die": death, "hf_dataset": "acme/odd"} for death in DEATHS}
    outcomes = build_all({**definitions, "last": {}}, jobs=jobs)
    assert set(outcomes) == {*definitions, "last"}
    assert (outcomes["first"], outcomes["last"]) == ("first built", "last built")
    assert (str(outcomes["refused"]), outcomes["refused"].code) == ("refused: no rows; mend it", ExitCode.DATA_MISSING)
    for death, (said, code) in DEATHS.items():
        error = outcomes[f"dies-{death}"]
        assert str(error).startswith(f"dies-{death}: the process that read acme/odd {said}")
        assert error.code == code


def test_a_local_file_that_ends_its_process_is_named():
    (error,) = build_all({"ours": {"die": "SIGSEGV", "data_files": "/data/a.parquet"}}, jobs=3).values()
    assert str(error).startswith("ours: the process that read /data/a.parquet was ended by SIGSEGV")


def test_a_stop_ends_all_processes():
    stop = StopRequest()
    stop.signal_name = "SIGTERM"
    entries = [PrefillEntry(tier="tier2_ppl", name="a", definition={})]
    with pytest.raises(UserError, match="stopped by SIGTERM"):
        build_in_processes(build_or_die, entries, jobs=1, update=print, report=print, stop=stop)

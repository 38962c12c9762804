"""One entry, many that want it: built once where leases work, whole where no lock works at all, and after every kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from scoring.cli.cache import cache
from scoring.data import cache_entries as entries
from scoring.data.cache_entries import find_damage, obtain_entry
from support.runs.prefill_process import ROOT

pytestmark = pytest.mark.scoring

MANY = 32

# Forks its children: Python and filelock are imported once. Each child builds 64 KiB from its own number, in two writes, so
# that a mixture of two builders' work would show.
CROWD = """
import json, os, sys, time
from pathlib import Path
from scoring.data import cache_entries as entries

folder, log, many, locks = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if locks == "none":
    import fcntl
    fcntl.flock = fcntl.lockf = lambda *_: None
    entries.SoftFileLease.acquire = lambda self, *_, **__: self
    entries.SoftFileLease.release = lambda self, *_, **__: None

def one(number):
    def build(private):
        begun = time.monotonic()
        with (private / "data").open("wb") as stream:
            stream.write(bytes([number]) * 32768)
            stream.flush()
            time.sleep(0.05)
            stream.write(bytes([number]) * 32768)
        with log.open("a") as lines:
            lines.write(json.dumps({"built": [begun, time.monotonic()], "by": number}) + "\\n")
        return {"data_key": str(number)}

    meta = entries.obtain_entry(folder, build)
    read = entries.file_sha256(folder / "data")
    with log.open("a") as lines:
        lines.write(json.dumps({"read": read, "meta": meta["files"]["data"]["sha256"], "by": number}) + "\\n")

ready, go = os.pipe()
children = []
for number in range(many):
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(ready, 1)
        try:
            one(number)
        except BaseException as error:
            print(number, repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def crowd(tmp_path: Path, locks: str) -> tuple[Path, list[dict]]:
    folder, log = tmp_path / "ppl_slices" / "s" / "key", tmp_path / "log"
    argv = [sys.executable, "-c", CROWD, str(folder), str(log), str(MANY), locks]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder, [json.loads(line) for line in log.read_text().splitlines()]


def test_many_that_want_one_entry_build_it_once_and_read_the_same(tmp_path):
    folder, log = crowd(tmp_path, "leases")
    assert len([line for line in log if "built" in line]) == 1
    read = [line for line in log if "read" in line]
    assert len(read) == MANY
    assert len({line["read"] for line in read} | {line["meta"] for line in read}) == 1
    assert [path.name for path in folder.parent.iterdir()] == ["key"]


def test_where_no_lock_works_many_build_and_all_read_one_whole_entry(tmp_path):
    folder, log = crowd(tmp_path, "none")
    built = [line["built"] for line in log if "built" in line]
    assert any(one[0] < other[1] and other[0] < one[1] for one in built for other in built if one is not other)
    read = [line for line in log if "read" in line]
    assert len(read) == MANY
    assert len({line["read"] for line in read} | {line["meta"] for line in read}) == 1
    assert find_damage(folder) == []
    assert [path.name for path in folder.parent.iterdir()] == ["key"]


# Kills itself at the step-th of its steps: before each opening, write, fsync, link, rename, mkdir and removal.
VICTIM = """
import os, signal, sys
from pathlib import Path
from scoring.data import cache_entries as entries

folder, last = Path(sys.argv[1]), int(sys.argv[2])
steps = 0
entries.LEASE_SECONDS = 0.5

def step(what, about=""):
    global steps
    steps += 1
    if steps == last:
        print(what, about, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

def watched(event, args):
    ours = isinstance(args[0], (str, Path)) and str(folder.parent) in str(args[0]) if args else False
    if event == "open" and ours and args[2] & (os.O_WRONLY | os.O_RDWR):
        step("open", args[0])
    elif event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link"):
        step(event, args[0])

def stepping(name):
    real = getattr(os, name)
    def stepped(*args, **kwargs):
        step(name)
        return real(*args, **kwargs)
    setattr(os, name, stepped)

for name in ("write", "fsync"):
    stepping(name)
sys.addaudithook(watched)

def build(private):
    with (private / "data").open("wb", buffering=0) as stream:
        for half in (b"a" * 4096, b"b" * 4096):
            step("write", "data")
            stream.write(half)
    return {"data_key": "k"}

entries.obtain_entry(folder, build, refresh=sys.argv[3] == "refresh")
print("done", steps, flush=True)
"""


def victims(folder_of, how: str):
    """Kill a builder at its first step, its second and so on until one gets through; yields (folder, where it was killed)."""
    step, running = 1, []
    while True:
        for number in range(step, step + 4):  # four at a time: most of their time is spent importing
            argv = [sys.executable, "-c", VICTIM, str(folder_of(number)), str(number), how]
            running.append((number, subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)))
        step += 4
        for number, victim in running:
            said = victim.communicate(timeout=60)[0]
            if victim.returncode == 0:
                for _, other in running:
                    other.communicate(timeout=60)
                return
            assert victim.returncode == -signal.SIGKILL, said
            yield folder_of(number), said.strip()
        running.clear()


def build(private: Path):
    (private / "data").write_bytes(b"a" * 4096 + b"b" * 4096)
    return {"data_key": "k"}


@pytest.mark.parametrize("how", ["first", "refresh"])
def test_a_builder_killed_at_any_step_stops_nobody_and_leaves_nothing_after_gc(tmp_path, monkeypatch, how):
    monkeypatch.setattr(entries, "LEASE_SECONDS", 0.5)  # what a lease without a holder's name in it costs the next one

    def folder_of(number: int) -> Path:
        return tmp_path / str(number) / "ppl_slices" / "s" / "key"

    if how == "refresh":
        for number in range(1, 50):
            obtain_entry(folder_of(number), build)
    killed = []
    for folder, where in victims(folder_of, how):
        killed.append(where)
        begun = time.monotonic()
        assert obtain_entry(folder, build)["data_key"] == "k", where
        assert time.monotonic() - begun < 10, where
        assert find_damage(folder) == [], where
        for lease in folder.parent.glob(".*.lease"):
            os.utime(lease, (time.time() - 3600, time.time() - 3600))
        eval_data = folder.parents[2]
        ended = CliRunner().invoke(cache, ["gc", "--eval-data", str(eval_data)])
        assert ended.exit_code == 0, ended.output
        left = [path.name for path in folder.parent.iterdir() if path != folder]
        assert left == [], where
        assert sorted(path.name for path in folder.iterdir()) == ["data", "meta.json"], where
    steps = {where.split()[0] for where in killed}
    assert steps >= {"open", "write", "fsync", "os.mkdir", "os.rename"}
    assert len(killed) > 10


def test_what_a_killed_builder_left_is_not_taken_from_a_living_one(tmp_path):
    place = tmp_path / "ppl_slices" / "s"
    host = os.uname().nodename.replace(".", "-")
    mine, elsewhere = place / f".key.{host}.{os.getpid()}.0123abcd", place / ".key.some-other-host.1.0123abcd"
    for folder in (mine, elsewhere):
        folder.mkdir(parents=True)
    assert CliRunner().invoke(cache, ["gc", "--eval-data", str(tmp_path)]).exit_code == 0
    assert mine.is_dir()
    assert elsewhere.is_dir()
    old = time.time() - 2 * 86400
    os.utime(elsewhere, (old, old))
    assert CliRunner().invoke(cache, ["gc", "--eval-data", str(tmp_path)]).exit_code == 0
    assert mine.is_dir()
    assert not elsewhere.exists()

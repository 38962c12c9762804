"""`watcher doctor`: each check in its good and its bad case; no Slurm, no torch, no second machine."""

import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from support.models.nanotron_checkpoint import write_tiny_checkpoint
from support.runs.doctor_config import VERSIONS, config, one, verdicts
from watcher.cli.app import main
from watcher.config.units import parse_slurm_time
from watcher.doctor import checkpoints, disk_space, filesystem, job_environment, lock_probe, login_environment, login_node
from watcher.doctor.disk_space import Mount, parse_quotas
from watcher.doctor.filesystem import Folder, find_mount, parse_mountinfo
from watcher.executors.slurm_commands import CommandResult


def test_the_command_says_a_line_for_each_and_exits_1_only_where_one_is_wrong(here, monkeypatch):
    monkeypatch.setattr(
        lock_probe, "run_two_probes", lambda kind, *_: ([*range(40)], []) if kind == "link" else ([[0, 1]], [[1, 2]])
    )  # below
    config(here)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert all(line.startswith(("ok ", "warning ")) for line in lines[:-1])
    assert "job's python: /env/bin/python 3.12.1, torch 2.8, transformers 5.0" in result.output
    assert not list((here).glob("**/.doctor-*"))
    config(here, said=VERSIONS | {"torch": None, "errors": {"torch": "ImportError: no torch"}})
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "cannot import torch (torch: ImportError: no torch)" in result.output
    assert " 1 wrong, in " in result.output.splitlines()[-1]


MOUNTINFO = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:35 / /leonardo_scratch rw shared:20 - lustre 10.1.0.1@o2ib:/scratch rw,flock
41 22 0:36 / /home rw - nfs4 server:/home rw,vers=4.2
42 22 0:37 / /my\040disk rw - tmpfs tmpfs rw
43 40 0:38 / /leonardo_scratch/fast rw - gpfs fast rw
44 22 0:39 / /home rw - autofs systemd-1 rw
a line that is none
"""


def test_after_a_watcher_that_was_told_to_end_every_check_is_made(here):
    config(here)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "watcher"]
    with subprocess.Popen([*command, "run"], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        status, end = here / "results" / ".watcher" / "status.json", time.monotonic() + 60
        while not status.exists() and daemon.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        daemon.send_signal(signal.SIGINT)  # Ctrl-C
        assert daemon.wait(60) == 0
    assert json.loads(status.read_text())["stopped"]
    ran = subprocess.run([*command, "doctor"], env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stderr == ""
    *lines, summary = ran.stdout.splitlines()
    (line,) = [line for line in lines if "watcher: " in line]
    said = r"warning  watcher: Stopped on .* [\d.]+ s ago; start it with `watcher run`"
    assert re.fullmatch(said, line)
    names = [line[9:].partition(":")[0] for line in lines]
    assert names[names.index("watcher") + 1] == "requests"
    assert {"file system", "job's python", "stage1 data"} <= set(names), names
    assert re.fullmatch(r"\d+ ok, (1 warning|\d+ warnings), \d+ wrong, in \d+ s", summary)


CHECKS = {
    "process limits": (login_node, "_check_process_limits"),
    "memory limit": (login_node, "_check_cgroup_memory"),
    "logout": (login_node, "_check_survives_logout"),
    "watcher": (login_node, "check_liveness"),
    "requests": (login_node, "check_requests_folder"),
    "PYTHONPATH": (login_environment, "_check_python_path"),
    "state": (filesystem, "_check_writable"),
    "checkpoints of stage1": (checkpoints, "list_steps"),
    "locks": (filesystem, "_check_rename_and_fsync"),
    "space": (filesystem, "check_free_space"),
    "file events": (filesystem, "Wakeup"),
    "job's python": (job_environment, "_check_interpreter"),
    "stage1 data": (job_environment, "read_journal"),
}
"""A check of each group -> the function that fails in it."""


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("trouble", [KeyError("gone"), PermissionError(13, "Permission denied", "/x"), RecursionError("deep")])
def test_whatever_one_check_meets_every_other_is_made(here, monkeypatch, name, trouble):
    def fail(*_given, **_more):
        raise trouble

    monkeypatch.setattr(
        lock_probe, "run_two_probes", lambda kind, *_: ([*range(40)], []) if kind == "link" else ([[0, 1]], [[1, 2]])
    )
    monkeypatch.setattr(*CHECKS[name], fail)
    config(here)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    *lines, summary = result.output.splitlines()
    (line,) = [line for line in lines if line.startswith(f"wrong    {name}: ")]
    assert "Permission denied" in line or line.endswith(f"internal error: {trouble!r}; report this bug")
    others = {"memory limit", "logout", "watcher", "requests", "checkpoints of stage1", "space", "file events", "stage1 data"}
    assert others <= {line[9:].partition(": ")[0] for line in lines}
    assert re.fullmatch(r"\d+ ok, (1 warning|\d+ warnings), \d+ wrong, in \d+ s", summary)


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/leonardo_scratch/me/x", "/leonardo_scratch", "lustre"),
        ("/leonardo_scratch/fast/x", "/leonardo_scratch/fast", "gpfs"),
        ("/leonardo_scratch_2", "/", "ext4"),
        ("/my disk/x", "/my disk", "tmpfs"),
        ("/home/me", "/home", "autofs"),
    ],
)
def test_a_folder_lies_on_the_deepest_mount_and_the_last_of_two(path, point, kind):
    assert find_mount(Path(path), parse_mountinfo(MOUNTINFO)) == Mount(Path(point), kind)


def test_what_forgets_everything_is_warned_of():
    state = Folder("state", Path("/s"), is_written=True)
    checkpoints = Folder("checkpoints of stage1", Path("/c"), is_written=False)
    assert filesystem._check_fs_type(Mount(Path("/tmp"), "tmpfs"), [state, checkpoints]).verdict == "warning"
    assert filesystem._check_fs_type(Mount(Path("/dev/shm"), "tmpfs"), [checkpoints]).verdict == "ok"
    assert filesystem._check_fs_type(Mount(Path("/scratch"), "lustre"), [state]).message == "lustre (/scratch): state"


LFS = "      /scratch 104857600* 0 104857600       -  812000       0 1000000       -\n"
NFS = """Disk quotas for user me (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
server:/home     1048576  5242880 10485760           12345       0       0
"""


def test_quotas_of_lustre_and_of_others_are_read():
    assert parse_quotas(LFS) == [("/scratch", 104857600, 104857600, 812000, 1000000)]
    assert parse_quotas(NFS) == [("server:/home", 1048576, 10485760, 12345, 0)]
    assert parse_quotas("Disk quotas for user me (uid 1000): none\n") == []


def test_a_full_quota_is_warned_of(monkeypatch):
    monkeypatch.setattr(disk_space.shutil, "which", lambda name, path: f"/bin/{name}")  # noqa: ARG005  its signature
    lustre = Mount(Path("/scratch"), "lustre")
    (check,) = disk_space._check_quota(lustre, Path("/scratch"), {}, lambda *_: CommandResult(0, LFS, ""))
    assert check.verdict == "warning"
    assert check.message == "/scratch: 100.0 of 100.0 GiB, 812000 of 1000000 files"
    (check,) = disk_space._check_quota(Mount(Path("/home"), "nfs4"), Path("/home"), {}, lambda *_: CommandResult(0, NFS, ""))
    assert (check.verdict, check.message) == ("ok", "server:/home: 1.0 of 10.0 GiB")


@pytest.mark.parametrize("kind", lock_probe.LOCK_KINDS)
def test_two_processes_are_measured_side_by_side(kind, tmp_path):
    first, second = lock_probe.run_two_probes(kind, tmp_path / kind, 8, 2.0, 30.0)
    if kind == "link":
        assert sorted([*first, *second]) == list(range(8))
    else:
        assert min(len(first), len(second)) >= 1
        assert lock_probe.count_overlaps(first, second) == 0
        assert all(end > begin for begin, end in (*first, *second))


def test_holds_that_touch_do_not_overlap_and_holds_that_share_time_do():
    assert lock_probe.count_overlaps([(0, 1), (2, 3)], [(1, 2), (3, 4)]) == 0
    assert lock_probe.count_overlaps([(0, 1), (2, 3)], [(0.5, 2.5)]) == 2


@pytest.mark.parametrize(
    ("kind", "answer", "verdict"),
    [
        ("lease", ([[0, 2]], [[1, 3]]), "warning"),
        ("flock", ([[0, 2]], [[1, 3]]), "warning"),
        ("link", (list(range(40)), [7]), "wrong"),
        ("link", (list(range(20)), []), "wrong"),
        ("lease", ([[0, 1]], []), "warning"),
        ("link", (list(range(20)), list(range(20, 40))), "ok"),
    ],
)
def test_a_lock_that_does_not_hold_is_said(kind, answer, verdict, monkeypatch, tmp_path):
    monkeypatch.setattr(lock_probe, "run_two_probes", lambda *_: answer)
    assert filesystem._check_lock(kind, tmp_path, Mount(tmp_path, "lustre")).verdict == verdict


def test_a_file_system_without_links_cannot_have_claims(monkeypatch, tmp_path):
    def refused(*_):
        raise RuntimeError("PermissionError: [Errno 1] Operation not permitted")

    monkeypatch.setattr(lock_probe, "run_two_probes", refused)
    check = filesystem._check_lock("link", tmp_path, Mount(tmp_path, "exfat"))
    assert check.verdict == "wrong"
    assert "Operation not permitted" in check.message


def test_shards_of_another_user_are_named(here, monkeypatch):
    made = config(here)
    folder = write_tiny_checkpoint(made.stages["stage1"].checkpoints / "100", 100)
    shard = next(folder.rglob("*.safetensors"))
    shard.chmod(0)
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != shard and allowed(path, mode))  # root may do all
    (check,) = checkpoints._check_steps(made.stages["stage1"])
    assert check.verdict == "wrong"
    assert str(shard) in check.message
    shard.chmod(stat.S_IRUSR)


def test_steps_in_another_form_are_a_warning_with_the_pattern_to_write(here):
    stage = config(here).stages["stage1"]
    write_tiny_checkpoint(stage.checkpoints / "iter_0000100", 100)
    warning, steps = checkpoints._check_steps(stage)
    assert (warning.verdict, steps.verdict) == ("warning", "ok")
    assert "iter_0000100 looks like a step" in warning.message
    assert warning.hint.startswith("write layout: {name: 'iter_{step:07d}'}")
    assert steps.message.endswith("no step yet")


@pytest.mark.parametrize(("skew", "verdict"), [(0.2, "ok"), (-20, "warning"), (300, "wrong")])
def test_clocks_that_differ(skew, verdict, monkeypatch, tmp_path):
    monkeypatch.setattr(filesystem, "touch_clock", lambda _: filesystem.time.time() + skew)
    assert filesystem._check_clock(tmp_path, Mount(tmp_path, "nfs4")).verdict == verdict


@pytest.mark.parametrize(("kind", "words"), [("lustre", "none from other nodes on lustre"), ("ext4", "inotify works")])
def test_file_events_where_others_write(kind, words, here):
    made = config(here)
    check = filesystem._check_file_events(made, [Mount(Path("/"), kind)])
    assert check.message.startswith(words)


def test_room_that_is_short(here, monkeypatch):
    made = config(here)
    usage = disk_space.shutil.disk_usage(here)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: usage._replace(free=2**29))
    mount = Mount(Path("/"), "ext4")
    found = list(disk_space.check_free_space(mount, made.state, {"PATH": ""}, lambda *_: CommandResult(1, "", "")))
    assert verdicts(found) == [("wrong", "space")]


def test_a_limit_of_cpu_time_is_counted_in_days(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (900, 900))
    found = list(login_node._check_process_limits())
    check = one(found, "cpu limit")
    assert (check.verdict, check.message) == ("ok", "900 s (ulimit -t): a daemon lives about 45 days")
    assert one(found, "memory limit").verdict == "warning"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (300, 300))
    assert one(login_node._check_process_limits(), "cpu limit").verdict == "warning"


def test_requests_that_nobody_takes_up(here):
    made = config(here)
    folder = made.paths.requests
    folder.mkdir(parents=True)
    (folder / "1.json").write_text("{}")
    os.utime(folder / "1.json", (0, 0))
    assert login_node.check_requests_folder(made).verdict == "warning"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("04:00:00", 14400),
        ("1-00", 86400),
        ("2-01:30", 178200),
        ("1-00:00:01", 86401),
        ("UNLIMITED", None),
        ("", None),
        ("soon", None),
    ],
)
def test_slurms_times(text, seconds):
    assert parse_slurm_time(text) == seconds

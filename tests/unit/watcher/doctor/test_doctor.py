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

import msgspec
import pytest
from click.testing import CliRunner

from support.models.nanotron_checkpoint import write_tiny_checkpoint
from watcher.cli.app import main
from watcher.config.loader import load_config
from watcher.config.units import parse_slurm_time
from watcher.doctor import checkpoints, filesystem, job_environment, lock_probe, login_node, slurm_limits
from watcher.doctor.check import DoctorCheck
from watcher.doctor.filesystem import Folder, Mount, find_mount, parse_mountinfo, parse_quotas
from watcher.executors.slurm_commands import CommandResult

CONFIG = """
results: results
executor: {executor}
python: {python}
slurm: {{partition: gpu, account: lab, qos: few, time: "04:00:00", setup: "echo from the setup lines"}}
stages:
  stage1: {{checkpoints: ckpts/stage1, steps: [100], suites: [slices.yaml], tokenizer: ./tokenizer, seq_len: 64}}
"""
VERSIONS = {"torch": "2.8", "transformers": "5.0", "scoring": "there", "suites": "there", "watcher": None, "cuda": []}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("SCRATCH", "WATCHER_CONFIG", "LIGHTEVAL_CMD"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "slices.yaml").write_text("tier: tier2_ppl\nslices:\n  web: {data_files: [/data/web.jsonl], target_tokens: 9}\n")
    (tmp_path / "tokenizer").mkdir()
    return tmp_path


def interpreter(folder, said, *, offline=None):
    """A `python` that answers as the job's would."""
    path = folder / "python"
    answers = {"look": json.dumps(said), "offline": json.dumps(offline)}
    whole = f"echo '{answers['offline']}'; exit {0 if offline else 66}"
    path.write_text(f"#!/bin/bash\ncase $2 in -c) echo '{answers['look']}';; *) {whole};; esac\n")
    path.chmod(0o755)
    return path


def config(folder, *, executor="local", said=VERSIONS, **more):
    full = {"executable": "/env/bin/python", "python": "3.12.1", "built_for": "12.8", **said}
    (folder / "watcher.yaml").write_text(CONFIG.format(executor=executor, python=interpreter(folder, full, **more)))
    return load_config(None, {})


def verdicts(checks):
    return [(check.verdict, check.name) for check in checks]


def one(checks, name):
    (found,) = [check for check in checks if check.name == name]
    return found


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
    assert re.fullmatch(r"\d+ ok, \d+ warnings, \d+ wrong, in \d+ s", summary)


def test_a_defect_in_one_check_keeps_no_other_from_being_made(here, monkeypatch):
    def broken(*_given, **_more):
        yield DoctorCheck("ok", "the first one", "is fine")
        raise KeyError("gone")

    monkeypatch.setattr(login_node, "check_login_node", broken)
    monkeypatch.setattr(filesystem, "check_filesystems", broken)
    monkeypatch.setattr(
        job_environment, "check_job_environment", lambda *_given, **_more: [DoctorCheck("ok", "the last one", "is fine")]
    )
    config(here)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    said = "internal error: KeyError('gone'); the remaining checks of this group are skipped; report this bug"
    assert f"wrong    this node: {said}" in result.output
    assert f"wrong    disks: {said}" in result.output
    assert result.output.splitlines()[-2] == "ok       the last one: is fine"


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
    monkeypatch.setattr(filesystem.shutil, "which", lambda name, path: f"/bin/{name}")  # noqa: ARG005  its signature
    lustre = Mount(Path("/scratch"), "lustre")
    (check,) = filesystem._check_quota(lustre, Path("/scratch"), {}, lambda *_: CommandResult(0, LFS, ""))
    assert check.verdict == "warning"
    assert check.message == "/scratch: 100.0 of 100.0 GiB, 812000 of 1000000 files"
    (check,) = filesystem._check_quota(Mount(Path("/home"), "nfs4"), Path("/home"), {}, lambda *_: CommandResult(0, NFS, ""))
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
    usage = filesystem.shutil.disk_usage(here)
    monkeypatch.setattr(filesystem.shutil, "disk_usage", lambda _: usage._replace(free=2**29))
    mount = Mount(Path("/"), "ext4")
    found = list(
        filesystem._check_free_space(
            {mount: [Folder("state", made.state, is_written=True)]}, {"PATH": ""}, lambda *_: CommandResult(1, "", "")
        )
    )
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
    ("said", "name", "verdict", "words"),
    [
        ({}, "cuda", "warning", "no GPU here, and jobs run here"),
        ({"cuda": ["H100", "H100"]}, "cuda", "ok", "2 x H100"),
        ({"watcher": "9.9"}, "job's python", "warning", "checkpoint-watcher 9.9, here"),
        ({"scoring": None, "errors": {"scoring": "ModuleNotFoundError: x"}}, "job's python", "wrong", "cannot import scoring"),
        ({"errors": {"watcher": "not there"}}, "job's python", "ok", "torch 2.8"),
    ],
)
def test_the_jobs_interpreter_is_asked_after_the_setup_lines(said, name, verdict, words, here):
    check = one(job_environment.check_job_environment(config(here, said=VERSIONS | said), os.environ, offline=False), name)
    assert check.verdict == verdict
    assert words in check.message


@pytest.mark.parametrize(("built_for", "verdict"), [("12.8", "ok"), (None, "warning")])
def test_a_torch_without_cuda_is_no_torch_for_gpu_nodes(built_for, verdict, here):
    made = config(here, executor="slurm", said=VERSIONS | {"built_for": built_for})
    assert one(job_environment.check_job_environment(made, os.environ, offline=False), "cuda").verdict == verdict


def test_an_interpreter_that_is_not_there_or_never_answers(here):
    made = msgspec.structs.replace(config(here), python="/nowhere/python")
    check = one(job_environment.check_job_environment(made, os.environ, offline=False), "job's python")
    assert check.verdict == "wrong"
    assert "/nowhere/python" in check.message
    checks = job_environment.check_job_environment(
        config(here), os.environ, offline=False, run=lambda *_: CommandResult(None, "", "")
    )
    silent = one(checks, "job's python")
    assert silent.verdict == "wrong"
    assert "no answer in 180 s" in silent.message


def test_what_the_cache_lacks_and_what_mends_it(here):
    (here / "slices.yaml").write_text("tier: tier2_ppl\nslices:\n  web: {hf_dataset: a/b, target_tokens: 9}\n")
    check = one(job_environment.check_job_environment(config(here), os.environ, offline=False), "stage1 data")
    assert check.verdict == "warning"
    assert check.message == "1 of 1 are not in the cache: slices/web"
    assert check.hint == "run `watcher prefill stage1`"


def test_offline_asks_the_child_for_every_byte(here):
    entry = {"suite": "slices", "name": "web", "state": "whole"}
    document = {"entries": [entry], "tokenizer": {"problems": []}, "network": "cut off", "prefill": "mend it"}
    made = config(here, offline=document)
    assert one(job_environment.check_job_environment(made, os.environ, offline=True), "stage1 offline").message == (
        "1 entries read in full, network cut off"
    )
    made = config(here, offline=document | {"entries": [entry | {"state": "damaged"}]})
    check = one(job_environment.check_job_environment(made, os.environ, offline=True), "stage1 offline")
    assert (check.verdict, check.message, check.hint) == ("wrong", "slices/web is damaged", "mend it")


def test_a_suite_that_cannot_be_used_is_wrong(here):
    made = config(here)
    (here / "slices.yaml").write_text("tier: tier2_ppl\nslices: 3\n")
    assert one(job_environment.check_job_environment(made, os.environ, offline=False), "stage1 suites").verdict == "wrong"


PARTITION = (
    "PartitionName=gpu AllowAccounts={accounts} AllowQos=ALL Default=NO MaxTime={time} State={state} TRES=cpu=9,gres/gpu=8\n"
)


class Cluster:
    """Answers of a cluster, a word changed here and there."""

    def __init__(self, **changed):
        self.said = {"time": "1-00:00:00", "state": "UP", "accounts": "ALL", "gres": "gpu", "mine": "lab", "qos": "few,normal"}
        self.said |= {"wall": "08:00:00", "test": (0, "sbatch: Job 11 to start at 2026-11-24T06:10:36 using 1 processors")}
        self.said |= changed
        self.asked = []

    def __call__(self, command, _environment, _timeout):
        self.asked.append(command[0])
        said = self.said
        if command[0] == "squeue":
            return said.get("queue", CommandResult(0, "", ""))
        if command[0] == "sacct":
            return CommandResult(1, "", "Slurm accounting storage is disabled")
        if command[:3] == ["scontrol", "show", "config"]:
            return CommandResult(0, f"GresTypes               = {said['gres']}\nMinJobAge = 300 sec\n", "")
        if command[0] == "scontrol":
            return CommandResult(0, PARTITION.format(**said), "")
        if command[:4] == ["sacctmgr", "-nP", "show", "assoc"]:
            return CommandResult(0, f"{said['mine']}||{said['qos']}||\n", "")
        if command[0] == "sacctmgr":
            return CommandResult(0, f"few|{said['wall']}|2|\n", "")
        if "--test-only" in command:
            return CommandResult(said["test"][0], "", said["test"][1])
        return CommandResult(0, "slurm 23.11.4\n", "")


def slurm_checks(here, monkeypatch, **changed):
    monkeypatch.setattr(slurm_limits.shutil, "which", lambda name, path=None: f"/bin/{name}")  # noqa: ARG005  its signature
    cluster = Cluster(**changed)
    return list(slurm_limits.check_slurm_limits(config(here, executor="slurm"), {"PATH": "/bin"}, run=cluster)), cluster


def test_a_cluster_that_fits_the_config(here, monkeypatch):
    found, cluster = slurm_checks(here, monkeypatch)
    assert {check.verdict for check in found} == {"ok"}
    assert one(found, "slurm").message.startswith("slurm 23.11.4; squeue answered in ")
    assert one(found, "partition").message == "gpu is up; MaxTime 1-00:00:00, slurm.time 04:00:00"
    assert one(found, "qos").message == "few: MaxWall 08:00:00, jobs submitted 2"
    assert one(found, "submission").message == (
        "Slurm accepts a job with --account=lab --partition=gpu --qos=few --gres=gpu:1 --cpus-per-task=8 --time=04:00:00,"
        " expected start 2026-11-24T06:10:36"
    )
    assert len(cluster.asked) <= 10


@pytest.mark.parametrize(
    ("changed", "name", "words"),
    [
        ({"time": "02:00:00"}, "partition", "slurm.time 04:00:00 is over the 02:00:00 that gpu allows"),
        ({"accounts": "other"}, "partition", "gpu does not accept lab"),
        ({"gres": "shard"}, "gres", "the cluster has no gpu, only shard"),
        ({"mine": "other"}, "account", "lab is not yours"),
        ({"qos": "normal"}, "qos", "few is not yours"),
        ({"wall": "01:00:00"}, "qos", "slurm.time 04:00:00 is over the 01:00:00 that few allows"),
        ({"test": (1, "sbatch: error: x\nallocation failure: Invalid qos specification")}, "submission", "Invalid qos"),
        ({"queue": CommandResult(1, "", "slurm_load_jobs error: Unable to contact")}, "slurm", "Unable to contact"),
        ({"queue": CommandResult(None, "", "")}, "slurm", "no answer in 15 s"),
    ],
)
def test_a_cluster_that_does_not(changed, name, words, here, monkeypatch):
    found, _ = slurm_checks(here, monkeypatch, **changed)
    wrong = [check for check in found if check.verdict == "wrong"]
    assert [check.name for check in wrong] == [name]
    assert words in wrong[0].message
    assert wrong[0].hint


def test_without_slurms_commands_that_is_all_that_is_said(here):
    (check,) = slurm_limits.check_slurm_limits(config(here, executor="slurm"), {"PATH": ""})
    assert (check.verdict, check.message) == ("wrong", "no sbatch, squeue, scontrol, scancel on PATH")


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

"""Slurm as the watcher would use it: its commands, and the cluster's limits against the config. Nothing is submitted.

``sbatch --test-only`` takes a job id and submits nothing: one id is the price of the cluster's own word on the very
options that jobs will be given, job_submit plugins included. It does not look at a QOS's time limit, so that is compared here.
"""

import re
import shutil
import time
from collections.abc import Iterator, Mapping

from suites.contract.paths import shipped
from watcher.actions.submission import resources_of
from watcher.config.settings import Config
from watcher.config.units import seconds as seconds_of
from watcher.core.executor import Unreachable
from watcher.doctor.check import OK, WARNING, WRONG, Check, asked, last_words
from watcher.executors.slurm import SlurmExecutor, resource_options
from watcher.executors.slurm_commands import Run, clean_environment, run_command

SECONDS = 15.0
"""That each question may take."""

SLOW = 5.0

_NEEDED = ("sbatch", "squeue", "scontrol", "scancel")


def checks(config: Config, environ: Mapping[str, str], *, run: Run = run_command) -> Iterator[Check]:
    """All of them; only the first ones where Slurm does not answer."""
    path = environ.get("PATH")
    absent = [name for name in _NEEDED if shutil.which(name, path=path) is None]
    if absent:
        yield Check(WRONG, "slurm", f"no {', '.join(absent)} on PATH", "run it on a login node, or write executor: local")
        return
    environment = clean_environment(environ)
    version = asked(["sbatch", "--version"], environment, SECONDS, run)
    executor = SlurmExecutor(per_minute=100, environment=environ, run=run, timeouts=dict.fromkeys(("squeue", "sacct"), SECONDS))
    begun = time.monotonic()
    try:
        jobs = executor.queue()
    except Unreachable as error:
        yield Check(WRONG, "slurm", str(error), "the watcher waits for it; see whether `squeue` answers here")
        return
    took = time.monotonic() - begun
    words = f"{version.out.strip() or last_words(version)}; squeue answered in {took:.2f} s, {len(jobs)} jobs of yours"
    yield Check(WARNING if took > SLOW else OK, "slurm", words, "raise poll, so as not to be a burden" if took > SLOW else "")
    yield _accounting(executor)
    cluster = asked(["scontrol", "show", "config"], environment, SECONDS, run)
    facts = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", cluster.out, re.MULTILINE))
    partitions = _partitions(asked(["scontrol", "show", "partition", "-o"], environment, SECONDS, run).out)
    yield from _partition(config, partitions)
    yield from _gres(config, facts, partitions)
    yield from _association(config, environment, run)
    yield _test_only(config, environment, run)


def _accounting(executor: SlurmExecutor) -> Check:
    begun = time.monotonic()
    try:
        history = executor.history(["doctor-asks"], time.time())
    except Unreachable as error:
        return Check(WARNING, "accounting", str(error), "until it answers, ends are told by exit records alone")
    if history is None:
        return Check(OK, "accounting", "there is none; ends are told by squeue and exit records")
    return Check(OK, "accounting", f"sacct answered in {time.monotonic() - begun:.2f} s")


def _partitions(text: str) -> dict[str, dict[str, str]]:
    found = [dict(word.partition("=")[::2] for word in line.split() if "=" in word) for line in text.splitlines()]
    return {fields["PartitionName"]: fields for fields in found if "PartitionName" in fields}


def _partition(config: Config, partitions: Mapping[str, Mapping[str, str]]) -> Iterator[Check]:
    asked_for = config.slurm
    if not partitions:
        yield Check(WARNING, "partition", "scontrol shows none", "see `scontrol show partition`")
        return
    name = asked_for.partition or next((each for each, facts in partitions.items() if facts.get("Default") == "YES"), None)
    if name is None:
        todo = f"write slurm: partition: one of {', '.join(partitions)}"
        yield Check(WRONG, "partition", "none is configured, and the cluster has no default", todo)
        return
    facts = partitions.get(name.split(",", maxsplit=1)[0])
    if facts is None:
        yield Check(WRONG, "partition", f"there is no {name}", f"write slurm: partition: one of {', '.join(partitions)}")
        return
    state, limit = facts.get("State", "?"), facts.get("MaxTime", "")
    if state != "UP":
        yield Check(WARNING, "partition", f"{name} is {state}: jobs wait", "take another, or wait")
    for key, value in (("Accounts", asked_for.account), ("Qos", asked_for.qos)):
        allowed, denied = facts.get(f"Allow{key}", "ALL"), facts.get(f"Deny{key}", "")
        if value and ((allowed not in {"ALL", ""} and value not in allowed.split(",")) or value in denied.split(",")):
            yield Check(WRONG, "partition", f"{name} does not take {value}", f"it takes {allowed}")
    most, wanted = seconds_of(limit), seconds_of(asked_for.time or "")
    if most is not None and wanted is not None and wanted > most:
        words = f"slurm.time {asked_for.time} is over the {limit} that {name} allows"
        yield Check(WRONG, "partition", words, f"write slurm: time: {limit} or less")
    elif state == "UP":
        default = "" if asked_for.partition else " (the cluster's default)"
        yield Check(OK, "partition", f"{name}{default} is up; MaxTime {limit}, slurm.time {asked_for.time or 'its default'}")


def _gres(config: Config, facts: Mapping[str, str], partitions: Mapping[str, Mapping[str, str]]) -> Iterator[Check]:
    wanted = config.slurm.gres
    if not wanted:
        yield Check(OK, "gres", "none is asked for")
        return
    kind = wanted.split(":", maxsplit=1)[0]
    known = facts.get("GresTypes", "")
    if known and kind not in known.split(","):
        yield Check(WRONG, "gres", f"the cluster has no {kind}, only {known}", "write slurm: gres: as `sinfo -o %G` has it")
        return
    name = config.slurm.partition or next((each for each, its in partitions.items() if its.get("Default") == "YES"), "")
    has = re.search(rf"gres/{re.escape(kind)}=(\d+)", partitions.get(name, {}).get("TRES", ""))
    yield Check(OK, "gres", f"{wanted}" + (f"; {name} has {has[1]}" if has else f"; {kind} is known to the cluster"))


def _association(config: Config, environment: Mapping[str, str], run: Run) -> Iterator[Check]:
    """Accounts and QOS of ours, where the cluster lets one ask."""
    if shutil.which("sacctmgr", path=environment.get("PATH")) is None:
        yield Check(OK, "account", "no sacctmgr here: what --test-only says below counts")
        return
    user = SlurmExecutor(environment=environment, run=run).user
    columns = "format=Account,Partition,QOS,MaxWall,MaxSubmit"
    ran = asked(["sacctmgr", "-nP", "show", "assoc", "where", f"user={user}", columns], environment, SECONDS, run)
    rows = [line.split("|") for line in ran.out.splitlines() if line.count("|") >= 4]  # noqa: PLR2004  five columns
    if ran.code != 0 or not rows:
        yield Check(OK, "account", f"sacctmgr does not tell ({last_words(ran)}): what --test-only says below counts")
        return
    accounts = sorted({row[0] for row in rows})
    if config.slurm.account and config.slurm.account not in accounts:
        yield Check(WRONG, "account", f"{config.slurm.account} is none of yours", f"yours are {', '.join(accounts)}")
        return
    mine = [row for row in rows if config.slurm.account in {None, row[0]}]
    qos = sorted({name for row in mine for name in row[2].split(",") if name})
    if config.slurm.qos and qos and config.slurm.qos not in qos:
        yield Check(WRONG, "qos", f"{config.slurm.qos} is none of yours", f"yours are {', '.join(qos)}")
        return
    yield Check(OK, "account", f"{config.slurm.account or f'the default of {user}'}; yours are {', '.join(accounts)}")
    yield from _qos(config, environment, run)


def _qos(config: Config, environment: Mapping[str, str], run: Run) -> Iterator[Check]:
    name = config.slurm.qos
    if not name:
        return
    command = ["sacctmgr", "-nP", "show", "qos", "where", f"name={name}", "format=Name,MaxWall,MaxSubmitPU,MaxJobsPU"]
    ran = asked(command, environment, SECONDS, run)
    row = next((line.split("|") for line in ran.out.splitlines() if line.startswith(f"{name}|")), None)
    if row is None:
        return
    limit, submit, jobs = row[1:4]
    most, wanted = seconds_of(limit), seconds_of(config.slurm.time or "")
    if most is not None and wanted is not None and wanted > most:
        words = f"slurm.time {config.slurm.time} is over the {limit} that {name} allows"
        yield Check(WRONG, "qos", words, f"write slurm: time: {limit} or less")
        return
    limits = [f"{words} {value}" for words, value in (("MaxWall", limit), ("jobs submitted", submit), ("running", jobs)) if value]
    yield Check(OK, "qos", f"{name}: {', '.join(limits) or 'no limits of its own'}")


def _test_only(config: Config, environment: Mapping[str, str], run: Run) -> Check:
    wanted = {name: value for name, value in (("time", config.slurm.time), ("mem", config.slurm.mem)) if value}
    options = resource_options(resources_of(config.slurm, wanted))
    command = ["sbatch", "--test-only", *options, "--job-name=doctor", str(shipped("slurm/score.sbatch")), "/dev/null"]
    ran = asked(command, environment, SECONDS, run)
    said = [line for line in ran.err.splitlines() if line.strip()]
    shown = " ".join(options) or "no options"
    if ran.code == 0:
        start = next((found[1] for line in said if (found := re.search(r"to start at (\S+)", line))), "")
        return Check(OK, "submission", f"a job with {shown} would be taken{f', and start about {start}' if start else ''}")
    todo = "see the slurm: part of the config" if ran.code is not None else "ask again later"
    return Check(WRONG if ran.code is not None else WARNING, "submission", f"{shown}: {' / '.join(said)}", todo)

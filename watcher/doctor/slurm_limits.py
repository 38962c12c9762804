"""Slurm commands and the cluster's limits against the config. Submits nothing.

``sbatch --test-only`` takes a job id and submits nothing: one id is the price of the cluster's own word on the very
options that jobs will be given, job_submit plugins included. It does not look at a QOS's time limit, so that is compared here.
"""

import re
import shutil
import time
from collections.abc import Iterator, Mapping

from suites.contract.paths import find_shipped_file
from watcher.actions.submission import build_resources
from watcher.config.settings import Config
from watcher.config.units import parse_slurm_time as parse_time_limit
from watcher.core.executor import ExecutorUnreachable
from watcher.doctor.check import OK, WARNING, WRONG, DoctorCheck, get_last_output_line, run_with_timeout
from watcher.executors.slurm import SlurmExecutor, format_resource_options
from watcher.executors.slurm_commands import CommandRunner, clean_environment, run_command

COMMAND_TIMEOUT_SECONDS = 15.0
"""That each question may take."""

SLOW_RESPONSE_SECONDS = 5.0

_REQUIRED_COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")


def check_slurm_limits(config: Config, environ: Mapping[str, str], *, run: CommandRunner = run_command) -> Iterator[DoctorCheck]:
    """All of them; only the first ones where Slurm does not answer."""
    path = environ.get("PATH")
    missing_commands = [name for name in _REQUIRED_COMMANDS if shutil.which(name, path=path) is None]
    if missing_commands:
        yield DoctorCheck(
            WRONG, "slurm", f"no {', '.join(missing_commands)} on PATH", "run it on a login node, or write executor: local"
        )
        return
    environment = clean_environment(environ)
    version = run_with_timeout(["sbatch", "--version"], environment, COMMAND_TIMEOUT_SECONDS, run)
    executor = SlurmExecutor(
        per_minute=100, environment=environ, run=run, timeouts=dict.fromkeys(("squeue", "sacct"), COMMAND_TIMEOUT_SECONDS)
    )
    started = time.monotonic()
    try:
        jobs = executor.query_queue()
    except ExecutorUnreachable as error:
        yield DoctorCheck(WRONG, "slurm", str(error), "the watcher waits for it; see whether `squeue` answers here")
        return
    elapsed_seconds = time.monotonic() - started
    message = f"{version.stdout.strip() or get_last_output_line(version)}; squeue answered in {elapsed_seconds:.2f} s, {len(jobs)} jobs of yours"
    yield DoctorCheck(
        WARNING if elapsed_seconds > SLOW_RESPONSE_SECONDS else OK,
        "slurm",
        message,
        "raise poll, so as not to be a burden" if elapsed_seconds > SLOW_RESPONSE_SECONDS else "",
    )
    yield _check_accounting(executor)
    config_output = run_with_timeout(["scontrol", "show", "config"], environment, COMMAND_TIMEOUT_SECONDS, run)
    cluster_config = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", config_output.stdout, re.MULTILINE))
    partitions = _parse_partitions(
        run_with_timeout(["scontrol", "show", "partition", "-o"], environment, COMMAND_TIMEOUT_SECONDS, run).stdout
    )
    yield from _check_partition(config, partitions)
    yield from _check_gres(config, cluster_config, partitions)
    yield from _check_association(config, environment, run)
    yield _check_test_submission(config, environment, run)


def _check_accounting(executor: SlurmExecutor) -> DoctorCheck:
    started = time.monotonic()
    try:
        history = executor.query_accounting(["doctor-asks"], time.time())
    except ExecutorUnreachable as error:
        return DoctorCheck(WARNING, "accounting", str(error), "until it answers, ends are told by exit records alone")
    if history is None:
        return DoctorCheck(OK, "accounting", "there is none; ends are told by squeue and exit records")
    return DoctorCheck(OK, "accounting", f"sacct answered in {time.monotonic() - started:.2f} s")


def _parse_partitions(text: str) -> dict[str, dict[str, str]]:
    rows = [
        dict(assignment.partition("=")[::2] for assignment in line.split() if "=" in assignment) for line in text.splitlines()
    ]
    return {fields["PartitionName"]: fields for fields in rows if "PartitionName" in fields}


def _check_partition(config: Config, partitions: Mapping[str, Mapping[str, str]]) -> Iterator[DoctorCheck]:
    slurm = config.slurm
    if not partitions:
        yield DoctorCheck(WARNING, "partition", "scontrol shows none", "see `scontrol show partition`")
        return
    name = slurm.partition or next(
        (partition_name for partition_name, partition_fields in partitions.items() if partition_fields.get("Default") == "YES"),
        None,
    )
    if name is None:
        hint = f"write slurm: partition: one of {', '.join(partitions)}"
        yield DoctorCheck(WRONG, "partition", "none is configured, and the cluster has no default", hint)
        return
    partition_fields = partitions.get(name.split(",", maxsplit=1)[0])
    if partition_fields is None:
        yield DoctorCheck(WRONG, "partition", f"there is no {name}", f"write slurm: partition: one of {', '.join(partitions)}")
        return
    state, time_limit = partition_fields.get("State", "?"), partition_fields.get("MaxTime", "")
    if state != "UP":
        yield DoctorCheck(WARNING, "partition", f"{name} is {state}: jobs wait", "take another, or wait")
    for key, value in (("Accounts", slurm.account), ("Qos", slurm.qos)):
        allowed, denied = partition_fields.get(f"Allow{key}", "ALL"), partition_fields.get(f"Deny{key}", "")
        if value and ((allowed not in {"ALL", ""} and value not in allowed.split(",")) or value in denied.split(",")):
            yield DoctorCheck(WRONG, "partition", f"{name} does not take {value}", f"it takes {allowed}")
    max_seconds, requested_seconds = parse_time_limit(time_limit), parse_time_limit(slurm.time or "")
    if max_seconds is not None and requested_seconds is not None and requested_seconds > max_seconds:
        message = f"slurm.time {slurm.time} is over the {time_limit} that {name} allows"
        yield DoctorCheck(WRONG, "partition", message, f"write slurm: time: {time_limit} or less")
    elif state == "UP":
        default = "" if slurm.partition else " (the cluster's default)"
        yield DoctorCheck(
            OK, "partition", f"{name}{default} is up; MaxTime {time_limit}, slurm.time {slurm.time or 'its default'}"
        )


def _check_gres(
    config: Config, cluster_config: Mapping[str, str], partitions: Mapping[str, Mapping[str, str]]
) -> Iterator[DoctorCheck]:
    requested_gres = config.slurm.gres
    if not requested_gres:
        yield DoctorCheck(OK, "gres", "none is asked for")
        return
    gres_type = requested_gres.split(":", maxsplit=1)[0]
    known_types = cluster_config.get("GresTypes", "")
    if known_types and gres_type not in known_types.split(","):
        yield DoctorCheck(
            WRONG, "gres", f"the cluster has no {gres_type}, only {known_types}", "write slurm: gres: as `sinfo -o %G` has it"
        )
        return
    name = config.slurm.partition or next(
        (partition_name for partition_name, partition_fields in partitions.items() if partition_fields.get("Default") == "YES"),
        "",
    )
    count_match = re.search(rf"gres/{re.escape(gres_type)}=(\d+)", partitions.get(name, {}).get("TRES", ""))
    yield DoctorCheck(
        OK,
        "gres",
        f"{requested_gres}" + (f"; {name} has {count_match[1]}" if count_match else f"; {gres_type} is known to the cluster"),
    )


def _check_association(config: Config, environment: Mapping[str, str], run: CommandRunner) -> Iterator[DoctorCheck]:
    """Accounts and QOS of ours, where the cluster lets one ask."""
    if shutil.which("sacctmgr", path=environment.get("PATH")) is None:
        yield DoctorCheck(OK, "account", "no sacctmgr here: what --test-only says below counts")
        return
    user = SlurmExecutor(environment=environment, run=run).user
    columns = "format=Account,Partition,QOS,MaxWall,MaxSubmit"
    result = run_with_timeout(
        ["sacctmgr", "-nP", "show", "assoc", "where", f"user={user}", columns], environment, COMMAND_TIMEOUT_SECONDS, run
    )
    rows = [line.split("|") for line in result.stdout.splitlines() if line.count("|") >= 4]  # noqa: PLR2004  five columns
    if result.exit_code != 0 or not rows:
        yield DoctorCheck(
            OK, "account", f"sacctmgr does not tell ({get_last_output_line(result)}): what --test-only says below counts"
        )
        return
    accounts = sorted({row[0] for row in rows})
    if config.slurm.account and config.slurm.account not in accounts:
        yield DoctorCheck(WRONG, "account", f"{config.slurm.account} is none of yours", f"yours are {', '.join(accounts)}")
        return
    matching_rows = [row for row in rows if config.slurm.account in {None, row[0]}]
    qos = sorted({name for row in matching_rows for name in row[2].split(",") if name})
    if config.slurm.qos and qos and config.slurm.qos not in qos:
        yield DoctorCheck(WRONG, "qos", f"{config.slurm.qos} is none of yours", f"yours are {', '.join(qos)}")
        return
    yield DoctorCheck(OK, "account", f"{config.slurm.account or f'the default of {user}'}; yours are {', '.join(accounts)}")
    yield from _check_qos(config, environment, run)


def _check_qos(config: Config, environment: Mapping[str, str], run: CommandRunner) -> Iterator[DoctorCheck]:
    name = config.slurm.qos
    if not name:
        return
    command = ["sacctmgr", "-nP", "show", "qos", "where", f"name={name}", "format=Name,MaxWall,MaxSubmitPU,MaxJobsPU"]
    result = run_with_timeout(command, environment, COMMAND_TIMEOUT_SECONDS, run)
    row = next((line.split("|") for line in result.stdout.splitlines() if line.startswith(f"{name}|")), None)
    if row is None:
        return
    time_limit, max_submitted_jobs, max_running_jobs = row[1:4]
    max_seconds, requested_seconds = parse_time_limit(time_limit), parse_time_limit(config.slurm.time or "")
    if max_seconds is not None and requested_seconds is not None and requested_seconds > max_seconds:
        text = f"slurm.time {config.slurm.time} is over the {time_limit} that {name} allows"
        yield DoctorCheck(WRONG, "qos", text, f"write slurm: time: {time_limit} or less")
        return
    limits = [
        f"{text} {value}"
        for text, value in (("MaxWall", time_limit), ("jobs submitted", max_submitted_jobs), ("running", max_running_jobs))
        if value
    ]
    yield DoctorCheck(OK, "qos", f"{name}: {', '.join(limits) or 'no limits of its own'}")


def _check_test_submission(config: Config, environment: Mapping[str, str], run: CommandRunner) -> DoctorCheck:
    resources = {name: value for name, value in (("time", config.slurm.time), ("mem", config.slurm.mem)) if value}
    options = format_resource_options(build_resources(config.slurm, resources))
    command = ["sbatch", "--test-only", *options, "--job-name=doctor", str(find_shipped_file("slurm/score.sbatch")), "/dev/null"]
    result = run_with_timeout(command, environment, COMMAND_TIMEOUT_SECONDS, run)
    stderr_lines = [line for line in result.stderr.splitlines() if line.strip()]
    shown = " ".join(options) or "no options"
    if result.exit_code == 0:
        start = next((match[1] for line in stderr_lines if (match := re.search(r"to start at (\S+)", line))), "")
        return DoctorCheck(OK, "submission", f"a job with {shown} would be taken{f', and start about {start}' if start else ''}")
    hint = "see the slurm: part of the config" if result.exit_code is not None else "ask again later"
    return DoctorCheck(
        WRONG if result.exit_code is not None else WARNING, "submission", f"{shown}: {' / '.join(stderr_lines)}", hint
    )

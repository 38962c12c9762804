"""Compares the cluster's limits with the config. Submits nothing.

``sbatch --test-only`` uses up one job id and has the cluster check the options of the jobs, job_submit plugins included.
It ignores the time limit of a QOS, so that is compared here.
"""

import math
import re
import shutil
import time
from collections.abc import Iterator, Mapping

from suites.contract.shipped_files import find_shipped_file
from watcher.actions.submission import build_resources
from watcher.config.settings import Config
from watcher.config.units import parse_slurm_time
from watcher.core.executor import AnswerDoubtful, ExecutorUnreachable
from watcher.core.resources import build_prefill_settings
from watcher.doctor.check import OK, WARNING, WRONG, DoctorCheck, get_last_output_line, run_check, run_with_timeout, warn_if
from watcher.executors.slurm import SlurmExecutor, format_resource_options
from watcher.executors.slurm_commands import CommandRunner, clean_environment, run_command

COMMAND_TIMEOUT_SECONDS = 15.0
"""The time limit of each command."""

SLOW_RESPONSE_SECONDS = 5.0
"""An answer of squeue that takes longer is a warning."""

_REQUIRED_COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")


def check_slurm_limits(config: Config, environ: Mapping[str, str], *, run: CommandRunner = run_command) -> Iterator[DoctorCheck]:
    """Check commands, partition, gres, account and a test submission.

    Only the first of these where Slurm does not answer.
    """
    path = environ.get("PATH")
    missing_commands = [name for name in _REQUIRED_COMMANDS if shutil.which(name, path=path) is None]
    if missing_commands:
        hint = "run it on a login node, or set executor: local"
        yield DoctorCheck(WRONG, "slurm", f"no {', '.join(missing_commands)} on PATH", hint)
        return
    environment = clean_environment(environ)
    version = run_with_timeout(["sbatch", "--version"], environment, COMMAND_TIMEOUT_SECONDS, run)
    executor = SlurmExecutor(
        per_minute=100, environment=environ, run=run, timeouts=dict.fromkeys(("squeue", "sacct"), COMMAND_TIMEOUT_SECONDS)
    )
    # If the controller does not answer, every later question would cost its time limit.
    started = time.monotonic()
    try:
        jobs = executor.query_queue()
    except AnswerDoubtful as error:
        jobs = {}
        hint = "while a job is in flight, an empty answer beside this line counts as none: have the cause mended"
        yield DoctorCheck(WARNING, "slurm", str(error), hint)
    except ExecutorUnreachable as error:
        yield DoctorCheck(WRONG, "slurm", str(error), "the watcher waits until Slurm answers; try `squeue` on this node")
        return
    elapsed_seconds = time.monotonic() - started
    version_line = version.stdout.strip() or get_last_output_line(version)
    message = f"{version_line}; squeue answered in {elapsed_seconds:.2f} s, {len(jobs)} jobs of yours"
    yield warn_if(elapsed_seconds > SLOW_RESPONSE_SECONDS, "slurm", message, "raise poll to spare the controller")
    yield from run_check("accounting", lambda: _check_accounting(executor))
    config_output = run_with_timeout(["scontrol", "show", "config"], environment, COMMAND_TIMEOUT_SECONDS, run)
    cluster_config = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", config_output.stdout, re.MULTILINE))
    partitions = _parse_partitions(
        run_with_timeout(["scontrol", "show", "partition", "-o"], environment, COMMAND_TIMEOUT_SECONDS, run).stdout
    )
    yield from run_check("partition", lambda: _check_partitions(config, partitions))
    yield from run_check("gres", lambda: _check_gres(config, cluster_config, partitions))
    yield from run_check("account", lambda: _check_association(config, environment, run))
    yield from run_check("submission", lambda: _check_test_submission(config, environment, run))


def _check_accounting(executor: SlurmExecutor) -> DoctorCheck:
    started = time.monotonic()
    try:
        history = executor.query_accounting(["doctor-query"], time.time())
    except ExecutorUnreachable as error:
        return DoctorCheck(WARNING, "accounting", str(error), "until it answers, only exit records tell how jobs ended")
    if history is None:
        return DoctorCheck(OK, "accounting", "none on this cluster; squeue and exit records tell how jobs ended")
    return DoctorCheck(OK, "accounting", f"sacct answered in {time.monotonic() - started:.2f} s")


def _parse_partitions(text: str) -> dict[str, dict[str, str]]:
    rows = [
        dict(assignment.partition("=")[::2] for assignment in line.split() if "=" in assignment) for line in text.splitlines()
    ]
    return {fields["PartitionName"]: fields for fields in rows if "PartitionName" in fields}


def _get_partition_names(config: Config, partitions: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The configured partitions, else the cluster's default, else none."""
    if config.slurm.partition:
        return list(dict.fromkeys(filter(None, config.slurm.partition.split(","))))
    return [name for name, fields in partitions.items() if fields.get("Default") == "YES"][:1]


def _check_time(name: str, limit: str, requested: str | None, owner: str) -> DoctorCheck | None:
    """A ``wrong`` where slurm.time is over a limit; None where it is not, or nothing limits it."""
    max_seconds, requested_seconds = parse_slurm_time(limit), parse_slurm_time(requested)
    if max_seconds is None or requested_seconds is None or requested_seconds <= max_seconds:
        return None
    message = f"slurm.time {requested} is over the {limit} that {owner} allows"
    return DoctorCheck(WRONG, name, message, f"set slurm: time: to {limit} or less")


def _check_partitions(config: Config, partitions: Mapping[str, Mapping[str, str]]) -> Iterator[DoctorCheck]:
    """Check every partition of the list: sbatch refuses all for one wrong name."""
    if not partitions:
        yield DoctorCheck(WARNING, "partition", "scontrol shows none", "run `scontrol show partition`")
        return
    names = _get_partition_names(config, partitions)
    if not names:
        message = "none is configured, and the cluster has no default"
        yield DoctorCheck(WRONG, "partition", message, f"set slurm: partition: to one of {', '.join(partitions)}")
    for name in names:
        if name in partitions:
            yield from _check_partition(config, name, partitions[name])
        else:
            hint = f"set slurm: partition: to one of {', '.join(partitions)}"
            yield DoctorCheck(WRONG, "partition", f"the cluster has no partition {name}", hint)
    if config.prefill.get("where") == "job":
        yield from _check_prefill_partition(config, partitions)


def _check_prefill_partition(config: Config, partitions: Mapping[str, Mapping[str, str]]) -> Iterator[DoctorCheck]:
    prefill = build_prefill_settings(config)
    for name in filter(None, (prefill.partition or "").split(",")):
        fields = partitions.get(name)
        if fields is None:
            hint = f"set prefill: partition: to one of {', '.join(partitions)}"
            yield DoctorCheck(WRONG, "prefill partition", f"the cluster has no partition {name}", hint)
            continue
        limit, state = fields.get("MaxTime", ""), fields.get("State", "?")
        is_long = (parse_slurm_time(prefill.time) or 0) > (parse_slurm_time(limit) or math.inf)
        message = f"{name} is {state.lower()}; MaxTime {limit}, prefill.time {prefill.time}"
        yield warn_if(
            state != "UP" or is_long, "prefill partition", message, "set another partition, or a shorter prefill: time:"
        )


def _check_partition(config: Config, name: str, fields: Mapping[str, str]) -> Iterator[DoctorCheck]:
    slurm = config.slurm
    state, time_limit = fields.get("State", "?"), fields.get("MaxTime", "")
    if state != "UP":
        yield DoctorCheck(WARNING, "partition", f"{name} is {state}, so jobs wait", "set another partition, or wait")
    for key, value in (("Accounts", slurm.account), ("Qos", slurm.qos)):
        allowed, denied = fields.get(f"Allow{key}", "ALL"), fields.get(f"Deny{key}", "")
        if value and ((allowed not in {"ALL", ""} and value not in allowed.split(",")) or value in denied.split(",")):
            yield DoctorCheck(WRONG, "partition", f"{name} does not accept {value}", f"it accepts {allowed}")
    too_long = _check_time("partition", time_limit, slurm.time, name)
    if too_long is not None:
        yield too_long
    elif state == "UP":
        default = "" if slurm.partition else " (the cluster's default)"
        message = f"{name}{default} is up; MaxTime {time_limit}, slurm.time {slurm.time or 'its default'}"
        yield DoctorCheck(OK, "partition", message)


def _check_gres(config: Config, cluster_config: Mapping[str, str], partitions: Mapping[str, Mapping[str, str]]) -> DoctorCheck:
    requested_gres = config.slurm.gres
    if not requested_gres:
        return DoctorCheck(OK, "gres", "none requested")
    gres_type = requested_gres.split(":", maxsplit=1)[0]
    known_types = cluster_config.get("GresTypes", "")
    if known_types and gres_type not in known_types.split(","):
        hint = "set slurm: gres: to a value of `sinfo -o %G`"
        return DoctorCheck(WRONG, "gres", f"the cluster has no {gres_type}, only {known_types}", hint)
    pattern = re.compile(rf"gres/{re.escape(gres_type)}=(\d+)")
    names = _get_partition_names(config, partitions)
    counts = {name: pattern.search(partitions.get(name, {}).get("TRES", "")) for name in names}
    supply = ", ".join(f"{name} has {count[1]}" for name, count in counts.items() if count)
    return DoctorCheck(OK, "gres", f"{requested_gres}; {supply or f'the cluster knows {gres_type}'}")


def _check_association(config: Config, environment: Mapping[str, str], run: CommandRunner) -> Iterator[DoctorCheck]:
    """Check account and QOS, where sacctmgr answers users."""
    if shutil.which("sacctmgr", path=environment.get("PATH")) is None:
        yield DoctorCheck(OK, "account", "no sacctmgr on this node; the test submission below checks it")
        return
    user = SlurmExecutor(environment=environment, run=run).user
    columns = "format=Account,Partition,QOS,MaxWall,MaxSubmit"
    result = run_with_timeout(
        ["sacctmgr", "-nP", "show", "assoc", "where", f"user={user}", columns], environment, COMMAND_TIMEOUT_SECONDS, run
    )
    rows = [line.split("|") for line in result.stdout.splitlines() if line.count("|") >= 4]  # noqa: PLR2004  five columns
    if result.exit_code != 0 or not rows:
        message = f"sacctmgr gives none ({get_last_output_line(result)}); the test submission below checks it"
        yield DoctorCheck(OK, "account", message)
        return
    accounts = sorted({row[0] for row in rows})
    if config.slurm.account and config.slurm.account not in accounts:
        yield DoctorCheck(WRONG, "account", f"{config.slurm.account} is not yours", f"yours are {', '.join(accounts)}")
        return
    matching_rows = [row for row in rows if config.slurm.account in {None, row[0]}]
    qos = sorted({name for row in matching_rows for name in row[2].split(",") if name})
    if config.slurm.qos and qos and config.slurm.qos not in qos:
        yield DoctorCheck(WRONG, "qos", f"{config.slurm.qos} is not yours", f"yours are {', '.join(qos)}")
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
    figures = (("MaxWall", time_limit), ("jobs submitted", max_submitted_jobs), ("running", max_running_jobs))
    limits = ", ".join(f"{label} {value}" for label, value in figures if value)
    yield _check_time("qos", time_limit, config.slurm.time, name) or DoctorCheck(OK, "qos", f"{name}: {limits or 'no limits'}")


def _check_test_submission(config: Config, environment: Mapping[str, str], run: CommandRunner) -> DoctorCheck:
    resources = {name: value for name, value in (("time", config.slurm.time), ("mem", config.slurm.mem)) if value}
    options = format_resource_options(build_resources(config.slurm, resources))
    command = ["sbatch", "--test-only", *options, "--job-name=doctor", str(find_shipped_file("slurm/score.sbatch")), "/dev/null"]
    result = run_with_timeout(command, environment, COMMAND_TIMEOUT_SECONDS, run)
    stderr_lines = [line for line in result.stderr.splitlines() if line.strip()]
    shown = " ".join(options) or "no options"
    if result.exit_code == 0:
        start = next((match[1] for line in stderr_lines if (match := re.search(r"to start at (\S+)", line))), "")
        expected_start = f", expected start {start}" if start else ""
        return DoctorCheck(OK, "submission", f"Slurm accepts a job with {shown}{expected_start}")
    message = f"{shown}: {' / '.join(stderr_lines)}"
    if result.exit_code is None:
        return DoctorCheck(WARNING, "submission", message, "try again later")
    return DoctorCheck(WRONG, "submission", message, "fix the slurm: section of the config")

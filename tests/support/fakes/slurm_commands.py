"""sbatch, squeue, sacct, sinfo, scontrol and scancel as FakeSlurm answers them, word for word as Slurm 22.05 does.

``run_fake_command`` answers in this process, ``main`` is what the fake executables call. Options and times are read and written
again in ``watcher.simulate.slurm_commands``: the executables run on any python3, which has no watcher to import.
"""

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.fakes.slurm import TERMINAL_STATES, FakeSlurm, SbatchRequest, State, find_job_tasks

CommandOutput = tuple[int | None, str, str]

_DOWN = {
    "sbatch": "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n",
    "squeue": "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
    "scontrol": "slurm_suspend error: Unable to contact slurm controller (connect failure)\n",
    "scancel": "scancel: error: Kill job error on job id 1: Unable to contact slurm controller (connect failure)\n",
    "sacct": "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection\n"
    "sacct: error: Problem talking to the database: Connection refused\n",
}
_MUNGE = (
    '{0}: error: If munged is up, restart with --num-threads=10\n{0}: error: Munge encode failed: Failed to access "munge.sock": '
    "No such file or directory (Did you start munged?)\n{0}: error: failed: Protocol authentication error\n"
)
_SOCKET = "{0}: error: Batch job submission failed: Socket timed out on send/recv operation\n"


def run_fake_command(fake: FakeSlurm, command: Sequence[str], environment: Mapping[str, str]) -> CommandOutput:
    """(exit code, stdout, stderr) of one command; no exit code where it never answers."""
    name = Path(command[0]).name
    with fake.state() as state:
        seen = {"command": list(command), "environment": dict(environment)}
        with (fake.folder / "calls.jsonl").open("a") as log:
            log.write(json.dumps(seen) + "\n")
        fault = next((fault for fault in state["faults"] if fault[0] == name), None)
        if fault is not None:
            state["faults"].remove(fault)
        how = fault[1] if fault else ""
        if how == "down":
            return 8 if name == "scancel" else 1, "", _DOWN[name]
        if how == "munge":
            return 1, "", _MUNGE.format(name)
        if how == "silent":
            return None, "", ""
        fake.advance(state)
        answer = _COMMANDS[name](fake, state, list(command[1:]), environment)
        fake.advance(state)
    lost: dict[str, CommandOutput] = {
        "socket": (1, "", _SOCKET.format(name)),
        "hang": (None, "", ""),
        "garbage": (0, "moved to Lustre 2\n", ""),
    }
    return lost.get(how, answer)


def main() -> None:
    """As an executable: the cluster is the folder in FAKE_SLURM."""
    code, out, err = run_fake_command(FakeSlurm(Path(os.environ["FAKE_SLURM"])), sys.argv, os.environ)
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.stdout.flush()
    if code is None:
        time.sleep(3600)
    sys.exit(code)


def _split_options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Leading ``--option=value`` arguments, and the remaining ones."""
    leading = list(itertools.takewhile(lambda argument: argument.startswith("-"), arguments))
    pairs = (argument.lstrip("-").partition("=") for argument in leading)
    return {name: value for name, _, value in pairs}, list(arguments[len(leading) :])


def _sbatch(fake: FakeSlurm, state: State, arguments: list[str], environment: Mapping[str, str]) -> CommandOutput:
    options, arguments = _split_options(arguments)
    refused = _refusal(state, options, arguments)
    if not refused and "hold" not in options and _gpus(options) > 4:  # a held job is looked at when it is released
        refused = "Batch job submission failed: Requested node configuration is not available"
        fake.add_job(
            state, SbatchRequest(options, arguments, {}), accounting_only=True
        )  # it came as far as an id, and accounting keeps that
    if refused:
        return 1, "", f"sbatch: error: {refused}\n"
    job = fake.add_job(state, SbatchRequest(options, arguments, environment))
    return 0, job["id"] + "\n" if "parsable" in options else f"Submitted batch job {job['id']}\n", ""


def _refusal(state: State, options: Mapping[str, str], arguments: Sequence[str]) -> str:
    failed = "Batch job submission failed: "
    script = Path(arguments[0])
    if not script.is_file():
        return f"Unable to open file {script}"
    if options.get("partition", "short") not in {"short", "closed"}:
        return f"invalid partition specified: {options['partition']}\nsbatch: error: {failed}Invalid partition name specified"
    if options.get("partition") == "closed":
        return f"{failed}Required partition not available (inactive or drain)"
    if state["accounting"] and options.get("account", "lab") != "lab":
        return f"{failed}Invalid account or account/partition combination specified"
    if state["accounting"] and options.get("qos", "normal") not in {"normal", "few"}:
        return f"{failed}Invalid qos specification"
    if int(options.get("time", "0").split(":")[0]) > 4:
        return f"{failed}Requested time limit is invalid (missing or exceeds some limit)"
    if _gpus(options) < 0:
        return f"{failed}Invalid generic resource (gres) specification"
    mine = [job for job in state["jobs"].values() if job["qos"] == "few" and job["state"].split()[0] not in TERMINAL_STATES]
    if state["accounting"] and options.get("qos") == "few" and len(mine) >= 2:
        policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
        return f"QOSMaxSubmitJobPerUserLimit\nsbatch: error: {failed}{policy}"
    return ""


def _gpus(options: Mapping[str, str]) -> int:
    """How many a node are asked for; -1 where it is not gpus."""
    match = re.fullmatch(r"gpu:(\d+)", options.get("gres", "none").replace("none", "gpu:0"))
    return int(match[1]) if match else -1


def _format_time(timestamp: float | None, environment: Mapping[str, str], placeholder: str) -> str:
    if timestamp is None:
        return placeholder
    return time.strftime(environment.get("SLURM_TIME_FORMAT", "%Y-%m-%dT%H:%M:%S"), time.localtime(timestamp))


def _squeue(_fake: FakeSlurm, state: State, arguments: list[str], environment: Mapping[str, str]) -> CommandOutput:
    options, _ = _split_options(arguments)
    lines = []
    for job in state["jobs"].values():
        if job["purged"]:
            continue
        fields = {
            "%F": job["task"][0] if job["task"] else job["id"],
            "%T": job["state"],
            "%V": _format_time(job["submit"], environment, "N/A"),
            "%S": _format_time(job["start"], environment, "N/A"),
            "%e": _format_time(job["end"], environment, "N/A"),
            "%r": job["reason"],
            "%j": job["name"],
            "%k": job["comment"],
        }
        lines.append(re.sub("%[A-Za-z]", lambda match, fields=fields: fields[match[0]], options["format"]) + "\n")
    return 0, "".join(lines), ""


def _sacct(_fake: FakeSlurm, state: State, arguments: list[str], environment: Mapping[str, str]) -> CommandOutput:
    if not state["accounting"]:
        return 1, "", "Slurm accounting storage is disabled\n"
    options, _ = _split_options(arguments)
    names = options["name"].split(",")
    lines = []
    for job in state["jobs"].values():
        if job["name"] not in names or not job["eligible"]:  # sacct finds no held job by its name
            continue
        word = f"CANCELLED by {job['by']}" if job["state"] == "CANCELLED" and "by" in job else job["state"]
        last = {"state": word, "submit": job["submit"], "start": job["start"], "end": job["end"], "exit": job["exit"]}
        for row in [*job["earlier"], last]:
            fields = {
                "JobID": "_".join(job["task"]) if job["task"] else job["id"],
                "State": row["state"],
                "ExitCode": row.get("exit", "0:0"),
                "Submit": _format_time(row["submit"], environment, "Unknown"),
                "Start": _format_time(row["start"], environment, "Unknown"),
                "End": _format_time(row["end"], environment, "Unknown"),
                "NodeList": job["node"],
                "ElapsedRaw": str(int((row["end"] or row["start"] or 0) - (row["start"] or row["end"] or 0))),
                "AllocTRES": "billing=1,cpu=1,node=1",
                "JobName": job["name"],
                "Comment": "",  # only where AccountingStoreFlags says so
            }
            lines.append(options["delimiter"].join(fields[field] for field in options["format"].split(",")) + "\n")
    return 0, "".join(lines), ""


def _sinfo(_fake: FakeSlurm, _state: State, arguments: list[str], _environment: Mapping[str, str]) -> CommandOutput:
    options, _ = _split_options(arguments)
    known = {"short": ("short*", "4:00:00"), "closed": ("closed", "1-00:00:00")}
    chosen = [known[name] for name in known if options.get("partition", name) == name]
    rows = [{"%P": name, "%l": limit, "%m": "4000"} for name, limit in chosen]
    return 0, "".join(re.sub("%[A-Za-z]", lambda match, row=row: row[match[0]], options["format"]) + "\n" for row in rows), ""


def _scontrol(fake: FakeSlurm, state: State, arguments: list[str], _environment: Mapping[str, str]) -> CommandOutput:
    if arguments == ["show", "config"]:
        return 0, f"Configuration data as of today\nClusterName             = {state['cluster']}\nSLURM_VERSION = 22.05.8\n", ""
    verb, number = arguments
    jobs = [job for job in find_job_tasks(state, number) if not job["purged"]]
    if not jobs:
        return 1, "", f"Invalid job id specified for job {number}\nslurm_suspend error: Invalid job id specified\n"
    if all(job["state"].split()[0] in TERMINAL_STATES for job in jobs):
        return 1, "", f"Job has already finished for job {number}\nslurm_suspend error: Job has already finished\n"
    if verb != "release":
        return 1, "", f"invalid keyword: {verb}\n"
    if any(job["reason"] == "JobHeldAdmin" for job in jobs):
        return 1, "", f"Access/permission denied for job {number}\nslurm_suspend error: Access/permission denied\n"
    for job in jobs:
        if job["state"] == "PENDING":
            job.update(eligible=True, reason="None")
    fake.advance(state)
    return 0, "", ""


def _scancel(fake: FakeSlurm, state: State, arguments: list[str], _environment: Mapping[str, str]) -> CommandOutput:
    options, numbers = _split_options(arguments)
    jobs = [
        job for job in find_job_tasks(state, numbers[0]) if not job["purged"] and job["state"].split()[0] not in TERMINAL_STATES
    ]
    if not jobs:
        return 1, "", f"scancel: error: Kill job error on job id {numbers[0]}: Invalid job id specified\n"
    for job in jobs:
        if options.get("name", job["name"]) == job["name"]:
            fake.cancel_job(job)
    return 0, "", ""


_COMMANDS = {"sbatch": _sbatch, "squeue": _squeue, "sacct": _sacct, "scontrol": _scontrol, "scancel": _scancel, "sinfo": _sinfo}

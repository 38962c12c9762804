"""What of this login environment reaches Slurm's commands and the jobs.

Every line names one variable, what becomes of it, and where its setting belongs.
"""

import os
import shutil
from collections.abc import Iterator, Mapping

from suites.common.python_path import find_hidden_package
from watcher.config.settings import CLUSTER_VARIABLES, Config
from watcher.doctor.check import OK, WARNING, DoctorCheck, run_check, warn_if
from watcher.executors.local import DROPPED_PREFIXES
from watcher.executors.slurm_commands import is_dropped

THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_PLACES", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"),
    *("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS"),
)
"""What the batch scripts replace by the CPUs of the allocation."""

_INHERITED = {
    "PYTHONHOME": "it must belong to the jobs' python",
    "PYTHONNOUSERSITE": "packages of ~/.local are left out",
    "LD_LIBRARY_PATH": "libraries in it come before those of the jobs' python",
    "LD_PRELOAD": "it is loaded into every program of a job",
    "BASH_ENV": "bash reads it at the start of every job",
    "TMPDIR": "it must exist on the nodes, too",
    "CUDA_VISIBLE_DEVICES": "it counts where a job asks for no GPU",
    "HF_HOME": "jobs look for tokenizers and data sets there",
    "HF_HUB_OFFLINE": "jobs and prefill ask no hub",
    "LOADEDMODULES": "jobs start with these modules; slurm: setup: may purge them",
    "LIGHTEVAL_CMD": "stages without a command of their own are scored by it",
}
"""Variables that jobs get as they are here, and what follows."""


def check_login_environment(config: Config, environ: Mapping[str, str]) -> Iterator[DoctorCheck]:
    """A line for each variable that is dropped or inherited."""
    yield from run_check("SLURM_*", lambda: _check_slurm_variables(config, environ))
    for name in THREAD_VARIABLES:
        if name in environ:
            effect = f"dropped; a job uses its own CPUs ({config.slurm.cpus_per_task or 1})"
            hint = "name it in slurm: setup: to set it"
            message = f"{effect}; {hint}" if config.executor == "slurm" else "inherited by the jobs of this machine"
            yield DoctorCheck(OK, name, f"{environ[name]}: {message}")
    yield from run_check("PYTHONPATH", lambda: _check_python_path(environ))
    yield from run_check("python environment", lambda: _check_python_environment(config, environ))
    if environ.get("LC_ALL", "C") != "C" and config.executor == "slurm":
        yield DoctorCheck(OK, "LC_ALL", f"{environ['LC_ALL']}: replaced by C, in the jobs, too; slurm: setup: may set it")
    for name, effect in _INHERITED.items():
        if environ.get(name):
            yield DoctorCheck(OK, name, f"{environ[name]}: inherited; {effect}")


def _check_slurm_variables(config: Config, environ: Mapping[str, str]) -> Iterator[DoctorCheck]:
    if config.executor == "local":
        for name in sorted(environ):
            if name.startswith(DROPPED_PREFIXES):
                yield DoctorCheck(OK, name, "dropped; jobs of this machine are no Slurm jobs")
        return
    is_in_job = "SLURM_JOB_ID" in environ
    if is_in_job:  # its dozens of variables say nothing each
        names = ", ".join(sorted(name for name in environ if name.startswith("SLURM_") and is_dropped(name)))
        hint = "run the watcher on a login node: here it ends with this job"
        yield DoctorCheck(WARNING, "SLURM_JOB_ID", f"doctor runs in job {environ['SLURM_JOB_ID']}; dropped: {names}", hint)
    for name, value in sorted(environ.items()):
        if name in CLUSTER_VARIABLES:
            yield DoctorCheck(OK, name, f"{value}: inherited by Slurm's commands; watcher.env must have it, too")
        elif name == "SLURM_JWT":
            yield DoctorCheck(OK, name, "inherited by Slurm's commands; a token that ends, so `watcher init` leaves it out")
        elif name == "SLURM_CLUSTERS":
            message = f"{value}: dropped; jobs go to the cluster of slurm.conf"
            yield DoctorCheck(WARNING, name, message, "set SLURM_CONF to the slurm.conf of that cluster")
        elif name.startswith("SBATCH_"):
            message = f"{value}: dropped; sbatch gets the options of the config only"
            yield DoctorCheck(WARNING, name, message, _suggest_key(name, config))
        elif is_dropped(name) and not (is_in_job and name.startswith("SLURM_")):
            yield DoctorCheck(OK, name, f"{value}: dropped; it would change what Slurm's commands do or print")


def _suggest_key(name: str, config: Config) -> str:
    """Where the config has the option that a variable of sbatch sets."""
    key = {"SBATCH_TIMELIMIT": "time", "SBATCH_MEM_PER_NODE": "mem"}.get(name, name.removeprefix("SBATCH_").lower())
    if key not in {"account", "partition", "qos", "gres", "cpus_per_task", "time", "mem"}:
        return "write it in slurm: extra: if jobs need it"
    value = getattr(config.slurm, key)
    return f"write slurm: {key}: if jobs need it; it is {'unset' if value is None else value}"


def _check_python_path(environ: Mapping[str, str]) -> Iterator[DoctorCheck]:
    if not environ.get("PYTHONPATH"):
        return
    for entry in environ["PYTHONPATH"].split(os.pathsep):
        hidden, shown = find_hidden_package(entry), entry or "the current folder"
        message = f"{shown}: dropped; its package {hidden!r} would hide ours" if hidden else f"{shown}: inherited by the jobs"
        yield warn_if(bool(hidden), "PYTHONPATH", message, f"rename {hidden} there, or take it out of PYTHONPATH")


def _check_python_environment(config: Config, environ: Mapping[str, str]) -> Iterator[DoctorCheck]:
    """Conda and virtual environments: their PATH decides which ``python3`` runs."""
    for name in ("CONDA_PREFIX", "VIRTUAL_ENV"):
        if environ.get(name):
            program = shutil.which(config.python, path=environ.get("PATH"))
            message = f"{environ[name]}: inherited; jobs run {config.python}"
            hint = "write its full path in python: where the watcher starts from another shell"
            if "/" in config.python:
                yield DoctorCheck(OK, name, message)
            else:
                yield DoctorCheck(WARNING, name, f"{message}, which is {program or 'not on PATH'} here", hint)

"""Provenance of numbers, for run.json: versions, device, Slurm job, memory."""

import importlib.metadata
import os
import platform
import resource
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scoring.runtime.progress import compute_mfu

VERSIONED_PACKAGES = (
    "checkpoint-watcher",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pyarrow",
    "datasets",
    "jinja2",
    "jsonschema",
    "msgspec",
    "filelock",
)

_SLURM_VARIABLES = (
    "JOB_ID",
    "JOB_NAME",
    "RESTART_COUNT",
    "ARRAY_JOB_ID",
    "ARRAY_TASK_ID",
    "JOB_PARTITION",
    "JOB_NODELIST",
    "CLUSTER_NAME",
)


def collect_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages behind numbers."""
    installed = {"python": platform.python_version()}
    for name in VERSIONED_PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def read_git_commit() -> str | None:
    """Return the commit of the source tree; None for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def describe_device(torch_device: torch.device) -> dict[str, Any]:
    """Return name, host and size of the device."""
    description: dict[str, Any] = {"type": torch_device.type, "host": socket.gethostname(), "threads": torch.get_num_threads()}
    if torch_device.type == "cuda":
        properties = torch.cuda.get_device_properties(torch_device)
        description |= {"name": properties.name, "memory": properties.total_memory, "cuda": torch.version.cuda}
    else:
        description |= {"name": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
    return description


def describe_slurm_job(environ: Mapping[str, str]) -> dict[str, str] | None:
    """Return Slurm's variables of this job; None outside of Slurm."""
    variables = {name.lower(): environ[f"SLURM_{name}"] for name in _SLURM_VARIABLES if environ.get(f"SLURM_{name}")}
    return variables or None


def get_process_age_seconds() -> float:
    """Return the seconds since the kernel started this process, imports included."""
    # Field 22 of /proc/self/stat, in clock ticks since boot. The name before it may contain spaces.
    started_seconds = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - started_seconds


def measure_peak_memory(torch_device: torch.device) -> dict[str, int]:
    """Return the peak memory of this process and its GPU, in bytes."""
    peak_bytes = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}  # Linux counts KiB
    if torch_device.type == "cuda":
        peak_bytes["device"] = torch.cuda.max_memory_allocated(torch_device)
    return peak_bytes


def compute_throughput(tokens: int, flop: float, seconds: float, peak_flops: float | None) -> dict[str, float | None]:
    """Return tokens/s, FLOP/s, and their share of the device's peak."""
    if not tokens or seconds <= 0:
        return {"tokens_per_s": None, "model_flops_per_s": None, "mfu": None}
    return {"tokens_per_s": tokens / seconds, "model_flops_per_s": flop / seconds, "mfu": compute_mfu(flop, seconds, peak_flops)}

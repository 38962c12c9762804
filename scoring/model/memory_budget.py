"""Token positions of a forward pass, from the free memory."""

import math
from pathlib import Path

import structlog
import torch

from suites.checkpoint.architecture import Architecture
from suites.common.errors import ExitCode, UserError

CPU_TOKEN_POSITIONS = 1024
"""Token positions that suit a CPU core's caches; measured in tests/benchmarks."""

MIN_TOKEN_POSITIONS, MAX_TOKEN_POSITIONS = 1024, 65536
"""Limits on a GPU; more than MAX_TOKEN_POSITIONS make nothing faster."""

GPU_MASK_KEYS = 4096
"""Keys of a masked row for which memory is reserved."""

GPU_HEAD_BYTES = 3 << 30
"""GPU memory reserved for a chunk of logits, its exponentials and the allocator's waste."""

CPU_LOGIT_ROWS, CPU_LOGIT_VALUES = 256, 1 << 23
"""Most rows of logits, and most logits, of a chunk in a CPU thread. Two chunks exist while one is computed."""

CPU_HEAP_OVERHEAD = 1.5
"""Peak heap of a CPU thread / estimate: the heap keeps freed blocks. At most 1.31 was measured."""

GIB_BYTES = 1 << 30

_log = structlog.get_logger()


class TokenBudget:
    """How many token positions a forward pass has."""

    def __init__(self, token_positions: int) -> None:
        self.token_positions = token_positions

    def halve(self, shape: tuple[int, ...], error: torch.OutOfMemoryError) -> None:
        """Halve the budget after a batch did not fit.

        Raises ``error`` if the batch was one row. ``shape``: its [B, S].
        """
        rows, width = shape
        if rows == 1:
            raise error
        torch.cuda.empty_cache()
        self.token_positions = max(width, rows * width // 2)
        _log.warning("device memory is full; continuing with smaller batches", token_positions=self.token_positions)


def estimate_bytes_per_position(arch: Architecture, bytes_per_value: int, key_count: int) -> int:
    """Peak bytes of a layer for each token position, weights excluded.

    The residual stream and its normed copy; the larger of MLP (gate, up, their product; for the top k experts) and attention
    (q, k, v, rotated in fp32, repeated for the groups); and a mask row of ``key_count`` keys (bool and additive).
    """
    # Dense and expert layers may alternate: the wider one decides.
    mlp_width = arch.intermediate
    if arch.experts is not None:
        mlp_width = max(mlp_width, arch.experts.top_k * arch.experts.intermediate + (arch.experts.shared_intermediate or 0))
    mlp = 4 * mlp_width * bytes_per_value
    attention = (4 * arch.hidden + 2 * arch.kv_size) * bytes_per_value + 3 * 4 * (arch.hidden + arch.kv_size)
    return 3 * arch.hidden * bytes_per_value + max(mlp, attention) + key_count * (1 + 2 * bytes_per_value)


def compute_budget(arch: Architecture, *, device: torch.device, bytes_per_value: int, weight_bytes: int) -> TokenBudget:
    """The largest power of two of token positions that fits.

    The weights are in memory already.
    Usually 90 % of the device's total memory decides, so that equal devices get equal budgets. If other processes use the device,
    its free memory decides.
    """
    if device.type != "cuda":
        return TokenBudget(CPU_TOKEN_POSITIONS)
    # Equal devices have the same total memory, but not the same free memory.
    _, total_bytes = torch.cuda.mem_get_info(device)
    available_bytes = min(get_free_bytes(device), int(0.9 * total_bytes) - weight_bytes) - GPU_HEAD_BYTES
    return TokenBudget(fit_token_positions(available_bytes, estimate_bytes_per_position(arch, bytes_per_value, GPU_MASK_KEYS)))


def fit_token_positions(available_bytes: int, bytes_per_position: int) -> int:
    """The largest power of two of positions that fits.

    From MIN_TOKEN_POSITIONS to MAX_TOKEN_POSITIONS.
    """
    positions = MIN_TOKEN_POSITIONS
    while positions < MAX_TOKEN_POSITIONS and 2 * positions * bytes_per_position <= available_bytes:
        positions *= 2
    return positions


def estimate_peak_bytes(
    arch: Architecture, *, device: torch.device, bytes_per_value: int, token_positions: int, key_count: int
) -> int:
    """Peak bytes of scoring beyond the weights.

    On a CPU each thread computes ``token_positions`` at a time.
    """
    batch_bytes = token_positions * estimate_bytes_per_position(arch, bytes_per_value, key_count)
    if device.type == "cuda":
        return batch_bytes + GPU_HEAD_BYTES
    logit_bytes = 2 * 4 * min(CPU_LOGIT_ROWS * arch.vocab, CPU_LOGIT_VALUES)  # two fp32 chunks
    return round(torch.get_num_threads() * CPU_HEAP_OVERHEAD * (batch_bytes + logit_bytes))


def refuse_oversized_model(arch: Architecture, *, device: torch.device, bytes_per_value: int, folder: Path) -> None:
    """Raise UserError (UNAVAILABLE) if a model needs too much memory.

    It needs its weights and the smallest budget.
    """
    weight_bytes = sum(math.prod(parameter.shape) for parameter in arch.parameters()) * bytes_per_value
    minimum_bytes = estimate_peak_bytes(
        arch, device=device, bytes_per_value=bytes_per_value, token_positions=MIN_TOKEN_POSITIONS, key_count=MIN_TOKEN_POSITIONS
    )
    available_bytes = get_free_bytes(device)
    if weight_bytes + minimum_bytes > available_bytes:
        weights, batch, available = (f"{size / GIB_BYTES:.1f} GiB" for size in (weight_bytes, minimum_bytes, available_bytes))
        message = f"needs {weights} for weights and {batch} for {MIN_TOKEN_POSITIONS} tokens, but {device} has {available} free"
        hint = "use a device with more memory" + (" or --dtype bfloat16" if bytes_per_value == torch.float32.itemsize else "")
        raise UserError(message, location=folder, hint=hint, code=ExitCode.UNAVAILABLE)


def get_free_bytes(device: torch.device) -> int:
    """Bytes that this process may still use.

    Of the GPU, or within the job's cgroup.
    """
    if device.type == "cuda":
        # torch keeps freed blocks, which the driver counts as used.
        driver_free_bytes, _ = torch.cuda.mem_get_info(device)
        return driver_free_bytes + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return get_host_free_bytes(Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def get_host_free_bytes(meminfo: Path, cgroup_file: Path, cgroup_root: Path) -> int:
    """Bytes free on the host, within the limits of all cgroups.

    Caches count as free.
    """
    free_bytes = [int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")]
    names = [line[3:].strip("/") for line in cgroup_file.read_text().splitlines() if line.startswith("0::")]
    # A limit of any parent cgroup holds for the job, too.
    cgroups = [cgroup_root / name for name in names]
    for group in [*cgroups, *(parent for cgroup in cgroups for parent in cgroup.parents)]:
        try:
            limit, used = ((group / f"memory.{field}").read_text().strip() for field in ("max", "current"))
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:  # no memory controller, or not mounted
            continue
        if limit != "max":
            cache_bytes = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
            free_bytes.append(int(limit) - int(used) + cache_bytes)
    return min(free_bytes)

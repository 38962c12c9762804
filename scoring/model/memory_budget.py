"""How many token places one forward pass has: what fits, known before anything is tried."""

import math
from pathlib import Path

import structlog
import torch

from suites.checkpoint.architecture import Architecture
from suites.common.errors import ExitCode, UserError

CPU_TOKEN_POSITIONS = 1024
"""What a core's caches hold best; measured, see tests/benchmarks."""

MIN_TOKEN_POSITIONS, MAX_TOKEN_POSITIONS = 1024, 65536
"""Of a GPU; beyond MOST nothing gets faster."""

GPU_MASK_KEYS = 4096
"""Keys of a masked row that room is kept for."""

GPU_HEAD_BYTES = 3 << 30
"""Bytes of a GPU for the head's chunk of logits and its exponentials, and for the allocator's waste."""

CPU_LOGIT_ROWS, CPU_LOGIT_VALUES = 256, 1 << 23
"""Rows of logits, and logits, that exist at one time in a thread of a CPU. Two such chunks meet while one is made."""

CPU_HEAP_OVERHEAD = 1.5
"""Of a CPU: what a thread's part of the heap keeps of freed blocks; up to 1.31 of what was reckoned was measured."""

GIB_BYTES = 1 << 30

_log = structlog.get_logger()


class TokenBudget:
    """Token places of a forward pass."""

    def __init__(self, token_positions: int) -> None:
        self.token_positions = token_positions

    def halve(self, shape: tuple[int, ...]) -> None:
        """A batch of ``shape`` [B, S] was too much. Raises the error that brought us here where it was one row already."""
        rows, width = shape
        if rows == 1:
            raise  # noqa: PLE0704  the torch.OutOfMemoryError that is being handled
        torch.cuda.empty_cache()
        self.token_positions = max(width, rows * width // 2)
        _log.warning("the device's memory is full; going on with half as much at a time", token_places=self.token_positions)


def estimate_bytes_per_position(arch: Architecture, bytes_per_value: int, key_count: int) -> int:
    """The most that exists at one time for each token place, weights apart; in a layer, most of it in its MLP.

    Residual stream, its normed copy, gate and up, their product (of the experts, top k of them); or q, k, v as they come,
    turned in fp32, repeated for the groups; a mask row of ``key_count`` (True or False, and what is added to scores).
    """
    mlp_width = arch.intermediate
    if arch.experts is not None:
        mlp_width = max(mlp_width, arch.experts.top_k * arch.experts.intermediate + (arch.experts.shared_intermediate or 0))
    mlp = 4 * mlp_width * bytes_per_value
    attention = (4 * arch.hidden + 2 * arch.kv_size) * bytes_per_value + 3 * 4 * (arch.hidden + arch.kv_size)
    return 3 * arch.hidden * bytes_per_value + max(mlp, attention) + key_count * (1 + 2 * bytes_per_value)


def compute_budget(arch: Architecture, *, device: torch.device, bytes_per_value: int, weight_bytes: int) -> TokenBudget:
    """The largest power of two of token places that fits beside the weights, which are there already.

    Taken from what the device has in all, less a tenth, so that equal devices get equal budgets; from what is free where
    others use it, too.
    """
    if device.type != "cuda":
        return TokenBudget(CPU_TOKEN_POSITIONS)
    _, total_bytes = torch.cuda.mem_get_info(device)
    available_bytes = min(get_free_bytes(device), int(0.9 * total_bytes) - weight_bytes) - GPU_HEAD_BYTES
    return TokenBudget(fit_token_positions(available_bytes, estimate_bytes_per_position(arch, bytes_per_value, GPU_MASK_KEYS)))


def fit_token_positions(available_bytes: int, bytes_per_position: int) -> int:
    """Of ``available_bytes`` bytes, at ``bytes_per_position`` a place: a power of two between LEAST and MOST."""
    positions = MIN_TOKEN_POSITIONS
    while positions < MAX_TOKEN_POSITIONS and 2 * positions * bytes_per_position <= available_bytes:
        positions *= 2
    return positions


def estimate_peak_bytes(
    arch: Architecture, *, device: torch.device, bytes_per_value: int, token_positions: int, key_count: int
) -> int:
    """Bytes that scoring takes beyond the weights at ``token_positions`` token places: on a CPU each thread has so many."""
    batch_bytes = token_positions * estimate_bytes_per_position(arch, bytes_per_value, key_count)
    if device.type == "cuda":
        return batch_bytes + GPU_HEAD_BYTES
    return round(
        torch.get_num_threads() * CPU_HEAP_OVERHEAD * (batch_bytes + 2 * 4 * min(CPU_LOGIT_ROWS * arch.vocab, CPU_LOGIT_VALUES))
    )


def refuse_oversized_model(arch: Architecture, *, device: torch.device, bytes_per_value: int, folder: Path) -> None:
    """Problem (unavailable) with the numbers where weights and the least budget need more memory than is free."""
    weight_bytes = sum(math.prod(parameter.shape) for parameter in arch.parameters()) * bytes_per_value
    minimum_bytes = estimate_peak_bytes(
        arch, device=device, bytes_per_value=bytes_per_value, token_positions=MIN_TOKEN_POSITIONS, key_count=MIN_TOKEN_POSITIONS
    )
    available_bytes = get_free_bytes(device)
    if weight_bytes + minimum_bytes > available_bytes:
        needed_text = f"needs {weight_bytes / GIB_BYTES:.1f} GiB for its weights + {minimum_bytes / GIB_BYTES:.1f} GiB for one budget of {MIN_TOKEN_POSITIONS} tokens"
        message = f"{needed_text}, and {device} has {available_bytes / GIB_BYTES:.1f} GiB free"
        hint = "ask for a device with more memory" + ("" if bytes_per_value < 4 else ", or --dtype bfloat16")  # noqa: PLR2004  fp32
        raise UserError(message, location=folder, hint=hint, code=ExitCode.UNAVAILABLE)


def get_free_bytes(device: torch.device) -> int:
    """What may still be used: on a GPU by this process, on a CPU within the job's cgroup."""
    if device.type == "cuda":
        driver_free_bytes, _ = torch.cuda.mem_get_info(device)
        return driver_free_bytes + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return get_host_free_bytes(Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def get_host_free_bytes(meminfo: Path, cgroup_file: Path, cgroup_root: Path) -> int:
    """Bytes: the kernel's MemAvailable, or what the limits of this cgroup and those above it leave, caches not counted."""
    candidates = [int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")]
    names = [line[3:].strip("/") for line in cgroup_file.read_text().splitlines() if line.startswith("0::")]
    for cgroup in [cgroup_root / name for name in names] + [parent for name in names for parent in (cgroup_root / name).parents]:
        try:
            limit, used = ((cgroup / f"memory.{field}").read_text().strip() for field in ("max", "current"))
            stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        except OSError:  # no such controller here, or outside of what is mounted
            continue
        if limit != "max":
            candidates.append(int(limit) - int(used) + int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0)))
    return min(candidates)

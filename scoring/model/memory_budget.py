"""How many token places one forward pass has: what fits, known before anything is tried."""

import math
from pathlib import Path

import structlog
import torch

from suites.checkpoint.architecture import Architecture
from suites.common.errors import Exit, Problem

CPU_PLACES = 1024
"""What a core's caches hold best; measured, see tests/benchmarks."""

LEAST, MOST = 1024, 65536
"""Of a GPU; beyond MOST nothing gets faster."""

WIDTH = 4096
"""Keys of a masked row that room is kept for."""

HEAD = 3 << 30
"""Bytes of a GPU for the head's chunk of logits and its exponentials, and for the allocator's waste."""

CPU_HEAD_ROWS, CPU_HEAD_VALUES = 256, 1 << 23
"""Rows of logits, and logits, that exist at one time in a thread of a CPU. Two such chunks meet while one is made."""

WASTE = 1.5
"""Of a CPU: what a thread's part of the heap keeps of freed blocks; up to 1.31 of what was reckoned was measured."""

GIB = 1 << 30

_log = structlog.get_logger()


class Budget:
    """Token places of a forward pass."""

    def __init__(self, places: int) -> None:
        self.places = places

    def halve(self, shape: tuple[int, ...]) -> None:
        """A batch of ``shape`` [B, S] was too much. Raises the error that brought us here where it was one row already."""
        rows, width = shape
        if rows == 1:
            raise  # noqa: PLE0704  the torch.OutOfMemoryError that is being handled
        torch.cuda.empty_cache()
        self.places = max(width, rows * width // 2)
        _log.warning("the device's memory is full; going on with half as much at a time", token_places=self.places)


def bytes_a_place(a: Architecture, bytes_a_value: int, width: int) -> int:
    """The most that exists at one time for each token place, weights apart; in a layer, most of it in its MLP.

    Residual stream, its normed copy, gate and up, their product (of the experts, top k of them); or q, k, v as they come,
    turned in fp32, repeated for the groups; a mask row of ``width`` (True or False, and what is added to scores).
    """
    inner = a.intermediate
    if a.experts is not None:
        inner = max(inner, a.experts.top_k * a.experts.intermediate + (a.experts.shared_intermediate or 0))
    mlp = 4 * inner * bytes_a_value
    attention = (4 * a.hidden + 2 * a.kv_size) * bytes_a_value + 3 * 4 * (a.hidden + a.kv_size)
    return 3 * a.hidden * bytes_a_value + max(mlp, attention) + width * (1 + 2 * bytes_a_value)


def fitting(a: Architecture, *, device: torch.device, bytes_a_value: int, weights: int) -> Budget:
    """The largest power of two of token places that fits beside the weights, which are there already.

    Taken from what the device has in all, less a tenth, so that equal devices get equal budgets; from what is free where
    others use it, too.
    """
    if device.type != "cuda":
        return Budget(CPU_PLACES)
    _, total = torch.cuda.mem_get_info(device)
    room = min(free_bytes(device), int(0.9 * total) - weights) - HEAD
    return Budget(places_in(room, bytes_a_place(a, bytes_a_value, WIDTH)))


def places_in(room: int, each: int) -> int:
    """Of ``room`` bytes, at ``each`` a place: a power of two between LEAST and MOST."""
    places = LEAST
    while places < MOST and 2 * places * each <= room:
        places *= 2
    return places


def at_most(a: Architecture, *, device: torch.device, bytes_a_value: int, places: int, width: int) -> int:
    """Bytes that scoring takes beyond the weights at ``places`` token places: on a CPU each thread has so many."""
    one = places * bytes_a_place(a, bytes_a_value, width)
    if device.type == "cuda":
        return one + HEAD
    return round(torch.get_num_threads() * WASTE * (one + 2 * 4 * min(CPU_HEAD_ROWS * a.vocab, CPU_HEAD_VALUES)))


def refuse_what_does_not_fit(a: Architecture, *, device: torch.device, bytes_a_value: int, folder: Path) -> None:
    """Problem (unavailable) with the numbers where weights and the least budget need more memory than is free."""
    weights = sum(math.prod(parameter.shape) for parameter in a.parameters()) * bytes_a_value
    least = at_most(a, device=device, bytes_a_value=bytes_a_value, places=LEAST, width=LEAST)
    free = free_bytes(device)
    if weights + least > free:
        needs = f"needs {weights / GIB:.1f} GiB for its weights + {least / GIB:.1f} GiB for one budget of {LEAST} tokens"
        what = f"{needs}, and {device} has {free / GIB:.1f} GiB free"
        todo = "ask for a device with more memory" + ("" if bytes_a_value < 4 else ", or --dtype bfloat16")  # noqa: PLR2004  fp32
        raise Problem(what, where=folder, todo=todo, code=Exit.UNAVAILABLE)


def free_bytes(device: torch.device) -> int:
    """What may still be used: on a GPU by this process, on a CPU within the job's cgroup."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return host_free(Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def host_free(meminfo: Path, own: Path, mounted: Path) -> int:
    """Bytes: the kernel's MemAvailable, or what the limits of this cgroup and those above it leave, caches not counted."""
    found = [int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")]
    names = [line[3:].strip("/") for line in own.read_text().splitlines() if line.startswith("0::")]
    for group in [mounted / name for name in names] + [parent for name in names for parent in (mounted / name).parents]:
        try:
            limit, used = ((group / f"memory.{which}").read_text().strip() for which in ("max", "current"))
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:  # no such controller here, or outside of what is mounted
            continue
        if limit != "max":
            found.append(int(limit) - int(used) + int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0)))
    return min(found)

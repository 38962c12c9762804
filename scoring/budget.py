"""How many token places one forward pass has: what fits, known before anything is tried."""

import structlog
import torch

from suites.architecture import Architecture

CPU_PLACES = 1024
"""What a core's caches hold best; measured, see tests/bench."""
LEAST, MOST = 1024, 65536
"""Of a GPU; beyond MOST nothing gets faster."""
HEAD = 3 << 30
"""Bytes on a GPU for the head's chunk of logits, its log-softmax, and the allocator's waste."""

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
    """The largest power of two of token places that fits beside the weights.

    Taken from what the device has in all, less a tenth, so that equal devices get equal budgets; from what is free where
    others use it, too.
    """
    if device.type != "cuda":
        return Budget(CPU_PLACES)
    free, total = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    room = min(free + cached, int(0.9 * total) - weights) - HEAD
    return Budget(places_in(room, bytes_a_place(a, bytes_a_value, 4096)))


def places_in(room: int, each: int) -> int:
    """Of ``room`` bytes, at ``each`` a place: a power of two between LEAST and MOST."""
    places = LEAST
    while places < MOST and 2 * places * each <= room:
        places *= 2
    return places

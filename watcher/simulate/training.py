"""A training run in fast motion: checkpoints of almost no size appear as nanotron writes them, on the config's schedule."""

import heapq
import json
import os
import random
import struct
from collections.abc import Iterable
from pathlib import Path

import msgspec

from watcher.config.settings import Config, Stage

REWRITTEN = 0.05
"""How likely a checkpoint is to be written once more."""

OPEN_ENDED = 20
"""Checkpoints of a stage whose ``every`` has no end."""

_MODEL = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 8,
    "intermediate_size": 8,
    "is_llama_config": True,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "rope_interleaved": False,
    "tie_word_embeddings": True,
    "vocab_size": 8,
}

_WHOLE = "|None,None,None"

_ROWS, _COLUMNS = "None,None,None{w}#0,{n},None{w}", "None,None,None|None,None,None#None,None,None|0,{n},None"

_RANKS = "_pp-rank-0-of-1_tp-rank-0-of-1.safetensors"

_TENSORS: dict[str, tuple[tuple[int, ...], str]] = {
    "token_position_embeddings/pp_block/token_embedding": ((8, 8), _ROWS.format(n=8, w=_WHOLE)),
    "decoder/0/pp_block/input_layernorm": ((8,), ""),
    "decoder/0/pp_block/attn/qkv_proj": (
        (24, 8),
        ";".join(f"{n},{n + 8},None{_WHOLE}#{n},{n + 8},None{_WHOLE}" for n in (0, 8, 16)),
    ),
    "decoder/0/pp_block/attn/o_proj": ((8, 8), _COLUMNS.format(n=8)),
    "decoder/0/pp_block/post_attention_layernorm": ((8,), ""),
    "decoder/0/pp_block/mlp/gate_up_proj": (
        (16, 8),
        ";".join(f"{n},{n + 8},None{_WHOLE}#{n},{n + 8},None{_WHOLE}" for n in (0, 8)),
    ),
    "decoder/0/pp_block/mlp/down_proj": ((8, 8), _COLUMNS.format(n=8)),
    "final_layer_norm/pp_block": ((8,), ""),
}
"""Module under model/model -> (shape, nanotron's slices; empty: not sharded)."""


class Moment(msgspec.Struct, frozen=True, order=True):
    """Something that training does."""

    at: float
    order: int
    stage: str
    step: int
    begins: bool
    """The first half of a save; else the rest of it."""


class Training:
    """Writes what ``config``'s stages wait for, one stage after the other, within ``seconds`` from ``begin`` (unix time)."""

    def __init__(self, config: Config, chance: random.Random, *, begin: float, seconds: float) -> None:
        self._stages = config.stages
        self._due: list[Moment] = []
        self.saves: dict[tuple[str, int], int] = {}
        """(stage, step) -> how often it was begun."""
        self.whole: set[str] = set()
        """Folders that are complete now."""
        self._plan(chance, begin, seconds)

    def _plan(self, chance: random.Random, begin: float, seconds: float) -> None:
        steps = [(stage.name, step) for stage in self._stages.values() for step in schedule(stage)]
        each = seconds / max(1, len(steps))
        for place, (stage, step) in enumerate(steps):
            at = begin + each * (place + chance.random())
            self._save(at, chance.uniform(20.0, 900.0), stage, step)
            if chance.random() < REWRITTEN:  # the run went back and came by again
                again = min(at + chance.uniform(0.2, 3.0) * each, begin + seconds)
                self._save(again, chance.uniform(20.0, 900.0), stage, step)

    def _save(self, at: float, takes: float, stage: str, step: int) -> None:
        for when, begins in ((at, True), (at + takes, False)):
            heapq.heappush(self._due, Moment(when, len(self._due), stage, step, begins))

    def next_event(self) -> float:
        """Unix time of what is written next; infinite after the end."""
        return self._due[0].at if self._due else float("inf")

    def advance(self, now: float) -> None:
        """Write everything that was to be written until ``now``."""
        while self.next_event() <= now:
            moment = heapq.heappop(self._due)
            stage = self._stages[moment.stage]
            folder = stage.checkpoints / str(moment.step)
            if moment.begins:
                self.whole.discard(str(folder))
                self.saves[stage.name, moment.step] = self.saves.get((stage.name, moment.step), 0) + 1
                write_first_half(folder, moment.step, max(schedule(stage)), self._started_from(stage), moment.at)
            else:
                write_second_half(folder, moment.step, moment.at)
                self.whole.add(str(folder))

    def _started_from(self, stage: Stage) -> str | None:
        source = None if stage.bridge is None else self._stages.get(stage.bridge.source)
        return None if source is None or not schedule(source) else str(source.checkpoints / str(max(schedule(source))))


def schedule(stage: Stage) -> tuple[int, ...]:
    """The steps that a stage will have, ascending; of an endless schedule the first few."""
    steps = set(stage.steps)
    if stage.every is not None and stage.first is not None:
        last = stage.first + stage.every * (OPEN_ENDED - 1) if stage.to is None else stage.to
        steps.update(range(stage.first, last + 1, stage.every))
    return tuple(sorted(steps)) or ((1000,) if stage.final else ())


def write_first_half(folder: Path, step: int, last: int, started_from: str | None, at: float) -> None:
    """config.yaml and half of the tensors, as they are a while after a save began."""
    config = {
        "checkpoints": {"resume_checkpoint_path": started_from, "checkpoints_path": str(folder.parent)},
        "general": {"run": folder.parent.name, "step": step, "seed": 42},
        "model": {"dtype": "float32", "model_config": _MODEL},
        "parallelism": {"dp": 1, "pp": 1, "tp": 1, "expert_parallel_size": 1, "context_parallel_size": 1},
        "tokenizer": {"tokenizer_name_or_path": "simulated"},
        "tokens": {"micro_batch_size": 8, "sequence_length": 64, "train_steps": last},
    }
    new = not folder.exists()
    _write(folder / "config.yaml", json.dumps(config).encode(), at)  # JSON is YAML, and quicker to write
    _tensors(folder, sorted(_TENSORS)[:4], at)
    if new:
        _stamp((folder, folder.parent), at)


def write_second_half(folder: Path, step: int, at: float) -> None:
    """The other tensors, the metadata, latest.txt and, last, model_config.json."""
    _tensors(folder, sorted(_TENSORS)[4:], at)
    metas = {"consumed_train_samples": step, "last_train_step": step}
    _write(folder / "checkpoint_metadata.json", json.dumps({"version": "1.5", "tp": 1, "dp": 1, "metas": metas}).encode(), at)
    _write(folder.parent / "latest.txt", str(step).encode(), at)
    _write(folder / "model_config.json", json.dumps(_MODEL).encode(), at)


def _tensors(folder: Path, modules: Iterable[str], at: float) -> None:
    for module in modules:
        shape, slices = _TENSORS[module]
        length = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        said = {"version": "1.5", "unsharded_shape": str(shape), "local_global_slices_pairs": slices} if slices else {}
        tensor = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, length]}
        header = json.dumps({"__metadata__": said, "data": tensor}).encode()
        header += b" " * (-len(header) % 8)
        name = f"model_weight{_RANKS}" if slices else "model_weight.safetensors"
        _write(folder / "model" / "model" / module / name, struct.pack("<Q", len(header)) + header + bytes(length), at)


def _write(path: Path, data: bytes, at: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    _stamp((path,), at)


def _stamp(paths: Iterable[Path], at: float) -> None:
    for path in paths:
        os.utime(path, (at, at))

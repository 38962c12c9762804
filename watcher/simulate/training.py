"""Writes tiny checkpoints as nanotron does, on the config's schedule."""

import heapq
import json
import os
import random
import struct
from collections.abc import Iterable
from pathlib import Path

import msgspec

from watcher.config.settings import Config, Stage

REWRITE_PROBABILITY = 0.05
"""Probability that a checkpoint is written a second time."""

OPEN_ENDED_CHECKPOINTS = 20
"""Checkpoints of a stage whose ``every`` has no end."""

SIMULATED_MODEL_CONFIG = {
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
"""model_config.json with the keys that nanotron writes, of a model of almost no size."""

_FULL_SLICE = "|None,None,None"

_ROW_SLICES, _COLUMN_SLICES = "None,None,None{w}#0,{n},None{w}", "None,None,None|None,None,None#None,None,None|0,{n},None"

_RANK_SUFFIX = "_pp-rank-0-of-1_tp-rank-0-of-1.safetensors"

_TENSORS: dict[str, tuple[tuple[int, ...], str]] = {
    "token_position_embeddings/pp_block/token_embedding": ((8, 8), _ROW_SLICES.format(n=8, w=_FULL_SLICE)),
    "decoder/0/pp_block/input_layernorm": ((8,), ""),
    "decoder/0/pp_block/attn/qkv_proj": (
        (24, 8),
        ";".join(f"{n},{n + 8},None{_FULL_SLICE}#{n},{n + 8},None{_FULL_SLICE}" for n in (0, 8, 16)),
    ),
    "decoder/0/pp_block/attn/o_proj": ((8, 8), _COLUMN_SLICES.format(n=8)),
    "decoder/0/pp_block/post_attention_layernorm": ((8,), ""),
    "decoder/0/pp_block/mlp/gate_up_proj": (
        (16, 8),
        ";".join(f"{n},{n + 8},None{_FULL_SLICE}#{n},{n + 8},None{_FULL_SLICE}" for n in (0, 8)),
    ),
    "decoder/0/pp_block/mlp/down_proj": ((8, 8), _COLUMN_SLICES.format(n=8)),
    "final_layer_norm/pp_block": ((8,), ""),
}
"""Module under model/model -> (shape, nanotron's slices; empty if not sharded)."""


class SaveEvent(msgspec.Struct, frozen=True, order=True):
    """One half of a save."""

    at: float
    order: int
    stage: str
    step: int
    is_first_half: bool
    """The first half of the save; else the second."""


class SimulatedTraining:
    """Writes the stages' checkpoints one after the other.

    All within ``duration_seconds`` from ``start_time`` (unix time).
    """

    def __init__(self, config: Config, rng: random.Random, *, start_time: float, duration_seconds: float) -> None:
        self._stages = config.stages
        self._events: list[SaveEvent] = []
        self.save_counts: dict[tuple[str, int], int] = {}
        """(stage, step) -> how many saves began."""
        self.complete_folders: set[str] = set()
        """Checkpoint folders that are complete now."""
        for reference in config.references.values():
            folder = Path(reference.checkpoint)
            write_first_half(folder, 1, 1, None, start_time)
            write_second_half(folder, 1, start_time)
            self.complete_folders.add(str(folder))
        self._plan_saves(rng, start_time, duration_seconds)

    def _plan_saves(self, rng: random.Random, start_time: float, duration_seconds: float) -> None:
        steps = [(stage.name, step) for stage in self._stages.values() for step in list_training_steps(stage)]
        interval_seconds = duration_seconds / max(1, len(steps))
        for index, (stage, step) in enumerate(steps):
            at = start_time + interval_seconds * (index + rng.random())
            self._schedule_save(at, rng.uniform(20.0, 900.0), stage, step)
            if rng.random() < REWRITE_PROBABILITY:  # the run resumed from an earlier step
                rewritten_at = min(at + rng.uniform(0.2, 3.0) * interval_seconds, start_time + duration_seconds)
                self._schedule_save(rewritten_at, rng.uniform(20.0, 900.0), stage, step)

    def _schedule_save(self, at: float, duration_seconds: float, stage: str, step: int) -> None:
        for event_time, is_first_half in ((at, True), (at + duration_seconds, False)):
            heapq.heappush(self._events, SaveEvent(event_time, len(self._events), stage, step, is_first_half))

    def find_next_event_time(self) -> float:
        """Unix time of the next write; infinite after the last one."""
        return self._events[0].at if self._events else float("inf")

    def advance(self, now: float) -> None:
        """Write everything that is due until ``now`` (unix time)."""
        while self.find_next_event_time() <= now:
            event = heapq.heappop(self._events)
            stage = self._stages[event.stage]
            folder = stage.get_checkpoint_folder(event.step)
            if event.is_first_half:
                self.complete_folders.discard(str(folder))
                self.save_counts[stage.name, event.step] = self.save_counts.get((stage.name, event.step), 0) + 1
                last_step, parent_checkpoint = max(list_training_steps(stage)), self._find_parent_checkpoint(stage)
                write_first_half(folder, event.step, last_step, parent_checkpoint, event.at)
            else:
                write_second_half(folder, event.step, event.at)
                self.complete_folders.add(str(folder))

    def _find_parent_checkpoint(self, stage: Stage) -> str | None:
        source = None if stage.bridge is None else self._stages.get(stage.bridge.source)
        steps = () if source is None else list_training_steps(source)
        return str(source.get_checkpoint_folder(max(steps))) if source is not None and steps else None


def list_training_steps(stage: Stage) -> tuple[int, ...]:
    """A stage's steps, ascending; the first ones of an endless schedule."""
    steps = set(stage.steps)
    if stage.every is not None and stage.first_step is not None:
        last_step = stage.first_step + stage.every * (OPEN_ENDED_CHECKPOINTS - 1) if stage.to is None else stage.to
        steps.update(range(stage.first_step, last_step + 1, stage.every))
    return tuple(sorted(steps)) or ((1000,) if stage.final else ())


def write_first_half(folder: Path, step: int, last_step: int, started_from: str | None, at: float) -> None:
    """Write config.yaml and half of the tensors: an unfinished save."""
    config = {
        "checkpoints": {"resume_checkpoint_path": started_from, "checkpoints_path": str(folder.parent)},
        "general": {"run": folder.parent.name, "step": step, "seed": 42},
        "model": {"dtype": "float32", "model_config": SIMULATED_MODEL_CONFIG},
        "parallelism": {"dp": 1, "pp": 1, "tp": 1, "expert_parallel_size": 1, "context_parallel_size": 1},
        "tokenizer": {"tokenizer_name_or_path": "simulated"},
        "tokens": {"micro_batch_size": 8, "sequence_length": 64, "train_steps": last_step},
    }
    is_new = not folder.exists()
    _write_file(folder / "config.yaml", json.dumps(config).encode(), at)  # JSON is YAML, and quicker to write
    _write_tensors(folder, sorted(_TENSORS)[:4], at)
    if is_new:
        _set_mtimes((folder, folder.parent), at)


def write_second_half(folder: Path, step: int, at: float) -> None:
    """Write the other tensors, metadata, latest.txt and last model_config.json."""
    _write_tensors(folder, sorted(_TENSORS)[4:], at)
    metas = {"consumed_train_samples": step, "last_train_step": step}
    _write_file(
        folder / "checkpoint_metadata.json", json.dumps({"version": "1.5", "tp": 1, "dp": 1, "metas": metas}).encode(), at
    )
    _write_file(folder.parent / "latest.txt", str(step).encode(), at)
    _write_file(folder / "model_config.json", json.dumps(SIMULATED_MODEL_CONFIG).encode(), at)


def _write_tensors(folder: Path, modules: Iterable[str], at: float) -> None:
    for module in modules:
        shape, slices = _TENSORS[module]
        data_bytes = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        metadata = {"version": "1.5", "unsharded_shape": str(shape), "local_global_slices_pairs": slices} if slices else {}
        tensor = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, data_bytes]}
        header = json.dumps({"__metadata__": metadata, "data": tensor}).encode()
        header += b" " * (-len(header) % 8)
        name = f"model_weight{_RANK_SUFFIX}" if slices else "model_weight.safetensors"
        _write_file(folder / "model" / "model" / module / name, struct.pack("<Q", len(header)) + header + bytes(data_bytes), at)


def _write_file(path: Path, data: bytes, at: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    _set_mtimes((path,), at)


def _set_mtimes(paths: Iterable[Path], at: float) -> None:
    for path in paths:
        os.utime(path, (at, at))

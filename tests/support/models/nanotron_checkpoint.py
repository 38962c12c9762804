"""Writes checkpoints as nanotron does: its names, its headers, its order of writes, its truncations.

Pure Python over bytes, so that tests without torch or numpy can write them too. Tensors may be ``RawTensor``,
numpy arrays or torch tensors; their names HF's or nanotron's.
"""

import json
import math
import os
import random
import re
import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from watcher.simulate.training import SIMULATED_MODEL_CONFIG

DTYPE_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
BYTE_LEVEL_CONFIG = {**SIMULATED_MODEL_CONFIG, "intermediate_size": 16, "tie_word_embeddings": False, "vocab_size": 256}
"""model_config.json of a byte-level model of almost no size."""


class RawTensor(NamedTuple):
    """A tensor as bytes: row-major, little-endian."""

    dtype: str
    shape: tuple
    data: bytes


class FileWrite(NamedTuple):
    """One file being written, or (``data`` empty) truncated before it is written again."""

    path: Path
    data: bytes

    def perform(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(self.data)
        return self.path


def write_checkpoint(folder: Path, **described) -> Path:
    """Write a whole checkpoint into ``folder`` (its name is the step), and latest.txt beside it. See ``plan_writes``."""
    for write in plan_writes(folder, **described):
        write.perform()
    return folder


def write_checkpoint_stepwise(folder: Path, **described) -> Iterator[Path]:
    """The same, yielding after every single write: the path just written."""
    for write in plan_writes(folder, **described):
        yield write.perform()


def write_latest(checkpoints: Path, step: int) -> Path:
    """latest.txt, without a newline."""
    return FileWrite(checkpoints / "latest.txt", str(step).encode()).perform()


def write_tiny_checkpoint(folder: Path, step: int, seed: int = 0, **described) -> Path:
    """A one-layer byte-level Llama with random weights in ``folder``, at most a few ms to write."""
    return write_checkpoint(folder, **make_tiny_checkpoint_arguments(step, seed, **described))


def make_tiny_checkpoint_arguments(step: int, seed: int = 0, **described) -> dict:
    """What ``write_checkpoint`` and ``write_checkpoint_stepwise`` need for a tiny checkpoint."""
    model_config = {**BYTE_LEVEL_CONFIG, **described.pop("model_config", {})}
    train = {"train_steps": step, "seq_len": 64, "tokenizer": "byte-level", **described}
    return {"step": step, "model_config": model_config, "tensors": make_random_tensors(model_config, seed), **train}


def make_random_tensors(model_config: dict, seed: int) -> dict[str, RawTensor]:
    """``list_tensor_shapes`` filled, normal with std 0.1; norms are ones."""
    draw = random.Random(seed)

    def filled(name, shape):
        count = math.prod(shape)
        values = [1.0] * count if "norm" in name else (draw.gauss(0, 0.1) for _ in range(count))
        return RawTensor("F32", shape, array("f", values).tobytes())

    return {name: filled(name, shape) for name, shape in list_tensor_shapes(model_config).items()}


def list_tensor_shapes(model_config: dict) -> dict[str, tuple[int, ...]]:
    """Llama's tensors (or Qwen2's with or without bias) under HF's names."""
    hidden, inner, vocab = (model_config[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    kv = model_config["num_key_value_heads"] * hidden // model_config["num_attention_heads"]
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(model_config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        shapes |= {f"{block}.input_layernorm.weight": (hidden,), f"{block}.post_attention_layernorm.weight": (hidden,)}
        for part, rows in (("q", hidden), ("k", kv), ("v", kv)):
            shapes[f"{block}.self_attn.{part}_proj.weight"] = (rows, hidden)
            if model_config.get("attention_bias") and model_config.get("is_qwen2_config"):
                shapes[f"{block}.self_attn.{part}_proj.bias"] = (rows,)
        shapes[f"{block}.self_attn.o_proj.weight"] = (hidden, hidden)
        for part, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            shapes[f"{block}.mlp.{part}_proj.weight"] = shape
    return shapes if model_config["tie_word_embeddings"] else {**shapes, "lm_head.weight": (vocab, hidden)}


def plan_writes(
    folder: Path,
    *,
    step: int,
    model_config: dict,
    tensors: Mapping,
    train_steps: int,
    seq_len: int,
    tokenizer: str,
    tp: int = 1,
    pp: int = 1,
    consumed_tokens: int | None = None,
    started_from: str | None = None,
    config_extra: Callable | Mapping | None = None,
    version: str = "1.5",
) -> list[FileWrite]:
    """Every write of one save, in nanotron's order: config.yaml first, model_config.json last.

    ``config_extra`` is merged into config.yaml, section by section.
    """
    samples = (step * seq_len * 8 if consumed_tokens is None else consumed_tokens) // seq_len
    run = {"train_steps": train_steps, "seq_len": seq_len, "tokenizer": tokenizer, "started_from": started_from}
    config = _config(folder, step, model_config, tp=tp, pp=pp, samples=samples, **run)
    for section, values in (config_extra or {}).items():
        config[section] = {**config.get(section, {}), **values} if isinstance(values, Mapping) else values
    writes = [FileWrite(folder / "config.yaml", yaml.safe_dump(config, sort_keys=True).encode())]
    writes += [FileWrite(folder / "model" / path, data) for path, data in _model_files(model_config, tensors, tp, pp, version)]
    ranks = [(p, t) for p in range(pp) for t in range(tp)]
    writes.append(FileWrite(folder / "optimizer" / "optimizer_config.json", b'{"type": "NamedOptimizer", "configs": {}}'))
    for kind in ("optimizer", "lr_scheduler"):
        for p, t in ranks:
            writes.append(
                FileWrite(folder / kind / f"{kind}_pp-{p}-of-{pp}_tp-{t}-of-{tp}_exp-0-of-1.pt", b"not needed for scoring")
            )
    metadata = _metadata(step, seq_len=seq_len, samples=samples, tp=tp, version=version, consumed_tokens=consumed_tokens)
    writes.append(FileWrite(folder / "checkpoint_metadata.json", json.dumps(metadata, indent=2, sort_keys=True).encode()))
    for p, t in ranks:
        writes.append(FileWrite(folder / "random" / f"tp-{t}-of-{tp}_dp-0-of-1_pp-{p}-of-{pp}.pt", b"not needed for scoring"))
    for _ in ranks:  # every rank truncates and rewrites both
        writes.append(FileWrite(folder.parent / "latest.txt", str(step).encode()))
        writes.append(FileWrite(folder / "model_config.json", b""))
        writes.append(FileWrite(folder / "model_config.json", json.dumps(model_config).encode()))
    return writes


def set_times(folder: Path, newest: float) -> Path:
    """Give a checkpoint the mtimes of a save that ended at ``newest`` (unix time), in nanotron's order."""
    order = {"config.yaml": -3.0, "checkpoint_metadata.json": -1.0, "model_config.json": 0.0}
    for path in folder.rglob("*"):
        when = newest + (order.get(path.name, -2.0) if path.parent == folder else -2.0)
        os.utime(path, (when, when))
    os.utime(folder, (newest, newest))
    return folder


def encode_safetensors(raw: RawTensor, metadata: Mapping[str, str] | None = None) -> bytes:
    """One tensor under the key ``data``, the header padded to eight bytes as safetensors does."""
    tensor = {"dtype": raw.dtype, "shape": list(raw.shape), "data_offsets": [0, len(raw.data)]}
    header = json.dumps({"__metadata__": dict(metadata or {}), "data": tensor}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + raw.data


def to_raw_tensor(tensor) -> RawTensor:
    """A numpy array or a torch tensor as bytes."""
    if isinstance(tensor, RawTensor):
        return tensor
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu().contiguous()
        if str(tensor.dtype) == "torch.bfloat16":
            raw = tensor.view(sys.modules["torch"].int16).numpy()
            return RawTensor("BF16", tuple(raw.shape), raw.tobytes())
        tensor = tensor.numpy()
    return RawTensor({"<f8": "F64", "<f4": "F32", "<f2": "F16"}[tensor.dtype.str], tuple(tensor.shape), tensor.tobytes())


def convert_to_nanotron_tensors(tensors: Mapping) -> dict[str, RawTensor]:
    """HF's names and separate q, k, v, gate, up -> nanotron's names and fused rows. Nanotron's pass unchanged."""
    fused = {}
    for name, tensor in tensors.items():
        renamed = re.sub(r"^model\.layers\.(\d+)\.", r"model.decoder.\1.pp_block.", name).replace(".self_attn.", ".attn.")
        for hf, ours in _RENAMED.items():
            renamed = ours if renamed == hf else renamed
        match = re.fullmatch(r"(.+\.)(q|k|v|gate|up)_proj\.(weight|bias)", renamed)
        part = match[2] if match else ""
        fused_name = f"{match[1]}{'gate_up' if part in {'gate', 'up'} else 'qkv'}_proj.{match[3]}" if match else renamed
        fused.setdefault(fused_name, {})[part] = to_raw_tensor(tensor)
    merged = {}
    for name, parts in fused.items():
        rows = [parts[part] for part in ("", "q", "k", "v", "gate", "up") if part in parts]
        shape = (sum(raw.shape[0] for raw in rows), *rows[0].shape[1:])
        merged[name] = RawTensor(rows[0].dtype, shape, b"".join(raw.data for raw in rows))
    return merged


_RENAMED = {
    "model.embed_tokens.weight": "model.token_position_embeddings.pp_block.token_embedding.weight",
    "model.norm.weight": "model.final_layer_norm.pp_block.weight",
    "lm_head.weight": "model.lm_head.pp_block.weight",
}
_BY_COLUMNS = re.compile(r".*\.(o_proj|down_proj|dense|c_proj|o)\.weight")
_BY_ROWS = re.compile(r".*\.(token_embedding|lm_head\.pp_block|qkv_proj|gate_up_proj|query_key_value|c_fc|qkv\.q)\.(weight|bias)")


def _model_files(model_config, tensors, tp, pp, version) -> Iterator[tuple[str, bytes]]:
    layers = model_config["num_hidden_layers"]
    for name, raw in convert_to_nanotron_tensors(tensors).items():
        if ".lm_head." in name and model_config.get("tie_word_embeddings"):
            continue
        module, _, param = name.rpartition(".")
        place = module.replace(".", "/")
        layer = re.match(r"model\.decoder\.(\d+)\.", name)
        stage = int(layer[1]) * pp // layers if layer else 0 if "token_" in name else pp - 1
        axis = 1 if _BY_COLUMNS.fullmatch(name) else 0 if _BY_ROWS.fullmatch(name) else None
        if axis is None:
            yield f"{place}/model_{param}.safetensors", encode_safetensors(raw)
            continue
        for rank in range(tp):
            ranks = f"_pp-rank-{stage}-of-{pp}_tp-rank-{rank}-of-{tp}.safetensors"
            base = f"model_model_{param}.safetensors" if version == "1.3" else f"model_{param}"
            part, pairs = _part(raw, axis, _chunks(name, raw, axis, model_config), rank, tp)
            metadata = {"version": version, "unsharded_shape": str(tuple(raw.shape)), "local_global_slices_pairs": pairs}
            yield f"{place}/{base}{ranks}", encode_safetensors(part, metadata)


def _chunks(name, raw, axis, model_config) -> list[int]:
    """Sizes along ``axis`` that are split each by itself."""
    if ".qkv_proj." in name:
        heads, kv = model_config["num_attention_heads"], model_config["num_key_value_heads"]
        one = raw.shape[0] // (heads + 2 * kv)
        return [heads * one, kv * one, kv * one]
    return [raw.shape[0] // 2] * 2 if ".gate_up_proj." in name else [raw.shape[axis]]


def _part(raw: RawTensor, axis: int, chunks: list[int], rank: int, tp: int) -> tuple[RawTensor, str]:
    other_axis = "|None,None,None" if len(raw.shape) > 1 else ""
    pairs, rows, local, start = [], [], 0, 0
    width = len(raw.data) // raw.shape[0]
    element = DTYPE_BYTES[raw.dtype]
    for chunk in chunks:
        assert chunk % tp == 0, f"{chunk} cannot be split over tp={tp}"
        size = chunk // tp
        first = start + rank * size
        if axis == 0:
            rows.append(raw.data[first * width : (first + size) * width])
        else:
            lines = range(0, len(raw.data), width)
            rows.extend(raw.data[line + first * element : line + (first + size) * element] for line in lines)
        here = f"{local},{local + size},None" if len(chunks) > 1 else "None,None,None"
        there = f"{first},{first + size},None"
        pairs.append(f"{here}{other_axis}#{there}{other_axis}" if axis == 0 else f"None,None,None|{here}#None,None,None|{there}")
        local, start = local + size, start + chunk
    shape = (local, *raw.shape[1:]) if axis == 0 else (raw.shape[0], local)
    return RawTensor(raw.dtype, shape, b"".join(rows)), ";".join(pairs)


def _config(folder, step, model_config, *, train_steps, seq_len, tokenizer, tp, pp, samples, started_from) -> dict:
    return {
        "checkpoints": {
            "checkpoint_interval": 10,
            "checkpoints_path": str(folder.parent),
            "resume_checkpoint_path": started_from,
            "save_final_state": True,
        },
        "data_stages": [{"name": "stage1", "sequence_length": seq_len, "start_training_step": 1}],
        "general": {"consumed_train_samples": samples, "project": "tests", "run": folder.parent.name, "seed": 42, "step": step},
        "lighteval": None,
        "model": {"dtype": "float32", "init_method": {"std": 0.1}, "model_config": dict(model_config)},
        "parallelism": {"context_parallel_size": 1, "dp": 1, "expert_parallel_size": 1, "pp": pp, "tp": tp},
        "tokenizer": {"tokenizer_max_length": None, "tokenizer_name_or_path": tokenizer, "tokenizer_revision": None},
        "tokens": {"micro_batch_size": 8, "sequence_length": seq_len, "train_steps": train_steps},
    }


def _metadata(step, *, seq_len, samples, tp, version, consumed_tokens) -> dict:
    metas = {"consumed_train_samples": samples, "last_train_step": step}
    if version == "1.5":
        total = samples * seq_len if consumed_tokens is None else consumed_tokens
        stage = {"consumed_train_samples": samples, "name": "stage1", "sequence_length": seq_len, "start_training_step": 1}
        metas |= {"consumed_tokens_total": total, "data_stages": [stage], "last_stage_idx": 0}
    return {"version": version, "tp": tp, "dp": 1, "metas": metas} | ({"cp": 1} if version == "1.5" else {})

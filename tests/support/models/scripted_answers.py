"""A checkpoint that answers each prompt with a given text: attention and MLP add nothing, so a token alone decides the next one.

Prompt n ends with one token of its own, the answer is one token, and then comes the end.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from support.models.nanotron_checkpoint import (
    BYTE_LEVEL_CONFIG,
    list_tensor_shapes,
    make_tiny_checkpoint_arguments,
    write_checkpoint,
)

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"


def write_scripted_tokenizer(folder: Path, answers: list[str]) -> dict[str, int]:
    """A byte-level tokenizer with a token for the end of each prompt and for each answer; its vocabulary."""
    tokenizer = Tokenizer(
        models.BPE(vocab={symbol: n for n, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("</s>", normalized=False, special=True)])
    texts = [*(f"#{n}<answer>" for n in range(len(answers))), *answers]
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in texts])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab()


def write_scripted_checkpoint(folder: Path, answers: list[str], vocabulary: Mapping[str, int]) -> Path:
    """The checkpoint in ``folder`` (its name is the step)."""
    size = len(vocabulary) + len(vocabulary) % 2
    sizes = {"hidden_size": size, "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 2, "vocab_size": size}
    config = {**BYTE_LEVEL_CONFIG, **sizes, "num_hidden_layers": 1}
    tensors = {
        name: np.full(shape, 1.0 if "norm" in name else 0.0, dtype=np.float32)
        for name, shape in list_tensor_shapes(config).items()
    }
    tensors["model.embed_tokens.weight"] = np.eye(size, dtype=np.float32)
    head = tensors["lm_head.weight"]  # [next token, token]
    head[vocabulary["</s>"]] = 0.5
    for number, answer in enumerate(answers):
        head[vocabulary[answer], vocabulary[f"#{number}<answer>"]] = 1.0
    arguments = make_tiny_checkpoint_arguments(int(folder.name), model_config=config)
    return write_checkpoint(folder, **{**arguments, "tensors": tensors})


def write_scripted_suite(path: Path, answers: list[str], checks: list[dict]) -> Path:
    """A tier 4 suite whose prompt n is answered with answer n and judged by check n."""
    prompts = {
        f"p{number}": {
            "category": "instruction_priority",
            "max_new_tokens": 4,
            "messages": [{"role": "user", "content": f"Say it. #{number}"}],
            "checks": [check],
        }
        for number, check in zip(range(len(answers)), checks, strict=True)
    }
    path.write_text(yaml.safe_dump({"tier": "tier4_sft_native", "prompts": prompts}, sort_keys=False))
    return path

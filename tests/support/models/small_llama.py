"""A Llama small enough to score thousands of requests in seconds, with a tokenizer of its own and grouped heads."""

import json
import sysconfig
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from suites.common.errors import ExitCode
from support.runs.scoring_jobs import run_scoring_in_process

VOCAB, SEQ_LEN = 2048, 384
TEXT_FOLDER = Path(sysconfig.get_paths()["stdlib"])
"""Docstrings and comments are English enough for a tokenizer."""


def write_small_llama(folder: Path, *, tied: bool = False, seed: int = 0) -> LlamaForCausalLM:
    """Random weights wide enough that choices differ by nats; saved with its tokenizer as transformers has it."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=SEQ_LEN,
        initializer_range=0.15,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    write_bpe_tokenizer(folder)
    return model


def write_bpe_tokenizer(folder: Path) -> None:
    """A byte-level BPE trained on the standard library, which puts <s> before a text."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    files = sorted(path for path in TEXT_FOLDER.glob("*.py") if path.stat().st_size > 40_000)[:20]
    backend.train_from_iterator((path.read_text(encoding="utf-8", errors="replace") for path in files), trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **ends).save_pretrained(str(folder))


def write_suite(folder, tier, name, definition):
    """A suite over files in ``folder``, as JSON, which is YAML."""
    section = {"tier2_ppl": "slices", "tier3_cf": "tasks"}[tier]
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"tier": tier, section: definition}))
    return path


def score_suite(folder, checkpoint, suite):
    """Folder of the published results."""
    command = ["score", "--checkpoint", str(checkpoint), "--suite", str(suite), "--results", str(folder / "results")]
    command += ["--eval-data", str(folder / "data"), "--device", "cpu", "--dtype", "float32", "--export", "lm-eval"]
    assert run_scoring_in_process(command) == ExitCode.SCORED
    return folder / "results" / checkpoint.parent.name / "by_checkpoint" / f"step_{checkpoint.name}"

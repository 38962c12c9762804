"""Trains the demo's model, in plain torch on the CPU, and saves it as Nanotron does: train.py FOLDER.

Two stages, one count of steps. Progress goes to stdout, a JSON object a line. Killed at any moment it goes on
from its own last save when it is started again: batches are drawn by the number of their step.
"""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from demo.corpus import VOCAB_SIZE
from suites.checkpoint.completeness import Completeness, inspect_checkpoint
from support.models.nanotron_checkpoint import write_checkpoint

SEQ_LEN = 128
SAVE_INTERVAL_STEPS = 100
"""Steps between saves; the schedules of watcher.yaml pick some of them."""
STAGES = {"stage1": 600, "stage2": 900}
"""Stage -> its last step. Steps go on counting across stages."""
DATA_MIX = {"stage1": {"prose": 2, "code": 2}, "stage2": {"prose": 1, "code": 1, "late": 2}}
"""Rows of a batch by kind of text."""
PEAK_LEARNING_RATE, WARMUP_STEPS, FINAL_LEARNING_RATE_FRACTION = 3e-3, 50, 0.1
TENSOR_PARALLEL_SIZE = 2
HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 192, 512, 4, 6, 2


MODEL_CONFIG = {
    "bos_token_id": 0,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INTERMEDIATE,
    "is_llama_config": True,
    "max_position_embeddings": SEQ_LEN,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "pad_token_id": None,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": VOCAB_SIZE,
}
"""The same as nanotron writes it into model_config.json."""


def make_llama_config() -> LlamaConfig:
    """2.4 million parameters. head_dim is hidden / heads, as nanotron has it."""
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=SEQ_LEN,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        attn_implementation="sdpa",
    )


def find_stage(step: int) -> str:
    """The stage that trains ``step`` (counted from 1)."""
    return next(stage for stage, last in STAGES.items() if step <= last)


def compute_learning_rate(step: int) -> float:
    """Linear warm-up, then a cosine over both stages down to a tenth."""
    if step <= WARMUP_STEPS:
        return PEAK_LEARNING_RATE * step / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / (max(STAGES.values()) - WARMUP_STEPS)
    return PEAK_LEARNING_RATE * (
        FINAL_LEARNING_RATE_FRACTION + (1 - FINAL_LEARNING_RATE_FRACTION) * 0.5 * (1 + math.cos(math.pi * done))
    )


def make_batch(step: int, streams: dict[str, np.ndarray]) -> torch.Tensor:
    """int64 [rows, SEQ_LEN + 1], the same for the same step whenever it is asked for."""
    rng = np.random.default_rng(step)
    rows = []
    for kind, count in DATA_MIX[find_stage(step)].items():
        stream = streams[kind]
        rows += [stream[start : start + SEQ_LEN + 1] for start in rng.integers(0, len(stream) - SEQ_LEN - 1, count)]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


class Trainer:
    """Model, optimizer and the step that both have reached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.streams = {kind: np.load(folder / "train" / f"{kind}.npy") for kind in ("prose", "code", "late")}
        torch.manual_seed(1)
        self.model = LlamaForCausalLM(make_llama_config())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
        self.step = 0
        self.state = folder / "train" / "state.safetensors"

    def train_step(self) -> float:
        """One update; the batch's mean cross-entropy, in nats a token."""
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = compute_learning_rate(self.step)
        tokens = make_batch(self.step, self.streams)
        logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits  # [rows, SEQ_LEN, VOCAB]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()

    def save_training_state(self) -> None:
        """All that it takes to go on, in one file, replaced as a whole."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        aside = self.state.with_suffix(".new")
        save_file(tensors, aside, metadata={"step": str(self.step)})
        aside.replace(self.state)

    def restore_training_state(self) -> None:
        """Go on from what ``save_training_state`` left, if anything."""
        if not self.state.exists():
            return
        with safe_open(self.state, "pt") as file:
            self.step = int(file.metadata()["step"])
        tensors = load_file(self.state)
        self.model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, moment = name.split(".")
                moments.setdefault(int(index), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    def get_checkpoint_folder(self) -> Path:
        """Where this step's checkpoint belongs."""
        return self.folder / "ckpts" / find_stage(self.step) / str(self.step)

    def save_checkpoint(self) -> None:
        """A Nanotron checkpoint of this step, tensor-parallel over ``TENSOR_PARALLEL_SIZE`` ranks, in its stage's folder."""
        stage = find_stage(self.step)
        before = [self.folder / "ckpts" / name / str(last) for name, last in STAGES.items() if last < self.step]
        write_checkpoint(
            self.get_checkpoint_folder(),
            step=self.step,
            model_config=MODEL_CONFIG,
            tensors=self.model.state_dict(),
            train_steps=STAGES[stage],
            seq_len=SEQ_LEN,
            tokenizer=str(self.folder / "tokenizer"),
            tp=TENSOR_PARALLEL_SIZE,
            consumed_tokens=self.step * SEQ_LEN * sum(DATA_MIX[stage].values()),
            started_from=str(before[-1]) if before else None,
            config_extra={"general": {"project": "demo"}, "checkpoints": {"checkpoint_interval": SAVE_INTERVAL_STEPS}},
        )

    def is_checkpoint_complete(self) -> bool:
        """Whether this step's checkpoint is whole: a save that was cut short is made again."""
        return inspect_checkpoint(self.get_checkpoint_folder(), now=time.time(), settle_seconds=0.0).kind is Completeness.COMPLETE


def print_progress(**what: object) -> None:
    """One line of progress."""
    print(json.dumps(what), flush=True)


def main(folder: Path) -> None:
    """Train to the end from wherever it stopped."""
    torch.set_num_threads(1)
    trainer = Trainer(folder)
    trainer.restore_training_state()
    if trainer.step and not trainer.is_checkpoint_complete():
        trainer.save_checkpoint()
    last = max(STAGES.values())
    print_progress(step=trainer.step, of=last)
    began, tokens = time.monotonic(), 0
    while trainer.step < last:
        loss = trainer.train_step()
        tokens += SEQ_LEN * sum(DATA_MIX[find_stage(trainer.step)].values())
        if trainer.step % SAVE_INTERVAL_STEPS == 0:
            trainer.save_training_state()  # before the checkpoint: what is killed in between is saved when it goes on
            trainer.save_checkpoint()
            print_progress(step=trainer.step, saved=str(trainer.get_checkpoint_folder()))
        if trainer.step % 10 == 0:
            rate = tokens / (time.monotonic() - began)
            print_progress(step=trainer.step, stage=find_stage(trainer.step), loss=round(loss, 3), tokens_per_s=round(rate))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

"""Trains a tiny model with transformers' real Trainer, which saves as it does; run as a program.

Arguments: folder of checkpoints, save_total_limit (0: none), max_shard_size, file for a line per save. A line has the step and
the fingerprint of its checkpoint once the Trainer has saved it.
"""

import functools
import json
import sys
import time
from pathlib import Path

import torch
import transformers

from suites.checkpoint.completeness import compute_fingerprint

STEPS = (2, 4, 6, 8)


class SayFingerprint(transformers.TrainerCallback):
    """Writes down what was saved, and gives the watcher some time."""

    def __init__(self, log):
        self.log = log

    def on_save(self, args, state, control, **_):  # noqa: ARG002  as the Trainer calls it
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        with self.log.open("a") as file:
            file.write(json.dumps([state.global_step, compute_fingerprint(folder)]) + "\n")
        time.sleep(0.5)


def train(folder, limit, max_shard_size, log):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, max_position_embeddings=64))
    model.save_pretrained = functools.partial(model.save_pretrained, max_shard_size=max_shard_size)
    rows = [{"input_ids": torch.arange(16) + row, "labels": torch.arange(16) + row} for row in range(32)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS[-1],
        save_steps=STEPS[0],
        save_total_limit=limit or None,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        include_num_input_tokens_seen=True,
    )
    transformers.Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[SayFingerprint(log)]).train()


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))

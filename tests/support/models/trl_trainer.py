"""Trains a tiny model with TRL's SFTTrainer; run as a program. Arguments: folder of checkpoints, folder of the tokenizer."""

import sys

import datasets
import transformers
import trl

from support.models.hf_models import make_hf_model

STEPS = (2, 4)


def train(folder, tokenizer_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.pad_token = tokenizer.eos_token
    model = make_hf_model("gpt2", vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=1)
    rows = [{"prompt": f"Question {row}", "completion": " It is an answer."} for row in range(16)]
    arguments = trl.SFTConfig(
        output_dir=folder,
        max_steps=STEPS[-1],
        save_steps=STEPS[0],
        logging_steps=STEPS[0],
        max_length=64,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trl.SFTTrainer(model, args=arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer).train()


if __name__ == "__main__":
    train(*sys.argv[1:])

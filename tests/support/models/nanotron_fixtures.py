"""The checkpoints under tests/data that nanotron itself wrote."""

import shutil
from pathlib import Path

from support.models.nanotron_checkpoint import set_times

CHECKPOINTS = Path(__file__).resolve().parents[2] / "data" / "checkpoints"
BYTE_TOKENIZER = CHECKPOINTS / "byte_tokenizer"
COMPLETE_CHECKPOINTS = (
    ("llama_gqa_tp1", 20),
    ("llama_gqa_tp1", 40),
    ("llama_gqa_tp1", 60),
    ("llama_gqa_tp2", 60),
    ("llama_gqa_tp2_pp2", 60),
    ("derived_v13_names", 60),
    ("llama_tied_bf16_tp2_padvocab", 20),
    ("llama_rope_interleaved", 20),
    ("qwen2_bias_tp1", 20),
    ("qwen2_nope_tied_tp2", 20),
    ("mixed_topology", 60),
)
PARTIAL_CHECKPOINT = ("partial_meta_before_shards", 60)


def find_checkpoint(name: str, step: int) -> Path:
    """Where it lies. Do not write there."""
    return CHECKPOINTS / name / str(step)


def find_reference(name: str, step: int) -> Path:
    """Folder of its tokens.npy, logits_nanotron_fp32.npy and reference.json."""
    return CHECKPOINTS / name / "reference" / str(step)


def copy_checkpoint(name: str, step: int, into: Path, newest: float) -> Path:
    """A copy in ``into/STEP`` with the times of a save that ended at ``newest``."""
    folder = into / str(step)
    shutil.copytree(find_checkpoint(name, step), folder, copy_function=shutil.copyfile)
    return set_times(folder, newest)

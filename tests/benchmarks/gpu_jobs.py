"""Whole `python -m scoring score` jobs on a checkpoint with random weights: their start, and one to several devices."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from scoring.model.loader import load_causal_lm
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG, list_tensor_shapes, write_checkpoint
from support.models.nanotron_fixtures import BYTE_TOKENIZER

SLICE_COUNT = 8


def write_gpu_checkpoint(folder, sizes, tp=2):
    """A Llama of these sizes in bfloat16 with random weights, as nanotron would have saved it, in ``folder``/20."""
    model_config = {**BYTE_LEVEL_CONFIG, **sizes, "tie_word_embeddings": True}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in list_tensor_shapes(model_config).items():
        drawn = torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
        tensors[name] = torch.ones(shape, dtype=torch.bfloat16) if len(shape) == 1 else drawn
    described = {"train_steps": 20, "seq_len": 4096, "tokenizer": str(BYTE_TOKENIZER), "tp": tp}
    return write_checkpoint(folder / "20", step=20, model_config=model_config, tensors=tensors, **described)


def write_gpu_suite(folder, tokens):
    """A suite of slices of so many bytes, each of them a token."""
    draw = np.random.default_rng(0)
    lines = ["tier: tier2_ppl", "slices:"]
    for number in range(SLICE_COUNT):
        text = bytes(draw.integers(97, 123, tokens).astype(np.uint8)).decode()
        (folder / f"s{number}.jsonl").write_text(json.dumps({"text": text}) + "\n")
        lines.append(f"  s{number}: {{data_files: [{folder}/s{number}.jsonl]}}")
    (folder / "ppl.yaml").write_text("\n".join(lines) + "\n")


def run_gpu_job(folder, checkpoint, name, *, device, seq_len, count=1):
    """run.json and tier2_ppl.json of a job on ``count`` devices, and its seconds from exec to exit."""
    command = [sys.executable, "-m", "scoring", "score", "--checkpoint", str(checkpoint), "--suite", str(folder / "ppl.yaml")]
    command += ["--results", str(folder / name), "--eval-data", str(folder / "data"), "--stage", "bench"]
    command += ["--tokenizer", str(BYTE_TOKENIZER), "--seq-len", str(seq_len), "--device", device]
    environment = dict(os.environ)
    if device == "cpu":
        command += ["--processes", str(count), "--dtype", "bfloat16"]
        environment["OMP_NUM_THREADS"] = "1"
    else:
        visible = environment.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[:count])
    began = time.monotonic()
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=Path(__file__).resolve().parents[2])
    seconds = time.monotonic() - began
    there = folder / name / "bench" / "by_checkpoint" / "step_20"
    return json.loads((there / "run.json").read_text()), json.loads((there / "tier2_ppl.json").read_text()), seconds


def drop_page_cache(files):
    """Have the kernel drop what it holds of these files, where the file system lets it: what is read next comes from disk."""
    os.sync()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure_read_rate(checkpoint, device):
    """GB/s of loading a checkpoint and of plainly reading the same files, one after the other; neither is in memory before."""
    files = sorted(checkpoint.rglob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    drop_page_cache(files)
    began = time.monotonic()
    for file in files:
        file.read_bytes()
    plainly = time.monotonic() - began
    drop_page_cache(files)
    began = time.monotonic()
    load_causal_lm(checkpoint, device=device, dtype="bfloat16")
    took = time.monotonic() - began
    return {"gb": size / 1e9, "gb_per_s": size / took / 1e9, "plain_gb_per_s": size / plainly / 1e9}


def measure_gpu_jobs(folder, sizes, *, device, seq_len, tokens, max_devices):
    """Reading, start and scaling; RuntimeError where several devices give other bits than one."""
    checkpoint = write_gpu_checkpoint(folder, sizes)
    write_gpu_suite(folder, tokens)
    found = {"reading": measure_read_rate(checkpoint, device), "scaling": []}
    run_gpu_job(folder, checkpoint, "fills_the_cache", device=device, seq_len=seq_len)
    counts = [1 << power for power in range(max_devices.bit_length()) if 1 << power <= max_devices]
    expected = None
    for count in sorted({*counts, max_devices}):
        run, tier2, seconds = run_gpu_job(folder, checkpoint, f"on_{count}", device=device, seq_len=seq_len, count=count)
        reports = run["workers"] or [run]
        scoring = max(each["timings"]["scoring"] for each in reports)
        rate = sum(each["tokens"] for each in reports) / scoring
        found["scaling"].append({"devices": count, "seconds": seconds, "scoring_s": scoring, "tokens_per_s": rate})
        if expected is None:
            expected, found["start"] = tier2["slices"], run["timings"]
        if tier2["slices"] != expected:
            raise RuntimeError(f"{count} devices give other numbers than one")
    return found

"""Cloze tasks against lm-evaluation-harness on this machine's cores.

Every figure is a ratio of medians of one run in which the sides took turns. lm-evaluation-harness gets the very requests
that are scored here, as text, at its best of several batch sizes; it tokenises them each time. Here
they are tokenised once for all checkpoints: that time is stated beside.
"""

import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scoring.data import cache
from scoring.data.tokenizer_cache import resolve_tokenizer
from scoring.model.loader import load_causal_lm
from scoring.tiers import cloze_metric as choice
from suites.contract.paths import DataPaths
from support.datasets.benchmark_items import BENCHMARK_FOLDERS, write_items, write_mmlu
from support.lm_eval import environment as lm_eval_env
from support.models import glasslm as glass
from support.models import smollm2

REPEATS = 3
BATCH_SIZES = (1, 8, 16, "auto")
SAMPLE_BATCHES = 12
"""Every so many requests are taken to find the best batch size."""
SUBJECTS = ("anatomy", "college_physics", "econometrics", "high_school_biology", "philosophy")
SEQ_LEN = 512


class LmEvalProcess:
    """lm-evaluation-harness in a process of its own, which keeps its model."""

    def __init__(self, model, max_length):
        self.model, self.max_length = str(model), max_length
        self.best_batch_sizes = None
        self.batch_timings = {}
        script = Path(__file__).with_name("lm_eval_timed.py")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen([str(lm_eval_env.ensure_lm_eval_python()), str(script)], env=environment, **pipe)

    def run_requests(self, kind, requests, batch):
        """Seconds and log-likelihoods."""
        asked = {"kind": kind, "requests": requests, "batch": batch, "model": self.model, "max_length": self.max_length}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("found:"):
                return json.loads(line.removeprefix("found:"))
        raise RuntimeError("lm_eval ended")

    def find_best_batch_size(self, kind, requests):
        """Its best batch size for such requests."""
        self.batch_timings = {}
        for batch in BATCH_SIZES:
            self.run_requests(kind, requests[: 2 * SAMPLE_BATCHES : SAMPLE_BATCHES], batch)  # loads, and warms up
            self.batch_timings[str(batch)] = self.run_requests(kind, requests[::SAMPLE_BATCHES], batch)["seconds"]
        self.best_batch_sizes = min(BATCH_SIZES, key=lambda batch: self.batch_timings[str(batch)])

    def close(self):
        """End it."""
        self.process.stdin.close()
        self.process.wait()


def write_hf_model(source, folder):
    """The same model as transformers has it, with its tokenizer, for both peers."""
    config = source.MODEL_CONFIG
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "vocab_size")
    theirs = LlamaForCausalLM(
        LlamaConfig(
            **{name: config[name] for name in names},
            rms_norm_eps=config["rms_norm_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        )
    ).eval()
    tensors = glass.load_hf_tensors(interleaved=False) if source is glass else smollm2.load_hf_tensors()
    theirs.load_state_dict(tensors, strict=False)
    theirs.tie_weights()
    theirs.save_pretrained(folder)
    described = json.loads((folder.parent / "nanotron" / "tokenizer" / "tokenizer_config.json").read_text())
    ends = {name: described[name] for name in ("bos_token", "eos_token")}
    tokenizer = str(folder.parent / "nanotron" / "tokenizer" / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=tokenizer, **ends).save_pretrained(folder)
    return theirs


def make_cache_entries(folder, tokenizer, tasks, items):
    """Task -> its cache entry; and the seconds that making them took, tokenising mostly."""
    found = {}
    for task in tasks:
        if task == "mmlu":
            for subject in SUBJECTS:
                write_mmlu(subject, 1000, folder / f"mmlu.{subject}.parquet")
        else:
            write_items(task, 20_000, folder / f"{task}.parquet")
    began = time.perf_counter()
    for task in tasks:
        definition = {"data_files": [str(folder / f"{task}*.parquet")], "adapter": task, "subset_size": items}
        found[task] = cache.ensure_task(task, definition, tokenizer=tokenizer, data=DataPaths(folder / "data"), offline=True)
    return found, time.perf_counter() - began


class SpeedBenchmark:
    """Tier 3 of one model; each is a part of the benchmark by itself, since one takes minutes."""

    def __init__(self, name, source, tasks, items):
        self.name, self.source, self.tasks, self.items = name, source, tasks, items

    def measure(self, folder):
        """On all cores."""
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        print(f"speed: {self.name}", flush=True)
        return {"threads": torch.get_num_threads(), "repeats": REPEATS, "case": self.name, **compare_cloze_speed(self, folder)}


def compare_cloze_speed(of, folder):
    """Both sides' seconds, and how far their log-likelihoods are apart."""
    source, tasks, items = of.source, of.tasks, of.items
    write_checkpoint = glass.write_checkpoint_of_glasslm if source is glass else smollm2.write_smollm2_checkpoint
    checkpoint = write_checkpoint(folder / "nanotron")
    write_hf_model(source, folder / "hf")
    tokenizer = resolve_tokenizer(str(folder / "nanotron" / "tokenizer"), DataPaths(folder / "data"))
    asked, making = make_cache_entries(folder, tokenizer, tasks, items)
    model = load_causal_lm(checkpoint, device="cpu")
    texts = []
    for entry in asked.values():
        for line in (entry.folder / "examples.jsonl").read_text().splitlines():
            example = json.loads(line)
            texts += [*example["pairs"], *(example["uncond"] or ())]
    peer = LmEvalProcess(folder / "hf", SEQ_LEN)
    peer.find_best_batch_size("loglikelihood", texts)
    seconds = {"ours": [], "peer": [], "ours_cpu": [], "peer_cpu": []}
    for _ in range(REPEATS):
        began, used = time.perf_counter(), time.process_time()
        rows = [row for task, entry in asked.items() for row in score_task(model, entry, task)]
        seconds["ours"].append(time.perf_counter() - began)
        seconds["ours_cpu"].append(time.process_time() - used)
        found = peer.run_requests("loglikelihood", texts, peer.best_batch_sizes)
        seconds["peer"].append(found["seconds"])
        seconds["peer_cpu"].append(found["cpu_s"])
        print({side: [round(value, 1) for value in values] for side, values in seconds.items()}, flush=True)
    peer.close()
    ours = np.array([value for row in rows for value in (*row["ll"], *(row["ll_uncond"] or ()))])
    apart = np.abs(ours - np.array(found["ll"]))
    return {
        "items": len(rows),
        "requests": len(texts),
        "batch": peer.best_batch_sizes,
        "tried": peer.batch_timings,
        "making_s": making,
        **{f"{side}_s": statistics.median(values) for side, values in seconds.items()},
        "all": seconds,
        "median_difference": float(np.median(apart)),
        "share_within_1e-3": float((apart < 1e-3).mean()),
    }


def score_task(model, entry, task):
    """Rows of a task in parts of a thousand items, as a job takes them."""
    parts = range(0, len(entry.items), 1000)
    return [
        row
        for start in parts
        for row in choice.score_items(model, entry.items[start : start + 1000], seq_len=SEQ_LEN, name=task).to_pylist()
    ]


SMALL_MODEL = SpeedBenchmark("GlassLM, 0.85M", glass, (*BENCHMARK_FOLDERS, "mmlu"), 400)
LARGER_MODEL = SpeedBenchmark("SmolLM2-135M", smollm2, ("hellaswag", "arc_easy", "commonsense_qa", "sciq", "mmlu"), 50)

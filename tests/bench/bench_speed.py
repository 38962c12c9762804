"""Scoring against its peers on this machine's cores: lm-evaluation-harness and a plain transformers loop; and cost as work grows.

Every figure is a ratio of medians of one run in which the sides took turns. lm-evaluation-harness gets the very requests
that are scored here, as text, at its best of several batch sizes; it tokenises them each time. Here
they are tokenised once for all checkpoints: that time is stated beside.
"""

import json
import os
import statistics
import subprocess
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scoring import cache, choice, perplexity
from scoring.budget import bytes_a_place
from scoring.checkpoint import load
from scoring.loglik import HEAD_ROWS, Stretch, token_logprobs
from scoring.tokens import resolve_tokenizer
from suites.paths import DataPaths
from support import glass, lm_eval_env, smollm2
from support.nanotron_layout import BYTE_LEVEL
from support.random_model import random_model
from support.real_items import FOLDERS, write_items, write_mmlu

REPEATS = 3
BATCHES = (1, 8, 16, "auto")
SAMPLE = 12
"""Every so many requests are taken to find the best batch size."""
ROLLING_TOKENS = 1_000_000
SUBJECTS = ("anatomy", "college_physics", "econometrics", "high_school_biology", "philosophy")
CASES = {
    "GlassLM, 0.85M": (glass, (*FOLDERS, "mmlu"), 400),
    "SmolLM2-135M": (smollm2, ("hellaswag", "arc_easy", "commonsense_qa", "sciq", "mmlu"), 50),
}
SEQ_LEN = 512


class Peer:
    """lm-evaluation-harness in a process of its own, which keeps its model."""

    def __init__(self, model, max_length):
        self.model, self.max_length = str(model), max_length
        self.best = None
        self.tried = {}
        script = Path(__file__).with_name("lm_eval_timed.py")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen([str(lm_eval_env.python()), str(script)], env=environment, **pipe)

    def ask(self, kind, requests, batch):
        """Seconds and log-likelihoods."""
        asked = {"kind": kind, "requests": requests, "batch": batch, "model": self.model, "max_length": self.max_length}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("found:"):
                return json.loads(line.removeprefix("found:"))
        raise RuntimeError("lm_eval ended")

    def choose(self, kind, requests):
        """Its best batch size for such requests."""
        self.tried = {}
        for batch in BATCHES:
            self.ask(kind, requests[: 2 * SAMPLE : SAMPLE], batch)  # loads, and warms up
            self.tried[str(batch)] = self.ask(kind, requests[::SAMPLE], batch)["seconds"]
        self.best = min(BATCHES, key=lambda batch: self.tried[str(batch)])

    def close(self):
        """End it."""
        self.process.stdin.close()
        self.process.wait()


def hf_model(source, folder):
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
    tensors = glass.tensors(interleaved=False) if source is glass else smollm2.hf_tensors()
    theirs.load_state_dict(tensors, strict=False)
    theirs.tie_weights()
    theirs.save_pretrained(folder)
    described = json.loads((folder.parent / "nanotron" / "tokenizer" / "tokenizer_config.json").read_text())
    ends = {name: described[name] for name in ("bos_token", "eos_token")}
    tokenizer = str(folder.parent / "nanotron" / "tokenizer" / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=tokenizer, **ends).save_pretrained(folder)
    return theirs


def entries(folder, tokenizer, tasks, items):
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


def cloze(name, folder):
    """Tier 3 of one model."""
    source, tasks, items = CASES[name]
    folder.mkdir()
    checkpoint = source.checkpoint(folder / "nanotron")
    hf_model(source, folder / "hf")
    tokenizer = resolve_tokenizer(str(folder / "nanotron" / "tokenizer"), DataPaths(folder / "data"))
    asked, making = entries(folder, tokenizer, tasks, items)
    model = load(checkpoint, device="cpu")
    texts = []
    for entry in asked.values():
        for line in (entry.folder / "examples.jsonl").read_text().splitlines():
            example = json.loads(line)
            texts += [*example["pairs"], *(example["uncond"] or ())]
    peer = Peer(folder / "hf", SEQ_LEN)
    peer.choose("loglikelihood", texts)
    seconds = {"ours": [], "peer": []}
    for _ in range(REPEATS):
        began = time.perf_counter()
        rows = [row for task, entry in asked.items() for row in scored(model, entry, task)]
        seconds["ours"].append(time.perf_counter() - began)
        found = peer.ask("loglikelihood", texts, peer.best)
        seconds["peer"].append(found["seconds"])
    peer.close()
    ours = np.array([value for row in rows for value in (*row["ll"], *(row["ll_uncond"] or ()))])
    apart = np.abs(ours - np.array(found["ll"]))
    return {
        "case": name,
        "items": len(rows),
        "requests": len(texts),
        "batch": peer.best,
        "tried": peer.tried,
        "making_s": making,
        "ours_s": statistics.median(seconds["ours"]),
        "peer_s": statistics.median(seconds["peer"]),
        "all": seconds,
        "median_difference": float(np.median(apart)),
        "share_within_1e-3": float((apart < 1e-3).mean()),
    }


def scored(model, entry, task):
    """Rows of a task in parts of a thousand items, as a job takes them."""
    parts = range(0, len(entry.items), 1000)
    return [
        row
        for start in parts
        for row in choice.score(model, entry.items[start : start + 1000], seq_len=SEQ_LEN, name=task).to_pylist()
    ]


def texts_of(tokenizer, tokens):
    """The standard library's files, one after the other, until there are so many tokens; and the stream that they make."""
    texts, stream, starts, sizes = [], [], [], []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        ids = tokenizer.encode_document(text)
        if len(ids) < 1000:
            continue
        texts.append(text)
        starts.append(len(stream))
        sizes.append(len(text.encode()))
        stream += ids
        if len(stream) >= tokens:
            break
    held = {"document_starts": np.array(starts), "document_bytes": np.array(sizes)}
    return texts, perplexity.Stream(tokens=np.array(stream, dtype=np.int32), **held)


@torch.inference_mode()
def plain(theirs, tokens, batch):
    """Nats of all windows, as anybody would write it."""
    count, total = (len(tokens) - 1) // glass.SEQ_LEN, 0.0
    used = torch.from_numpy(tokens[: count * glass.SEQ_LEN + 1].astype(np.int64))
    inputs, targets = used[:-1].view(count, -1), used[1:].view(count, -1)
    for first in range(0, count, batch):
        logits = theirs(input_ids=inputs[first : first + batch], use_cache=False).logits
        wanted = targets[first : first + batch].flatten()
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum").item()
    return total


def rolling(folder, tokens=ROLLING_TOKENS):
    """Tier 2 of the small model."""
    folder.mkdir()
    checkpoint = glass.checkpoint(folder / "nanotron")
    theirs = hf_model(glass, folder / "hf")
    tokenizer = resolve_tokenizer(str(folder / "nanotron" / "tokenizer"), DataPaths(folder / "data"))
    texts, stream = texts_of(tokenizer, tokens)
    model = load(checkpoint, device="cpu")
    few = stream.tokens[: 64 * glass.SEQ_LEN + 1]
    tried = {}
    for batch in (1, 8, 16, 64):
        plain(theirs, few[: 2 * batch * glass.SEQ_LEN + 1], batch)
        began = time.perf_counter()
        plain(theirs, few, batch)
        tried[batch] = time.perf_counter() - began
    batch = min(tried, key=tried.get)
    peer = Peer(folder / "hf", glass.SEQ_LEN)
    peer.choose("loglikelihood_rolling", [[text] for text in texts])
    seconds = {"ours": [], "plain": [], "peer": []}
    options = {"seq_len": glass.SEQ_LEN, "special": (), "isolate_documents": False, "name": "text"}
    for _ in range(REPEATS):
        began = time.perf_counter()
        entry, _ = perplexity.score(model, stream, **options)
        seconds["ours"].append(time.perf_counter() - began)
        began = time.perf_counter()
        nats = plain(theirs, stream.tokens, batch)
        seconds["plain"].append(time.perf_counter() - began)
        seconds["peer"].append(peer.ask("loglikelihood_rolling", [[text] for text in texts], peer.best)["seconds"])
    peer.close()
    count = (len(stream.tokens) - 1) // glass.SEQ_LEN * glass.SEQ_LEN
    if abs(entry["nll_per_token"] - nats / count) > 1e-3 * entry["nll_per_token"]:
        raise RuntimeError(f"not the same work: {entry['nll_per_token']} here, {nats / count} in the plain loop")
    medians = {f"{side}_s": statistics.median(values) for side, values in seconds.items()}
    return {"tokens": len(stream.tokens), "plain_batch": batch, "batch": peer.best, "all": seconds, **medians}


SIZES = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
}


def cost(action):
    """(seconds, the most bytes beyond what was there before)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    began = time.perf_counter()
    action()
    return time.perf_counter() - began, max(0, memory("VmHWM") - before)


def memory(name):
    """Bytes, of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def growth():
    """Rows of (what, how much, seconds, bytes): ten times the tokens, items, parts; larger vocabularies."""
    rows = []
    draw = np.random.default_rng(0)
    options = {"seq_len": 128, "special": (), "isolate_documents": False, "name": "s"}
    model = random_model({**BYTE_LEVEL, **SIZES})

    def stream(count):
        starts = np.arange(0, count, 1000)
        sizes = np.full(len(starts), 4000)
        return perplexity.Stream(tokens=draw.integers(0, 1024, count), document_starts=starts, document_bytes=sizes)

    perplexity.score(model, stream(20_000), **options)  # warms up
    for count in (20_000, 200_000):
        given = stream(count)
        rows.append(("tokens", count, *cost(lambda given=given: perplexity.score(model, given, **options))))
    for count in (50, 500):
        sequences, groups = [], []
        for item in range(count):
            context = draw.integers(0, 1024, 60)
            sequences += [Stretch(np.concatenate([context, draw.integers(0, 1024, 20)]), 60) for _ in range(4)]
            groups += [item] * 4
        rows.append(("items", count, *cost(lambda s=sequences, g=groups: token_logprobs(model, s, together=g))))
    for count in (4, 40):
        slices = [stream(5000) for _ in range(count)]
        rows.append(("parts", count, *cost(lambda given=slices: [perplexity.score(model, each, **options) for each in given])))
    for vocab in (32_768, 131_072, 262_144):
        wide = random_model({**BYTE_LEVEL, **SIZES, "vocab_size": vocab, "tie_word_embeddings": True})
        rows.append(("vocabulary", vocab, *cost(lambda wide=wide: perplexity.score(wide, stream(4000), **options))))
    return [dict(zip(("what", "size", "seconds", "bytes"), row, strict=True)) for row in rows]


def peak():
    """The most bytes that scoring windows takes beyond the weights, and what one budget a thread takes by our own reckoning."""
    model = random_model({**BYTE_LEVEL, **SIZES, "vocab_size": 32_768, "hidden_size": 512, "intermediate_size": 1408})
    windows = [Stretch(np.arange(513) % 1000, 1) for _ in range(24)]
    token_logprobs(model, windows[:1])
    _, used = cost(lambda: token_logprobs(model, windows))
    places = max(model.budget.places, 512)
    one = places * bytes_a_place(model.architecture, 4, 512) + 2 * HEAD_ROWS["cpu"] * model.vocab_size * 4
    return {"weights": model.n_params * 4, "used": used, "reckoned": one * torch.get_num_threads()}


def measure(folder):
    """Everything, on all cores."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    found = {"threads": torch.get_num_threads(), "repeats": REPEATS, "growth": growth(), "peak": peak(), "cloze": []}
    print("speed: perplexity", flush=True)
    found["rolling"] = rolling(folder / "rolling")
    for number, name in enumerate(CASES):
        print(f"speed: {name}", flush=True)
        found["cloze"].append(cloze(name, folder / f"cloze{number}"))
    return found

"""Prefill of a large streamed data set, against a plain datasets.map loop over the same rows: tokens a second, peak memory."""

import io
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from demo import corpus
from support.fakes.hub import FakeHub, make_hub_environment, serve_hub

ROW_COUNT = 300_000
FILE_COUNT = 4
MAX_CHARACTERS = 600
"""Characters of a row's text, at most."""
DATASET_NAME = "bench/large"

_TELL = """
import atexit, sys
atexit.register(lambda: print(open("/proc/self/status").read(), file=sys.stderr))
"""
PREFILL_PROGRAM = """
from scoring.cli.app import scoring_cli
scoring_cli(sys.argv[1:])
"""
PLAIN_PROGRAM = """
from array import array
import datasets
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(sys.argv[2])
rows = datasets.load_dataset(sys.argv[1], split="train", streaming=True)
mapped = rows.map(
    lambda batch: {"ids": [found.ids for found in tokenizer.encode_batch(batch["text"], add_special_tokens=False)]},
    batched=True,
    batch_size=1000,
    remove_columns=["text"],
)
tokens = array("i")
for row in mapped:
    tokens.extend(row["ids"])
print(len(tokens))
"""


def push_dataset(hub: FakeHub, folder: Path, rows: int) -> int:
    """A data set of ``rows`` stretches of the demo's corpus, in parquet files; bytes of text."""
    text = "\n".join(json.loads(line)["text"] for line in (folder / "data" / "prose_heldout.jsonl").read_text().splitlines())
    rng, size, files = random.Random(0), 0, {"README.md": b"# Large\n"}
    for number in range(FILE_COUNT):
        texts = []
        for _ in range(rows // FILE_COUNT):
            start = rng.randrange(max(1, len(text) - MAX_CHARACTERS))
            texts.append(text[start : start + rng.randint(MAX_CHARACTERS // 10, MAX_CHARACTERS)])
        size += sum(len(each.encode()) for each in texts)
        stream = io.BytesIO()
        pq.write_table(pa.table({"text": texts}), stream, row_group_size=1000)
        files[f"data/train-{number:05d}-of-{FILE_COUNT:05d}.parquet"] = stream.getvalue()
    hub.push_commit(DATASET_NAME, files)
    return size


def run_python_process(program: str, argv: list[str], environ: dict[str, str]) -> tuple[str, float, float]:
    """(stdout, seconds, peak memory in MiB) of a python process: VmHWM, since ru_maxrss also knows who forked it."""
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", _TELL + program, *argv], env=environ, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, seconds, int(re.findall(r"VmHWM:\s+(\d+) kB", ended.stderr)[-1]) / 1024


def measure_prefill(folder: Path, rows: int = ROW_COUNT) -> dict:
    """Both over the same rows, from a hub on loopback, one thread each."""
    corpus.build_corpus(folder)
    suite = folder / "large.yaml"
    slices = {"large": {"hf_dataset": DATASET_NAME, "target_tokens": 10**9, "bos": False, "eos": False}}
    suite.write_text(json.dumps({"tier": "tier2_ppl", "slices": slices}))
    hub, tokenizer = FakeHub(), folder / "tokenizer"
    size = push_dataset(hub, folder, rows)
    with serve_hub(hub):
        environ = make_hub_environment(hub, folder / "hf_home", os.environ) | {
            "RAYON_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "true",
        }
        given = ["prefill", "--suite", str(suite), "--eval-data", str(folder / "eval_data"), "--tokenizer", str(tokenizer)]
        _, ours_s, ours_mib = run_python_process(PREFILL_PROGRAM, [*given, "--jobs", "1"], environ)
        plain, plain_s, plain_mib = run_python_process(PLAIN_PROGRAM, [DATASET_NAME, str(tokenizer / "tokenizer.json")], environ)
        imports_mib = run_python_process("import torch, datasets, scoring.data.prefill", [], environ)[2]
    (meta,) = (folder / "eval_data" / "ppl_slices" / "large").glob("*/meta.json")
    made = json.loads(meta.read_text())
    tokens = int(plain)
    assert made["tokens"] == tokens, "both must have tokenised the same"
    return {
        "rows": made["documents"],
        "bytes": size,
        "tokens": tokens,
        "ours_s": ours_s,
        "plain_s": plain_s,
        "ours_mib": ours_mib,
        "plain_mib": plain_mib,
        "imports_mib": imports_mib,
    }

"""Host memory that loading a checkpoint takes beyond imports (and, on a CPU, beyond the weights themselves).

    PYTHONPATH=tests python -m benchmarks.loading [--gigabytes 1] [--device cpu|cuda] [--folder /tmp] [--members 4]

With ``--members`` an average of so many checkpoints is loaded; beside it may be the float64 sum of a tensor and one member's.

Each load runs in a process of its own that has loaded a tiny checkpoint before, so that imports and first uses are not counted.
The peak is the kernel's (VmHWM of /proc/self/status, reset before the load).
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from scoring.model.loader import load_averaged_lm, load_causal_lm
from scoring.model.tensor_reader import SUM_DTYPE
from suites.checkpoint.completeness import compute_fingerprint
from suites.contract.averages import AverageMember
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG, list_tensor_shapes, write_checkpoint, write_tiny_checkpoint

MIB = 1 << 20
MODEL_SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32768,
}
LOADING_CASES = (("float32", "float32", 1), ("float32", "float32", 2), ("bfloat16", "float32", 2), ("bfloat16", "bfloat16", 2))
"""(type of the checkpoint, type it is loaded in, tp)."""


def write_large_checkpoint(folder, *, gigabytes, dtype, tp):
    """A Llama of about that many GB with random weights."""
    kind = getattr(torch, dtype)
    outside, one = ({**BYTE_LEVEL_CONFIG, **MODEL_SIZES, "num_hidden_layers": layers} for layers in (0, 1))
    fixed, with_one = (sum(math.prod(shape) for shape in list_tensor_shapes(described).values()) for described in (outside, one))
    layers = max(1, round((gigabytes * 1e9 / kind.itemsize - fixed) / (with_one - fixed)))
    model_config = {**one, "num_hidden_layers": layers}
    tensors = {name: torch.full(shape, 0.01, dtype=kind) for name, shape in list_tensor_shapes(model_config).items()}
    described = {"train_steps": 20, "seq_len": 64, "tokenizer": "byte-level", "tp": tp}
    write_checkpoint(folder, step=20, model_config=model_config, tensors=tensors, **described)


def read_memory_bytes(name):
    """Bytes, of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def load(folder, *, device, dtype, members):
    """The checkpoint, or the average of it with itself ``members`` times: what is read counts, not what it is."""
    if members == 1:
        return load_causal_lm(folder, device=device, dtype=dtype)
    member = AverageMember(step=20, weight=1 / members, checkpoint=str(folder), fingerprint=compute_fingerprint(folder))
    return load_averaged_lm([member] * members, device=device, dtype=dtype)


def measure_load_memory(folder, warm, *, device, dtype, stored, members=1):
    """Bytes that one load took, in this process."""
    torch.set_num_threads(1)
    load(warm, device=device, dtype=dtype, members=members)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is used now
    before = read_memory_bytes("VmRSS")
    model = load(folder, device=device, dtype=dtype, members=members)
    peak = read_memory_bytes("VmHWM") - before
    parameters = {parameter.data_ptr(): parameter for parameter in (*model.body.parameters(), model.head)}
    sizes = [parameter.numel() * parameter.element_size() for parameter in parameters.values()]
    weights = sum(sizes) if device == "cpu" else 0
    largest = max(sizes)
    if members > 1:
        values = max(parameter.numel() for parameter in parameters.values())
        largest = values * (SUM_DTYPE.itemsize + getattr(torch, stored).itemsize)
    return {
        "peak": peak,
        "weights": sum(sizes),
        "beyond": peak - weights,
        "largest_tensor": largest,
        "allowed": int(1.2 * largest) + 512 * MIB,
        "seconds": model.description["load_seconds"],
        "bytes": model.description["bytes"],
    }


def measure_loading_cases(gigabytes, device, base, cases=LOADING_CASES, members=1):
    """A row for each case."""
    rows = []
    for stored, loaded, tp in cases:
        with tempfile.TemporaryDirectory(dir=base) as folder:
            here = [sys.executable, "-P", __file__, "--gigabytes", str(gigabytes), "--device", device]
            case = ["--stored", stored, "--loaded", loaded, "--tp", str(tp), "--members", str(members)]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
            subprocess.run([*here, *case, "--write", f"{folder}/big/20"], check=True, env=environment)
            measuring = [*here, *case, "--measure", f"{folder}/big/20"]
            done = subprocess.run(measuring, check=True, capture_output=True, text=True, env=environment)
            rows.append({"stored": stored, "loaded": loaded, "tp": tp, **json.loads(done.stdout.splitlines()[-1])})
    return rows


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", default=None)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--stored", help=argparse.SUPPRESS)
    parser.add_argument("--loaded", help=argparse.SUPPRESS)
    parser.add_argument("--tp", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_large_checkpoint(given.write, gigabytes=given.gigabytes, dtype=given.stored, tp=given.tp)
        return 0
    if given.measure:
        warm = write_tiny_checkpoint(given.measure.parent.parent / "warm" / "20", 20)
        measured = {"device": given.device, "dtype": given.loaded, "stored": given.stored, "members": given.members}
        print(json.dumps(measure_load_memory(given.measure, warm, **measured)))
        return 0
    what = "imports and weights" if given.device == "cpu" else "imports"
    rows = measure_loading_cases(given.gigabytes, given.device, given.folder, members=given.members)
    tensors = "largest tensor" if given.members == 1 else "sum and member of the largest tensor"
    for row in rows:
        print(
            f"{row['stored']} tp={row['tp']} -> {row['loaded']} on {given.device}: {row['bytes'] / 1e9:.2f} GB in"
            f" {row['seconds']:.2f} s, {row['beyond'] / MIB:.0f} MiB beyond {what}"
            f" ({tensors} {row['largest_tensor'] / MIB:.0f} MiB, allowed {row['allowed'] / MIB:.0f} MiB)"
        )
    return int(any(row["beyond"] > row["allowed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

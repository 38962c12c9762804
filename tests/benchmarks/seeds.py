"""Is the run's own noise, which stage.json reports from one run, the noise between runs?

The demo's model (2.4M parameters) is trained SEEDS times at a constant learning rate, each with weights and batches of its own.
Evaluations of one window are scored and summarised as a stage's are. The noise that each seed's stage.json reports stands beside
the standard deviation between the seeds at the same steps, with and without each seed's mean over the window.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

from benchmarks.tables import render_markdown_table
from demo import corpus
from demo.train import MODEL_CONFIG, SEQ_LEN, make_llama_config
from scoring.compare.published import open_evaluation
from scoring.compare.stage_summary import summarise_stage
from suites.common.errors import ExitCode
from suites.contract.comparison import EvaluationRef
from suites.contract.stage_summary import StageRequest
from support.models.nanotron_checkpoint import write_checkpoint
from support.runs.scoring_jobs import run_scoring_in_process

SEEDS = 5
STEPS = range(320, 720, 20)
"""Twenty evaluations, after the steepest part of the training."""
LEARNING_RATE, WARMUP_STEPS = 1e-3, 50
ROWS = {"prose": 2, "code": 2}


def train_run(folder: Path, seed: int) -> Iterator[Path]:
    """A checkpoint at each of STEPS, removed when the next one is asked for."""
    rng = np.random.default_rng([seed, 1])
    torch.manual_seed(seed)
    streams = {kind: np.load(folder / "train" / f"{kind}.npy") for kind in ROWS}
    model = LlamaForCausalLM(make_llama_config())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    for step in range(1, max(STEPS) + 1):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, step / WARMUP_STEPS)
        ends = {kind: len(stream) - SEQ_LEN - 1 for kind, stream in streams.items()}
        starts = [(kind, start) for kind, rows in ROWS.items() for start in rng.integers(0, ends[kind], rows)]
        batch = np.stack([streams[kind][start : start + SEQ_LEN + 1] for kind, start in starts])
        tokens = torch.from_numpy(batch.astype(np.int64))  # [rows, SEQ_LEN + 1]
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits  # [rows, SEQ_LEN, VOCAB]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step in STEPS:
            checkpoint = write_checkpoint(
                folder / "ckpts" / f"seed{seed}" / str(step),
                step=step,
                model_config=MODEL_CONFIG,
                tensors=model.state_dict(),
                train_steps=max(STEPS),
                seq_len=SEQ_LEN,
                tokenizer=str(folder / "tokenizer"),
            )
            yield checkpoint
            shutil.rmtree(checkpoint)


def score_run(folder: Path, seed: int) -> StageRequest:
    """The request for the summary of one seed's evaluations, which are scored."""
    os.environ["DEMO_DATA"] = str(folder / "data")
    stage = f"seed{seed}"
    for checkpoint in train_run(folder, seed):
        arguments = ["score", "--checkpoint", str(checkpoint), "--suite", "demo_stage1_ppl", "--suite", "demo_stage1_cf"]
        arguments += ["--results", str(folder / "results"), "--eval-data", str(folder / "cache"), "--stage", stage]
        if run_scoring_in_process(arguments) != ExitCode.SCORED:
            raise RuntimeError(f"{checkpoint} was not scored")
    results = str(folder / "results" / stage)
    refs = tuple(EvaluationRef(results=results, stage=stage, directory=f"step_{step}") for step in STEPS)
    return StageRequest(stage=stage, results=results, evaluations=refs)


def measure_seeds(folder: Path) -> dict:
    """The figures of all seeds."""
    torch.set_num_threads(1)
    corpus.build_corpus(folder)
    values: dict[str, list[list[float]]] = {}
    noises: dict[str, list[float | None]] = {}
    for seed in range(SEEDS):
        request = score_run(folder, seed)
        sides = [open_evaluation(ref) for ref in request.evaluations]
        for figure in summarise_stage(request).noise:
            name = f"{figure.name or figure.tier}: {figure.metric}"
            noises.setdefault(name, []).append(figure.noise)
            curve = [
                side.get_entries(figure.tier)[figure.name][figure.metric]
                if figure.name
                else side.get_total(figure.tier, figure.metric)
                for side in sides
            ]
            values.setdefault(name, []).append(curve)
    return {"figures": {name: compare_noises(np.asarray(values[name]), noises[name]) for name in values}}


def compare_noises(curves: np.ndarray, noises: list[float | None]) -> dict:
    """Noise within and between runs, of ``curves`` [seeds, evaluations].

    ``own_between`` is the standard deviation between seeds after each seed's straight line over the window is taken away.
    """
    known = [noise for noise in noises if noise is not None]
    seeds, count = curves.shape
    deviations = curves - curves.mean(axis=0)  # [seeds, evaluations]
    line = np.linalg.qr(np.stack([np.ones(count), np.arange(count)], axis=1))[0]
    own = deviations - (deviations @ line) @ line.T
    return {
        "reported": known,
        "unknown": len(noises) - len(known),
        "between": float(np.sqrt((deviations**2).sum() / (seeds - 1) / count)),
        "own_between": float(np.sqrt((own**2).sum() / (seeds - 1) / (count - 2))),
    }


def render_seeds(figures: dict) -> str:
    """This part of RESULTS.md."""
    head = ["figure", "reported by each run", "mean", "between seeds", "the same without each seed's line", "mean / that"]
    rows = []
    for name, found in figures["figures"].items():
        mean = float(np.sqrt(np.mean(np.square(found["reported"])))) if found["reported"] else float("nan")
        reported = ", ".join(f"{noise:.4f}" for noise in found["reported"])
        reported += f"; {found['unknown']} not known" if found["unknown"] else ""
        ratio = f"{mean / found['own_between']:.2f}"
        rows.append([name, reported, f"{mean:.4f}", f"{found['between']:.4f}", f"{found['own_between']:.4f}", ratio])
    return f"""## The run's own noise against the noise between seeds

The demo's model (2.4M parameters) trained with {SEEDS} seeds at a constant learning rate of {LEARNING_RATE:g} after
warm-up; {len(STEPS)} evaluations, steps {STEPS[0]} to {STEPS[-1]}. The noise of each run is that of its stage.json.
Between seeds: the standard deviation at the same step, over all steps. Runs also differ lastingly, in level and slope,
which no single run can know; the last columns are without that.

{render_markdown_table([head, *rows])}
"""

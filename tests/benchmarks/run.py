"""`make bench`: measures, and writes RESULTS.md and results.json beside this file; `make bench BENCH=speed`: only that part."""

import datetime as dt
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import arrival as bench_arrival
from benchmarks import day as bench_day
from benchmarks import gpu
from benchmarks import growth as bench_growth
from benchmarks import perplexity as bench_perplexity
from benchmarks import prefill as bench_prefill
from benchmarks import probes as bench_probes
from benchmarks import report as bench_report
from benchmarks import scoring as bench_scoring
from benchmarks import seeds as bench_seeds
from benchmarks import sensitivity as bench_sensitivity
from benchmarks import speed as bench_speed
from benchmarks import start as bench_start
from benchmarks import watcher as bench_watcher
from benchmarks.tables import format_number, render_markdown_table
from benchmarks.told import render_gpu, render_growth, render_perplexity

BENCHMARKS_FOLDER = Path(__file__).resolve().parent
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "msgspec", "rich", "watchdog")


def describe_machine() -> dict[str, object]:
    """What the figures were taken on."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**20),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def render_watcher(figures: dict) -> str:
    """The daemon's part of RESULTS.md."""
    head = ["case", "checkpoints", "start, s", "ms a tick", "CPU ms a tick", "CPU s a day", "syscalls a tick", "RSS, MiB"]
    keys = ("start_s", "tick_wall_ms", "tick_cpu_ms", "cpu_s_a_day_at_60_s", "syscalls_a_tick", "rss_mib")
    ticks = [[tick["case"], f"{tick['checkpoints']:,}", *(format_number(tick[key]) for key in keys)] for tick in figures["ticks"]]
    calls = "; ".join(
        f"{tick['case']} {tick['checkpoints']:,}: " + ", ".join(f"{name} {count}" for name, count in tick["syscalls"].items())
        for tick in figures["ticks"]
    )
    status = figures["status"]
    took, bare, cpu, cpu_bare = (1000 * status[key] for key in ("wall_s", "wall_bare_s", "cpu_s", "cpu_bare_s"))
    return f"""## The daemon

`watcher run`, local executor. idle: so many checkpoints on disk, none of them on the schedule. backlog: so many complete
checkpoints on the schedule, one job running, the others waiting behind it. Start: from exec to the first status.json. A tick:
the mean of {bench_watcher.MEASURED_TICKS} in a row, after the first {bench_watcher.WARM_TICKS}. CPU s a day: at a poll of 60 s.
Syscalls: of a real daemon, all threads, by strace, at a poll of {bench_watcher.POLL_SECONDS:.0f} s.

{render_markdown_table([head, *ticks])}

Most frequent system calls a tick: {calls}.

`watcher status`: {status["modules"]} modules imported (a bare interpreter: {status["modules_bare"]}), {took:.0f} ms
(bare: {bare:.0f} ms), {cpu:.0f} ms of CPU (bare: {cpu_bare:.0f} ms), medians of 7.
"""


def render_scoring(figures: dict) -> str:
    """The job's part of RESULTS.md."""
    head = ["tier", "work", "plain transformers, s", "ours, s", "plain / ours", "plain, tokens/s", "ours, tokens/s"]
    rows = [
        [
            row["tier"],
            row["work"],
            format_number(row["plain_s"]),
            format_number(row["ours_s"]),
            f"{row['plain_s'] / row['ours_s']:.2f}",
            format_number(row["tokens"] / row["plain_s"]),
            format_number(row["tokens"] / row["ours_s"]),
        ]
        for row in figures["tiers"]
    ]
    return f"""## Scoring

{figures["model"]}, fp32, CPU, one thread, warm data cache; medians of {figures["repeats"]}, ours and the plain loop in turn.
The plain loop: transformers' LlamaForCausalLM, windows in batches of {bench_scoring.PLAIN_BATCH}; for tier 3 every choice carries
its whole context, in right-padded batches sorted by length. Tokens are those of the plain loop in both columns, so that work
skipped counts as work done.

{render_markdown_table([head, *rows])}

A whole `python -m scoring score` of both tiers, from exec to exit: {figures["process_s"]:.1f} s.
"""


def render_prefill(figures: dict) -> str:
    """The data cache's part of RESULTS.md."""
    rows = [["", "seconds", "tokens/s", "MB of text/s", "peak memory, MiB"]]
    for name, key in (("ours", "ours"), ("plain datasets.map", "plain")):
        seconds = figures[f"{key}_s"]
        rates = (format_number(figures["tokens"] / seconds), format_number(figures["bytes"] / 1e6 / seconds))
        rows.append([name, format_number(seconds), *rates, format_number(figures[f"{key}_mib"])])
    return f"""## Prefill

One slice of {figures["rows"]:,} rows ({figures["bytes"] / 1e6:.0f} MB of text, {figures["tokens"]:,} tokens), streamed as parquet
from a hub on loopback, read to its end; one thread of the demo's tokenizer, which both use. Plain: load_dataset(streaming=True),
map in batches of 1000, the ids kept in an array. Whole processes, from exec to exit; importing torch and datasets alone takes
{figures["imports_mib"]:.0f} MiB. Ours also checks, digests and fsyncs what it wrote.

{render_markdown_table(rows)}

plain / ours, seconds: {figures["plain_s"] / figures["ours_s"]:.2f}.
"""


def render_answer_checks(figures: dict) -> str:
    """Tier 4's part of RESULTS.md."""
    models = figures["models"]
    rates = [[kind, *(f"{row[rate]:.3f}" for rate in figures["rates"])] for kind, row in models.items()]
    alive = [
        [
            kind,
            "more than 700" if row["prompt_nats"] is None else f"{row['prompt_nats']:.2f}",
            *(f"{row[key]} of {row[of]}" for key, of in (("stopped", "prompts"), ("simple_passed", "simple_prompts"))),
            f"{row['answer_tokens']:,}",
        ]
        for kind, row in models.items()
    ]
    row, nothing = next(iter(models.values())), math.log(figures["vocabulary"])
    simple = row["simple_prompts"]
    return f"""## Instruction probes

SmolLM2-135M-Instruct with its ChatML template, greedy, fp32, {row["prompts"]} prompts of stage4_sft_native: the {simple} simple
ones and every third of the others, answers cut at {bench_probes.NEW_TOKENS} tokens.
Each row is one `python -m scoring score`.

{render_markdown_table([["weights", *figures["rates"]], *rates])}

How alive each is: nats a token of the prompts themselves ({nothing:.2f}, ln of the vocabulary, for a model that knows
nothing), answers that ended by themselves, simple prompts passed, tokens written.

{render_markdown_table([["weights", "nats a token of the prompts", "ended", "simple prompts passed", "tokens"], *alive])}

{bench_probes.check_ordering(models, nothing)}
"""


def render_report(figures: dict) -> str:
    """The page's part of RESULTS.md."""
    used = "no browser was there"
    if "chromium" in figures:
        used = f"headless Chromium {figures['chromium']}, no GPU: interactive after {figures['interactive_ms']:.0f} ms"
    cost = f"{figures['wall_s']:.2f} s, {figures['cpu_s']:.2f} s of CPU, {figures['rss_mib']:.0f} MiB at most"
    return f"""## The report

report.html of {figures["evaluations"]} evaluations x {figures["figures"]} figures, each compared with its bridge, the step
before and the best so far: {figures["bytes"] / 1e6:.2f} MB. Made by `watcher report --html` in {cost}, from exec to exit.
Opened from disk in {used}.
Medians of {bench_report.REPEATS}.
"""


def render_speed(figures: dict) -> str:
    """Tier 3's part of RESULTS.md."""
    head = ["", "lm-eval", "ours", "lm-eval / ours"]
    rows = [
        [
            what,
            format_number(figures[f"peer{kind}_s"]),
            format_number(figures[f"ours{kind}_s"]),
            f"{figures[f'peer{kind}_s'] / figures[f'ours{kind}_s']:.2f}",
        ]
        for what, kind in (("seconds", ""), ("CPU seconds of all threads", "_cpu"))
    ]
    tried = ", ".join(f"{batch}: {format_number(seconds)} s" for batch, seconds in figures["tried"].items())
    return f"""## Tier 3 against lm-evaluation-harness: {figures["case"]}

{figures["items"]:,} real items, {figures["requests"]:,} requests. CPU, fp32, {figures["threads"]} threads for each side, medians
of {figures["repeats"]}, the sides in turn, models loaded before. lm-evaluation-harness 0.4.13 gets the same requests as text
(unconditional ones, too) and tokenises them each time, in batches of {figures["batch"]}: the best of those tried on every
{bench_speed.SAMPLE_BATCHES}th request ({tried}). Ours reads tokens from the warm cache; making it, once for all checkpoints, took
{format_number(figures["making_s"])} s.

{render_markdown_table([head, *rows])}

{figures["share_within_1e-3"]:.1%} of the log-likelihoods are within 1e-3 nats of each other.
"""


BENCHMARK_PARTS = {
    "watcher": (bench_watcher.measure_watcher, render_watcher),
    "arrival": (bench_arrival.measure_arrival, bench_arrival.render_arrival),
    "day": (bench_day.measure_day, bench_day.render_day),
    "scoring": (bench_scoring.measure_scoring, render_scoring),
    "start": (bench_start.measure_start, bench_start.render_start),
    "speed": (bench_speed.SMALL_MODEL.measure, render_speed),
    "speed_135m": (bench_speed.LARGER_MODEL.measure, render_speed),
    "perplexity": (bench_perplexity.measure_perplexity, render_perplexity),
    "growth": (bench_growth.measure_all_growth, render_growth),
    "gpu": (gpu.measure_gpu, render_gpu),
    "prefill": (bench_prefill.measure_prefill, render_prefill),
    "probes": (bench_probes.measure_answer_checks, render_answer_checks),
    "sensitivity": (bench_sensitivity.measure_sensitivity, bench_sensitivity.render_sensitivity),
    "seeds": (bench_seeds.measure_seeds, bench_seeds.render_seeds),
    "report": (bench_report.measure_report, render_report),
}


def write_results(folder: Path, parts: dict[str, dict]) -> None:
    """Put the figures of some parts into ``folder``/results.json, and write RESULTS.md beside it anew."""
    file = folder / "results.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    for part, figures in parts.items():
        found[part] = {**figures, "machine": describe_machine(), "date": dt.datetime.now(tz=dt.UTC).date().isoformat()}
    file.write_text(json.dumps(found, indent=1) + "\n")
    (folder / "RESULTS.md").write_text("# Measured\n\n" + "\n".join(_render_results(found)))


def _render_results(found: dict[str, dict]) -> Iterator[str]:
    for part, (_, about) in BENCHMARK_PARTS.items():
        if part in found:
            try:
                text = about(found[part])
            except KeyError as missing:
                anew = f"`make bench BENCH={part}` does it anew."
                yield f"## {part}\n\nMeasured by an older bench, which knew no {missing}: {anew}\n"
                continue
            on = found[part]["machine"]
            packages = ", ".join(f"{name} {version}" for name, version in on["packages"].items())
            yield text
            yield (
                f"Taken {found[part]['date']} with `make bench` on {on['cores']} cores of {on['cpu']}, {on['memory_gib']} GiB, "
                f"Linux {on['kernel']}, Python {on['python']}, {packages}.\n"
            )


def main() -> None:
    """Measure what is asked for, or all that can be; figures of the other parts stay as they were."""
    possible = set(BENCHMARK_PARTS) if torch.cuda.is_available() else set(BENCHMARK_PARTS) - {"gpu"}
    possible -= set() if bench_start.has_old_commit() else {"start"}
    wanted = set(sys.argv[1:]) or possible
    if wanted - possible:
        sys.exit(f"there is no such part, or no CUDA or no old commit for it: {', '.join(sorted(wanted - possible))}")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for part in [part for part in BENCHMARK_PARTS if part in wanted]:
            (Path(folder) / part).mkdir()
            write_results(BENCHMARKS_FOLDER, {part: BENCHMARK_PARTS[part][0](Path(folder) / part)})
    print((BENCHMARKS_FOLDER / "RESULTS.md").read_text())


if __name__ == "__main__":
    main()

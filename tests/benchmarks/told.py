"""What RESULTS.md says of tier 2, of work that grows, and of GPUs."""

from benchmarks.tables import format_number, render_markdown_table


def render_perplexity(figures: dict) -> str:
    """Tier 2's part of RESULTS.md."""
    tables = []
    for run, unit in ((figures["all"], "s"), (figures["one"], "cpu_s")):
        ours = run[f"ours_{unit}"]
        sides = (("plain transformers loop", run["plain_batch"], "plain"), ("lm-eval, rolling", run["batch"], "peer"))
        rows = [
            ["side", "batch size", "CPU s" if unit == "cpu_s" else "s", "theirs / ours"],
            ["ours", "", format_number(ours), "1"],
        ]
        rows += [
            [name, size, format_number(run[f"{key}_{unit}"]), f"{run[f'{key}_{unit}'] / ours:.2f}"] for name, size, key in sides
        ]
        tables.append(render_markdown_table(rows))
    many, one, tried = figures["all"], figures["one"], figures["compile"]
    gain = f"{tried['eager_us_a_token']:.1f} us a token without it, {tried['compiled_us_a_token']:.1f} with it"
    pays = "it never pays" if tried["pays_from_tokens"] is None else f"it pays from {tried['pays_from_tokens']:,.0f} tokens on"
    return f"""## Perplexity against others

GlassLM (0.85M parameters), fp32, windows of 128, models loaded before, each side at its best batch size (lm-evaluation-harness
0.4.13: of {", ".join(map(str, figures["batches"]))}), the sides in turn. lm-eval tokenises each time.
The load average before was {figures["load_before"]:.1f}.

{many["tokens"]:,} tokens, {many["threads"]} threads for each side, medians of {figures["repeats"]} by the clock:

{tables[0]}

{one["tokens"]:,} tokens, one thread, CPU seconds, the least of {figures["repeats"]} (says the same when the machine is busy):

{tables[1]}

torch.compile of the layers at one shape, one thread: {tried["compile_s"]:.1f} s until it has compiled; {gain}: {pays}.
It is off on a CPU.
"""


def render_growth(figures: dict) -> str:
    """What RESULTS.md says of work that grows."""
    growth = [["what grows", "to", "s", "us each", "MiB beyond"]]
    for row in figures["growth"]:
        each = format_number(row["seconds"] / row["size"] * 1e6)
        growth.append([row["what"], f"{row['size']:,}", format_number(row["seconds"]), each, format_number(row["bytes"] / 2**20)])
    peaks = [["threads", "weights, MiB", "beyond them, MiB", "reckoned, MiB"]]
    sizes = ("weights", "used", "reckoned")
    peaks += [[peak["threads"], *(format_number(peak[key] / 2**20) for key in sizes)] for peak in figures["peaks"]]
    return f"""## Cost as the work grows

4 layers of 128, one process; MiB beyond what was there before. Vocabularies: 4,000 tokens each.
Parts: leased, written and read again, with nothing to compute; a file and its fsyncs each.

{render_markdown_table(growth)}

Memory of scoring rows of 512 on a CPU, 4 layers of 256, vocabulary 16,384, beyond weights and imports, the most of three goes;
reckoned before loading, from the architecture, for one budget in each thread:

{render_markdown_table(peaks)}
"""


def render_gpu(figures: dict) -> str:
    """The part of RESULTS.md that needs a GPU."""
    speed, trees, start, read = (figures[key] for key in ("speed", "trees", "start", "reading"))
    memory, compiled, on = speed["memory"], speed["compile"], figures["device"]
    mfu = "of a device whose peak nobody says" if speed["mfu"] is None else f"MFU {speed['mfu']:.1%}"
    pays = "never" if compiled["pays_from_tokens"] is None else f"from {compiled['pays_from_tokens']:,.0f} tokens on"
    gib = {key: f"{value / 2**30:.2f}" for key, value in memory.items()}
    phases = [["phase until the first batch", "s"]]
    phases += [
        [name, format_number(start[name])] for name in ("import_torch", "load", "rest_until_first_batch", "until_first_batch")
    ]
    first = figures["scaling"][0]["tokens_per_s"]
    scaling = [["processes", "exec to exit, s", "scoring, s", "tokens/s", "of one"]]
    for row in figures["scaling"]:
        rates = (format_number(row["tokens_per_s"]), f"{row['tokens_per_s'] / first:.2f}")
        scaling.append([row["devices"], format_number(row["seconds"]), format_number(row["scoring_s"]), *rates])
    one, other = format_number(trees["trees_s"]), format_number(trees["requests_s"])
    far = figures["parity"]
    return f"""## A GPU

`PYTHONPATH=tests python -m benchmarks.gpu`, size {figures["size"]}, on {on["name"]}: a Llama of
{speed["parameters"] / 1e6:,.1f}M parameters with random weights, {speed["dtype"]}, rows of {speed["seq_len"]}.
FLOP a token: {speed["flop_per_token"]:.3g} (2 x matrices, the head among them, + causal attention).

Tier 2: {speed["tokens_per_s"]:,.0f} tokens/s, {speed["model_flop_per_s"] / 1e12:.3g} TFLOP/s, {mfu}.
With torch.compile, which is not used: {compiled["tokens_per_s"]:,.0f} tokens/s after {compiled["compile_s"]:.1f} s of compiling;
that pays {pays}.

Tier 3, {trees["items"]:,} items of four choices: trees {one} s, a request a choice {other} s, ratio {trees["ratio"]:.2f}.

Most memory in tier 2: {gib["peak"]} GiB; weights {gib["weights"]} + at most {gib["reckoned"]} reckoned for one budget of
{speed["token_places"]:,} token places and the head.

Reading {read["gb"]:.2f} GB of weights: {read["gb_per_s"]:.2f} GB/s; plainly, the same files: {read["plain_gb_per_s"]:.2f} GB/s.

{render_markdown_table(phases)}

{render_markdown_table(scaling)}

Each count of processes gave the same bits. Stage 3's suites at these rates on one device: {figures["stage3_minutes"]:.1f} minutes
a checkpoint. Against the CPU's float32, nats a token: float32 {far["float32_largest"]:.2g} at most, bfloat16
{far["bfloat16_mean"]:.2g} in the mean.
"""

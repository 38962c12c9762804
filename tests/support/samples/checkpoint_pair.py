"""Two real checkpoints of one training run, scored on real text: the standard library's documents, and a cloze task from them."""

import json
import random

from demo import corpus
from suites.common.errors import Exit
from support.models.tiny_llama_items import CHECKPOINTS
from support.runs.scoring_jobs import by_hand, results, run_here

BEFORE, AFTER = 40, 60
KINDS = ("prose", "code", "late")
CHARS = 300


def write(folder, *, documents=120):
    """Suites ppl.yaml (three slices) and cf.yaml (two tasks) over files in ``folder``."""
    found = corpus.documents()
    slices, tasks = ["tier: tier2_ppl", "slices:"], ["tier: tier3_cf", "tasks:"]
    for kind in KINDS:
        draw = random.Random(kind)
        texts = [text[: draw.randint(CHARS // 3, 2 * CHARS)] for _, text in draw.sample(found[kind], documents)]
        corpus.write_jsonl(folder / f"{kind}.jsonl", ({"text": text} for text in texts))
        slices.append(f"  {kind}: {{data_files: [{folder}/{kind}.jsonl]}}")
    for kind in KINDS[:2]:
        rows = [row | {"context": row["context"][-60:]} for row in corpus.cloze_items(found[kind])]
        corpus.write_jsonl(folder / f"{kind}_order.jsonl", rows)
        tasks.append(f"  {kind}_order: {{data_files: [{folder}/{kind}_order.jsonl], adapter: multiple_choice}}")
    (folder / "ppl.yaml").write_text("\n".join(slices) + "\n")
    (folder / "cf.yaml").write_text("\n".join(tasks) + "\n")


def score(folder, step, *more, **changed):
    """Folder of the results of one step."""
    checkpoint = CHECKPOINTS / "llama_gqa_tp1" / str(step)
    assert run_here(by_hand(folder, *more, checkpoint=checkpoint, **changed)) == Exit.SCORED
    return results(folder, step)


def load(path):
    return json.loads(path.read_text())

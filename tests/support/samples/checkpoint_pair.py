"""Two real checkpoints of one training run, scored on real text: the standard library's documents, and a cloze task from them."""

import json
import random

from demo import corpus
from suites.common.errors import ExitCode
from support.models.nanotron_fixtures import CHECKPOINTS
from support.runs.scoring_jobs import get_results_folder, make_score_arguments, run_scoring_in_process

BASELINE_STEP, CANDIDATE_STEP = 40, 60
KINDS = ("prose", "code", "late")
DOCUMENT_CHARACTERS = 300


def write_pair_suites(folder, *, documents=120):
    """Suites ppl.yaml (three slices) and cf.yaml (two tasks) over files in ``folder``."""
    found = corpus.collect_documents()
    slices, tasks = ["tier: tier2_ppl", "slices:"], ["tier: tier3_cf", "tasks:"]
    for kind in KINDS:
        draw = random.Random(kind)
        texts = [
            text[: draw.randint(DOCUMENT_CHARACTERS // 3, 2 * DOCUMENT_CHARACTERS)]
            for _, text in draw.sample(found[kind], documents)
        ]
        corpus.write_jsonl(folder / f"{kind}.jsonl", ({"text": text} for text in texts))
        slices.append(f"  {kind}: {{data_files: [{folder}/{kind}.jsonl]}}")
    for kind in KINDS[:2]:
        rows = [row | {"context": row["context"][-60:]} for row in corpus.make_cloze_items(found[kind])]
        corpus.write_jsonl(folder / f"{kind}_order.jsonl", rows)
        tasks.append(f"  {kind}_order: {{data_files: [{folder}/{kind}_order.jsonl], adapter: multiple_choice}}")
    (folder / "ppl.yaml").write_text("\n".join(slices) + "\n")
    (folder / "cf.yaml").write_text("\n".join(tasks) + "\n")


def score_step(folder, step, *more, **changed):
    """Folder of the results of one step."""
    checkpoint = CHECKPOINTS / "llama_gqa_tp1" / str(step)
    assert run_scoring_in_process(make_score_arguments(folder, *more, checkpoint=checkpoint, **changed)) == ExitCode.SCORED
    return get_results_folder(folder, step)


def load_document(path):
    return json.loads(path.read_text())

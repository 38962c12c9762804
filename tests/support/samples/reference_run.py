"""Three steps of a stage beside two other models, one of them with another tokenizer: compared, summarised and in a config."""

from types import SimpleNamespace

import numpy as np

from scoring.compare.compare import run_comparison
from scoring.compare.stage_summary import run_stage_summary
from suites.contract.comparison import CompareRequest
from suites.contract.paths import EvaluationPaths
from suites.contract.stage_summary import StageRequest
from support.samples.published_results import edit_tier_file, make_evaluation_ref, publish_sample_results

STEPS = {100: 0.30, 200: 0.45, 300: 0.60}
"""Step -> share of right answers; the references have .50 and .55."""


def write_reference_run(root):
    """Everything on disk below ``root``; what tests of the report use of a sample."""
    stage, draw = root / "results" / "stage1", np.random.default_rng(3)
    sizes = draw.integers(400, 4000, 40)

    def publish(directory, right, bits, *, tokenizer="ours", **head):
        paths = EvaluationPaths(stage, directory)
        nll = sizes * (bits + draw.normal(0, 0.01, 40)) * np.log(2)
        slices = {"web": (sizes // 4, nll, sizes, [f"text {number}" for number in range(40)])}
        publish_sample_results(paths, slices=slices, tasks={"quiz": (np.arange(400) < round(400 * right), None)}, **head)
        separator = {"before": [1], "after": [2]}
        for tier in ("tier2_ppl", "tier3_cf"):
            edit_tier_file(paths, tier, lambda document: document.update(tokenizer={"digest": tokenizer}))
        edit_tier_file(paths, "tier2_ppl", lambda document: document["slices"]["web"].update(separator=separator))
        return make_evaluation_ref(paths)

    references = (
        publish("reference_small", 0.5, 1.0, tokenizer="theirs", source="reference:small", step=0),
        publish("reference_large", 0.55, 0.9, tokenizer="theirs", source="reference:large", step=0),
    )
    steps = []
    for step, right in STEPS.items():
        steps.append(publish(f"step_{step}", right, 1.4 - step / 600, step=step))
        run_comparison(CompareRequest(candidate=steps[-1], references=references, level=0.01))
    run_stage_summary(StageRequest(stage="stage1", results=str(stage), evaluations=tuple(steps), references=references))
    config = root / "watcher.yaml"
    config.write_text(
        f"scratch: {root}\nresults: {root}/results\nexecutor: local\n"
        "references: {small: {checkpoint: /m/small, tokens: 11T}, large: /m/large}\n"
        f"stages: {{stage1: {{checkpoints: {root}/ckpts, steps: [100, 200, 300], suites: [stage1_ppl_slices]}}}}\n"
    )
    return SimpleNamespace(results=root / "results", config_file=config)

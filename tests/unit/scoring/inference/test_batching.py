"""What is computed together, and by whom, moves log-likelihoods by rounding and picks not at all."""

import json
from contextlib import ExitStack

import numpy as np
import pyarrow.parquet as pq
import pytest

from scoring.inference.batching import BATCH_WIDTH_MULTIPLE
from scoring.tiers.cloze_metric import CLOZE_METRICS, score_items
from scoring.tiers.perplexity_metric import TokenStream, score_slice
from suites.common.errors import ExitCode
from support.models.tiny_llama_items import load_tiny_llama, make_items
from support.runs.scoring_jobs import get_results_folder, make_score_arguments, run_scoring_in_process, start_scoring_process

pytestmark = pytest.mark.scoring

SEQ_LEN = 128
TASKS = 6
ITEMS = 60


@pytest.fixture(scope="module")
def model():
    return load_tiny_llama()


@pytest.fixture(scope="module")
def asked():
    return make_items(80, seed=5)


def plain(model, asked, **more):
    return score_items(model, asked, seq_len=SEQ_LEN, name="t", **more).to_pylist()


def same(found, expected):
    for row, other in zip(found, expected, strict=True):
        for column in ("ll", "ll_uncond"):
            np.testing.assert_allclose(row[column] or [], other[column] or [], rtol=0, atol=1e-5)
        assert {key: row[key] for key in row if not key.startswith("ll")} == {
            key: other[key] for key in other if not key.startswith("ll")
        }


def places(model, batch):
    """Token places that hold ``batch`` of the longest sequences."""
    pad = BATCH_WIDTH_MULTIPLE[model.device.type]
    return batch * -(-SEQ_LEN // pad) * pad


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_choices_in_batches_of(model, asked, batch):
    same(plain(model, asked, batch_tokens=1 if batch == 1 else places(model, batch)), plain(model, asked))


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_windows_of_a_slice_in_batches_of(model, batch):
    draw = np.random.default_rng(2)
    starts = np.arange(0, 1500, 60)
    stream = TokenStream(tokens=draw.integers(0, 256, 1500), document_starts=starts, document_bytes=np.full(len(starts), 60))
    options = {"seq_len": SEQ_LEN, "special_ids": (), "isolate_documents": False, "name": "s"}
    entry, table = score_slice(model, stream, **options)
    other, rows = score_slice(model, stream, batch_tokens=1 if batch == 1 else places(model, batch), **options)
    assert other["tokens"] == entry["tokens"]
    assert other["nll_per_token"] == pytest.approx(entry["nll_per_token"], abs=1e-6)
    np.testing.assert_allclose(rows["nll_sum"], table["nll_sum"], rtol=0, atol=1e-4)  # of up to 128 tokens each


@pytest.mark.parametrize("others", [1, 20, 79])
def test_an_item_scored_among_more_or_fewer_others(model, asked, others):
    same(plain(model, asked[: others + 1])[:1], plain(model, asked[:1]))


def test_items_in_another_order(model, asked):
    backwards = plain(model, asked[::-1])
    same(backwards[::-1], plain(model, asked))


def write_tasks(folder):
    words = ["the", "model", "of", "a", "naïve", "train", "loss", "step"]
    draw = np.random.default_rng(1)
    lines = ["tier: tier3_cf", "tasks:"]
    for task in range(TASKS):
        rows = [
            {
                "context": " ".join(draw.choice(words, 8)),
                "choices": [" ".join(draw.choice(words, 3)) for _ in range(3)],
                "gold": 1,
            }
            for _ in range(ITEMS)
        ]
        (folder / f"t{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        lines.append(f"  t{task}: {{data_files: [{folder}/t{task}.jsonl], adapter: multiple_choice}}")
    (folder / "cf.yaml").write_text("\n".join(lines) + "\n")


def test_one_process_or_two_that_share_the_parts(tmp_path):
    write_tasks(tmp_path)
    alone, together = tmp_path / "alone", tmp_path / "together"
    command = make_score_arguments(tmp_path, suites=("cf.yaml",))
    assert run_scoring_in_process([*command, "--results", str(alone)]) == ExitCode.SCORED
    with ExitStack() as stack:
        children = [
            stack.enter_context(start_scoring_process([*command, "--results", str(together)], tmp_path / f"log{n}"))
            for n in range(2)
        ]
        codes = [child.wait(timeout=120) for child in children]
    assert codes == [0, 0], [(tmp_path / f"log{n}").read_text()[-2000:] for n in range(2)]
    where = [root / get_results_folder(tmp_path).relative_to(tmp_path / "results") for root in (alone, together)]
    for task in range(TASKS):
        tables = [pq.read_table(folder / "items" / f"t{task}.parquet").to_pylist() for folder in where]
        assert len(tables[0]) == ITEMS
        same(tables[1], tables[0])
    figures = [json.loads((folder / "tier3_cf.json").read_text())["tasks"] for folder in where]
    assert figures[0] == figures[1]
    metas = [json.loads(pq.read_schema(part).metadata[b"part"]) for part in (where[1] / "parts").glob("*.parquet")]
    assert len(metas) == TASKS
    assert {meta["pid"] for meta in metas} <= {child.pid for child in children}
    assert len(CLOZE_METRICS) == sum(
        column.startswith("pick_") for column in pq.read_schema(where[0] / "items" / "t0.parquet").names
    )

"""Curves for TensorBoard and W&B: read back by their own readers, and written once."""

import json
import shutil
import warnings

import pytest

from scoring.compare.compare import run_comparison
from scoring.export import points as curves
from scoring.export import tensorboard as curves_tensorboard
from scoring.export import wandb as curves_wandb
from suites.common.errors import ExitCode
from suites.contract.comparison import CompareRequest
from suites.contract.paths import EvaluationPaths
from support.runs.scoring_jobs import run_scoring_in_process
from support.samples.published_results import REAL_RESULTS, find_real_results, make_evaluation_ref, publish_sample_results

pytestmark = pytest.mark.scoring


def read_back(folder):
    """Tag -> [(step, value)] by TensorBoard's own reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        reader = accumulator.EventAccumulator(str(folder))
        reader.Reload()
        return {tag: [(each.step, each.value) for each in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def leveldb_records(content, block=32_768, header=7):
    """Records of a file in LevelDB's log format, which W&B's have after a head of seven bytes."""
    place, parts = header, []
    while place + header <= len(content):
        if block - place % block < header:
            place += block - place % block
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts.append(content[place + header : place + header + size])
        place += header + size
        if kind in {1, 4}:  # whole, or the last part
            yield b"".join(parts)
            parts = []


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_tensorboards_own_reader_reads_every_figure_back(tmp_path):
    found = curves.collect_points(REAL_RESULTS, warn=pytest.fail)
    assert [(point.run, point.step) for point in found] == [("stage1", 20), ("stage1", 40), ("stage1", 60)]
    assert curves_tensorboard.export_tensorboard(found, tmp_path, "step") == 3
    told = read_back(tmp_path / "stage1")
    assert set(told) == set(found[0].values)
    for tag, read in told.items():
        assert read == [(point.step, pytest.approx(point.values[tag], rel=1e-6)) for point in found], tag
    assert {"tier2_ppl/ppl", "tier2_ppl/code/nll_per_token", "tier3_cf/primary", "tier3_cf/code_order/acc"} <= set(told)


def test_the_same_export_twice_changes_nothing_and_a_late_evaluation_adds_its_own_file(tmp_path):
    found = curves.collect_points(REAL_RESULTS, warn=pytest.fail)
    assert curves_tensorboard.export_tensorboard([found[0], found[2]], tmp_path, "tokens") == 2
    before = contents(tmp_path)
    assert curves_tensorboard.export_tensorboard([found[0], found[2]], tmp_path, "tokens") == 0
    assert contents(tmp_path) == before
    assert curves_tensorboard.export_tensorboard(found, tmp_path, "tokens") == 1
    assert {path: what for path, what in contents(tmp_path).items() if path in before} == before
    assert [step for step, _ in read_back(tmp_path / "stage1")["tier2_ppl/ppl"]] == [10_240, 20_480, 30_720]


def test_a_bridge_is_a_run_of_its_own_and_deltas_to_it_are_curves(tmp_path):
    paths = [EvaluationPaths(tmp_path / "r" / "stage2", f"step_{step}") for step in (900, 100)]
    sides = [
        publish_sample_results(each, tasks={"ours": ([number < limit for number in range(100)],)}, step=step, source=source)
        for each, step, source, limit in zip(paths, (900, 100), ("stage1", "stage2"), (40, 60), strict=True)
    ]
    run_comparison(CompareRequest(candidate=make_evaluation_ref(sides[1]), bridge=make_evaluation_ref(sides[0])))
    assert (
        run_scoring_in_process(["export", "--results", str(tmp_path / "r"), "--tensorboard", str(tmp_path / "tb")])
        == ExitCode.SCORED
    )
    assert read_back(tmp_path / "tb" / "stage2_bridge")["tier3_cf/primary"] == [(900, pytest.approx(0.4))]
    own = read_back(tmp_path / "tb" / "stage2")
    assert own["delta_to_bridge/tier3_cf/primary"] == [(100, pytest.approx(0.2))]
    assert own["delta_to_bridge/tier3_cf/ours/acc"] == [(100, pytest.approx(0.2))]


@pytest.mark.parametrize(("weights", "run"), [((0.5, 0.5), "stage1_avg2"), ((0.25, 0.75), "stage1_avg2_weighted")])
def test_averages_are_a_run_of_their_own(weights, run, tmp_path):
    paths = EvaluationPaths(tmp_path / "stage1", "step_60_avg2")
    shutil.copytree(find_real_results(60).folder, paths.folder)
    for tier in ("tier2_ppl", "tier3_cf"):
        document = json.loads(paths.tier_json(tier).read_text())
        document["checkpoint"]["average"] = [{"step": 40 + n, "weight": weight} for n, weight in enumerate(weights)]
        paths.tier_json(tier).write_text(json.dumps(document))
    assert [(point.run, point.step) for point in curves.collect_points(tmp_path, warn=pytest.fail)] == [(run, 60)]


def test_what_cannot_be_exported_is_one_line(tmp_path, capsys):
    assert (
        run_scoring_in_process(["export", "--results", str(tmp_path), "--tensorboard", str(tmp_path / "tb")])
        == ExitCode.DATA_MISSING
    )
    assert "no evaluation with scores" in capsys.readouterr().err
    paths = publish_sample_results(
        EvaluationPaths(tmp_path / "s", "step_1"),
        tasks={"ours": ([True, False],)},
        checkpoint={"path": "/c", "source_stage": "s", "fingerprint": "f"},
    )
    assert paths.folder.is_dir()
    words = ["export", "--results", str(tmp_path), "--tensorboard", str(tmp_path / "tb"), "--axis", "tokens"]
    assert run_scoring_in_process(words) == ExitCode.USAGE
    assert "tokens seen are unknown; use --axis step" in capsys.readouterr().err


@pytest.mark.slow
def test_an_offline_run_of_wandb_holds_every_figure_on_its_own_axis_and_is_written_once(tmp_path):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2  # noqa: PLC0415

    found = curves.collect_points(find_real_results(20).root.parent, warn=pytest.fail)
    assert curves_wandb.export_wandb(found, tmp_path, "tokens", "p") == 1
    before = contents(tmp_path)
    assert curves_wandb.export_wandb(found, tmp_path, "tokens", "p") == 0
    assert contents(tmp_path) == before
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    rows, metrics = [], {}
    for data in leveldb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            rows.append({item.key or "/".join(item.nested_key): item.value_json for item in record.history.item})
        if record.HasField("metric"):
            metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    assert metrics["*"] == "tokens"
    assert [int(row["tokens"]) for row in rows] == [10_240, 20_480, 30_720]
    assert [float(row["tier2_ppl/ppl"]) for row in rows] == [pytest.approx(point.values["tier2_ppl/ppl"]) for point in found]


def test_what_is_damaged_is_named_and_the_rest_is_exported(tmp_path, capsys):
    results = tmp_path / "results"
    shutil.copytree(REAL_RESULTS, results)
    folder = results / "stage1" / "by_checkpoint"
    (folder / "step_40" / "compare.json").write_text('{"schema": 1, "candid')
    (folder / "step_20" / "tier2_ppl.json").write_text("{")
    code = run_scoring_in_process(["export", "--results", str(results), "--tensorboard", str(tmp_path / "curves")])
    printed = capsys.readouterr()
    assert code == ExitCode.DATA_MISSING
    assert "2 of 2 event files written" in printed.out
    left_out, without = printed.err.strip().splitlines()
    assert left_out.startswith(f"scoring: {folder}/step_20/tier2_ppl.json: ")
    assert without.startswith(f"scoring: {folder}/step_40/compare.json: not a comparison: ")
    assert without.endswith("delete it; the watcher makes it again; the differences to the bridge are left out")
    assert "2 damaged files left out" in printed.out
    assert "tier2_ppl/ppl" in read_back(tmp_path / "curves" / "stage1")

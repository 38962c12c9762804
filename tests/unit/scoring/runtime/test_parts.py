import json
import threading
import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scoring
from scoring.runtime import parts
from scoring.runtime.parts import FinishedPart, PartWorker, RunIdentity, plan_parts, read_part, write_part
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import EvaluationPaths
from support.runs.scoring_jobs import (
    get_results_folder,
    make_score_arguments,
    run_scoring_in_process,
    start_scoring_process,
    write_suites,
)

pytestmark = pytest.mark.scoring

IDENTITY = {
    "fingerprint": "f",
    "tokenizer": "t",
    "seq_len": 64,
    "dtype": "float32",
    "backend": "direct",
    "padded_vocab": "in_softmax",
}
SLICES = {f"slice{n}": f"Text number {n} about the loss. " * 1500 for n in range(6)}


@pytest.fixture
def paths(tmp_path):
    found = EvaluationPaths(tmp_path / "stage1", "step_1")
    found.parts.mkdir(parents=True)
    return found


def planned(count=1, **changes):
    identity = RunIdentity(**{**IDENTITY, **changes})
    return identity, [plan_parts("tier2_ppl", f"s{n}", {"a": 1}, "data", identity)[0] for n in range(count)]


def finished(part, value=1.0):
    return FinishedPart(part, {"entry": {"nll_sum": value}, "tokens": 3, "run_id": "r"}, pa.table({"x": [value]}))


@given(count=st.integers(0, 5000))
def test_a_long_task_is_cut_into_stretches_that_cover_it_once(count):
    cut = plan_parts("tier3_cf", "t", {}, "data", RunIdentity(**IDENTITY), items=count)
    assert [index for part in cut for index in range(part.start, part.stop)] == list(range(count))
    assert all(part.stop - part.start <= 1000 for part in cut)
    assert len({part.key for part in cut}) == len(cut)


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "g"},
        {"tokenizer": "u"},
        {"seq_len": 65},
        {"dtype": "bfloat16"},
        {"backend": "nanotron"},
        {"padded_vocab": "masked"},
    ],
)
def test_everything_that_numbers_depend_on_is_in_the_key(change):
    _, (part,) = planned()
    _, (other,) = planned(**change)
    assert part.key != other.key


def test_definition_data_and_scorer_version_are_in_the_key(monkeypatch):
    identity, (part,) = planned()
    keys = {part.key}
    keys.add(plan_parts("tier2_ppl", "s0", {"a": 2}, "data", identity)[0].key)
    keys.add(plan_parts("tier2_ppl", "s0", {"a": 1}, "other", identity)[0].key)
    monkeypatch.setattr(parts, "SCORER_VERSION", scoring.SCORER_VERSION + 1)
    keys.add(plan_parts("tier2_ppl", "s0", {"a": 1}, "data", identity)[0].key)
    assert len(keys) == 4


def test_a_part_comes_back_as_it_was_written_to_the_last_bit(paths):
    identity, (part,) = planned()
    write_part(paths, finished(part, 0.1 + 0.2), identity)
    found = read_part(paths, part)
    assert found.meta["entry"]["nll_sum"] == 0.1 + 0.2
    assert found.rows.to_pylist() == [{"x": 0.1 + 0.2}]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_a_part_that_cannot_be_read_is_scored_again(paths, content):
    identity, (part,) = planned()
    part.result_path(paths).write_bytes(content)
    assert read_part(paths, part) is None
    assert [each.part for each in worker(paths, identity, finished).score_parts([part])] == [part]
    assert read_part(paths, part) is not None


def worker(paths, identity, score, **more):
    options = {"before_part": lambda: None, "sleep": time.sleep, "lease_seconds": 0.4, **more}
    return PartWorker(paths=paths, identity=identity, score_part=score, **options)


def test_two_workers_share_the_parts_and_both_end_with_all_of_them(paths):
    identity, wanted = planned(12)
    scored, ends = [], []
    first_two = threading.Barrier(2, timeout=20)

    def score(part):
        if len(scored) < 2:
            first_two.wait()
        scored.append(part.name)
        return finished(part)

    threads = [
        threading.Thread(target=lambda: ends.append(worker(paths, identity, score, lease_seconds=30.0).score_parts(wanted)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(scored) == sorted(part.name for part in wanted)
    assert [[each.part for each in end] for end in ends] == [wanted, wanted]


def test_a_worker_that_stops_without_a_word_is_replaced_when_its_lease_ends(paths):
    identity, (part,) = planned()
    import filelock  # noqa: PLC0415  only here

    lease = filelock.SoftFileLease(part.lease_path(paths), lease_duration=0.4, heartbeat_interval=0.39)
    lease.acquire()
    lease._claim.heartbeat.stop.set()  # its node is gone: no heartbeat any more
    waited = []

    def wait(seconds):
        waited.append(seconds)
        time.sleep(seconds)

    assert worker(paths, identity, finished, sleep=wait).score_parts([part])
    assert waited
    lease.release()


def test_a_worker_that_was_killed_before_it_wrote_its_name_blocks_nobody(paths):
    identity, (part,) = planned()
    part.lease_path(paths).touch()
    waited = []

    def wait(seconds):
        waited.append(seconds)
        assert len(waited) < 100, "waits for ever"
        time.sleep(seconds)

    assert worker(paths, identity, finished, sleep=wait).score_parts([part])
    assert waited


def test_where_leases_cannot_be_had_parts_are_scored_without(paths, monkeypatch):
    identity, wanted = planned(2)

    def refuse(_self):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(parts.filelock.SoftFileLease, "acquire", refuse)
    assert len(worker(paths, identity, finished).score_parts(wanted)) == 2


def test_a_worker_that_is_told_to_stop_keeps_what_it_finished(paths):
    identity, wanted = planned(3)
    done = []

    def before():
        if len(done) == 2:
            raise UserError("stop", location="here", hint="nothing", code=ExitCode.TEMPORARY)

    with pytest.raises(UserError):
        worker(
            paths, identity, finished, before_part=before, after_part=lambda each, here: done.append((each.part.name, here))
        ).score_parts(wanted)
    assert done == [("s0", True), ("s1", True)]
    assert [read_part(paths, part) is not None for part in wanted] == [True, True, False]
    assert not list(paths.parts.glob("*.lease"))


def tier_files(folder):
    return {path.name: path.read_text() for path in sorted(get_results_folder(folder).glob("tier*.json"))}


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again_only_what_is_missing_is_scored(tmp_path):
    write_suites(tmp_path, slices=SLICES)
    found = get_results_folder(tmp_path) / "parts"
    with start_scoring_process(make_score_arguments(tmp_path), tmp_path / "log") as child:
        deadline = time.monotonic() + 60
        while len(list(found.glob("*.parquet"))) < 2 and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        child.kill()
        child.wait()
    kept = len(list(found.glob("*.parquet")))
    assert 2 <= kept < 7, (tmp_path / "log").read_text()
    assert not tier_files(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    report = json.loads((get_results_folder(tmp_path) / "run.json").read_text())["parts"]
    assert (len(report["reused"]), len(report["scored"])) == (kept, 7 - kept)
    assert not set(report["reused"]) & set(report["scored"])
    resumed = tier_files(tmp_path)
    assert set(resumed) == {"tier2_ppl.json", "tier3_cf.json"}
    whole = json.loads(resumed["tier2_ppl.json"])
    for file in found.glob("*.parquet"):
        file.unlink()
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    fresh = json.loads(tier_files(tmp_path)["tier2_ppl.json"])
    for name, entry in fresh["slices"].items():
        assert whole["slices"][name]["nll_sum"] == pytest.approx(entry["nll_sum"], abs=1e-2)


class PowerCutError(BaseException):
    pass


def test_cut_off_before_any_of_its_files_it_ends_the_same(tmp_path, monkeypatch):
    write_suites(tmp_path)
    whole = type(tmp_path).replace
    left = [10**9]

    def replace(self, target):
        if str(target).startswith(str(get_results_folder(tmp_path))):
            if left[0] == 0:
                raise PowerCutError
            left[0] -= 1
        return whole(self, target)

    monkeypatch.setattr(type(tmp_path), "replace", replace)
    assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
    expected, needed = tier_files(tmp_path), 10**9 - left[0]
    assert needed > 8
    for cut in range(needed):
        for path in sorted(get_results_folder(tmp_path).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        left[0] = cut
        with pytest.raises(PowerCutError):
            run_scoring_in_process(make_score_arguments(tmp_path))
        for name, text in tier_files(tmp_path).items():
            assert text == expected[name]
        left[0] = 10**9
        assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
        assert tier_files(tmp_path) == expected

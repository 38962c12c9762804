"""A scoring job on a disk that fails at each write in turn, or has room for some pages only: nothing torn, and it recovers."""

import contextlib
import json
import os
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from suites.common.errors import ExitCode
from suites.contract.paths import TIER_FILES
from support.faults.failing_disk import ERROR_CODES, FailingDisk, fill_disk, mount_small_disk
from support.runs.scoring_jobs import get_results_folder, make_score_arguments, run_scoring_in_process, write_suites

pytestmark = pytest.mark.scoring
FULL = {"ENOSPC", "EDQUOT"}
NUMBERS = ("summary", "slices", "tasks")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # no power is cut here, and tests wait for disks otherwise


def figures(folder):
    """Tier -> its numbers, as published; whatever is there is whole."""
    found = {}
    for path in [*folder.rglob("results/**/*.json"), *folder.rglob("data/**/*.json")]:
        if not path.name.startswith("."):
            json.loads(path.read_bytes())
    for path in folder.rglob("*.parquet"):
        if not path.name.startswith("."):
            pq.read_table(path)
    for tier, name in TIER_FILES.items():
        path = get_results_folder(folder) / name
        if path.exists():
            document = json.loads(path.read_bytes())
            found[tier] = {key: document[key] for key in NUMBERS if key in document}
    return found


@pytest.fixture
def right(tmp_path):
    """The figures of an undisturbed run, and how many calls change the disk in it."""
    folder = tmp_path / "right"
    folder.mkdir()
    write_suites(folder)
    with pytest.MonkeyPatch.context() as patch:
        disk = FailingDisk(patch, folder, 0)
        assert run_scoring_in_process(make_score_arguments(folder)) == ExitCode.SCORED
    found = figures(folder)
    assert set(found) == {"tier2_ppl", "tier3_cf"}
    assert disk.count > 50
    return found, disk.count


@pytest.mark.parametrize("every", [97, pytest.param(1, marks=pytest.mark.slow)])
def test_every_write_fails_once_and_for_good(tmp_path, right, every):
    wanted, writes = right
    codes = {}
    for number, (name, code) in enumerate(ERROR_CODES.items()):
        for bad in range(1 + 5 * number, writes, every):
            for lasting in (1, 1_000_000):
                folder = tmp_path / f"{name}-{bad}-{lasting}"
                folder.mkdir()
                write_suites(folder)
                with pytest.MonkeyPatch.context() as patch:
                    disk = FailingDisk(patch, folder, code)
                    disk.first_failing_call, disk.failing_count = bad, lasting
                    ended = run_scoring_in_process(make_score_arguments(folder))
                codes[ended] = codes.get(ended, 0) + 1
                where = f"{name} at write {bad} for {lasting}: {ended}"
                assert ended in {ExitCode.SCORED, ExitCode.TEMPORARY if name in FULL else ExitCode.CANNOT_WRITE}, where
                assert figures(folder).items() <= wanted.items(), where
                assert (ended == ExitCode.SCORED) <= (figures(folder) == wanted), where
                assert run_scoring_in_process(make_score_arguments(folder)) == ExitCode.SCORED, where
                assert figures(folder) == wanted, where
    print(f"{sum(codes.values())} failing disks, {writes} writes each: exit codes {codes}, 0 torn files, all scored afterwards")


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_with_room_for_some_pages_only(tmp_path, right, every):
    wanted, _ = right
    codes = []
    with mount_small_disk(tmp_path / "small", "2m") as disk:
        for leave in range(0, 1000, every):
            folder = disk / "run"
            folder.mkdir()
            write_suites(folder)
            filler = fill_disk(disk, free_pages=leave)
            ended = run_scoring_in_process(make_score_arguments(folder))
            codes.append(ended)
            assert ended in {ExitCode.SCORED, ExitCode.TEMPORARY}, f"{leave} pages left"
            assert figures(folder).items() <= wanted.items()
            filler.unlink()
            if ended == ExitCode.SCORED:
                break
            assert run_scoring_in_process(make_score_arguments(folder)) == ExitCode.SCORED
            assert figures(folder) == wanted
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            folder.rmdir()
    assert codes[-1] == ExitCode.SCORED
    print(f"{len(codes) - 1} full disks: exit code {int(ExitCode.TEMPORARY)} each, 0 torn files, all scored once there was room")


def test_a_log_without_room_changes_no_code(tmp_path, monkeypatch):
    write_suites(tmp_path)
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115  closing it fails, too
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        patch.setattr(sys, "stdout", full)
        assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.SCORED
        (tmp_path / "results" / "stage1" / "by_checkpoint" / "step_60" / "tier2_ppl.json").write_text('{"ppl": 12.5}')
        assert run_scoring_in_process(make_score_arguments(tmp_path)) == ExitCode.CANNOT_WRITE
    with contextlib.suppress(OSError):
        full.close()

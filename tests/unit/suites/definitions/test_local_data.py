"""Local files of a suite: what paths and globs match, and names that no file can have."""

import os
from pathlib import Path

import pytest

from suites.common.errors import ExitCode, UserError
from suites.definitions.local_data import expand_patterns, hash_data_files


@pytest.fixture
def folder(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_globs_match_files_and_leave_folders_out(folder):
    (folder / "d.txt").mkdir()
    assert expand_patterns(f"{folder}/*.txt") == [folder / "a.txt", folder / "b.txt"]
    assert expand_patterns([f"{folder}/sub/*", f"{folder}/a.txt"]) == [folder / "sub/c.txt", folder / "a.txt"]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("gone.txt", "{folder}/gone.txt: no such file; create it"),
        ("*.jsonl", "{folder}/*.jsonl: no such file"),
        ("sub", "{folder}/sub: no such file"),
        ("su*", "{folder}/su*: no such file"),
        ("\0/*/x.txt", "{folder}/?/*/x.txt: cannot be read (embedded null byte)"),
        ("\0.txt", "no such file"),
        ("\ud800.txt", "a name that is not UTF-8; rename it"),
        (f"{'a' * 300}.txt", "a.txt: cannot be read (File name too long)"),
        (f"{'a' * 300}*.txt", "no such file"),
    ],
)
def test_a_name_that_is_no_file_is_refused_in_one_line(folder, pattern, said):
    with pytest.raises(UserError) as caught:
        hash_data_files([f"{folder}/a.txt", f"{folder}/{pattern}"])
    assert said.format(folder=folder) in str(caught.value)
    assert caught.value.code == ExitCode.DATA_MISSING


def test_a_link_whose_file_is_gone_is_not_left_out_of_a_glob(folder):
    (folder / "c.txt").symlink_to(folder / "blobs" / "c")
    with pytest.raises(UserError, match=r"/c\.txt: no such file"):
        expand_patterns(f"{folder}/*.txt")
    (folder / "c.txt").unlink()
    (folder / "c.txt").symlink_to(folder / "c.txt")
    with pytest.raises(UserError, match=r"/c\.txt: no such file"):
        expand_patterns(f"{folder}/*.txt")


def test_a_pipe_is_no_file(folder):
    os.mkfifo(folder / "c.txt")
    with pytest.raises(UserError, match=r"/c\.txt: no such file"):
        hash_data_files(f"{folder}/*.txt")


def test_a_file_whose_name_no_result_could_hold_is_refused(folder):
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).write_text("x")
    with pytest.raises(UserError, match="a name that is not UTF-8; rename it") as caught:
        hash_data_files(f"{folder}/*.txt")
    assert str(caught.value).isprintable()

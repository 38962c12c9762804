"""The state folder of a config with mistakes elsewhere."""

from pathlib import Path

import pytest

from watcher.config.state_folder import find_state_folder


@pytest.mark.parametrize(
    ("config", "environ", "folder"),
    [
        ("scratch: here\nstages: [\n", {}, "here/evaluation_results/.watcher"),
        ("scratch: ${SCRATCH}\npol: 3\n", {"SCRATCH": "/s"}, "/s/evaluation_results/.watcher"),
        ("scratch: /s\nresults: '/r'   # ours\nstate: ./state\nx: {{\n", {}, "state"),
        ("results: /r\n  state: /not/this\n", {}, "/r/.watcher"),
        ("\tstages:\n", {"SCRATCH": "/s"}, "/s/evaluation_results/.watcher"),
        ("scratch: ${NOT_SET}\n", {}, None),
        ("results: 7\n", {}, None),
        ("", {}, None),
    ],
)
def test_it_is_read_line_by_line(config, environ, folder, tmp_path):
    (tmp_path / "watcher.yaml").write_text(config)
    paths = find_state_folder(tmp_path / "watcher.yaml", environ)
    assert (None if paths is None else paths.state) == (None if folder is None else tmp_path / folder)


def test_without_a_readable_file_there_is_none(tmp_path, monkeypatch):
    assert find_state_folder(tmp_path / "missing.yaml", {"SCRATCH": "/s"}) is None
    monkeypatch.chdir(tmp_path)
    assert find_state_folder(None, {"SCRATCH": "/s"}).state == Path("/s/evaluation_results/.watcher")

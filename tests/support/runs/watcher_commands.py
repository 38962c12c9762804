"""`watcher` commands run in this process, in a folder with a config, with or without a daemon's status."""

import time

import pytest
from click.testing import CliRunner

from watcher.cli.app import main
from watcher.config.loader import load_config
from watcher.status.document import DaemonFacts, build_status, publish_status


def make_config_folder_fixture(config):
    """A fixture ``config_folder``: the current folder, with ``config`` as its watcher.yaml and nothing in the environment."""

    @pytest.fixture
    def config_folder(tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("SCRATCH", "WATCHER_CONFIG", "LIGHTEVAL_CMD"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "watcher.yaml").write_text(config)
        return tmp_path

    return config_folder


def run_watcher(*arguments, exit_code=0):
    """Click's result of ``watcher ARGUMENTS``, which has to end with ``exit_code``."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == exit_code, result.output
    return result


def publish_daemon_status(*records, age=0.0, pauses=None, **facts):
    """The status that a daemon on login1 with these records left ``age`` seconds ago; ``facts`` are of ``DaemonFacts``."""
    config = load_config(None, {})
    daemon = DaemonFacts(host="login1", pid=42, epoch=1, started_at=0.0, version="x", poll_seconds=60.0, **facts)
    config.state.mkdir(parents=True, exist_ok=True)
    now = time.time() - age
    by_key = {record.key: record for record in records}
    status = build_status(records=by_key, skips=[], queue=None, config=config, now=now, daemon=daemon, pauses=pauses or {})
    publish_status(status, config.paths)

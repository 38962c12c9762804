"""Shards that another user keeps to himself, and a real daemon that may not read them: named as such; nothing else waits."""

import json
import os
import shutil

import pytest

from support.fakes.slurm_daemon import FakeSlurmRun

STRANGER = 54321
MAY_NOT_READ = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
"""Root without its right to read everything: the kernel says no to it as to anybody."""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv: files are given to another user"
)
def test_shards_of_mode_0600_of_another_user_are_named_and_everything_else_is_scored(tmp_path):
    watch = FakeSlurmRun(tmp_path / "run", steps={"base": [10, 20, 30], "anneal": []})
    for step in watch.steps["base"]:
        folder = watch.write_checkpoint("base", step)
        if step == 20:
            shards = list(folder.rglob("*.safetensors"))
            for shard in shards:
                shard.chmod(0o600)
                os.chown(shard, STRANGER, STRANGER)
    daemon = watch.start_another_daemon(under=MAY_NOT_READ)
    others = watch.expected_evaluations - {"base/step_20"}
    watch.wait_until(lambda: {key for key, state in watch.read_states().items() if state == "scored"} == others)
    (row,) = [
        row for row in json.loads((watch.state / "status.json").read_text())["stages"]["base"]["evaluations"] if row["step"] == 20
    ]
    assert row["state"] == "blocked"
    assert any(f"{shard}: Permission denied (mode 0600, owner {STRANGER})" in row["reason"] for shard in shards), row
    assert f"owner {STRANGER})" in " ".join((watch.state / "status.txt").read_text().split())
    for shard in shards:
        shard.chmod(0o644)
    watch.wait_until(lambda: daemon.poll() is not None or watch.is_settled())
    assert watch.end_daemon(daemon) == 0, watch.read_log_tail()
    watch.check_invariants()

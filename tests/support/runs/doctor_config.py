"""A config for `watcher doctor`, with a stand-in for the jobs' python."""

import json

import pytest

from watcher.config.loader import load_config

CONFIG = """
results: results
executor: {executor}
python: {python}
slurm: {{partition: gpu, account: lab, qos: few, time: "04:00:00", setup: "echo from the setup lines"}}
stages:
  stage1: {{checkpoints: ckpts/stage1, steps: [100], suites: [slices.yaml], tokenizer: ./tokenizer, seq_len: 64}}
"""
VERSIONS = {"torch": "2.8", "transformers": "5.0", "scoring": "there", "suites": "there", "watcher": None, "cuda": []}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("SCRATCH", "WATCHER_CONFIG", "LIGHTEVAL_CMD"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "slices.yaml").write_text("tier: tier2_ppl\nslices:\n  web: {data_files: [/data/web.jsonl], target_tokens: 9}\n")
    (tmp_path / "tokenizer").mkdir()
    return tmp_path


def interpreter(folder, said, *, offline=None):
    """A `python` that answers as the job's would."""
    path = folder / "python"
    answers = {"look": json.dumps(said), "offline": json.dumps(offline)}
    whole = f"echo '{answers['offline']}'; exit {0 if offline else 66}"
    path.write_text(f"#!/bin/bash\ncase $2 in -c) echo '{answers['look']}';; *) {whole};; esac\n")
    path.chmod(0o755)
    return path


def config(folder, *, executor="local", said=VERSIONS, **more):
    full = {"executable": "/env/bin/python", "python": "3.12.1", "built_for": "12.8", **said}
    (folder / "watcher.yaml").write_text(CONFIG.format(executor=executor, python=interpreter(folder, full, **more)))
    return load_config(None, {})


def verdicts(checks):
    return [(check.verdict, check.name) for check in checks]


def one(checks, name):
    (found,) = [check for check in checks if check.name == name]
    return found

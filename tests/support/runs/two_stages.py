"""A watched training run of two stages: checkpoints that nanotron wrote, under other step numbers, two slices and a task each.

The daemon runs as a process of its own, exactly as a person starts it, and may be killed at any moment.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from support.models.nanotron_fixtures import BYTE_TOKENIZER, CHECKPOINTS

REPOSITORY_ROOT = Path(__file__).resolve().parents[3]
CORPUS_TEXT = (
    "Each document is one row of bytes, and each byte is one token, so that a page of arithmetic can check what comes out. "
    "A checkpoint that is still being written is left alone until it is whole and has been quiet for a while. "
)


def copy_under_step(source: Path, target: Path, step: int) -> None:
    """Copy a real checkpoint under another step, in nanotron's order of writes, latest.txt included."""
    target.mkdir(parents=True)
    run = yaml.safe_load((source / "config.yaml").read_text())
    run["general"]["step"] = step
    (target / "config.yaml").write_text(yaml.safe_dump(run))
    shutil.copytree(source / "model", target / "model", copy_function=shutil.copyfile)
    metadata = json.loads((source / "checkpoint_metadata.json").read_text())
    metadata["metas"]["last_train_step"] = step
    (target / "checkpoint_metadata.json").write_text(json.dumps(metadata))
    (target.parent / "latest.txt").write_text(str(step))
    shutil.copyfile(source / "model_config.json", target / "model_config.json")


class TwoStagesRun:
    """Folders, config and suites of one run under ``root``, and the daemon that watches it."""

    def __init__(
        self,
        root: Path,
        *,
        steps: dict[str, list[int]],
        executor: str = "local",
        settings: dict | None = None,
        environ: dict | None = None,
        results: Path | None = None,
    ) -> None:
        self.root, self.steps = root, steps
        self.environ = dict(os.environ if environ is None else environ)
        self.results = results or root / "results"
        self.state = self.results / ".watcher"
        self.kills = 0
        self.daemon: subprocess.Popen | None = None
        root.mkdir(parents=True, exist_ok=True)
        self._suites()
        stages = list(steps)
        config = {
            "scratch": str(root),
            "results": str(self.results),
            "executor": executor,
            "poll": "1s",
            "settle": "1s",
            "python": sys.executable,
            "report": {"page": False, "compare": False},
            "stages": {
                stage: {
                    "checkpoints": str(root / "ckpts" / stage),
                    "steps": steps[stage],
                    "suites": [str(root / "slices.yaml"), str(root / "tasks.yaml")],
                    "tokenizer": str(BYTE_TOKENIZER),
                    "seq_len": 64,
                }
                for stage in stages
            },
        }
        for earlier, later in itertools.pairwise(stages):
            config["stages"][later]["bridge"] = {"from": earlier}
        config |= settings or {}
        self.config = root / "watcher.yaml"
        self.config.write_text(yaml.safe_dump(config))

    def _suites(self) -> None:
        for name, text in (("plain", CORPUS_TEXT), ("shout", CORPUS_TEXT.upper())):
            (self.root / f"{name}.jsonl").write_text(json.dumps({"text": text * 3}) + "\n")
        items = [{"context": CORPUS_TEXT[:40], "choices": ["one", "two", "three"], "gold": n % 3} for n in range(6)]
        (self.root / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        slices = {name: {"data_files": [str(self.root / f"{name}.jsonl")]} for name in ("plain", "shout")}
        (self.root / "slices.yaml").write_text(
            yaml.safe_dump({"tier": "tier2_ppl", "defaults": {"text_field": "text", "target_tokens": 2000}, "slices": slices})
        )
        task = {"data_files": [str(self.root / "items.jsonl")], "adapter": "multiple_choice"}
        (self.root / "tasks.yaml").write_text(yaml.safe_dump({"tier": "tier3_cf", "tasks": {"ours": task}}))

    def write_checkpoint(self, stage: str, step: int, like: str = "llama_gqa_tp1/60") -> Path:
        """A real checkpoint appears, as nanotron writes it."""
        folder = self.root / "ckpts" / stage / str(step)
        copy_under_step(CHECKPOINTS / like, folder, step)
        return folder

    @property
    def expected_evaluations(self) -> set[str]:
        """``stage/step_N`` of every evaluation that is owed, bridges included."""
        stages = list(self.steps)
        bridges = {f"{later}/step_{max(self.steps[earlier])}" for earlier, later in itertools.pairwise(stages)}
        return {f"{stage}/step_{step}" for stage, steps in self.steps.items() for step in steps} | bridges

    def start_daemon(self) -> None:
        """Start ``watcher run``."""
        with (self.root / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [Path(sys.executable).with_name("watcher"), "run", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ | {"OMP_NUM_THREADS": "1", "SCRATCH": str(self.root)},
            )

    def kill_daemon(self, after: float = 0.0) -> None:
        """SIGKILL the daemon, wherever it is ``after`` seconds from now; it must not have ended by itself."""
        assert self.daemon is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.daemon.wait(timeout=after)
            raise AssertionError(f"the daemon ended by itself:\n{(self.root / 'daemon.log').read_text()[-4000:]}")
        self.daemon.kill()
        self.daemon.wait()
        self.kills += 1

    def stop_daemon(self) -> int:
        """Ask the daemon to end, as tmux or systemd would; its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(timeout=90)

    def read_states(self) -> dict[str, str]:
        """Evaluation -> state, from status.json."""
        path = self.state / "status.json"
        if not path.exists():
            return {}
        document = json.loads(path.read_text())
        return {
            evaluation["evaluation"]: evaluation["state"]
            for stage in document["stages"].values()
            for evaluation in stage["evaluations"]
        }

    def wait_for_states(self, done, *, seconds: float) -> dict[str, str]:
        """Poll status.json until ``done(states)``; an AssertionError with the daemon's log where it never is."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            states = self.read_states()
            if done(states):
                return states
            hopeless = {evaluation for evaluation, state in states.items() if state in {"blocked", "cancelled", "lost"}}
            assert not hopeless, f"{hopeless}\n{(self.root / 'daemon.log').read_text()[-4000:]}"
            assert self.daemon is None or self.daemon.poll() is None, (self.root / "daemon.log").read_text()[-4000:]
            time.sleep(0.2)
        raise AssertionError(f"not after {seconds} s: {self.read_states()}\n{(self.root / 'daemon.log').read_text()[-4000:]}")

    def count_runs(self) -> dict[str, int]:
        """Evaluation -> how many scoring runs ended, by the exit records that the batch script left."""
        counts: dict[str, int] = {}
        for record in self.state.glob("attempts/*/exit.*.json"):
            evaluation = self.get_attempt_evaluation(record.parent)
            counts[evaluation] = counts.get(evaluation, 0) + 1
        return counts

    @staticmethod
    def get_attempt_evaluation(attempt: Path) -> str:
        """``stage/step_N`` that an attempt was made for."""
        request = json.loads((attempt / "request.json").read_text())
        return f"{request['stage']}/{request['directory']}"

    def check_results(self) -> None:
        """Every owed evaluation has both tiers, and equal weights have equal scores."""
        seen = set()
        for evaluation in self.expected_evaluations:
            slices, tasks = self.read_tier_file(evaluation, "tier2_ppl.json"), self.read_tier_file(evaluation, "tier3_cf.json")
            assert slices["step"] == int(evaluation.rpartition("_")[2])
            assert set(slices["slices"]) == {"plain", "shout"}
            assert 0 <= tasks["tasks"]["ours"]["acc"] <= 1
            seen.add((round(slices["summary"]["nll_per_token"], 9), tasks["tasks"]["ours"]["acc"]))
        assert len(seen) == 1, seen

    def read_tier_file(self, evaluation: str, name: str) -> dict:
        """A published tier file."""
        stage, directory = evaluation.split("/")
        return json.loads((self.results / stage / "by_checkpoint" / directory / name).read_text())

"""A watched run for tests of the daemon: folders, suites, a clock that only tests move, and daemons that come and go."""

import os
import re
from pathlib import Path

import msgspec
import pytest

import watcher.journal.lock
from support.fakes.executor import FakeExecutor
from support.models.nanotron_checkpoint import set_times, tiny_checkpoint, write_latest
from watcher.config.settings import Bridge, Config, Limits, Reporting, Retry, Stage
from watcher.core.evaluation import State
from watcher.daemon.daemon import Daemon

SLICES = "tier: tier2_ppl\nslices:\n  web: {data_files: [/data/web.jsonl], target_tokens: %d}\n"
TASKS = "tier: tier3_cf\ntasks:\n  ours: {data_files: [/data/items.jsonl], adapter: multiple_choice}\n"


class Clock:
    """Unix time that stands still until it is told to go on; the file server's as well."""

    def __init__(self, at=1_700_000_000.0):
        self.at = at

    def __call__(self):
        return self.at

    def server(self, path):
        Path(path).touch()
        return self.at


class Watched:
    """One scratch folder with stages, and a fake executor that outlives the daemons."""

    def __init__(self, root, monkeypatch, *, steps=(100, 200), holds=True, accounting=True, **settings):
        self.root = Path(root)
        self.clock = self.daemons_clock = Clock()
        self.executor = FakeExecutor(self.clock, holds=holds, accounting=accounting)
        monkeypatch.setattr(watcher.journal.lock, "gone", lambda _owner, _me: True)  # the daemons of a test share a process
        monkeypatch.setattr(os, "fsync", lambda _fd: None)  # no power is cut here, and tests wait for disks otherwise
        self.ckpts = self.root / "ckpts"
        self.ckpts.mkdir(parents=True)
        (self.root / "slices.yaml").write_text(SLICES % 1000)
        (self.root / "tasks.yaml").write_text(TASKS)
        stage = self.stage("stage1", steps=steps)
        self.config = Config(
            source="test",
            scratch=self.root,
            results=self.root / "results",
            eval_data=self.root / "results" / "eval_data",
            state=self.root / "results" / ".watcher",
            executor="slurm" if holds else "local",
            poll=60.0,
            settle=60.0,
            limits=Limits(max_running=settings.pop("max_running", None)),
            retry=Retry(attempts=3, backoff=60.0),
            report=Reporting(page=False, compare=False),
            stages={"stage1": stage},
        )
        self.config = msgspec.structs.replace(self.config, **settings)
        self.daemon = None
        self.said = []

    def stage(self, name, **settings):
        suites = (str(self.root / "slices.yaml"), str(self.root / "tasks.yaml"))
        wanted = {"suites": suites, "results": self.root / "results", **settings}
        return Stage(name=name, checkpoints=self.ckpts / name, **wanted)

    def configure(self, **stages):
        """Replace or add stages, by name."""
        merged = {**self.config.stages, **{name: self.stage(name, **settings) for name, settings in stages.items()}}
        self.config = msgspec.structs.replace(self.config, stages=merged)
        if self.daemon is not None:
            self.daemon.reload(lambda: self.config)

    def bridge(self, source, **settings):
        return Bridge(source=source, **settings)

    def checkpoint(self, stage, step, *, age=300.0, seed=0, **described):
        """A whole checkpoint that was finished ``age`` seconds ago."""
        folder = tiny_checkpoint(self.ckpts / stage / str(step), step, seed=seed, **described)
        set_times(folder, self.clock() - age)
        self.touch(stage)
        write_latest(folder.parent, step)
        os.utime(folder.parent / "latest.txt", (self.clock(), self.clock() + step / 1e6 + seed / 1e3))
        return folder

    def touch(self, stage):
        os.utime(self.ckpts / stage, (self.clock(), self.clock()))

    def start(self):
        self.daemon = self.another()
        return self.daemon

    def another(self):
        """One more daemon on the same folder, whatever runs there already."""
        arguments = {"clock": self.daemons_clock, "server_clock": self.clock.server, "executor": self.executor}
        return Daemon(self.config, environ={}, say=self._say, **arguments)

    def _say(self, what, **facts):
        self.said.append((what, facts))

    def kill(self):
        """The daemon is gone between two instructions: nothing of it is closed, flushed or released."""
        if self.daemon is not None:
            os.close(self.daemon.journal.forget())
        self.daemon = None

    def tick(self, count=1, *, seconds=60.0, jobs=True):
        """Poll: time passes, then jobs get one state further (unless ``jobs`` is False)."""
        for _ in range(count):
            if self.daemon is None:
                self.start()
            self.clock.at += seconds
            self.daemon.tick()
            if jobs:
                self.executor.step()

    def tick_until(self, done, most=200):
        for _ in range(most):
            self.tick()
            if done():
                return
        message = f"not reached in {most} ticks: {self.states()}"
        raise AssertionError(message)

    @property
    def ledger(self):
        return self.daemon.journal.ledger

    def states(self):
        return {key: str(record.state) for key, record in self.ledger.records.items()}

    def reasons(self):
        """What is said about each evaluation: its skip, else the record's reason."""
        said = {key: record.text for key, record in self.ledger.records.items()}
        return said | {skip.evaluation: skip.reason for skip in self.daemon.ticker.skips}

    def all_scored(self):
        return all(record.state is State.SCORED for record in self.ledger.records.values())

    def settled(self):
        return all(record.state in {State.SCORED, State.BLOCKED} for record in self.ledger.records.values())

    def run_ids(self):
        folder = self.config.paths.attempts
        return sorted(path.name for path in folder.iterdir() if re.match("eval-", path.name)) if folder.is_dir() else []


def watching(**how):
    """A fixture ``watched``: a ``Watched`` made so, its daemon closed after the test."""

    @pytest.fixture
    def watched(tmp_path, monkeypatch):
        made = Watched(tmp_path, monkeypatch, **how)
        yield made
        if made.daemon is not None:
            made.daemon.close()

    return watched

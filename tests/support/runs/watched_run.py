"""A watched run for tests of the daemon: folders, suites, a clock that only tests move, and daemons that come and go."""

import itertools
import os
import re
from pathlib import Path

import msgspec
import pytest

import watcher.journal.lock
from suites.checkpoint.layout import CheckpointLayout
from suites.contract.encoding import encode_json
from suites.contract.paths import DataPaths, EvaluationPaths
from support.fakes.executor import FakeExecutor
from support.models.nanotron_checkpoint import set_times, write_latest, write_tiny_checkpoint
from watcher.config.settings import Bridge, Config, LimitSettings, ReportSettings, RetrySettings, Stage
from watcher.core.evaluation import EvaluationState
from watcher.core.request_types import Request
from watcher.daemon.daemon import Daemon
from watcher.simulate.jobs import cache_tokenizer

SLICES_SUITE = "tier: tier2_ppl\nslices:\n  web: {data_files: [/data/web.jsonl], target_tokens: %d}\n"
TASKS_SUITE = "tier: tier3_cf\ntasks:\n  ours: {data_files: [/data/items.jsonl], adapter: multiple_choice}\n"


class ManualClock:
    """Unix time that stands still until it is told to go on; the file server's as well."""

    def __init__(self, at=1_700_000_000.0):
        self.at = at

    def __call__(self):
        return self.at

    def read_server_time(self, path):
        Path(path).touch()
        return self.at


class WatchedRun:
    """One scratch folder with stages, and a fake executor that outlives the daemons."""

    def __init__(self, root, monkeypatch, *, steps=(100, 200), holds=True, accounting=True, **settings):
        self.root = Path(root)
        self.clock = self.daemons_clock = ManualClock()
        self.executor = FakeExecutor(self.clock, holds=holds, accounting=accounting)
        monkeypatch.setattr(
            watcher.journal.lock, "is_owner_gone", lambda _owner, _me: True
        )  # the daemons of a test share a process
        monkeypatch.setattr(os, "fsync", lambda _fd: None)  # no power is cut here, and tests wait for disks otherwise
        self.ckpts = self.root / "ckpts"
        self.ckpts.mkdir(parents=True)
        (self.root / "slices.yaml").write_text(SLICES_SUITE % 1000)
        (self.root / "tasks.yaml").write_text(TASKS_SUITE)
        stage = self.make_stage("stage1", steps=steps)
        self.config = Config(
            source="test",
            scratch=self.root,
            results=self.root / "results",
            eval_data=self.root / "results" / "eval_data",
            state=self.root / "results" / ".watcher",
            executor="slurm" if holds else "local",
            poll=60.0,
            settle=60.0,
            limits=LimitSettings(max_running=settings.pop("max_running", None)),
            retry=RetrySettings(attempts=3, backoff=60.0),
            report=ReportSettings(page=False, compare=False),
            stages={"stage1": stage},
        )
        self.config = msgspec.structs.replace(self.config, **settings)
        for identifier in ("byte-level", "t", "other", "simulated", "/models/sft-tokenizer"):
            cache_tokenizer(identifier, DataPaths(self.config.eval_data))
        self.daemon = None
        self.log_events = []
        self._request_numbers = itertools.count()

    def make_stage(self, name, **settings):
        suites = (str(self.root / "slices.yaml"), str(self.root / "tasks.yaml"))
        wanted = {"suites": suites, "results": self.root / "results", **settings}
        return Stage(name=name, checkpoints=self.ckpts / name, **wanted)

    def configure(self, **stages):
        """Replace or add stages, by name."""
        merged = {**self.config.stages, **{name: self.make_stage(name, **settings) for name, settings in stages.items()}}
        self.config = msgspec.structs.replace(self.config, stages=merged)
        if self.daemon is not None:
            self.daemon.reload_config(lambda: self.config)

    def make_bridge(self, source, **settings):
        return Bridge(source=source, **settings)

    def write_checkpoint(self, stage, step, *, age=300.0, seed=0, **described):
        """A whole checkpoint that was finished ``age`` seconds ago."""
        layout = self.config.stages[stage].layout if stage in self.config.stages else CheckpointLayout()
        folder = write_tiny_checkpoint(self.ckpts / stage / layout.format_name(step), step, seed=seed, **described)
        set_times(folder, self.clock() - age)
        self.touch(stage)
        write_latest(folder.parent, step)
        os.utime(folder.parent / "latest.txt", (self.clock(), self.clock() + step / 1e6 + seed / 1e3))
        return folder

    def touch(self, stage):
        os.utime(self.ckpts / stage, (self.clock(), self.clock()))

    def write_request(self, kind, *steps, stage="stage1", request_id=None, **fields):
        """A request as the command line writes it, in a folder that the next tick finds changed; returns the request."""
        request_id = request_id or f"request{next(self._request_numbers)}"
        request = Request(id=request_id, at=self.clock(), kind=kind, stage=stage, steps=steps, **fields)
        folder = self.config.paths.requests
        (folder / f"{request.id}.json").write_bytes(encode_json(request))
        os.utime(folder, (self.clock(), self.clock()))
        return request

    def get_evaluation_paths(self, key="stage1/step_100"):
        stage, _, directory = key.partition("/")
        return EvaluationPaths(self.config.results / stage, directory)

    def start_daemon(self):
        self.daemon = self.start_second_daemon()
        return self.daemon

    def start_second_daemon(self, **options):
        """One more daemon on the same folder, whatever runs there already."""
        arguments = {"clock": self.daemons_clock, "server_clock": self.clock.read_server_time, "executor": self.executor}
        return Daemon(self.config, environ={}, log=self._say, **arguments, **options)

    def _say(self, what, **facts):
        self.log_events.append((what, facts))

    def tick_once(self):
        """A tick as `watcher once` does it."""
        daemon = self.start_second_daemon(mode="once")
        daemon.tick()
        daemon.close()

    def close_daemon(self):
        """The daemon ends as it should, where there is one."""
        if self.daemon is not None:
            self.daemon.close()
        self.daemon = None

    def kill_daemon(self):
        """The daemon is gone between two instructions: nothing of it is closed, flushed or released."""
        if self.daemon is not None:
            os.close(self.daemon.journal.detach())
        self.daemon = None

    def tick(self, count=1, *, seconds=60.0, jobs=True):
        """Poll: time passes, then jobs get one state further (unless ``jobs`` is False)."""
        for _ in range(count):
            if self.daemon is None:
                self.start_daemon()
            self.clock.at += seconds
            self.daemon.tick()
            if jobs:
                self.executor.advance_jobs()

    def tick_until(self, done, max_ticks=200):
        for _ in range(max_ticks):
            self.tick()
            if done():
                return
        message = f"not reached in {max_ticks} ticks: {self.list_states()}"
        raise AssertionError(message)

    @property
    def journal_state(self):
        return self.daemon.journal.state

    def list_states(self):
        return {key: str(record.state) for key, record in self.journal_state.records.items()}

    def list_reasons(self):
        """What is said about each evaluation: its skip, else the record's reason."""
        reasons = {key: record.full_reason for key, record in self.journal_state.records.items()}
        return reasons | {skip.evaluation: skip.reason for skip in self.daemon.tick_runner.skips}

    def are_all_scored(self):
        return all(record.state is EvaluationState.SCORED for record in self.journal_state.records.values())

    def is_settled(self):
        return all(
            record.state in {EvaluationState.SCORED, EvaluationState.BLOCKED} for record in self.journal_state.records.values()
        )

    def run_ids(self):
        folder = self.config.paths.attempts
        return sorted(path.name for path in folder.iterdir() if re.match("eval-", path.name)) if folder.is_dir() else []


def make_watched_fixture(*, checkpoints=(), **settings):
    """A fixture ``watched``: a ``WatchedRun`` with these checkpoints of stage1, its daemon closed after the test."""

    @pytest.fixture
    def watched(tmp_path, monkeypatch):
        run = WatchedRun(tmp_path, monkeypatch, **settings)
        for step in checkpoints:
            run.write_checkpoint("stage1", step)
        yield run
        run.close_daemon()

    return watched

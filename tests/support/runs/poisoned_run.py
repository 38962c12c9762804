"""A run of five evaluations in which somebody leaves one poisoned file, and what is said of it."""

import itertools
import os
from typing import NamedTuple

from support.faults.poisoned_files import POISONS, poison
from support.runs.watched_run import WatchedRun
from watcher.core.executor import JobState

STEPS = (100, 200, 300, 400, 500)
VICTIM = "stage1/step_200"


def _checkpoint(name):
    return lambda run: run.ckpts / "stage1" / "200" / name


def _result(name):
    return lambda run: run.get_evaluation_paths(VICTIM).folder / name


def _state(name):
    return lambda run: run.config.paths.state / name


def _attempt(name):
    return lambda run: run.config.paths.attempts / next(run_id for run_id in run.run_ids() if "-200-" in run_id) / name


SHARD = "model/model/final_layer_norm/pp_block/model_weight.safetensors"

VICTIMS_FILES = {
    "step folder": lambda run: run.ckpts / "stage1" / "200",
    "config.yaml": _checkpoint("config.yaml"),
    "model_config.json": _checkpoint("model_config.json"),
    "checkpoint_metadata.json": _checkpoint("checkpoint_metadata.json"),
    "model/": _checkpoint("model"),
    "a shard": _checkpoint(SHARD),
    "folder of results": lambda run: run.get_evaluation_paths(VICTIM).folder,
    "tier2_ppl.json": _result("tier2_ppl.json"),
    "tier3_cf.json": _result("tier3_cf.json"),
    "run.json": _result("run.json"),
    "compare.json": _result("compare.json"),
    "progress.json": _result("progress.json"),
    "parts/": _result("parts"),
}
"""Name -> a file of one evaluation, there before the watcher starts."""

ATTEMPTS_FILES = {name: _attempt(name) for name in ("claim", "exit.0.json", "why.json", "expected.txt")}
"""Name -> a file of an attempt in flight."""

SHARED_FILES = {
    "latest.txt": lambda run: run.ckpts / "stage1" / "latest.txt",
    "a step of no schedule": lambda run: run.ckpts / "stage1" / "150",
    "another name": lambda run: run.ckpts / "stage1" / "step_00x",
    "name that is no UTF-8": lambda run: run.ckpts / "stage1" / os.fsdecode(b"30\xff0"),
    "request": lambda run: run.config.paths.requests / "r1.json",
    "request's name is no UTF-8": lambda run: run.config.paths.requests / os.fsdecode(b"r\xff.json"),
    "folder of another attempt": lambda run: run.config.paths.attempts / "eval-stage1-7-00000000",
    "request of another attempt": lambda run: run.config.paths.attempt("eval-stage1-7-00000000").request,
    "epoch of the journal": lambda run: run.config.paths.epoch_journal(1),
    "status.json": _state("status.json"),
    "once.json": _state("once.json"),
    "reported.json": _state("reported.json"),
    "contents.json": _state("contents.json"),
    "daemon.lock": _state("daemon.lock"),
    "pins/": _state("pins/stage1"),
    "mirror": lambda run: run.root / "mirror",
}
"""Name -> a file that belongs to no evaluation, there before the watcher starts."""

PLACES = {**VICTIMS_FILES, **ATTEMPTS_FILES, **SHARED_FILES}

REFUSED = {("epoch of the journal", "link into a locked folder")}
"""The watcher does not start: events that it may be able to read later must not be forgotten."""

CASES = [case for case in itertools.product(PLACES, POISONS) if case not in REFUSED]


def _let_jobs_fail(executor):
    """A job that meets the poisoned file dies of it, as a real one does; the test goes on."""

    def guard(method):
        def call(job):
            try:
                method(job)
            except (OSError, ValueError, MemoryError):
                job.state, job.raw_state = JobState.FAILED, "FAILED"

        return call

    executor._start, executor._end = guard(executor._start), guard(executor._end)


class Outcome(NamedTuple):
    """What became of a run with one poisoned file."""

    states: dict[str, str]
    said: str
    """What status says of it: the victim's reason, and warnings that the clean run does not have."""


def run_poisoned(root, monkeypatch, place, poison_name) -> Outcome:
    """Watch five checkpoints, one file of the run poisoned."""
    run = WatchedRun(root, monkeypatch, steps=STEPS, pin=True, mirror=root / "mirror")
    _let_jobs_fail(run.executor)
    try:
        for step in STEPS:
            run.write_checkpoint("stage1", step)
        if place in ATTEMPTS_FILES:
            run.tick(2, jobs=False)
        path = PLACES[place](run)
        poison(path, poison_name)
        os.utime(path, (run.clock() - 300, run.clock() - 300), follow_symlinks=False)
        run.touch("stage1")
        run.tick(12)
        warnings = [*run.daemon.tick_runner.warnings, *run.journal_state.warnings]
        reason = run.list_reasons().get(VICTIM, "")
        return Outcome(run.list_states(), "; ".join([*([reason] if reason else []), *warnings]))
    finally:
        run.close_daemon()

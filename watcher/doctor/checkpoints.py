"""Checks the folders of checkpoints: layouts, runs, readability."""

import os
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from suites.checkpoint.completeness import Completeness, inspect_checkpoint
from suites.checkpoint.layout import list_steps
from suites.common.formatting import format_count
from watcher.config.settings import Config, Reference, Stage
from watcher.doctor.check import OK, WARNING, WRONG, DoctorCheck, run_check


def _check_steps(stage: Stage) -> Iterator[DoctorCheck]:
    """Check names of the steps, and read access to the newest one's files."""
    name, folder = f"checkpoints of {stage.name}", stage.checkpoints
    try:
        steps, unmatched = list_steps(folder, stage.layout)
    except FileNotFoundError:
        yield DoctorCheck(OK, name, f"{folder} does not exist yet")
        return
    except OSError as error:
        yield DoctorCheck(WRONG, name, f"{folder} cannot be listed ({error.strerror})", "ask its owner for read access")
        return
    if unmatched:
        message, _, hint = unmatched.partition("; ")
        yield DoctorCheck(WARNING, name, f"{folder}: {message}", hint)
    yield _check_readable(name, folder, steps) if steps else DoctorCheck(OK, name, f"{folder}: no step yet")


def _check_reference(reference: Reference) -> Iterator[DoctorCheck]:
    """Check that a reference's model is there and complete, with its tokenizer."""
    name, folder = f"reference {reference.name}", Path(reference.checkpoint)
    fetch = f"run `watcher prefill {reference.source}` where there is a network"
    if reference.hub_model is not None and not folder.exists():
        yield DoctorCheck(WARNING, name, f"{reference.hub_model} of the hub is not fetched yet", fetch)
        return
    inspection = inspect_checkpoint(folder, now=time.time(), settle_seconds=0.0, any_step=True)
    if inspection.kind is not Completeness.COMPLETE:
        yield DoctorCheck(WRONG, name, f"{folder} is no complete model: {inspection.detail}", "correct it in references:")
    elif inspection.tokenizer is None:
        yield DoctorCheck(WRONG, name, f"{folder} has no tokenizer", "put the tokenizer's files beside the model")
    else:
        length = reference.seq_len or inspection.seq_len
        message = f"{folder} is complete; tokenizer {inspection.tokenizer}, context length {length}"
        yield DoctorCheck(OK, name, message)


def check_checkpoints(config: Config) -> Iterator[DoctorCheck]:
    """Check names and files of every stage's steps, the globs of runs, and references."""
    for stage in config.stages.values():
        yield from run_check(f"checkpoints of {stage.name}", partial(_check_steps, stage))
    for name, template in config.runs.items():
        count = sum(stage.runs == name for stage in config.stages.values())
        yield DoctorCheck(OK, f"runs of {name}", f"{template.checkpoints}: {format_count(count, 'stage')}")
    for folder, problem in config.run_problems.items():
        yield DoctorCheck(WARNING, "runs", f"{folder} {problem}")
    for reference in config.references.values():
        yield from run_check(f"reference {reference.name}", partial(_check_reference, reference))


def _check_readable(name: str, folder: Path, steps: Mapping[int, Path]) -> DoctorCheck:
    newest_step = max(steps)
    newest_folder = steps[newest_step]
    for parent, folders, names in os.walk(newest_folder):  # unlike rglob it survives files that disappear meanwhile
        for path in (Path(parent) / child for child in (*folders, *names)):
            if not os.access(path, os.R_OK):
                owner = _get_owner_name(path)
                hint = f"ask {owner} to run `chmod -R a+rX {newest_folder}`"
                return DoctorCheck(WRONG, name, f"{path}, owned by {owner}, cannot be read", hint)
    return DoctorCheck(OK, name, f"{folder}: {format_count(len(steps), 'step')}; the newest, {newest_step}, can be read")


def _get_owner_name(path: Path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError):
        return "another user"

"""Writes the attempt folder and builds the Submission."""

import contextlib
import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from suites.common.atomic_files import fsync_folder, write_atomically
from suites.common.documents import DamagedDocument, read_content
from suites.contract.encoding import encode_json
from suites.contract.log_paths import LogPaths, prefill_log_paths
from suites.contract.paths import AttemptPaths, StatePaths
from suites.contract.scoring_request import ScoringRequest, list_tier_digests
from suites.contract.shipped_files import find_shipped_file
from watcher.config.settings import Config, SlurmSettings
from watcher.config.units import count_gpus
from watcher.core import events
from watcher.core.evaluation import PREFILL_DIRECTORY, Attempt, EvaluationRecord, Pin, Refusal
from watcher.core.executor import Resources, Submission, SubmissionResult
from watcher.core.reasons import ReasonKind
from watcher.core.resources import build_prefill_settings, get_submit_options

_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")
"""Device files of the NVIDIA and AMD drivers."""

MAX_WORDS_CHARACTERS = 1000
"""Characters of sbatch's answer that are kept: a site may write a page."""


class AttemptName(NamedTuple):
    """How a new attempt is called."""

    number: int
    """1 for the first attempt of an evaluation."""
    run_id: str


def choose_attempt_name(paths: StatePaths, prefix: str, record: EvaluationRecord, state_id: str, epoch: int) -> AttemptName:
    """Number and run id of a new attempt that nothing uses yet."""
    safe_prefix = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in prefix)
    # Files of that name may remain from a journal that was deleted or restored.
    for number in itertools.count(record.attempts + 1):
        seed = f"{state_id}\0{record.key}\0{number}\0{epoch}"
        run_id = f"{safe_prefix}-{hashlib.sha256(seed.encode()).hexdigest()[:8]}"
        attempt = paths.attempt(run_id)
        if not attempt.claim.exists() and not attempt.request.exists():
            break
    return AttemptName(number, run_id)


def add_pins(request: ScoringRequest, record: EvaluationRecord, member_pins: Mapping[str, Pin]) -> ScoringRequest:
    """The request with the pins that the job may read: those that hold the requested content."""

    def find_folder(pin: Pin | None, fingerprint: str) -> str | None:
        return pin.folder if pin is not None and pin.folder and pin.fingerprint == fingerprint else None

    members = tuple(
        msgspec.structs.replace(member, pinned=find_folder(member_pins.get(member.checkpoint), member.fingerprint))
        for member in request.average
    )
    pinned = members[-1].pinned if members else find_folder(record.pin, request.fingerprint)
    return msgspec.structs.replace(request, pinned=pinned, average=members)


def make_attempt(request: ScoringRequest, number: int, resources: Mapping[str, str], now: float, *, gpus: int) -> Attempt:
    """The attempt of a request that has its run id."""
    # A prefill publishes no tier, so its suites belong to its fingerprint alone.
    suites = {} if request.directory == PREFILL_DIRECTORY else list_tier_digests(request.suites)
    return Attempt(
        run_id=request.run_id,
        number=number,
        fingerprint=request.fingerprint,
        suites=suites,
        intended=now,
        resources=resources,
        gpus=gpus,
        tasks=request.tasks,
        results=request.results,
        owner=request.owner,
    )


def build_scoring_submission(attempt: Attempt, config: Config, logs: LogPaths, comment: str) -> Submission:
    """The submission of a scoring attempt; ``comment`` identifies our jobs."""
    return Submission(
        name=attempt.run_id,
        comment=comment,
        script=find_shipped_file("slurm/score.sbatch"),
        request=config.paths.attempt(attempt.run_id).request,
        stdout=logs.out,
        stderr=logs.err,
        resources=build_resources(config.slurm, attempt.resources, attempt.tasks),
        python=config.python,
        setup=write_setup_file(config),
    )


def make_unknown_event(
    config: Config, record: EvaluationRecord, run_id: str, outcome: SubmissionResult
) -> events.SubmissionUnknown:
    """The event of an outcome that is not known; it keeps what may be a refusal."""
    words = " ".join(outcome.message.split())[:MAX_WORDS_CHARACTERS]
    options = get_submit_options(config, record)
    refusal = Refusal(options=options.key, described_options=options.text, answer=outcome.answer, words=words)
    return events.SubmissionUnknown(
        evaluation=record.key,
        run_id=run_id,
        reason=f"sbatch outcome unknown ({words}); searching the queue for the job",
        reason_kind=ReasonKind.UNKNOWN_OUTCOME,
        refusal=refusal if outcome.answer else None,
    )


def count_tasks(config: Config, request: ScoringRequest) -> int:
    """Number of array tasks; 1 for an external scorer."""
    # An external scorer shares no parts, so further tasks would only repeat its work.
    is_shared = config.executor == "slurm" and request.backend != "command"
    return config.slurm.array or 1 if is_shared else 1


def count_task_gpus(config: Config) -> int:
    """GPUs of one task of a scoring job; on this machine one where it has any, since one process runs at a time."""
    if config.executor == "slurm":
        return count_gpus(config.slurm.gres, config.slurm.extra)
    return int(any(Path(device).exists() for device in _GPU_DEVICES))


def build_resources(slurm: SlurmSettings, time_and_memory: Mapping[str, str], tasks: int = 1) -> Resources:
    """Resources of a job: the config's, with this time and memory."""
    return Resources(
        account=slurm.account,
        partition=slurm.partition,
        qos=slurm.qos,
        gres=slurm.gres,
        cpus_per_task=slurm.cpus_per_task,
        time=time_and_memory.get("time"),
        mem=time_and_memory.get("mem"),
        tasks=tasks,
        extra=slurm.extra,
    )


def write_setup_file(config: Config) -> Path | None:
    """Path of the file with the config's setup lines; None without any."""
    lines = config.slurm.setup
    if not lines:
        return None
    path, text = config.paths.setup_script, "".join(f"{line}\n" for line in lines)
    try:
        is_current = read_content(path) == text.encode()
    except (FileNotFoundError, DamagedDocument):
        is_current = False
    if not is_current:
        write_atomically(path, text)
    return path


def prepare_scoring_attempt(request: ScoringRequest, attempt_paths: AttemptPaths) -> None:
    """Write an attempt folder, completely or not at all. OSError."""
    tiers = dict.fromkeys(suite.tier for suite in request.suites)  # several suites of a tier have one file
    expected_files = "".join(f"{request.paths.tier_json(tier)}\n" for tier in tiers)
    _write_attempt_folder(request, attempt_paths, expected=expected_files)


def _write_attempt_folder(request: ScoringRequest, attempt_paths: AttemptPaths, *, expected: str) -> None:
    try:
        attempt_paths.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(attempt_paths.expected_files, expected)
        write_atomically(attempt_paths.request, encode_json(request))  # last: it reserves the name
        fsync_folder(attempt_paths.folder.parent)
    except OSError:
        remove_attempt_folder(attempt_paths)
        raise


def remove_attempt_folder(attempt_paths: AttemptPaths) -> None:
    """Delete the folder of an attempt that was never submitted."""
    with contextlib.suppress(OSError):
        for path in attempt_paths.folder.iterdir():
            path.unlink()
        attempt_paths.folder.rmdir()


def prepare_prefill_attempt(
    request: ScoringRequest, attempt_paths: AttemptPaths, config: Config, comment: str, time_and_memory: Mapping[str, str]
) -> Submission:
    """Write the folder of a prefill attempt; what to submit. Raises OSError."""
    logs = prefill_log_paths(Path(request.results), request.stage, "%j")
    # Before Slurm 23.02, a job without its log folder fails at once.
    logs[0].parent.mkdir(parents=True, exist_ok=True)
    _write_attempt_folder(request, attempt_paths, expected="")  # its readers check whether the cache is complete
    return Submission(
        name=request.run_id,
        comment=comment,
        script=find_shipped_file("slurm/prefill.sbatch"),
        request=attempt_paths.request,
        stdout=logs[0],
        stderr=logs[1],
        resources=build_resources(build_prefill_settings(config), time_and_memory),
        python=config.python,
        setup=write_setup_file(config),
    )

"""Makes the request of ``python -m scoring score`` from its options."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from scoring.cli.options import parse_assumptions
from suites.checkpoint.completeness import Completeness, Inspection, inspect_checkpoint
from suites.checkpoint.contents import CheckpointKind
from suites.checkpoint.folder_kind import MARKER_FILES
from suites.checkpoint.layout import CHECKPOINT_FOLDER_NAMES, guess_step
from suites.common.errors import ExitCode, UserError
from suites.contract.encoding import canonical_digest
from suites.contract.paths import format_step_directory
from suites.contract.scoring_request import ScoringRequest, compute_tier_digests
from suites.definitions.local_data import bind_current_data
from suites.definitions.suite import load_suite

T = TypeVar("T")

_MAX_NAME_CHARACTERS = 200
"""It is part of the names of files."""


class ScoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``python -m scoring score``."""

    checkpoint: Path
    suites: tuple[str, ...]
    results: Path
    eval_data: Path
    tokenizer: str | None
    slow_tokenizer: bool
    seq_len: int | None
    stage: str | None
    name: str | None
    device: str | None
    dtype: str | None
    padded_vocab: str
    backend: str
    command: str | None = None
    assume: tuple[str, ...] = ()
    exports: tuple[str, ...]
    offline: bool


def request_from_options(options: ScoreOptions, environ: Mapping[str, str]) -> ScoringRequest:
    """Return the request that these options describe.

    The checkpoint must be complete, but its files may be new. The run id is a digest of what is scored and how: two processes
    that are started with the same options share the work.

    Raises UserError: CANNOT_SCORE (checkpoint not complete), USAGE (a suite, or a value that its documents lack).
    """
    folder = options.checkpoint.absolute()
    inspection = inspect_checkpoint(folder, now=time.time(), settle_seconds=0.0, forced=True)
    if inspection.kind is not Completeness.COMPLETE or inspection.fingerprint is None:
        hint = "give a complete checkpoint: nanotron's folder of one step, or a folder with config.json and safetensors"
        detail = inspection.detail.removeprefix(f"{folder}: ")
        if inspection.kind is Completeness.NOT_YET and not any((folder / name).exists() for name in MARKER_FILES):
            detail = "has neither config.yaml nor config.json"
            hint += "; in the hub's cache that is snapshots/<hash>"
        raise UserError(detail, location=folder, hint=hint, code=ExitCode.CANNOT_SCORE)
    # The folder's name is the step, as for the watcher; the metadata has it where the name is no number.
    named_step = guess_step(folder.name)
    step = inspection.step if named_step is None else named_step
    # A published model has no step; its results are named after its folder.
    is_model = step is None and inspection.checkpoint_kind is CheckpointKind.HF
    step = 0 if is_model else _require_value(step, inspection, "the step", "name the folder after its step")
    suites = tuple(bind_current_data(load_suite(suite, environ).to_request()) for suite in options.suites)
    tokenizer = options.tokenizer or _require_value(inspection.tokenizer, inspection, "a tokenizer", "give --tokenizer")
    seq_len = options.seq_len or _require_value(inspection.seq_len, inspection, "a sequence length", "give --seq-len")
    assume = parse_assumptions(options.assume)
    # Everything that changes numbers is in the run id; exports and --offline change none.
    settings = [tokenizer, options.slow_tokenizer, seq_len, options.dtype, options.padded_vocab, options.backend, assume]
    device_type = (options.device or "").partition(":")[0]  # cuda:0 and cuda:1 give the same numbers
    identity_digest = canonical_digest(
        [inspection.fingerprint, *(digest for digest, _ in compute_tier_digests(suites).values()), *settings, device_type]
    )
    stage = _check_folder_name(options.stage or folder.parent.name, "--stage")
    default_name = folder.name if is_model else format_step_directory(step)
    return ScoringRequest(
        run_id=f"by-hand-{stage}-{step}-{identity_digest[:8]}",
        stage=stage,
        source_stage=stage if folder.parent.name in CHECKPOINT_FOLDER_NAMES else folder.parent.name,
        step=step,
        directory=_check_folder_name(options.name or default_name, "--name"),
        checkpoint=str(folder),
        fingerprint=inspection.fingerprint,
        suites=suites,
        tokenizer=tokenizer if not Path(tokenizer).is_dir() else str(Path(tokenizer).absolute()),
        use_fast=not options.slow_tokenizer,
        seq_len=seq_len,
        results=str(options.results.absolute() / stage),
        eval_data=str(options.eval_data.absolute()),
        backend=options.backend,
        command=(options.command or environ.get("LIGHTEVAL_CMD")) if options.backend == "command" else None,
        device=options.device,
        dtype=options.dtype,
        padded_vocab=options.padded_vocab,
        assume=assume,
        exports=options.exports,
        offline=options.offline,
    )


def _check_folder_name(text: str, option: str) -> str:
    """The name of a folder of results. UserError for one that leads elsewhere, also where it comes from the checkpoint's path."""
    if text in {"", ".", ".."} or "/" in text or not text.isprintable() or len(text) > _MAX_NAME_CHARACTERS:
        hint = f"give {option} a name of up to {_MAX_NAME_CHARACTERS} characters, without a slash"
        raise UserError(f"{text[:_MAX_NAME_CHARACTERS]!r} cannot be the name of a folder", location=option, hint=hint)
    return text


def _require_value(value: T | None, inspection: Inspection, setting: str, hint: str) -> T:
    if value is None:
        raise UserError(f"its documents do not have {setting}", location=inspection.folder, hint=hint)
    return value

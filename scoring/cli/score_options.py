"""A request from options: what the watcher would have written, for a person at a prompt."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from suites.checkpoint.completeness import Completeness, Inspection, inspect
from suites.common.errors import Exit, Problem
from suites.contract.encoding import canonical
from suites.contract.scoring_request import Request, tier_digests
from suites.definitions.local_data import sealed_now
from suites.definitions.suite import load_suite

T = TypeVar("T")


class ByHand(msgspec.Struct, frozen=True, kw_only=True):
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
    exports: tuple[str, ...]
    offline: bool


def request_by_hand(options: ByHand, environ: Mapping[str, str]) -> Request:
    """The request that these options mean.

    A checkpoint that somebody names is taken without regard to its files' times, but whole it has to be. The run id
    says what is scored and how, not when: two that are started with the same options share the work.

    Raises Problem: cannot score (not a whole checkpoint), usage (a suite, or what config.yaml does not say).
    """
    folder = options.checkpoint.absolute()
    found = inspect(folder, now=time.time(), settle=0.0, forced=True)
    if found.kind is not Completeness.COMPLETE or found.fingerprint is None:
        todo = "give a whole checkpoint: a folder named after its step, with config.yaml in it"
        raise Problem(found.detail, where=folder, todo=todo, code=Exit.CANNOT_SCORE)
    named = int(folder.name) if folder.name.isascii() and folder.name.isdigit() else found.step
    step = _needed(named, found, "its step", "name the folder after its step")
    suites = tuple(sealed_now(load_suite(suite, environ).in_request()) for suite in options.suites)
    tokenizer = options.tokenizer or _needed(found.tokenizer, found, "a tokenizer", "give --tokenizer")
    seq_len = options.seq_len or _needed(found.seq_len, found, "a sequence length", "give --seq-len")
    how = [tokenizer, options.slow_tokenizer, seq_len, options.dtype, options.padded_vocab, options.backend]
    kind = (options.device or "").partition(":")[0]  # on which GPU is no difference: two may share the work
    words = canonical([found.fingerprint, *(digest for digest, _ in tier_digests(suites).values()), *how, kind])
    stage = options.stage or folder.parent.name
    return Request(
        run_id=f"by-hand-{stage}-{step}-{hashlib.sha256(words.encode()).hexdigest()[:8]}",
        stage=stage,
        source_stage=stage,
        step=step,
        directory=options.name or f"step_{step}",
        checkpoint=str(folder),
        fingerprint=found.fingerprint,
        suites=suites,
        tokenizer=tokenizer if not Path(tokenizer).is_dir() else str(Path(tokenizer).absolute()),
        use_fast=not options.slow_tokenizer,
        seq_len=seq_len,
        results=str(options.results.absolute()),
        eval_data=str(options.eval_data.absolute()),
        backend=options.backend,
        command=(options.command or environ.get("LIGHTEVAL_CMD")) if options.backend == "command" else None,
        device=options.device,
        dtype=options.dtype,
        padded_vocab=options.padded_vocab,
        exports=options.exports,
        offline=options.offline,
    )


def _needed(value: T | None, found: Inspection, what: str, todo: str) -> T:
    if value is None:
        raise Problem(f"config.yaml does not say {what}", where=found.folder, todo=todo)
    return value

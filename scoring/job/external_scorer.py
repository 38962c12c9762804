"""Backend ``command``: runs the user's scorer and checks its numbers.

The command finds its input in the environment: LIGHTEVAL_CHECKPOINT_PATH, LIGHTEVAL_STEP, LIGHTEVAL_TOKENIZER (a folder),
LIGHTEVAL_SEQ_LEN, NANOTRON_ROOT, and EVAL_DATA_DIR, a folder of links to the data cache:
``ppl_slices/<slice>/packed_tokens.pt`` and ``cf_tasks/<task>/examples.jsonl``. It writes tier2_ppl.json with a perplexity for
every slice and tier3_cf.json with an accuracy for every task to the empty folder LIGHTEVAL_RESULTS_DIR
(tier 4: ``external_instructions``):

    {"slices": {"code": {"ppl": 3.2}, ...}}   {"tasks": {"piqa": {"acc": 0.71}, ...}}

An entry may hold more, which is kept, or be the bare number. The section's name may be left out.
"""

import contextlib
import importlib.util
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog

from scoring.job import external_instructions
from scoring.runtime.parts import convert_write_errors
from scoring.tiers.base import WorkItem
from suites.common.documents import parse_json, read_content
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import TIER_FILES, DataPaths
from suites.contract.scoring_request import ScoringRequest
from suites.contract.tier_files import ENTRY_SCORES, TIER_SECTIONS, find_disagreement, find_entry_damage
from suites.definitions.tokenizer_files import parse_tokenizer_identifier

POLL_SECONDS = 0.2
"""Seconds between two checks of the command and of our own signals."""

FENCE_CHECK_SECONDS = 30.0
"""Seconds between two checks of the fence."""

_LINKED_FILES = {"tier2_ppl": ("ppl_slices", "packed_tokens.pt"), "tier3_cf": ("cf_tasks", "examples.jsonl")}
"""Tier -> the folder of its cache entries, and the file of each that the command gets."""

_log = structlog.get_logger()


class CommandFolders(NamedTuple):
    """The folders of one run of the command."""

    results: Path
    """LIGHTEVAL_RESULTS_DIR."""
    data: Path
    """EVAL_DATA_DIR."""


class SplitRequest(NamedTuple):
    """The two halves of a request. Either may have no suites."""

    external: ScoringRequest
    """What the user's command scores."""
    internal: ScoringRequest
    """What this program scores, unless the command does so, too."""


def refuse_unsupported_command(request: ScoringRequest) -> None:
    """Raise UserError (usage) where backend ``command`` cannot do what the request wants."""
    if not request.command:
        hint = "give --command, write command: in the config, or export LIGHTEVAL_CMD"
        raise UserError("there is no command", location="backend command", hint=hint)
    if request.exports:
        hint = "leave exports out, or use --backend direct"
        raise UserError("results of a command cannot be exported", location="exports", hint=hint)


def split_request(request: ScoringRequest) -> SplitRequest:
    """Divide the suites between the user's command and this program.

    A command must score tiers 2 and 3, and may score tier 4.
    """
    if request.backend != "command":
        return SplitRequest(msgspec.structs.replace(request, suites=()), request)
    external = tuple(suite for suite in request.suites if suite.tier in ENTRY_SCORES)
    internal = tuple(suite for suite in request.suites if suite.tier not in ENTRY_SCORES)
    return SplitRequest(
        msgspec.structs.replace(request, suites=external),
        msgspec.structs.replace(request, suites=internal, backend="direct", command=None),
    )


def prepare_folders(
    request: ScoringRequest, work_items: Sequence[WorkItem], restart: int, prompts: Mapping[str, Mapping[str, Any]] | None = None
) -> CommandFolders:
    """Make empty folders for this run, with links to its data, and tier 4's ``prompts``.

    Removes the folders of earlier runs of the evaluation. Raises UserError where they cannot be written.
    """
    run_prefix = f"{request.run_id}.{restart}."
    run_folder = request.paths.external_folder(f"{run_prefix}{os.getpid()}")
    folders = CommandFolders(run_folder / "results", run_folder / "eval_data")
    with convert_write_errors(request.paths.folder):
        for earlier in run_folder.parent.glob("*"):
            if not earlier.name.startswith(run_prefix):
                shutil.rmtree(earlier, ignore_errors=True)
        folders.results.mkdir(parents=True, exist_ok=True)
        for work_item in work_items:
            section, file_name = _LINKED_FILES[work_item.tier]
            link = folders.data / section / work_item.name / file_name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(work_item.entry.folder / file_name)
        if prompts:
            external_instructions.write_prompts(folders.data, prompts)
    return folders


def build_environment(
    request: ScoringRequest, tokenizer_digest: str, folders: CommandFolders, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return ``environ`` with the variables that the command reads."""
    # The command gets a folder in any case: a tokenizer of the Hub is copied to the cache.
    tokenizer = parse_tokenizer_identifier(request.tokenizer).folder
    if not tokenizer.is_dir():
        tokenizer = DataPaths(Path(request.eval_data)).tokenizer(tokenizer_digest)
    return {
        **environ,
        "LIGHTEVAL_CHECKPOINT_PATH": request.checkpoint,
        "LIGHTEVAL_RESULTS_DIR": str(folders.results),
        "LIGHTEVAL_STEP": str(request.step),
        "LIGHTEVAL_TOKENIZER": str(tokenizer),
        "LIGHTEVAL_SEQ_LEN": str(request.seq_len),
        "NANOTRON_ROOT": environ.get("NANOTRON_ROOT") or _find_nanotron_source(),
        "EVAL_DATA_DIR": str(folders.data),
        # The batch script leaves folders out of PYTHONPATH for the sake of our own packages only.
        **({"PYTHONPATH": environ["SCORING_PYTHONPATH"]} if "SCORING_PYTHONPATH" in environ else {}),
    }


def _find_nanotron_source() -> str:
    """Return the source tree of the installed nanotron, or an empty text."""
    spec = importlib.util.find_spec("nanotron")
    if spec is None or spec.origin is None:
        return ""
    package = Path(spec.origin).parent
    return str(package.parent.parent if package.parent.name == "src" else package.parent)


def run_scorer_command(
    command: str | Sequence[str],
    environ: Mapping[str, str],
    *,
    get_signal_name: Callable[[], str | None],
    check_fence: Callable[[], None],
) -> None:
    """Run the command to its end. Its output goes where ours goes.

    Args:
        command: a list of arguments, or a line for bash.
        environ: its environment.
        get_signal_name: name of the signal that we got, which is then sent to the command's process group.
        check_fence: called at times; raises where the command must end.

    Raises:
        UserError: TEMPORARY where a signal ended it, COMMAND_FAILED where it fails, UNAVAILABLE where it cannot be started.
    """
    # A process group of its own, so that signals reach everything that it starts.
    argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
    location = command if isinstance(command, str) else " ".join(command)
    _log.info("command", argv=argv)
    try:
        child = subprocess.Popen(argv, env=dict(environ), stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        message = f"cannot be started ({error.strerror})"
        raise UserError(message, location=location, hint="fix command: in the config", code=ExitCode.UNAVAILABLE) from error
    sent_signal: str | None = None
    last_checked = time.monotonic()
    try:
        while (code := _wait_briefly(child)) is None:
            # Pass each signal on once: SIGUSR1 (the walltime is near) may be followed by SIGTERM.
            if (signal_name := get_signal_name()) is not None and signal_name != sent_signal:
                sent_signal = signal_name
                _send_signal(child, signal.Signals[signal_name])
            if time.monotonic() - last_checked >= FENCE_CHECK_SECONDS:
                last_checked = time.monotonic()
                check_fence()
    except BaseException:
        _send_signal(child, signal.SIGKILL)
        child.wait()
        raise
    if code == 0:
        return
    # After a signal any exit code but 0 means that it was stopped.
    if sent_signal is not None:
        hint = "start it again: the command begins from the start"
        raise UserError(f"stopped by {sent_signal}", location=location, hint=hint, code=ExitCode.TEMPORARY)
    ending = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    hint = "see its output in the log"
    raise UserError(f"the command ended with {ending}", location=location, hint=hint, code=ExitCode.COMMAND_FAILED)


def _wait_briefly(child: subprocess.Popen[bytes]) -> int | None:
    try:
        return child.wait(timeout=POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _send_signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def read_command_results(work_items: Sequence[WorkItem], folders: CommandFolders) -> dict[str, dict[str, Any]]:
    """Return tier -> what its tier file says after the head.

    That is a summary, and the completed entries. Raises UserError (COMMAND_FAILED) where a file or a number is missing
    or invalid.
    """
    by_tier: dict[str, list[WorkItem]] = {}
    for work_item in work_items:
        by_tier.setdefault(work_item.tier, []).append(work_item)
    return {tier: _read_scores(tier, tier_items, folders.results / TIER_FILES[tier]) for tier, tier_items in by_tier.items()}


def _read_scores(tier: str, work_items: Sequence[WorkItem], path: Path) -> dict[str, Any]:
    section = TIER_SECTIONS[tier]
    try:
        document = parse_json(read_content(path), path)
    except FileNotFoundError:
        message = "the command ended with exit code 0, but did not write it"
        raise _build_results_error(tier, message, path) from None
    except (OSError, ValueError) as error:
        raise _build_results_error(tier, f"the file is not readable JSON: {error}", path) from error
    # {"slices": {NAME: ...}} or simply {NAME: ...}.
    scores = document.get(section, document) if isinstance(document, dict) else None
    if not isinstance(scores, dict):
        raise _build_results_error(tier, f"the file has no JSON object {section}", path)
    entries = {work_item.name: _complete_entry(scores.get(work_item.name), work_item, path) for work_item in work_items}
    summary = (_summarise_perplexity if tier == "tier2_ppl" else _summarise_accuracy)(entries)
    return {"summary": summary, section: entries}


def _build_results_error(tier: str, message: str, path: Path) -> UserError:
    section, score = TIER_SECTIONS[tier], ENTRY_SCORES[tier]
    hint = f'let the command write {{"{section}": {{NAME: {{"{score}": NUMBER}}}}}} to $LIGHTEVAL_RESULTS_DIR/{path.name}'
    return UserError(message, location=path, hint=hint, code=ExitCode.COMMAND_FAILED)


def _complete_entry(given: Any, work_item: WorkItem, path: Path) -> dict[str, Any]:
    """Return one checked entry, with the fields that follow from its number."""
    score = ENTRY_SCORES[work_item.tier]
    # {"ppl": 3.2, ...} or simply 3.2.
    entry: dict[str, Any] = dict(given) if isinstance(given, dict) else {score: given}
    value: Any = entry.get(score)
    if not _is_number(value) or (value <= 0 if score == "ppl" else not 0 <= value <= 1):
        message = "no perplexity above 0" if score == "ppl" else "no accuracy between 0 and 1"
        shown = type(value).__name__ if isinstance(value, str | list | dict) else repr(value)[:60]
        detail = f"{score} is {shown}" if given is not None else "the file does not name it"
        raise _build_results_error(work_item.tier, f"{work_item.name} has {message}: {detail}", path)
    # JSON has no NaN and no infinity: a number that is not needed is left out, one inside a list is refused below.
    entry = {key: number for key, number in entry.items() if not isinstance(number, float) or math.isfinite(number)}
    # What the cache knows of the data stands in for what the command leaves out.
    meta = work_item.entry.meta
    if score == "ppl":
        derived = {"nll_per_token": math.log(value), "tokens": meta["tokens"] - 1}
    else:
        derived = {"primary": value, "primary_metric": "acc", "examples": meta["examples"]}
    if not (_is_number(entry.get("tokens")) and entry["tokens"] > 0):
        entry.pop("tokens", None)
    # Null says that the command does not know it.
    completed = {**derived, **{key: figure for key, figure in entry.items() if figure is not None or key not in derived}}
    # What the entry holds beside its score is read by every later comparison.
    if reason := find_entry_damage(work_item.tier, completed) or find_disagreement(work_item.tier, completed):
        raise _build_results_error(work_item.tier, f"{work_item.name} has a figure that cannot be used: {reason}", path)
    try:
        json.dumps(entry, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        message = f"{work_item.name} holds values that cannot be published: {error}"
        raise _build_results_error(work_item.tier, message, path) from error
    return {**completed, "data_key": work_item.data_key}


def _is_number(value: Any) -> bool:
    largest = sys.float_info.max  # an integer may be larger
    return isinstance(value, int | float) and not isinstance(value, bool) and -largest <= value <= largest


def _summarise_perplexity(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Average NLLs over slices, weighted by predicted tokens.

    The weights are the command's own counts, or else those of the slices. ``perplexity_metric`` sums NLLs instead, but a
    command gives only perplexities.
    """
    tokens = sum(entry["tokens"] for entry in entries.values())
    nll = sum(entry["tokens"] * math.log(entry["ppl"]) for entry in entries.values()) / tokens
    return {"ppl": math.exp(nll), "nll_per_token": nll, "tokens": tokens, "slices": len(entries)}


def _summarise_accuracy(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Average over tasks, for each metric that all tasks have."""
    means = {}
    for name in ("primary", "acc", "acc_norm"):
        values = [entry.get(name) for entry in entries.values()]
        if all(map(_is_number, values)):
            means[name] = statistics.fmean(values)  # type: ignore[arg-type]
    return {**means, "tasks": len(entries)}

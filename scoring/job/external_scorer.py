"""A scorer of somebody else's: ``backend: command``.

The command finds what it needs in its environment: LIGHTEVAL_CHECKPOINT_PATH, LIGHTEVAL_STEP, LIGHTEVAL_TOKENIZER (a folder),
LIGHTEVAL_SEQ_LEN, NANOTRON_ROOT, and EVAL_DATA_DIR, a folder of links to the data cache without its keys:
``ppl_slices/<slice>/packed_tokens.pt`` and ``cf_tasks/<task>/examples.jsonl``. In LIGHTEVAL_RESULTS_DIR, an empty folder, it
leaves tier2_ppl.json with a perplexity for every slice, and tier3_cf.json with an accuracy for every task:

    {"slices": {"code": {"ppl": 3.2}, ...}}   {"tasks": {"piqa": {"acc": 0.71}, ...}}

An entry may hold more, which is kept, or be the bare number; and the section's name may be left out. We add the head and publish.
Tiers that no command scores are scored here as ever.
"""

import importlib.util
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from scoring.runtime.parts import convert_write_errors
from scoring.tiers.base import WorkItem
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import TIER_FILES, DataPaths
from suites.contract.scoring_request import ScoringRequest
from suites.contract.tier_files import ENTRY_SCORES, TIER_SECTIONS

POLL_SECONDS = 0.2
"""Seconds between two looks at the command and at our own signals."""

FENCE_CHECK_SECONDS = 30.0
"""Seconds between two looks at the fence."""

_LINKED_FILES = {"tier2_ppl": ("ppl_slices", "packed_tokens.pt"), "tier3_cf": ("cf_tasks", "examples.jsonl")}

_log = structlog.get_logger()


class CommandFolders(msgspec.Struct, frozen=True):
    """The folders of one run of the command."""

    folder: Path

    @property
    def results(self) -> Path:
        """LIGHTEVAL_RESULTS_DIR."""
        return self.folder / "results"

    @property
    def data(self) -> Path:
        """EVAL_DATA_DIR."""
        return self.folder / "eval_data"


def refuse_unsupported_command(request: ScoringRequest) -> None:
    """Problem (usage) for what a command cannot be asked."""
    if not request.command:
        hint = "give --command, write command: in the config, or export LIGHTEVAL_CMD"
        raise UserError("there is no command", location="backend command", hint=hint)
    if request.exports:
        raise UserError(
            "only what is scored here can be exported", location="exports", hint="leave it out, or use --backend direct"
        )


def split_request(request: ScoringRequest) -> tuple[ScoringRequest, ScoringRequest]:
    """(what the command scores, what is scored here all the same)."""
    internal = tuple(suite for suite in request.suites if suite.tier not in ENTRY_SCORES)
    external = tuple(suite for suite in request.suites if suite.tier in ENTRY_SCORES)
    internal_request = msgspec.structs.replace(request, suites=internal, backend="direct", command=None)
    return msgspec.structs.replace(request, suites=external), internal_request


def prepare_folders(request: ScoringRequest, work_items: Sequence[WorkItem], restart: int) -> CommandFolders:
    """Empty folders for this run, with the links to its data. What earlier runs of this evaluation left goes."""
    folders = CommandFolders(request.paths.external_folder(f"{request.run_id}.{restart}.{os.getpid()}"))
    with convert_write_errors(request.paths.folder):
        for stale in folders.folder.parent.glob("*"):
            if not stale.name.startswith(f"{request.run_id}.{restart}."):
                shutil.rmtree(stale, ignore_errors=True)
        folders.results.mkdir(parents=True, exist_ok=True)
        for work_item in work_items:
            section, name = _LINKED_FILES[work_item.tier]
            link = folders.data / section / work_item.name / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(work_item.entry.folder / name)
    return folders


def build_environment(
    request: ScoringRequest, digest: str, folders: CommandFolders, environ: Mapping[str, str]
) -> dict[str, str]:
    """``environ`` and what the command is told."""
    given_tokenizer = Path(request.tokenizer).expanduser()
    tokenizer = given_tokenizer if given_tokenizer.is_dir() else DataPaths(Path(request.eval_data)).tokenizer(digest)
    return {
        **environ,
        "LIGHTEVAL_CHECKPOINT_PATH": request.checkpoint,
        "LIGHTEVAL_RESULTS_DIR": str(folders.results),
        "LIGHTEVAL_STEP": str(request.step),
        "LIGHTEVAL_TOKENIZER": str(tokenizer),
        "LIGHTEVAL_SEQ_LEN": str(request.seq_len),
        "NANOTRON_ROOT": environ.get("NANOTRON_ROOT") or _find_nanotron_source(),
        "EVAL_DATA_DIR": str(folders.data),
    }


def _find_nanotron_source() -> str:
    """The source tree of the nanotron that is installed here; empty where there is none."""
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
    """Run the command to its end; its output goes where ours goes.

    A list is its arguments; a line is the user's own bash. ``get_signal_name`` gives the name of the signal that we were sent, which
    the command's whole process group is sent, too; ``check_fence`` is called now and then, and raises where it shall be ended.

    Raises Problem: temporary where a signal ended it, a bug where it fails.
    """
    argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
    location = command if isinstance(command, str) else " ".join(command)
    _log.info("command", argv=argv)
    try:
        child = subprocess.Popen(argv, env=dict(environ), stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        message = f"cannot be started ({error.strerror})"
        raise UserError(message, location=location, hint="mend command: in the config", code=ExitCode.UNAVAILABLE) from error
    sent_signal: str | None = None
    seconds_to_check = FENCE_CHECK_SECONDS
    try:
        while True:
            try:
                code = child.wait(timeout=POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                seconds_to_check -= POLL_SECONDS
            if (signal_name := get_signal_name()) is not None and signal_name != sent_signal:
                sent_signal = signal_name
                _send_signal(child, signal.Signals[signal_name])
            if seconds_to_check <= 0:
                seconds_to_check = FENCE_CHECK_SECONDS
                check_fence()
    except BaseException:
        _send_signal(child, signal.SIGKILL)
        child.wait()
        raise
    if code == 0:
        return
    if sent_signal is not None:
        raise UserError(
            f"stopped by {sent_signal}", location=location, hint="start it again: it begins anew", code=ExitCode.TEMPORARY
        )
    ending = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    raise UserError(
        f"the command ended with {ending}", location=location, hint="its output in the log says why", code=ExitCode.BUG
    )


def _send_signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return


def read_command_results(work_items: Sequence[WorkItem], folders: CommandFolders) -> dict[str, dict[str, Any]]:
    """Tier -> what its document says after the head: the command's entries, completed, and their summary.

    Raises Problem (a bug: the command's) where a file or a number is missing, or is none.
    """
    by_tier: dict[str, list[WorkItem]] = {}
    for work_item in work_items:
        by_tier.setdefault(work_item.tier, []).append(work_item)
    return {tier: _read_scores(tier, tier_items, folders.results / TIER_FILES[tier]) for tier, tier_items in by_tier.items()}


def _read_scores(tier: str, work_items: Sequence[WorkItem], path: Path) -> dict[str, Any]:
    section, score = TIER_SECTIONS[tier], ENTRY_SCORES[tier]
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _invalid_results("the command ended well, but did not leave it", path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid_results(f"not JSON that can be read: {error}", path) from error
    scores = document.get(section, document) if isinstance(document, dict) else None
    if not isinstance(scores, dict):
        raise _invalid_results(f"no JSON object with {section}", path)
    entries = {work_item.name: _complete_entry(scores.get(work_item.name), work_item, score, path) for work_item in work_items}
    summary = (_summarise_perplexity if tier == "tier2_ppl" else _summarise_accuracy)(entries)
    return {"summary": summary, section: entries}


def _complete_entry(given: Any, work_item: WorkItem, score: str, path: Path) -> dict[str, Any]:
    entry: dict[str, Any] = dict(given) if isinstance(given, dict) else {score: given}
    value: Any = entry.get(score)
    if not _is_number(value) or (value <= 0 if score == "ppl" else not 0 <= value <= 1):
        message = "no perplexity above 0" if score == "ppl" else "no accuracy between 0 and 1"
        detail = f"{score} is {_describe_value(value)}" if given is not None else "nothing is said of it"
        raise _invalid_results(f"{work_item.name} has {message}: {detail}", path)
    entry = {
        name: field_value
        for name, field_value in entry.items()
        if not isinstance(field_value, float) or math.isfinite(field_value)
    }
    if score == "ppl":
        meta = work_item.entry.meta
        derived = {"nll_per_token": math.log(value), "tokens": meta["tokens"] - 1}
    else:
        derived = {"primary": value, "primary_metric": "acc", "examples": work_item.entry.meta["examples"]}
    if not (_is_number(entry.get("tokens")) and entry["tokens"] > 0):
        entry.pop("tokens", None)
    try:
        json.dumps(entry, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise _invalid_results(f"{work_item.name} holds what cannot be published: {error}", path) from error
    return {**derived, **entry, "data_key": work_item.data_key}


def _describe_value(value: Any) -> str:
    return repr(value)[:60] if not isinstance(value, str | list | dict) else type(value).__name__


def _is_number(value: Any) -> bool:
    largest = sys.float_info.max  # an integer may be larger
    return isinstance(value, int | float) and not isinstance(value, bool) and -largest <= value <= largest


def _invalid_results(message: str, path: Path) -> UserError:
    section, score = TIER_SECTIONS[path.stem], ENTRY_SCORES[path.stem]
    hint = f'let the command write {{"{section}": {{NAME: {{"{score}": NUMBER}}}}}} to $LIGHTEVAL_RESULTS_DIR/{path.name}'
    return UserError(message, location=path, hint=hint, code=ExitCode.BUG)


def _summarise_perplexity(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Weighted by predicted tokens: those that the command says, else those of the slice."""
    weights = {name: entry["tokens"] for name, entry in entries.items()}
    tokens = sum(weights.values())
    nll = sum(weights[name] * math.log(entry["ppl"]) for name, entry in entries.items()) / tokens
    return {"ppl": math.exp(nll), "nll_per_token": nll, "tokens": tokens, "slices": len(entries)}


def _summarise_accuracy(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over tasks; acc_norm only where every task has it."""
    means = {}
    for name in ("primary", "acc", "acc_norm"):
        values = [entry.get(name) for entry in entries.values()]
        if all(map(_is_number, values)):
            means[name] = statistics.fmean(values)  # type: ignore[arg-type]
    return {**means, "tasks": len(entries)}

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

from scoring.runtime.parts import writing
from scoring.tiers.base import Work
from suites.common.errors import Exit, Problem
from suites.contract.paths import TIER_FILES, DataPaths
from suites.contract.scoring_request import Request

SCORES = {"tier2_ppl": ("slices", "ppl"), "tier3_cf": ("tasks", "acc")}
"""Tiers that a command scores -> the section of their file, and what every entry must have."""

LOOK = 0.2
"""Seconds between two looks at the command and at our own signals."""

CHECK = 30.0
"""Seconds between two looks at the fence."""

_FLAT = {"tier2_ppl": ("ppl_slices", "packed_tokens.pt"), "tier3_cf": ("cf_tasks", "examples.jsonl")}

_log = structlog.get_logger()


class Places(msgspec.Struct, frozen=True):
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


def refuse(request: Request) -> None:
    """Problem (usage) for what a command cannot be asked."""
    if not request.command:
        todo = "give --command, write command: in the config, or export LIGHTEVAL_CMD"
        raise Problem("there is no command", where="backend command", todo=todo)
    if request.exports:
        raise Problem("only what is scored here can be exported", where="exports", todo="leave it out, or use --backend direct")


def split(request: Request) -> tuple[Request, Request]:
    """(what the command scores, what is scored here all the same)."""
    own = tuple(suite for suite in request.suites if suite.tier not in SCORES)
    its = tuple(suite for suite in request.suites if suite.tier in SCORES)
    rest = msgspec.structs.replace(request, suites=own, backend="direct", command=None)
    return msgspec.structs.replace(request, suites=its), rest


def prepare(request: Request, works: Sequence[Work], restart: int) -> Places:
    """Empty folders for this run, with the links to its data. What earlier runs of this evaluation left goes."""
    places = Places(request.paths.foreign(f"{request.run_id}.{restart}.{os.getpid()}"))
    with writing(request.paths.folder):
        for old in places.folder.parent.glob("*"):
            if not old.name.startswith(f"{request.run_id}.{restart}."):
                shutil.rmtree(old, ignore_errors=True)
        places.results.mkdir(parents=True, exist_ok=True)
        for work in works:
            section, name = _FLAT[work.tier]
            link = places.data / section / work.name / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(work.entry.folder / name)
    return places


def environment(request: Request, digest: str, places: Places, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` and what the command is told."""
    named = Path(request.tokenizer).expanduser()
    tokenizer = named if named.is_dir() else DataPaths(Path(request.eval_data)).tokenizer(digest)
    return {
        **environ,
        "LIGHTEVAL_CHECKPOINT_PATH": request.checkpoint,
        "LIGHTEVAL_RESULTS_DIR": str(places.results),
        "LIGHTEVAL_STEP": str(request.step),
        "LIGHTEVAL_TOKENIZER": str(tokenizer),
        "LIGHTEVAL_SEQ_LEN": str(request.seq_len),
        "NANOTRON_ROOT": environ.get("NANOTRON_ROOT") or _nanotron(),
        "EVAL_DATA_DIR": str(places.data),
    }


def _nanotron() -> str:
    """The source tree of the nanotron that is installed here; empty where there is none."""
    found = importlib.util.find_spec("nanotron")
    if found is None or found.origin is None:
        return ""
    package = Path(found.origin).parent
    return str(package.parent.parent if package.parent.name == "src" else package.parent)


def run(
    command: str | Sequence[str], environ: Mapping[str, str], *, told: Callable[[], str | None], check: Callable[[], None]
) -> None:
    """Run the command to its end; its output goes where ours goes.

    A list is its arguments; a line is the user's own bash. ``told`` gives the name of the signal that we were sent, which
    the command's whole process group is sent, too; ``check`` is called now and then, and raises where it shall be ended.

    Raises Problem: temporary where a signal ended it, a bug where it fails.
    """
    argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
    where = command if isinstance(command, str) else " ".join(command)
    _log.info("command", argv=argv)
    try:
        child = subprocess.Popen(argv, env=dict(environ), stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        words = f"cannot be started ({error.strerror})"
        raise Problem(words, where=where, todo="mend command: in the config", code=Exit.UNAVAILABLE) from error
    sent: str | None = None
    left = CHECK
    try:
        while True:
            try:
                code = child.wait(timeout=LOOK)
                break
            except subprocess.TimeoutExpired:
                left -= LOOK
            if (by := told()) is not None and by != sent:
                sent = by
                _signal(child, signal.Signals[by])
            if left <= 0:
                left = CHECK
                check()
    except BaseException:
        _signal(child, signal.SIGKILL)
        child.wait()
        raise
    if code == 0:
        return
    if sent is not None:
        raise Problem(f"stopped by {sent}", where=where, todo="start it again: it begins anew", code=Exit.TEMPORARY)
    how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    raise Problem(f"the command ended with {how}", where=where, todo="its output in the log says why", code=Exit.BUG)


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return


def documents(works: Sequence[Work], places: Places) -> dict[str, dict[str, Any]]:
    """Tier -> what its document says after the head: the command's entries, completed, and their summary.

    Raises Problem (a bug: the command's) where a file or a number is missing, or is none.
    """
    by_tier: dict[str, list[Work]] = {}
    for work in works:
        by_tier.setdefault(work.tier, []).append(work)
    return {tier: _document(tier, of, places.results / TIER_FILES[tier]) for tier, of in by_tier.items()}


def _document(tier: str, works: Sequence[Work], path: Path) -> dict[str, Any]:
    section, score = SCORES[tier]
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _unfit("the command ended well, but did not leave it", path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _unfit(f"not JSON that can be read: {error}", path) from error
    said = found.get(section, found) if isinstance(found, dict) else None
    if not isinstance(said, dict):
        raise _unfit(f"no JSON object with {section}", path)
    entries = {work.name: _entry(said.get(work.name), work, score, path) for work in works}
    summary = (_perplexity if tier == "tier2_ppl" else _accuracy)(entries)
    return {"summary": summary, section: entries}


def _entry(said: Any, work: Work, score: str, path: Path) -> dict[str, Any]:
    entry: dict[str, Any] = dict(said) if isinstance(said, dict) else {score: said}
    value: Any = entry.get(score)
    if not _is_number(value) or (value <= 0 if score == "ppl" else not 0 <= value <= 1):
        what = "no perplexity above 0" if score == "ppl" else "no accuracy between 0 and 1"
        found = f"{score} is {_shown(value)}" if said is not None else "nothing is said of it"
        raise _unfit(f"{work.name} has {what}: {found}", path)
    entry = {name: each for name, each in entry.items() if not isinstance(each, float) or math.isfinite(each)}
    if score == "ppl":
        meta = work.entry.meta
        derived = {"nll_per_token": math.log(value), "tokens": meta["tokens"] - 1}
    else:
        derived = {"primary": value, "primary_metric": "acc", "examples": work.entry.meta["examples"]}
    if not (_is_number(entry.get("tokens")) and entry["tokens"] > 0):
        entry.pop("tokens", None)
    try:
        json.dumps(entry, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise _unfit(f"{work.name} holds what cannot be published: {error}", path) from error
    return {**derived, **entry, "data_key": work.data_key}


def _shown(value: Any) -> str:
    return repr(value)[:60] if not isinstance(value, str | list | dict) else type(value).__name__


def _is_number(value: Any) -> bool:
    most = sys.float_info.max  # an integer may be larger
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most


def _unfit(what: str, path: Path) -> Problem:
    name, (section, score) = path.name, next(of for tier, of in SCORES.items() if TIER_FILES[tier] == path.name)
    todo = f'let the command write {{"{section}": {{NAME: {{"{score}": NUMBER}}}}}} to $LIGHTEVAL_RESULTS_DIR/{name}'
    return Problem(what, where=path, todo=todo, code=Exit.BUG)


def _perplexity(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Weighted by predicted tokens: those that the command says, else those of the slice."""
    weights = {name: entry["tokens"] for name, entry in entries.items()}
    tokens = sum(weights.values())
    nll = sum(weights[name] * math.log(entry["ppl"]) for name, entry in entries.items()) / tokens
    return {"ppl": math.exp(nll), "nll_per_token": nll, "tokens": tokens, "slices": len(entries)}


def _accuracy(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over tasks; acc_norm only where every task has it."""
    means = {}
    for name in ("primary", "acc", "acc_norm"):
        values = [entry.get(name) for entry in entries.values()]
        if all(map(_is_number, values)):
            means[name] = statistics.fmean(values)  # type: ignore[arg-type]
    return {**means, "tasks": len(entries)}

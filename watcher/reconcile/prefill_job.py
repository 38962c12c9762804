"""What becomes of a stage's data cache that lacks something: evaluations wait, and a prefill job may be submitted. Pure.

A prefill job is followed like any other: its record is the fold of the same events, under the key ``stage1/(prefill)``.
What scoring calls the checkpoint's fingerprint is here the digest of what the cache must hold, and what scoring calls
valid results is here a cache that lacks nothing.
"""

import hashlib
import shlex
from collections.abc import Iterable

import msgspec

from suites.common.errors import Exit
from suites.contract.encoding import canonical
from suites.contract.scoring_request import Request, SuiteInRequest
from suites.definitions.data_cache import TOKENIZER, few
from watcher.config.settings import Config, Stage
from watcher.core.actions import Action, Note, Prefill, Skip
from watcher.core.evaluation import IN_FLIGHT, PREFILL_DIRECTORY, SETTLED, Attempt, Record, State
from watcher.core.snapshot import AttemptSeen, World
from watcher.journal.replay import Ledger
from watcher.reconcile import retry_policy as policy
from watcher.reconcile.in_flight import in_flight


def command(stage: Stage, config: Config) -> str:
    """What a person types to fill the stage's cache."""
    given = ["--config", config.source] if "/" in config.source else []
    return shlex.join(["watcher", "prefill", stage.name, *given])


def key_of(stage: str) -> str:
    """The key of a stage's prefill."""
    return f"{stage}/{PREFILL_DIRECTORY}"


def waits_for(stage: Stage, suites: Iterable[SuiteInRequest], world: World, config: Config) -> str:
    """Why a job for these suites would miss data, as the reason to wait; empty where it would not."""
    of = tuple(f"{suite.name}/" for suite in suites)
    missing = [label for label in world.lacking.get(stage.name, ()) if label.startswith((*of, TOKENIZER))]
    if not missing:
        return ""
    todo = "a job fills it" if config.prefill.get("auto") else f"run: {command(stage, config)}"
    return f"prefill: the data cache lacks {few(missing)}; {todo}"


def prefills(world: World, ledger: Ledger, config: Config) -> list[Action | Skip]:
    """The next step of every stage's prefill, or why there is none."""
    found: list[Action | Skip] = []
    for name in dict.fromkeys((*config.stages, *(record.stage for record in ledger.prefills.values()))):
        record, stage = ledger.prefills.get(key_of(name)), config.stages.get(name)
        if record is not None and record.state in IN_FLIGHT and record.attempt is not None:
            found.append(_flying(record, record.attempt, world, config, ledger))
        elif stage is not None:
            found += _at_rest(record, stage, world, config, ledger)
    return found


def _flying(record: Record, attempt: Attempt, world: World, config: Config, ledger: Ledger) -> Action | Skip:
    stage = config.stages.get(record.stage)
    retries = policy.Retries(config.retry) if stage is None else policy.Retries(config.retry, command(stage, config))
    action = in_flight(record, attempt, world, config, retries)
    if isinstance(action, Skip):
        return Skip(record.key, f"{action.reason}; the data cache lacks {few(world.lacking.get(record.stage, ()))}")
    if not isinstance(action, Note):
        return action
    exits = world.attempts.get(attempt.run_id, AttemptSeen()).exits
    if action.event == "waiting" and exits and exits[-1].code == Exit.DATA_MISSING:
        words = f"{world.attempts[attempt.run_id].words or 'a data set cannot be had'} (exit {exits[-1].code})"
        action = policy.failed(record, "exit", words, retries, world.now)
    if action.event == "scored":
        return msgspec.structs.replace(action, fields={**action.fields, "reason": "the data cache is whole"})
    if stage is None:
        return action
    request = _request(stage, world, config, ledger)
    if action.event in {"failed", "blocked"} and request is not None and request.fingerprint != attempt.fingerprint:
        return Note(event="owed", key=record.key, fields={"reason": "other data are needed by now", "fresh": True})
    return action


def _at_rest(record: Record | None, stage: Stage, world: World, config: Config, ledger: Ledger) -> list[Action | Skip]:
    lacks, request = world.lacking.get(stage.name), _request(stage, world, config, ledger)
    if lacks is None or request is None:
        return []
    key, content = key_of(stage.name), request.fingerprint
    if not lacks:
        if record is None or record.state is State.SCORED:
            return []
        fields = {"fingerprint": content, "suites": {}, "reason": "the data cache is whole"}
        return [Note(event="scored", key=key, fields=fields)]
    words = f"the data cache lacks {few(lacks)}"
    if not config.prefill.get("auto"):
        return [Skip(key, f"{words}; run: {command(stage, config)}")]
    if record is None:
        head = {"stage": stage.name, "source": stage.name, "step": 0, "directory": PREFILL_DIRECTORY}
        return [Note(event="owned", key=key, fields={**head, "origin": "prefill", "checkpoint": "", "reason": words})]
    if record.state in SETTLED:
        return [_settled(record, content, words)]
    if record.rests(world.now):
        return [Skip(key, f"{record.text}; it is tried again")]
    if not record.waits_its_turn or record.fingerprint != content:
        return [Note(event="ready", key=key, fields={"fingerprint": content, "reason": words})]
    asked = world.queue is not None and world.queue.jobs is not None
    held = world.later if asked else f"the queue {'is asked next' if world.queue is None else 'cannot be asked'}"
    if held:
        return [Skip(key, f"{words}; {held}")]
    return [Prefill(key=key, request=request, reason=words)]


def _settled(record: Record, content: str, words: str) -> Action | Skip:
    if record.state is State.SCORED:
        return Note(event="owed", key=record.key, fields={"reason": f"{words} again", "fresh": True})
    if record.fingerprint != content:
        return Note(event="owed", key=record.key, fields={"reason": "other data are needed by now", "fresh": True})
    return Skip(record.key, f"{record.state.value}: {record.text}")


def _request(stage: Stage, world: World, config: Config, ledger: Ledger) -> Request | None:
    """What a prefill job is asked for: all that the stage's suites need. None where that is not known yet."""
    plan = world.plans.get(stage.name)
    tokenizer = None if plan is None else plan.settled(ledger.facts.get(stage.name)).tokenizer
    return None if plan is None or not tokenizer else request(stage, plan.suites, tokenizer, config)


def request(stage: Stage, suites: tuple[SuiteInRequest, ...], tokenizer: str, config: Config) -> Request:
    """The request of a prefill job for these suites, whole but for ``run_id``."""
    content = canonical([[[suite.name, suite.digest] for suite in suites], tokenizer, stage.use_fast, str(config.eval_data)])
    return Request(
        run_id="",
        stage=stage.name,
        source_stage=stage.name,
        step=0,
        directory=PREFILL_DIRECTORY,
        checkpoint="",
        fingerprint=hashlib.sha256(content.encode()).hexdigest()[:24],
        suites=suites,
        tokenizer=tokenizer,
        use_fast=stage.use_fast,
        seq_len=0,
        results=str(stage.results),
        eval_data=str(config.eval_data),
        python=config.python,
        offline=False,
    )

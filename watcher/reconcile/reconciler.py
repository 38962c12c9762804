"""Decide: from what was seen and what is journaled to what is done now. Pure: no clock, no I/O.

Order of submission, where not all can go at once: bridges and final steps first, since comparisons wait for them;
then by the time at which the checkpoint was complete, oldest first; then by step.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from watcher.config.settings import Config, Stage
from watcher.core.actions import Action, Cancel, Decision, Note, Skip, Submit, Unlink
from watcher.core.evaluation import IN_FLIGHT, SETTLED, Record, State
from watcher.core.result_paths import folder_of
from watcher.core.snapshot import StageSeen, World
from watcher.journal.replay import Ledger
from watcher.reconcile.alerts import alerts
from watcher.reconcile.baselines import bridge_of, elsewhere
from watcher.reconcile.in_flight import in_flight
from watcher.reconcile.orphan_jobs import strays
from watcher.reconcile.pending import unsettled
from watcher.reconcile.prefill_job import prefills
from watcher.reconcile.request_answers import answer
from watcher.reconcile.retry_policy import Retries
from watcher.reconcile.schedule import Wanted, directory, is_final, missing, scheduled, wanted
from watcher.reconcile.settled import settled

MOST_UNSCHEDULED = 200
"""Unscheduled steps of one stage that are named one by one; the rest is counted."""


def decide(world: World, ledger: Ledger, config: Config, comment: str) -> Decision:
    """All actions, in order, and why nothing is done about the rest. ``comment`` marks our jobs in the queue."""
    asked = [action for ask in world.asks for action in answer(ask, world, config, ledger)]
    if asked:  # they change what everything else depends on: that is decided at the next look
        return Decision(actions=tuple(asked))
    found, unknown_bridges = wanted(config, world.stages)
    owned = _own(missing(found, ledger), config, ledger)
    moved = _moved(found, ledger)
    began = _began(world, config, ledger)
    if owned or moved or began:
        return Decision(actions=(*owned, *moved, *began))
    identities = {want.identity for want in found}
    outcome: list[Action | Skip] = strays(world, ledger, comment)
    taken = {item.key for item in outcome if not isinstance(item, Skip | Cancel)}
    candidates: list[Submit] = []
    for record in ledger.records.values():
        if record.key in taken:
            continue
        is_wanted = record.asked or (record.stage, record.source, record.step) in identities
        for item in _one(record, world, config, ledger, is_wanted=is_wanted):
            if isinstance(item, Submit) and item.request.results in world.resting:
                outcome.append(Skip(item.key, world.resting[item.request.results]))
            elif isinstance(item, Submit):
                candidates.append(item)
            else:
                outcome.append(item)
    outcome += [item for item in prefills(world, ledger, config) if isinstance(item, Skip) or item.key not in taken]
    outcome += _submissions(candidates, world, config, ledger)
    outcome += _notices(world, config, ledger, unknown_bridges)
    skips = tuple(item for item in outcome if isinstance(item, Skip))
    retries = [r.retry_at for r in ledger.everything() if r.retry_at is not None and r.state not in SETTLED]
    return Decision(
        actions=tuple(item for item in outcome if not isinstance(item, Skip)),
        skips=skips,
        alerts=alerts(world, ledger, config, skips),
        due=min(retries, default=math.inf),
    )


def _one(record: Record, world: World, config: Config, ledger: Ledger, *, is_wanted: bool) -> list[Action | Skip]:
    if record.state in IN_FLIGHT and record.attempt is not None:
        return [in_flight(record, record.attempt, world, config, Retries(config.retry))]
    if record.state in SETTLED:
        found = settled(record, world, config, wanted=is_wanted)
        return [] if found is None else [found]
    if not is_wanted and record.pin is not None:
        return [Unlink(key=record.key, folder=record.pin.folder, reason="no longer in the schedule")]
    if not is_wanted:
        return [Skip(record.key, "no longer in the schedule")]
    return unsettled(record, world, config, ledger)


def _own(wants: list[Wanted], config: Config, ledger: Ledger) -> list[Note]:
    """Take up what the config asks for and the journal does not know. Own steps first: a plain name is theirs."""
    taken = set(ledger.records)
    notes = []
    for want in sorted(wants, key=lambda want: want.source != want.stage):
        name = directory(want, config.stages[want.stage], taken)
        fields = {
            "stage": want.stage,
            "source": want.source,
            "step": want.step,
            "directory": name,
            "origin": want.origin,
            "checkpoint": want.checkpoint,
            "reason": "in the schedule" if want.origin == "schedule" else f"bridge from {want.source}",
        }
        notes.append(Note(event="owned", key=f"{want.stage}/{name}", fields=fields))
        taken.add(f"{want.stage}/{name}")
    return notes


def _moved(found: list[Wanted], ledger: Ledger) -> list[Note]:
    """Where the config says by now that a checkpoint lies elsewhere."""
    known = ledger.by_identity()
    notes = []
    for want in found:
        record = ledger.records[known[want.identity]] if want.identity in known else None
        if record is None or record.checkpoint == want.checkpoint or record.origin == "request" or record.state in IN_FLIGHT:
            continue
        fields = {"checkpoint": want.checkpoint, "reason": f"the config has it at {want.checkpoint}"}
        notes.append(Note(event="moved", key=record.key, fields=fields))
    return notes


def _began(world: World, config: Config, ledger: Ledger) -> list[Note]:
    """Where a stage started, as its own config.yaml says: kept for whoever compares when its checkpoints are gone."""
    notes = []
    for stage in config.stages.values():
        begun = world.stages[stage.name].started_from
        if begun is not None and begun != ledger.begun.get(stage.name):
            fields = {"stage": stage.name, "checkpoint": begun, "reason": f"{stage.name} says that it started from {begun}"}
            notes.append(Note(event="began", key="", fields=fields))
    return notes


def _submissions(candidates: list[Submit], world: World, config: Config, ledger: Ledger) -> list[Action | Skip]:
    """As many as limits allow, the most wanted first."""
    if not candidates:
        return []
    if world.queue is None or world.queue.jobs is None:
        why = "not asked yet" if world.queue is None else f"cannot be asked: {world.queue.trouble}"
        return [Skip(candidate.key, f"ready; the queue {why}") for candidate in candidates]
    flying = sum(record.state in IN_FLIGHT for record in ledger.records.values())
    limits = [(config.limits.max_queued - flying, f"ready; limits.max_queued is {config.limits.max_queued}")]
    most = config.limits.max_running if config.limits.max_running is not None else world.max_running
    if most is not None:
        limits.append((most - flying, f"ready; {flying} in flight, limits.max_running is {most}"))
    if world.later:
        limits.insert(0, (0, world.later))
    if world.submissions_left is not None:
        limits.append((world.submissions_left, "ready; limits.slurm_calls_per_minute is used up"))
    room, why = min(limits, key=lambda limit: limit[0])  # of two that leave the same room, the first
    ranked = sorted(candidates, key=lambda candidate: _rank(ledger.records[candidate.key], config, world.stages))
    room = max(0, room)
    return [*ranked[:room], *(Skip(candidate.key, why) for candidate in ranked[room:])]


def _rank(record: Record, config: Config, seen: Mapping[str, StageSeen]) -> tuple[bool, float, str, int]:
    stage = config.stages[record.stage]
    first = record.source != record.stage or is_final(stage, seen.get(stage.name), record.step)
    return not first, record.times.get("complete", math.inf), record.stage, record.step


def _notices(world: World, config: Config, ledger: Ledger, unknown_bridges: Mapping[str, str]) -> list[Skip]:
    """What nothing is done about, and would otherwise go unsaid."""
    skips = [Skip(f"{name}/bridge", f"bridge: {why}") for name, why in unknown_bridges.items()]
    for stage in config.stages.values():
        seen = world.stages[stage.name]
        if seen.trouble or seen.absent:
            skips.append(Skip(str(stage.checkpoints), seen.trouble or "does not exist yet"))
        if (plan := world.plans.get(stage.name)) is not None and plan.trouble:
            skips.append(Skip(stage.name, f"suites: {plan.trouble}"))
        skips += _unscheduled(stage, seen, ledger)
        skips += _lying_elsewhere(stage, ledger, config)
        bridge = bridge_of(stage.name, ledger.records.values())
        apart = None if bridge is None else elsewhere(stage.name, ledger.begun.get(stage.name), bridge)
        if bridge is not None and apart is not None:
            skips.append(Skip(bridge.key, apart))
    skips += [Skip(folder, "looks like a stage, and is in no schedule") for folder in world.unscheduled]
    return skips


def _lying_elsewhere(stage: Stage, ledger: Ledger, config: Config) -> Iterator[Skip]:
    """After the config's results folder became another: whose are still in the one before, or are being written there."""
    now = str(stage.results)
    mine = [record for record in ledger.records.values() if record.stage == stage.name and record.state is not State.LOST]
    for place, count in Counter(folder_of(config, record) for record in mine).items():
        if place != now:
            words = f"is {now} by now; results of {count} evaluation{'s' if count > 1 else ''} are or will be in {place}"
            todo = f"move {place}/{stage.name}/by_checkpoint there once no job writes to it, or put it back"
            yield Skip(f"stages.{stage.name}.results", f"{words}; {todo}: comparisons see {now} alone", loud=True)


def _unscheduled(stage: Stage, seen: StageSeen, ledger: Ledger) -> list[Skip]:
    known = {record.step for record in ledger.records.values() if record.source == stage.name and record.stage == stage.name}
    known.update(scheduled(stage, seen))
    left = [step for step in seen.steps or () if step not in known]
    skips = [Skip(f"{stage.name}/step_{step}", "not in the schedule") for step in left[:MOST_UNSCHEDULED]]
    if len(left) > MOST_UNSCHEDULED:
        skips.append(Skip(stage.name, f"{len(left) - MOST_UNSCHEDULED} more steps are not in the schedule"))
    return skips

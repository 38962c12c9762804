"""What a person is told of, once: decided from what is seen, named so that the same news is never told twice. Pure.

A blocked evaluation, a stage that is finished, an evaluation that is worse than its baseline by the stage's objectives, a
checkpoint that will not become whole by itself, a damaged journal, and a time in which nobody watched.
"""

import hashlib
from collections.abc import Iterable

from suites.contract.comparison import Comparison
from suites.contract.encoding import encode
from watcher.config.settings import Config
from watcher.core.actions import Alert, Skip
from watcher.core.evaluation import SETTLED, Record, State
from watcher.core.snapshot import World
from watcher.journal.replay import Ledger
from watcher.reconcile.schedule import is_final


def alerts(world: World, ledger: Ledger, config: Config, skips: Iterable[Skip]) -> tuple[Alert, ...]:
    """All that deserves to be told now and has not been told yet."""
    found = [_journal(note) for note in ledger.notes if note.startswith("journal: ")]
    found += [_of("blocked", record, record.text) for record in ledger.records.values() if record.state is State.BLOCKED]
    found += [
        _of("waiting", ledger.records[skip.evaluation], skip.reason)
        for skip in skips
        if skip.loud and skip.evaluation in ledger.records
    ]
    found += _finished(world, ledger, config)
    return tuple(alert for alert in found if alert.id not in ledger.told)


def regressed(key: str, stage: str, comparison: Comparison | None) -> Alert | None:
    """That a comparison with the bridge fails the stage's objectives; named by its content, so that another one is news again."""
    if comparison is None or comparison.outcome != "fail":
        return None
    failed = []
    for judged in comparison.objectives:
        if judged.outcome == "fail":
            effect = judged.effect
            failed.append(f"{judged.kind} {judged.name}" + (f" ({effect.metric} {effect.delta:+.4g})" if effect else ""))
    base = comparison.baseline
    words = f"{key} against {base.source_stage} step {base.step} fails: {', '.join(failed)}"
    content = hashlib.sha256(encode(comparison)).hexdigest()[:16]
    return Alert(id=f"regressed {key} {content}", event="regressed", words=words, stage=stage, evaluation=key)


def _of(event: str, record: Record, words: str) -> Alert:
    return Alert(
        id=f"{event} {record.key} {record.since:.3f}", event=event, words=words, stage=record.stage, evaluation=record.key
    )


def _journal(note: str) -> Alert:
    return Alert(id=note, event="journal", words=note)


def _finished(world: World, ledger: Ledger, config: Config) -> list[Alert]:
    """Stages whose last step is scored, and of which nothing is owed any more."""
    found = []
    for name, stage in config.stages.items():
        own = [record for record in ledger.records.values() if record.stage == name and record.origin != "request"]
        if any(record.state not in SETTLED for record in own):
            continue
        last = [r for r in own if r.source == name and is_final(stage, world.stages.get(name), r.step)]
        if any(record.state is State.SCORED for record in last):
            scored = sum(record.state is State.SCORED for record in own)
            left = f", {len(own) - scored} not" if scored < len(own) else ""
            words = f"{name} is finished: {scored} of {len(own)} evaluations are scored{left}"
            id_ = f"finished {name} {max(record.step for record in last)} {len(own)}"
            found.append(Alert(id=id_, event="finished", words=words.removesuffix(", 0 not"), stage=name))
    return found

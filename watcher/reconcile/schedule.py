"""Which evaluations a config asks for, and the directory that each of them gets. Pure.

An evaluation is (stage of the suites, source stage, step). Its directory is ``step_<STEP>``; so is a bridge's,
unless the stage's own schedule could produce that step: then ``step_<STEP>_from_<source>``. A directory that
was given once is journaled and stays, whatever the schedule says later.
"""

from collections.abc import Container, Mapping
from pathlib import Path

import msgspec

from watcher.config.settings import Bridge, Config, Stage
from watcher.core.snapshot import StageSeen
from watcher.journal.replay import Ledger


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation that the config asks for."""

    stage: str
    source: str
    step: int
    origin: str
    checkpoint: str

    @property
    def identity(self) -> tuple[str, str, int]:
        """What makes it the same evaluation from tick to tick."""
        return self.stage, self.source, self.step


def wanted(config: Config, seen: Mapping[str, StageSeen]) -> tuple[list[Wanted], dict[str, str]]:
    """All that the schedules and bridges ask for, and, by stage, why a bridge's step is not known yet.

    Steps that are written out are wanted before they exist. Those of ``every`` and ``final`` only when they do: nobody
    knows whether training gets that far.
    """
    found: list[Wanted] = []
    unknown: dict[str, str] = {}
    for stage in config.stages.values():
        here = seen.get(stage.name)
        found += [_own(stage, here, step) for step in scheduled(stage, here)]
        if stage.bridge is None or not stage.bridge.enabled:
            continue
        step_of_bridge, why = bridge_step(stage, config, seen)
        if step_of_bridge is None:
            unknown[stage.name] = why
        else:
            checkpoint = bridge_checkpoint(stage.bridge, step_of_bridge, config, seen)
            found.append(
                Wanted(
                    stage=stage.name,
                    source=stage.bridge.source,
                    step=step_of_bridge,
                    origin="bridge",
                    checkpoint=checkpoint,
                )
            )
    return found, unknown


def scheduled(stage: Stage, here: StageSeen | None) -> list[int]:
    """The stage's own steps, ascending: those written out, and of what is there, those of ``every`` and ``final``."""
    present = {} if here is None or here.steps is None else here.steps
    steps = set(stage.steps)
    if stage.every is not None:
        steps.update(step for step in present if stage.wants(step))
    if stage.final and here is not None and here.final is not None and here.final in present:
        steps.add(here.final)
    return sorted(steps)


def is_final(stage: Stage, here: StageSeen | None, step: int) -> bool:
    """Whether ``step`` ends the stage, as far as one can tell: its schedule's last, or train_steps."""
    if here is not None and here.final is not None and step == here.final:
        return True
    return step == stage.last


def _own(stage: Stage, here: StageSeen | None, step: int) -> Wanted:
    there = None if here is None or here.steps is None else here.steps.get(step)
    return Wanted(
        stage=stage.name,
        source=stage.name,
        step=step,
        origin="schedule",
        checkpoint=there or str(stage.checkpoints / str(step)),
    )


def bridge_step(stage: Stage, config: Config, seen: Mapping[str, StageSeen]) -> tuple[int | None, str]:
    """The step of ``stage``'s bridge, or why it is not known yet.

    The config's; else the last of the source's schedule; else where this stage's config.yaml says that it
    started; else the source's train_steps.
    """
    bridge = stage.bridge
    if bridge is None:
        return None, "has no bridge"
    if bridge.step is not None:
        return bridge.step, ""
    if bridge.checkpoint is not None and Path(bridge.checkpoint).name.isdigit():
        return int(Path(bridge.checkpoint).name), ""
    source = config.stages.get(bridge.source)
    if source is None:
        return None, f"stages.{bridge.source} is not in the config: give the bridge its step"
    if source.last is not None:
        return source.last, ""
    begun = started_at(stage, config, seen)
    if begun is not None:
        return begun, ""
    there = seen.get(source.name)
    if there is not None and there.final is not None:
        return there.final, ""
    return None, f"the last step of {bridge.source} is not known yet"


def started_at(stage: Stage, config: Config, seen: Mapping[str, StageSeen]) -> int | None:
    """The step of the bridge's source that this stage's own config.yaml says it started from; None where it says none."""
    here = seen.get(stage.name)
    source = None if stage.bridge is None else config.stages.get(stage.bridge.source)
    if here is None or here.started_from is None or source is None:
        return None
    path = Path(here.started_from)
    return int(path.name) if path.name.isdigit() and path.parent.name == source.checkpoints.name else None


def bridge_checkpoint(bridge: Bridge, step: int, config: Config, seen: Mapping[str, StageSeen]) -> str:
    """Where the bridge's checkpoint lies."""
    if bridge.checkpoint is not None:
        return bridge.checkpoint
    there = seen.get(bridge.source)
    if there is not None and there.steps is not None and step in there.steps:
        return there.steps[step]
    source = config.stages.get(bridge.source)
    folder = config.scratch / "ckpts" / bridge.source if source is None else source.checkpoints
    return str(folder / str(step))


def directory(want: Wanted, stage: Stage, taken: Container[str], name: str | None = None) -> str:
    """The directory of a new evaluation: the given name, or the first of its own that is not among ``taken`` evaluations."""
    if name is not None:
        return name
    plain = f"step_{want.step}"
    own = want.source == want.stage
    if (own or not stage.wants(want.step)) and f"{want.stage}/{plain}" not in taken:
        return plain
    return apart(want.stage, want.step, want.source, taken)


def apart(stage: str, step: int, source: str, taken: Container[str]) -> str:
    """The first free one of ``step_N_from_SOURCE``, ``step_N_from_SOURCE_2`` and so on."""
    distinct = f"step_{step}_from_{_word(source)}"
    number, name = 1, distinct
    while f"{stage}/{name}" in taken:
        number += 1
        name = f"{distinct}_{number}"
    return name


def _word(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)


def missing(found: list[Wanted], ledger: Ledger) -> list[Wanted]:
    """Those of ``found`` that the journal does not know."""
    known = ledger.by_identity()
    return [want for want in found if want.identity not in known]

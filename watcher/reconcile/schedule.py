"""The evaluations of schedules, references and bridges, and their directory names. Pure.

An evaluation is (stage of the suites, source stage, step). Its directory is ``step_<STEP>``; so is a bridge's,
unless the stage's own schedule could produce that step: then ``step_<STEP>_from_<source>``. A directory,
once given, is journaled and stays, whatever becomes of the schedule.
"""

from collections.abc import Container, Mapping
from pathlib import Path

import msgspec

from suites.checkpoint.layout import guess_step
from suites.contract.averages import AverageStep
from suites.contract.paths import format_reference_directory, format_step_directory
from watcher.averages.schedule import is_average_of
from watcher.config.settings import FINAL_STEP, REFERENCE_PREFIX, Bridge, Config, Stage
from watcher.core.evaluation import EvaluationRecord
from watcher.core.snapshot import StageFolder
from watcher.journal.replay import JournalState


class ScheduledEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation from the config's schedules or bridges."""

    stage: str
    source: str
    step: int
    origin: str
    checkpoint: str
    final: bool = False
    """Only ``final`` of the schedule asks for it."""
    average: tuple[AverageStep, ...] = ()
    average_name: str = ""
    average_rule: str = ""

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """Its identity, equal in every tick; the last is an average's name."""
        return self.stage, self.source, self.step, self.average_name


def scheduled_evaluations(
    config: Config, stage_folders: Mapping[str, StageFolder]
) -> tuple[list[ScheduledEvaluation], dict[str, str]]:
    """All evaluations of schedules, references and bridges, and reasons for unknown bridges.

    Listed steps are wanted before they exist. Those of ``every`` and ``final`` are wanted once they exist: training may
    end before them.
    """
    evaluations: list[ScheduledEvaluation] = []
    unknown_bridges: dict[str, str] = {}
    for stage in config.stages.values():
        stage_folder = stage_folders.get(stage.name)
        evaluations += [
            _make_scheduled_evaluation(stage, stage_folder, step) for step in list_scheduled_steps(stage, stage_folder)
        ]
        evaluations += [
            ScheduledEvaluation(
                stage=stage.name, source=reference.source, step=0, origin="reference", checkpoint=reference.checkpoint
            )
            for reference in config.references.values()
            if reference.covers(stage)
        ]
        if stage.bridge is None or not stage.bridge.enabled:
            continue
        # A bridge is wanted as soon as its step is known, even before the source stage reaches it.
        step_of_bridge, reason = resolve_bridge_step(stage, config, stage_folders)
        if step_of_bridge is None:
            unknown_bridges[stage.name] = reason
        else:
            checkpoint = resolve_bridge_checkpoint(stage.bridge, step_of_bridge, config, stage_folders)
            evaluations.append(
                ScheduledEvaluation(
                    stage=stage.name,
                    source=stage.bridge.source,
                    step=step_of_bridge,
                    origin="bridge",
                    checkpoint=checkpoint,
                )
            )
    return evaluations, unknown_bridges


def list_scheduled_steps(stage: Stage, stage_folder: StageFolder | None) -> list[int]:
    """The stage's scheduled steps, ascending.

    Listed steps count always; ``every`` and ``final`` count for steps that exist.
    """
    # Listed steps count before they exist, so that the status shows what is still to come.
    present_steps = {} if stage_folder is None or stage_folder.steps is None else stage_folder.steps
    steps = set(stage.steps)
    if stage.every is not None:
        steps.update(step for step in present_steps if stage.is_scheduled(step))
    if (
        stage.final
        and stage_folder is not None
        and stage_folder.final_step is not None
        and stage_folder.final_step in present_steps
    ):
        steps.add(stage_folder.final_step)
    return sorted(steps)


def is_wanted(record: EvaluationRecord, config: Config, identities: Container[tuple[str, str, int, str]]) -> bool:
    """Whether an evaluation is still to be scored.

    ``identities``: of all evaluations that config and folders ask for now. What was taken up stays wanted while the config
    asks for it, whatever the folders show today: they may be rotated, cleaned or unmounted.
    """
    # A reference's length and backend are in the config only, whoever retried it.
    if (record.requested and not record.is_reference) or record.identity in identities:
        return True
    stage = config.stages.get(record.stage)
    if stage is None:
        return False
    if record.average:
        rule = stage.average
        return rule is not None and rule.is_scheduled(record.step) and is_average_of(record, stage, rule)
    if record.origin == "schedule":
        return stage.is_scheduled(record.step) or (stage.final and record.final)
    # The step of a bridge without one comes from a folder, so a bridge that was seen there stays.
    bridge, source = stage.bridge, config.stages.get(record.source)
    return (
        record.origin == "bridge"
        and "detected" in record.times
        and bridge is not None
        and (bridge.enabled, bridge.source, bridge.checkpoint) == (True, record.source, None)
        and (bridge.step == FINAL_STEP or (bridge.step is None and source is not None and source.last_step is None))
    )


def is_final_step(stage: Stage, stage_folder: StageFolder | None, step: int) -> bool:
    """Whether ``step`` is the schedule's last one or train_steps."""
    if stage_folder is not None and stage_folder.final_step is not None and step == stage_folder.final_step:
        return True
    return step == stage.last_step


def _make_scheduled_evaluation(stage: Stage, stage_folder: StageFolder | None, step: int) -> ScheduledEvaluation:
    checkpoint = None if stage_folder is None or stage_folder.steps is None else stage_folder.steps.get(step)
    return ScheduledEvaluation(
        stage=stage.name,
        source=stage.name,
        step=step,
        origin="schedule",
        checkpoint=checkpoint or str(stage.get_checkpoint_folder(step)),
        final=not stage.is_scheduled(step),
    )


def resolve_bridge_step(stage: Stage, config: Config, stage_folders: Mapping[str, StageFolder]) -> tuple[int | None, str]:
    """The step of ``stage``'s bridge, or why it is not known yet.

    The first that is known of: the config's step, the step in the name of the config's folder, the last step of the source's
    schedule (not for ``final``), the start in this stage's config.yaml, the source's train_steps.
    """
    bridge = stage.bridge
    if bridge is None:
        return None, "has no bridge"
    # An explicit step decides before anything that is derived.
    if isinstance(bridge.step, int):
        return bridge.step, ""
    if bridge.checkpoint is not None and (named_step := guess_step(Path(bridge.checkpoint).name)) is not None:
        return named_step, ""
    source = config.stages.get(bridge.source)
    if source is None:
        return None, f"stages.{bridge.source} is not in the config; set bridge.step"
    # The schedule is known before training ends; config.yaml of the next stage is not.
    if bridge.step != FINAL_STEP and source.last_step is not None:
        return source.last_step, ""
    # Where this stage started from is a fact; train_steps is only a plan of the source's run.
    start_step = find_start_step(stage, config, stage_folders)
    if start_step is not None:
        return start_step, ""
    source_folder = stage_folders.get(source.name)
    if source_folder is not None and source_folder.final_step is not None:
        return source_folder.final_step, ""
    return None, f"the last step of {bridge.source} is unknown yet"


def find_start_step(stage: Stage, config: Config, stage_folders: Mapping[str, StageFolder]) -> int | None:
    """The source step in the stage's config.yaml, if it names one."""
    stage_folder = stage_folders.get(stage.name)
    source = None if stage.bridge is None else config.stages.get(stage.bridge.source)
    if stage_folder is None or stage_folder.started_from is None or source is None:
        return None
    path = Path(stage_folder.started_from)
    return source.layout.read_step(path.name) if path.parent.name == source.checkpoints.name else None


def resolve_bridge_checkpoint(bridge: Bridge, step: int, config: Config, stage_folders: Mapping[str, StageFolder]) -> str:
    """The folder of the bridge's checkpoint."""
    if bridge.checkpoint is not None:
        return bridge.checkpoint
    source_folder = stage_folders.get(bridge.source)
    if source_folder is not None and source_folder.steps is not None and step in source_folder.steps:
        return source_folder.steps[step]
    source = config.stages.get(bridge.source)
    return str(config.scratch / "ckpts" / bridge.source / str(step) if source is None else source.get_checkpoint_folder(step))


def choose_directory(evaluation: ScheduledEvaluation, stage: Stage, taken: Container[str], name: str | None = None) -> str:
    """The directory of a new evaluation: a given or free name."""
    if name is not None:
        return name
    if evaluation.origin == "reference":
        return _find_free_name(
            evaluation.stage, format_reference_directory(evaluation.source.removeprefix(REFERENCE_PREFIX)), taken
        )
    plain_name = format_step_directory(evaluation.step, average=evaluation.average_name)
    is_stage_checkpoint = evaluation.source == evaluation.stage
    # A name, once given, never changes: a bridge leaves step_N free if the schedule can produce it.
    if (is_stage_checkpoint or not stage.is_scheduled(evaluation.step)) and f"{evaluation.stage}/{plain_name}" not in taken:
        return plain_name
    return make_distinct_directory(evaluation.stage, evaluation.step, evaluation.source, taken, evaluation.average_name)


def make_distinct_directory(stage: str, step: int, source: str, taken: Container[str], average: str = "") -> str:
    """The first free name of ``step_N_from_SOURCE``, ``step_N_from_SOURCE_2`` and so on."""
    return _find_free_name(stage, format_step_directory(step, _sanitize_name(source), average=average), taken)


def _find_free_name(stage: str, base_name: str, taken: Container[str]) -> str:
    number, name = 1, base_name
    while f"{stage}/{name}" in taken:
        number += 1
        name = f"{base_name}_{number}"
    return name


def _sanitize_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)


def select_unknown_evaluations(evaluations: list[ScheduledEvaluation], journal_state: JournalState) -> list[ScheduledEvaluation]:
    """Those of ``evaluations`` that the journal lacks."""
    known_identities = journal_state.index_by_identity()
    return [evaluation for evaluation in evaluations if evaluation.identity not in known_identities]

"""Where an evaluation's results are, whatever the config says by now. Pure."""

from pathlib import Path

from suites.contract.paths import EvaluationPaths
from watcher.config.settings import Config
from watcher.core.evaluation import IN_FLIGHT, Record, State

PUBLISHED = frozenset({State.SCORED, State.LOST})


def results_of(config: Config, record: Record) -> EvaluationPaths:
    """Where an evaluation's results are, or are going to be."""
    return EvaluationPaths(Path(folder_of(config, record)), record.stage, record.directory)


def folder_of(config: Config, record: Record) -> str:
    """The results folder of it: of what is in flight or scored the one that it was given, of the rest the config's."""
    if record.state in IN_FLIGHT and record.attempt is not None and record.attempt.results:
        return record.attempt.results
    if record.state in PUBLISHED and record.results:
        return record.results
    return configured(config, record.stage)


def configured(config: Config, stage: str) -> str:
    """The results folder that the config gives to a stage."""
    known = config.stages.get(stage)
    return str(config.results if known is None else known.results)

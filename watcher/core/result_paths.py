"""Where an evaluation's results are, whatever today's config names. Pure."""

from pathlib import Path

from suites.contract.paths import EvaluationPaths
from watcher.config.settings import Config
from watcher.core.evaluation import IN_FLIGHT_STATES, EvaluationRecord, EvaluationState

PUBLISHED_STATES = frozenset({EvaluationState.SCORED, EvaluationState.LOST})


def get_evaluation_paths(config: Config, record: EvaluationRecord) -> EvaluationPaths:
    """Where an evaluation's results are, or are going to be."""
    return EvaluationPaths(Path(get_results_folder(config, record)), record.directory)


def get_results_folder(config: Config, record: EvaluationRecord) -> str:
    """The folder of results of an evaluation's stage, with ``by_checkpoint`` in it.

    It is the attempt's own while in flight or scored, else the config's.
    """
    # A config that names another folder must not lose what is published or about to be.
    if record.state in IN_FLIGHT_STATES and record.attempt is not None and record.attempt.results:
        return record.attempt.results
    if record.state in PUBLISHED_STATES and record.results:
        return record.results
    return get_configured_results_folder(config, record.stage)


def get_configured_results_folder(config: Config, stage: str) -> str:
    """The folder of results that the config gives to a stage."""
    stage_config = config.stages.get(stage)
    if stage_config is None:
        return f"{config.results}/{stage}"
    # As ``Stage.root``, in text: this runs for every record in each poll, and pathlib objects cost most of that.
    return f"{stage_config.results}/{stage_config.name}" if stage_config.result_root is None else str(stage_config.result_root)


def build_mirror_token(record: EvaluationRecord) -> str:
    """Identity of a mirrored copy: the scored content and its suites."""
    return "/".join([str(record.fingerprint)[:16], *(f"{tier}:{digest[:12]}" for tier, digest in sorted(record.suites.items()))])

"""A user's config over folders of its own, so that a simulation touches nothing real."""

from pathlib import Path

import msgspec

from watcher.config.settings import Config, ReportSettings


def relocate_config(root: Path, config: Config) -> Config:
    """The config with all folders under ``root`` and the Slurm executor."""
    folders = {stage.checkpoints: root / "ckpts" / f"{n}" for n, stage in enumerate(config.stages.values())}
    stages = {}
    for name, stage in config.stages.items():
        bridge = None if stage.bridge is None else msgspec.structs.replace(stage.bridge, checkpoint=None)
        stages[name] = msgspec.structs.replace(
            stage,
            checkpoints=folders[stage.checkpoints],
            results=root / "results",
            result_root=None,
            bridge=bridge,
            backend="direct",
        )
    # Real models are neither read nor fetched: the simulation writes small ones.
    references = {
        name: msgspec.structs.replace(reference, checkpoint=str(root / "references" / name / "1"), hub_model=None)
        for name, reference in config.references.items()
    }
    return msgspec.structs.replace(
        config,
        scratch=root,
        results=root / "results",
        eval_data=root / "results" / "eval_data",
        state=root / "state",
        executor="slurm",
        notify=None,
        prefill={**config.prefill, "auto": True},
        report=ReportSettings(page=False, compare=False),  # their child processes would be real
        mirror=None if config.mirror is None else root / "mirror",
        references=references,
        stages=stages,
        runs={},
        run_problems={},
    )

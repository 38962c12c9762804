"""Resolves the entries of ``stages`` in watcher.yaml."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

import suites
from suites.checkpoint.contents import CheckpointKind
from suites.checkpoint.layout import DEFAULT_NAMES, LAYOUT_KINDS, CheckpointLayout
from suites.common.errors import UserError
from suites.common.yaml_reader import YamlDocument, YamlPath, convert_document
from suites.contract.averages import MIN_WEIGHT, decay_weights, describe_unusable_weights
from suites.contract.objectives import Margins, Objectives
from suites.contract.stage_summary import MIN_EVALUATIONS
from suites.definitions.quick_suites import QUICK_SUFFIX, name_quick_suite
from watcher.config import file_schema
from watcher.config.run_folders import describe_glob_mistake
from watcher.config.settings import FINAL_STEP, AverageSchedule, Bridge, Stage

SUITES_PACKAGE_FOLDER = Path(suites.__file__).parent
"""Where the shipped suites lie."""


def resolve_stages(document: YamlDocument, base: Path, results: Path, environ: Mapping[str, str]) -> dict[str, Stage]:
    """The entries of ``stages``, with absolute paths and defaults; ``base``: the folder of relative paths.

    ``checkpoints`` of one with ``runs`` is the glob. UserError.
    """
    stages = convert_document(document, dict[str, file_schema.StageSection], ("stages",))
    external_command = environ.get("LIGHTEVAL_CMD") or None
    return {
        name: msgspec.structs.replace(
            _resolve_stage(document, stage, ("stages", name), base, results),
            **_resolve_scorer(stage.backend, stage.command, external_command),
        )
        for name, stage in stages.items()
    }


def _resolve_scorer(
    backend: str | None, command: str | tuple[str, ...] | None, external_command: str | None
) -> dict[str, str | tuple[str, ...] | None]:
    """Backend and command of a stage; $LIGHTEVAL_CMD where the file has neither."""
    if backend is None:
        backend = "command" if command or external_command else "direct"
    return {"backend": backend, "command": (command or external_command) if backend == "command" else command}


def _resolve_stage(
    document: YamlDocument, stage: file_schema.StageSection, location: YamlPath, base: Path, results: Path
) -> Stage:
    training_config = resolve_path(base, stage.training_config) if stage.training_config else None
    if training_config is not None and not training_config.is_file():
        # The built-in default names a file that many users do not have: only a path that somebody wrote is an error.
        if (*location, "training_config") not in document.defaulted_locations:
            message = f"{training_config}: no such file"
            raise document.make_error(message, (*location, "training_config"), "give the path of the training run's config.yaml")
        training_config = None
    if stage.results and stage.result_root:
        message = "is given beside results"
        raise document.make_error(
            message, (*location, "result_root"), "keep one: results is for several stages, result_root for one"
        )
    suites = (stage.suites,) if isinstance(stage.suites, str) else stage.suites
    if stage.quick:
        suites = tuple(name_quick_suite(suite) for suite in suites)
    return Stage(
        name=str(location[-1]),
        checkpoints=_resolve_checkpoints(document, base, stage, location),
        layout=_resolve_layout(document, stage.layout, (*location, "layout")),
        results=resolve_path(base, stage.results) if stage.results else results,
        result_root=resolve_path(base, stage.result_root) if stage.result_root else None,
        steps=_parse_steps(document, stage.steps, (*location, "steps")),
        every=stage.every,
        start=stage.start,
        to=stage.to,
        final=bool(stage.final),
        suites=tuple(_resolve_suite(base, suite) for suite in suites),
        tokenizer=_resolve_tokenizer(base, stage.tokenizer),
        seq_len=stage.seq_len,
        use_fast=bool(stage.use_fast),
        assume=dict(stage.assume or {}),
        training_config=training_config,
        objectives=_resolve_objectives(stage.objectives),
        noise_within=_resolve_noise(document, stage.noise, (*location, "noise")),
        bridge=_resolve_bridge(document, base, stage.bridge, (*location, "bridge")),
        average=_resolve_average(document, stage.average, (*location, "average")),
    )


def _resolve_checkpoints(document: YamlDocument, base: Path, stage: file_schema.StageSection, location: YamlPath) -> Path:
    """The folder of checkpoints, or the glob of such folders."""
    if stage.runs is None:
        if stage.checkpoints is None:
            raise document.make_error("has no checkpoints", location, "write checkpoints: FOLDER, or runs: GLOB")
        if "*" in str(stage.checkpoints):
            hint = "write runs: for a stage of each folder that it matches"
            raise document.make_error("holds a *", (*location, "checkpoints"), hint)
        return resolve_path(base, stage.checkpoints)
    for key in ("checkpoints", "result_root"):
        if getattr(stage, key) is not None:
            raise document.make_error("is of one stage, and runs makes many", (*location, key), "remove one of the two")
    pattern = resolve_path(base, stage.runs)
    if mistake := describe_glob_mistake(pattern):
        raise document.make_error(mistake, (*location, "runs"), "write ${SCRATCH}/ablations/*/ckpts or the like")
    return pattern


def _resolve_layout(document: YamlDocument, section: file_schema.LayoutSection | None, location: YamlPath) -> CheckpointLayout:
    if section is None:
        return CheckpointLayout()
    kind = CheckpointKind(document.require_choice(location, "kind", section.kind, LAYOUT_KINDS))
    layout = CheckpointLayout(name=DEFAULT_NAMES[kind] if section.name is None else section.name, kind=kind)
    if mistake := layout.describe_mistake():
        hint = "write step_{step}, iter_{step:07d} or the like"
        raise document.make_error(mistake, (*location, "name"), hint)
    return layout


def _parse_steps(document: YamlDocument, steps: tuple[int, ...] | int | str | None, location: YamlPath) -> tuple[int, ...]:
    """Steps from a list, a number, or texts like ``500 1500`` and ``500,1500``."""
    if isinstance(steps, str):
        items = steps.replace(",", " ").split()
        if not all(item.isascii() and item.isdigit() for item in items):
            raise document.make_error(f"{steps!r} is not a list of steps", location, "write [500, 1500] or 500 1500")
        return tuple(sorted({int(item) for item in items}))
    return tuple(sorted(set((steps,) if isinstance(steps, int) else steps or ())))


def _resolve_objectives(section: file_schema.ObjectivesSection | None) -> Objectives:
    if section is None:
        return Objectives()
    groups = {name: _to_names(members) for name, members in (section.groups or {}).items()}
    margins = section.margins or Margins()
    return Objectives(improve=_to_names(section.improve), hold=_to_names(section.hold), groups=groups, margins=margins)


def _resolve_noise(document: YamlDocument, section: file_schema.NoiseSection | None, location: YamlPath) -> int | None:
    """Steps of the noise's window. UserError where it cannot hold enough evaluations."""
    if section is None or section.within is None or section.within >= MIN_EVALUATIONS - 1:
        return None if section is None else section.within
    message = f"{section.within} steps cannot hold {MIN_EVALUATIONS} evaluations"
    raise document.make_error(message, (*location, "within"), f"write {MIN_EVALUATIONS - 1} or more, or remove it")


def _to_names(value: file_schema.NameList) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _resolve_bridge(
    document: YamlDocument, base: Path, section: file_schema.BridgeSection | None, location: YamlPath
) -> Bridge | None:
    if section is None:
        return None
    step = section.step
    if isinstance(step, str) and step != FINAL_STEP:
        raise document.make_error(f"{step!r} is not a step", (*location, "step"), f"write a number, or {FINAL_STEP}")
    checkpoint = str(resolve_path(base, section.checkpoint)) if section.checkpoint else None
    return Bridge(source=section.source, step=step, checkpoint=checkpoint, enabled=bool(section.enabled))


def _resolve_average(
    document: YamlDocument, section: file_schema.AverageSection | None, location: YamlPath
) -> AverageSchedule | None:
    """UserError where the number of members or their weights are unclear."""
    if section is None:
        return None
    weights, last = tuple(section.weights or ()), section.last
    if weights and section.ema is not None:
        raise document.make_error("is given beside weights", (*location, "ema"), "keep one of the two")
    if weights and last not in {None, len(weights)}:
        message = f"{len(weights)} weights for the last {last} checkpoints"
        raise document.make_error(message, (*location, "weights"), "give one weight a checkpoint, oldest first")
    if mistake := describe_unusable_weights(weights):
        raise document.make_error(mistake, (*location, "weights"), "leave that checkpoint out, or give weights such as 1, 2, 4")
    if section.ema is not None and not 0 < section.ema < 1:
        raise document.make_error(f"{section.ema:g} is not between 0 and 1", (*location, "ema"), "0.9 is usual")
    if last is None and len(weights) < 2:  # noqa: PLR2004  one checkpoint is no average
        raise document.make_error("does not say of how many checkpoints", location, "write last: 4, or weights: of two or more")
    if section.ema is not None and last is not None and decay_weights(last, section.ema)[0] < MIN_WEIGHT:
        message = f"leaves the oldest of {last} checkpoints less than {MIN_WEIGHT:g} of the average"
        raise document.make_error(message, (*location, "ema"), "give a larger one, or a smaller last")
    return AverageSchedule(last=last or len(weights), every=section.every, given_weights=weights, ema=section.ema)


def _resolve_suite(base: Path, name: str) -> str:
    """The name of a shipped suite, else a path beside the config."""
    if name.endswith(QUICK_SUFFIX):
        return name_quick_suite(_resolve_suite(base, name.removesuffix(QUICK_SUFFIX)))
    if "/" in name or name.endswith((".yaml", ".yml")):
        return str(resolve_path(base, name))
    local_suite = base / f"{name}.yaml"
    return str(local_suite) if not (SUITES_PACKAGE_FOLDER / f"{name}.yaml").is_file() and local_suite.is_file() else name


def _resolve_tokenizer(base: Path, name: str | None) -> str | None:
    """A hub id, or a path where it begins with /, ./, ../ or ~."""
    return str(resolve_path(base, name)) if name and name.startswith(("/", "./", "../", "~")) else name


def resolve_path(base: Path, path: Path | str) -> Path:
    """An absolute path; relative ones begin at ``base``. UserError for a NUL."""
    if "\0" in str(path):
        raise UserError("a path cannot hold a NUL character", location=str(path).replace("\0", "?"), hint="remove it")
    return Path(os.path.abspath(base / Path(path).expanduser()))  # noqa: PTH100  resolve() would follow links

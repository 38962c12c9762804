"""Finds, reads and resolves watcher.yaml.

The result is a ``settings.Config``, or one UserError with file and line.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import suites
from suites.checkpoint.layout import LAYOUT_KINDS, CheckpointLayout
from suites.common.errors import UserError
from suites.common.yaml_reader import YamlDocument, YamlPath, convert_document, parse_yaml, read_yaml
from suites.contract.objectives import TIER4_RATES, TIER_BY_SHORT_NAME, Margins, Objectives, check_objectives
from watcher.config import file_schema
from watcher.config.run_folders import add_run_stages, describe_glob_mistake, read_run_names
from watcher.config.settings import FINAL_STEP, Bridge, Config, LimitSettings, ReportSettings, RetrySettings, SlurmSettings, Stage
from watcher.config.units import parse_memory_mib
from watcher.config.validation import check_folders, check_slurm_options, check_stages, check_values

BUILT_IN_SOURCE = "built-in"

SUITES_PACKAGE_FOLDER = Path(suites.__file__).parent
"""Where the shipped suites lie."""

DEFAULT_CONFIG_FILE = Path(__file__).with_name("default.yaml")

SHELL_KEYS = ("setup", "notify", "command")
"""Keys with shell code: the shell expands its variables when it runs."""


def find_config(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """``path``, else $WATCHER_CONFIG, else ./watcher.yaml, else None (built-in)."""
    if path is not None:
        return path.absolute()
    if environ.get("WATCHER_CONFIG"):
        return Path(environ["WATCHER_CONFIG"]).expanduser().absolute()
    local_config = Path("watcher.yaml").absolute()
    return local_config if local_config.exists() else None


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The resolved config: absolute paths, defaults filled in.

    Suites are named, not opened: see ``check_config``. UserError with file, line and the nearest valid name.
    """
    return _load_config_and_document(path, environ).config


def check_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """``load_config``, with a check of every stage's suites and objectives.

    UserError for two suites of one tier, or an objective that no suite scores.
    """
    from suites.definitions.suite import load_suite  # noqa: PLC0415  `watcher status` does without

    config, stages_document = _load_config_and_document(path, environ)
    for name, stage in config.written_stages.items():
        location = ("stages", name, "suites")
        tiers: dict[str, str] = {}
        scored: dict[str, tuple[str, ...]] = {}
        for suite in stage.suites:
            try:
                loaded = load_suite(suite, environ)
            except UserError as error:
                message = error.message if str(error.location) == suite else f"{error.location}: {error.message}"
                raise stages_document.make_error(f"{suite!r}: {message}", location, error.hint) from error
            if loaded.tier in tiers:
                message = f"{tiers[loaded.tier]!r} and {suite!r} both belong to {loaded.tier}"
                raise stages_document.make_error(message, location, "merge them into one file with extends")
            tiers[loaded.tier] = suite
            scored[loaded.tier] = TIER4_RATES if loaded.tier == TIER_BY_SHORT_NAME["tier4"] else tuple(loaded.definition)
        check_objectives(stages_document, ("stages", name, "objectives"), stage.objectives, scored)
    return config


class _LoadedConfig(NamedTuple):
    config: Config
    stages_document: YamlDocument
    """The document that defines the stages: the file, or the built-in config."""


def _load_config_and_document(path: Path | None, environ: Mapping[str, str]) -> _LoadedConfig:
    config_path = find_config(path, environ)
    if config_path is None:
        if not environ.get("SCRATCH"):
            hint = "export SCRATCH, or write a config with `watcher init`"
            raise UserError("$SCRATCH is not set, and the built-in config needs it", location=BUILT_IN_SOURCE, hint=hint)
        document = _parse_built_in(environ)
        return _LoadedConfig(_resolve_config(document, _parse_file(document), document, Path.cwd(), environ), document)
    document = read_yaml(config_path, environ, verbatim=SHELL_KEYS)
    if document.data is None:
        document.data = {}
    if not isinstance(document.data, dict):
        raise document.make_error("not a config", (), "write KEY: value lines; `watcher init` writes an example")
    file = _parse_file(document)
    if file.stages is not None:
        return _LoadedConfig(_resolve_config(document, file, document, config_path.parent, environ), document)
    # A file without stages gets the built-in ones, below its own scratch folder.
    scratch = file.scratch or environ.get("SCRATCH")
    if not scratch:
        hint = "export SCRATCH, or write stages:"
        raise document.make_error("has no stages, and the built-in stages need $SCRATCH, which is not set", (), hint)
    stages_document = _parse_built_in({**environ, "SCRATCH": str(_resolve_path(config_path.parent, scratch))})
    return _LoadedConfig(_resolve_config(document, file, stages_document, config_path.parent, environ), stages_document)


def _parse_file(document: YamlDocument) -> file_schema.ConfigFile:
    _refuse_bare_variables(document, document.data, ())
    return convert_document(document, file_schema.ConfigFile)


def _parse_built_in(environ: Mapping[str, str]) -> YamlDocument:
    return parse_yaml(DEFAULT_CONFIG_FILE.read_text(encoding="utf-8"), BUILT_IN_SOURCE, environ, verbatim=SHELL_KEYS)


def _resolve_config(
    document: YamlDocument, file: file_schema.ConfigFile, stages_document: YamlDocument, base: Path, environ: Mapping[str, str]
) -> Config:
    # Each folder defaults to one below results, and results to one below scratch.
    scratch = file.scratch or (Path(environ["SCRATCH"]) if environ.get("SCRATCH") else None)
    results = file.results or (scratch / "evaluation_results" if scratch else None)
    if results is None:
        hint = "export SCRATCH, or write scratch: or results:"
        raise document.make_error("has no scratch, and $SCRATCH is not set", (), hint)
    results = _resolve_path(base, results)
    retry, report = file.retry or file_schema.RetrySection(), file.report or file_schema.ReportSection()
    written_stages = _resolve_stages(stages_document, base, results, environ)
    config = Config(
        source=document.source,
        scratch=_resolve_path(base, scratch) if scratch else results.parent,
        results=results,
        eval_data=_resolve_path(base, file.eval_data or results / "eval_data"),
        state=_resolve_path(base, file.state or results / ".watcher"),
        share_state=bool(file.share_state),
        python=str(_resolve_path(base, file.python)) if "/" in file.python else file.python,
        executor=file.executor,
        poll=float(file.poll),
        settle=float(file.settle),
        slurm=_resolve_slurm(file.slurm or file_schema.SlurmSection()),
        prefill={
            key: str(value) if key in {"time", "mem"} else value
            for key, value in msgspec.structs.asdict(file.prefill or file_schema.PrefillSection()).items()
            if value is not None
        },
        limits=file.limits or LimitSettings(),
        retry=RetrySettings(attempts=retry.attempts, backoff=float(retry.backoff)),
        report=ReportSettings(page=bool(report.page), compare=bool(report.compare)),
        notify=file.notify,
        pin=bool(file.pin),
        pin_max=(parse_memory_mib(str(file.pin_max)) or 0) * 2**20,
        mirror=_resolve_path(base, file.mirror) if file.mirror else None,
        stages={name: stage for name, stage in written_stages.items() if "*" not in str(stage.checkpoints)},
        runs={name: stage for name, stage in written_stages.items() if "*" in str(stage.checkpoints)},
    )
    config = add_run_stages(config, read_run_names(config.paths.runs_json))
    check_values(document, config)
    check_slurm_options(document, config)
    check_stages(stages_document, config)
    check_folders(document, stages_document, config)
    return config


def _resolve_stages(document: YamlDocument, base: Path, results: Path, environ: Mapping[str, str]) -> dict[str, Stage]:
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
    training_config = _resolve_path(base, stage.training_config) if stage.training_config else None
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
    return Stage(
        name=str(location[-1]),
        checkpoints=_resolve_checkpoints(document, base, stage, location),
        layout=_resolve_layout(document, stage.layout, (*location, "layout")),
        results=_resolve_path(base, stage.results) if stage.results else results,
        result_root=_resolve_path(base, stage.result_root) if stage.result_root else None,
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
        bridge=_resolve_bridge(document, base, stage.bridge, (*location, "bridge")),
    )


def _resolve_checkpoints(document: YamlDocument, base: Path, stage: file_schema.StageSection, location: YamlPath) -> Path:
    """The folder of checkpoints, or the glob of such folders."""
    if stage.runs is None:
        if stage.checkpoints is None:
            raise document.make_error("has no checkpoints", location, "write checkpoints: FOLDER, or runs: GLOB")
        if "*" in str(stage.checkpoints):
            hint = "write runs: for a stage of each folder that it matches"
            raise document.make_error("holds a *", (*location, "checkpoints"), hint)
        return _resolve_path(base, stage.checkpoints)
    for key in ("checkpoints", "result_root"):
        if getattr(stage, key) is not None:
            raise document.make_error("is of one stage, and runs makes many", (*location, key), "remove one of the two")
    pattern = _resolve_path(base, stage.runs)
    if mistake := describe_glob_mistake(pattern):
        raise document.make_error(mistake, (*location, "runs"), "write ${SCRATCH}/ablations/*/ckpts or the like")
    return pattern


def _resolve_layout(document: YamlDocument, section: file_schema.LayoutSection | None, location: YamlPath) -> CheckpointLayout:
    if section is None:
        return CheckpointLayout()
    layout = CheckpointLayout(name=section.name, kind=document.require_choice(location, "kind", section.kind, LAYOUT_KINDS))
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
    checkpoint = str(_resolve_path(base, section.checkpoint)) if section.checkpoint else None
    return Bridge(source=section.source, step=step, checkpoint=checkpoint, enabled=bool(section.enabled))


def _resolve_suite(base: Path, name: str) -> str:
    """The name of a shipped suite, else a path beside the config."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        return str(_resolve_path(base, name))
    local_suite = base / f"{name}.yaml"
    return str(local_suite) if not (SUITES_PACKAGE_FOLDER / f"{name}.yaml").is_file() and local_suite.is_file() else name


def _resolve_tokenizer(base: Path, name: str | None) -> str | None:
    """A hub id, or a path where it begins with /, ./, ../ or ~."""
    return str(_resolve_path(base, name)) if name and name.startswith(("/", "./", "../", "~")) else name


def _resolve_slurm(section: file_schema.SlurmSection) -> SlurmSettings:
    values = msgspec.structs.asdict(section)
    for key, value in values.items():
        if key not in {"cpus_per_task", "array"} and isinstance(value, int):  # YAML reads `mem: 64000` as a number
            values[key] = str(value)
    extra, setup = section.extra, section.setup
    values["extra"] = tuple(extra.split()) if isinstance(extra, str) else extra
    values["setup"] = tuple(setup.splitlines()) if isinstance(setup, str) else setup
    return SlurmSettings(**values)


def _resolve_path(base: Path, path: Path | str) -> Path:
    if "\0" in str(path):
        raise UserError("a path cannot hold a NUL character", location=str(path).replace("\0", "?"), hint="remove it")
    return Path(os.path.abspath(base / Path(path).expanduser()))  # noqa: PTH100  resolve() would follow links


def _refuse_bare_variables(document: YamlDocument, value: Any, location: YamlPath) -> None:
    """UserError for a value such as ``$SCRATCH/x``, which is not expanded."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in SHELL_KEYS:
                _refuse_bare_variables(document, item, (*location, key))
    elif isinstance(value, str) and value.startswith("$"):
        name, slash, remainder = value[1:].partition("/")
        raise document.make_error(f"{value!r} is not expanded", location, f"write ${{{name}}}{slash}{remainder}")

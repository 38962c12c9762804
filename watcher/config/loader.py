"""Finds, reads and resolves watcher.yaml.

The result is a ``settings.Config``, or one UserError with file and line.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from suites.common.errors import UserError
from suites.common.yaml_reader import YamlDocument, YamlPath, convert_document, parse_yaml, read_yaml
from suites.contract.objectives import TIER4_RATES, TIER_BY_SHORT_NAME, check_objectives
from watcher.config import file_schema
from watcher.config.references import parse_tokens, resolve_references
from watcher.config.run_folders import add_run_stages, read_run_names
from watcher.config.settings import BudgetSettings, Config, LimitSettings, ReportSettings, RetrySettings, SlurmSettings
from watcher.config.stage_entries import resolve_path, resolve_stages
from watcher.config.units import parse_memory_mib
from watcher.config.validation import check_folders, check_slurm_options, check_stages, check_values

BUILT_IN_SOURCE = "built-in"

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

    UserError for an entry that two suites of a tier have, or an objective that no suite scores.
    """
    from suites.definitions.suite import load_suite  # noqa: PLC0415  `watcher status` does without

    config, stages_document = _load_config_and_document(path, environ)
    for name, stage in config.written_stages.items():
        location = ("stages", name, "suites")
        owners: dict[tuple[str, str], str] = {}
        scored: dict[str, tuple[str, ...]] = {}
        for suite in stage.suites:
            try:
                loaded = load_suite(suite, environ)
            except UserError as error:
                message = error.message if str(error.location) == suite else f"{error.location}: {error.message}"
                raise stages_document.make_error(f"{suite!r}: {message}", location, error.hint) from error
            for entry in loaded.definition:
                owner = owners.setdefault((loaded.tier, entry), suite)
                if owner != suite:  # a tier has one file, with one place for each name
                    message = f"{owner!r} and {suite!r} both have {entry!r} of {loaded.tier}"
                    raise stages_document.make_error(message, location, "rename it in one of them, or leave one out")
            names = TIER4_RATES if loaded.tier == TIER_BY_SHORT_NAME["tier4"] else tuple(loaded.definition)
            scored[loaded.tier] = tuple(dict.fromkeys((*scored.get(loaded.tier, ()), *names)))
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
    stages_document = _parse_built_in({**environ, "SCRATCH": str(resolve_path(config_path.parent, scratch))})
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
    results = resolve_path(base, results)
    retry, report = file.retry or file_schema.RetrySection(), file.report or file_schema.ReportSection()
    written_stages = resolve_stages(stages_document, base, results, environ)
    config = Config(
        source=document.source,
        scratch=resolve_path(base, scratch) if scratch else results.parent,
        results=results,
        eval_data=resolve_path(base, file.eval_data or results / "eval_data"),
        state=resolve_path(base, file.state or results / ".watcher"),
        share_state=bool(file.share_state),
        python=str(resolve_path(base, file.python)) if "/" in file.python else file.python,
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
        budget=file.budget or BudgetSettings(),
        retry=RetrySettings(attempts=retry.attempts, backoff=float(retry.backoff)),
        report=ReportSettings(page=bool(report.page), compare=bool(report.compare)),
        # YAML reads off as false.
        canary="off" if file.canary is False else str(file.canary),
        canary_after=parse_tokens(document, file.canary_after, ("canary_after",)) or 0,
        notify=file.notify,
        pin=bool(file.pin),
        pin_max=(parse_memory_mib(str(file.pin_max)) or 0) * 2**20,
        mirror=resolve_path(base, file.mirror) if file.mirror else None,
        stages={name: stage for name, stage in written_stages.items() if "*" not in str(stage.checkpoints)},
        runs={name: stage for name, stage in written_stages.items() if "*" in str(stage.checkpoints)},
    )
    references = resolve_references(
        document, file.references or {}, base=base, eval_data=config.eval_data, stage_names=written_stages
    )
    config = msgspec.structs.replace(config, references=references)
    config = add_run_stages(config, read_run_names(config.paths.runs_json))
    check_values(document, config)
    check_slurm_options(document, config)
    check_stages(stages_document, config)
    check_folders(document, stages_document, config)
    return config


def _resolve_slurm(section: file_schema.SlurmSection) -> SlurmSettings:
    values = msgspec.structs.asdict(section)
    for key, value in values.items():
        if key not in {"cpus_per_task", "array"} and isinstance(value, int):  # YAML reads `mem: 64000` as a number
            values[key] = str(value)
    extra, setup = section.extra, section.setup
    values["extra"] = tuple(extra.split()) if isinstance(extra, str) else extra
    values["setup"] = tuple(setup.splitlines()) if isinstance(setup, str) else setup
    return SlurmSettings(**values)


def _refuse_bare_variables(document: YamlDocument, value: Any, location: YamlPath) -> None:
    """UserError for a value such as ``$SCRATCH/x``, which is not expanded."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in SHELL_KEYS:
                _refuse_bare_variables(document, item, (*location, key))
    elif isinstance(value, str) and value.startswith("$"):
        name, slash, remainder = value[1:].partition("/")
        raise document.make_error(f"{value!r} is not expanded", location, f"write ${{{name}}}{slash}{remainder}")

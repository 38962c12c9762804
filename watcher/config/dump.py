"""Writes the resolved config as YAML that ``load_config`` reads again."""

from pathlib import Path
from typing import Any

import msgspec
import yaml

from suites.common.yaml_reader import parse_plain_scalar
from watcher.config.loader import SHELL_KEYS
from watcher.config.references import HUB_PREFIX
from watcher.config.settings import Config, Reference, Stage
from watcher.config.units import format_memory_mib

_DURATION_KEYS = ("poll", "settle", "backoff")

_NULLABLE_KEYS = ("gres", "time", "cpus_per_task")
"""Keys whose null is kept: it means no such option, and a missing key the default."""


def dump_config(config: Config) -> str:
    """The resolved config as YAML.

    Loading it gives the same Config, whatever the environment.
    """
    text = yaml.dump(
        _escape_variables(list_config_values(config)),
        Dumper=_Dumper,
        default_flow_style=None,
        sort_keys=False,
        allow_unicode=True,
        width=120,
    )
    made = list_made_stages(config)
    notes = [f"# {name} makes the stages: {', '.join(stages) or 'none yet'}\n" for name, stages in made.items()]
    return f"# {config.source}\n{''.join(notes)}{text}"


def list_made_stages(config: Config) -> dict[str, list[str]]:
    """Entry with ``runs`` -> the stages that it makes."""
    return {name: [stage.name for stage in config.stages.values() if stage.runs == name] for name in config.runs}


def list_config_values(config: Config) -> dict[str, Any]:
    """The keys of watcher.yaml with their resolved values, as plain JSON values."""
    values = {
        key: value
        for key, value in msgspec.structs.asdict(config).items()
        if key not in {"source", "stages", "runs", "run_problems"}
    }
    values["slurm"] = msgspec.structs.asdict(config.slurm)
    values["pin_max"] = format_memory_mib(config.pin_max // 2**20)
    values["limits"], values["retry"] = msgspec.structs.asdict(config.limits), msgspec.structs.asdict(config.retry)
    values["budget"] = msgspec.structs.asdict(config.budget)
    values["report"] = msgspec.structs.asdict(config.report)
    values["references"] = {name: _dump_reference(reference) for name, reference in config.references.items()}
    values["stages"] = {name: _dump_stage(stage, is_glob=name in config.runs) for name, stage in config.written_stages.items()}
    plain: dict[str, Any] = _to_plain(values)
    return plain


class _Dumper(yaml.SafeDumper):
    """Quotes whatever ``suites.common.yaml_reader`` would not read as text."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, None if parse_plain_scalar(text) == text else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


def _dump_stage(stage: Stage, *, is_glob: bool) -> dict[str, Any]:
    fields = {key: value for key, value in msgspec.structs.asdict(stage).items() if key not in {"name", "runs"}}
    renamed_keys = {"start": "from"} | ({"checkpoints": "runs"} if is_glob else {})
    values = {renamed_keys.get(key, key): value for key, value in fields.items()}
    values["layout"] = msgspec.structs.asdict(stage.layout)
    values["noise"] = {"within": values.pop("noise_within")}
    values["objectives"] = msgspec.to_builtins(stage.objectives)
    if stage.average is not None:
        average = msgspec.to_builtins(stage.average)
        values["average"] = {key: value for key, value in average.items() if value not in (None, [])}
    if stage.bridge is not None:
        bridge = msgspec.structs.asdict(stage.bridge)
        values["bridge"] = {"from": bridge.pop("source"), **bridge}
    return values


def _dump_reference(reference: Reference) -> dict[str, Any]:
    checkpoint = reference.checkpoint if reference.hub_model is None else f"{HUB_PREFIX}{reference.hub_model}"
    return {
        "checkpoint": checkpoint,
        "stages": list(reference.stages) or None,
        "tokens": reference.tokens,
        "seq_len": reference.seq_len,
        "backend": reference.backend,
    }


def _to_plain(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _to_plain(item, name) for name, item in value.items() if item is not None or name in _NULLABLE_KEYS}
    if isinstance(value, tuple | list):
        return [_to_plain(item, key) for item in value]
    if isinstance(value, Path):
        return str(value)
    return f"{value:.15g}s" if key in _DURATION_KEYS else value


def _escape_variables(value: Any, key: str = "") -> Any:
    """The values as the file has them: a text ``${`` is no variable."""
    if isinstance(value, dict):
        return {name: _escape_variables(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_escape_variables(item, key) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) and key not in SHELL_KEYS else value

"""The resolved config as YAML that ``load`` understands again."""

from pathlib import Path
from typing import Any

import msgspec
import yaml

from suites.common.yaml_reader import plain
from watcher.config.loader import SHELL
from watcher.config.settings import Config, Stage

_TIMES = ("poll", "settle", "backoff")

_NULLED = ("gres", "time", "cpus_per_task")
"""Keys for which null says something else than nothing: no such option at all."""


def as_yaml(config: Config) -> str:
    """What the config means, with nothing left to look up: loading this gives the same Config, whatever the environment."""
    said = {key: value for key, value in msgspec.structs.asdict(config).items() if key not in {"source", "stages"}}
    said["slurm"] = msgspec.structs.asdict(config.slurm)
    said["pin_max"] = f"{config.pin_max // 2**20}M"
    said["limits"], said["retry"] = msgspec.structs.asdict(config.limits), msgspec.structs.asdict(config.retry)
    said["report"] = msgspec.structs.asdict(config.report)
    said["stages"] = {name: _stage(stage) for name, stage in config.stages.items()}
    written = yaml.dump(_plain(said), Dumper=_Dumper, default_flow_style=None, sort_keys=False, allow_unicode=True, width=120)
    return f"# {config.source}\n{written}"


class _Dumper(yaml.SafeDumper):
    """Quotes whatever ``suites.common.yaml_reader`` would not read as text."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, None if plain(text) == text else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


def _stage(stage: Stage) -> dict[str, Any]:
    said = {"from" if key == "start" else key: value for key, value in msgspec.structs.asdict(stage).items() if key != "name"}
    said["objectives"] = msgspec.to_builtins(stage.objectives)
    if stage.bridge is not None:
        bridge = msgspec.structs.asdict(stage.bridge)
        said["bridge"] = {"from": bridge.pop("source"), **bridge}
    return said


def _plain(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _plain(each, name) for name, each in value.items() if each is not None or name in _NULLED}
    if isinstance(value, tuple | list):
        return [_plain(each, key) for each in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and key not in SHELL:
        return value.replace("${", "$${")
    return f"{value:.15g}s" if key in _TIMES else value

"""What a config may not say although each of its values is of the right type: words, schedules, bridges and places."""

import os
import re
from pathlib import Path

from suites.common.yaml_reader import Document, Place, nearest
from watcher.config.settings import Config, Stage
from watcher.config.units import mebibytes, seconds

EXECUTORS = ("slurm", "local")

BACKENDS = ("direct", "nanotron", "command")

PREFILL = ("login", "job")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

_OURS = re.compile(
    r"--(job-name|comment|output|error|hold|parsable|(no-)?requeue|open-mode|signal|dependency|export|array|wait|wrap|chdir|test-only)"
    r"|-[JoeHdaWD].*"
)

_OWN_KEYS = {"--account", "--partition", "--qos", "--gres", "--cpus-per-task", "--time", "--mem"}


def check_values(document: Document, config: Config) -> None:
    """Problem for a word that is none of the possible ones, or a time that cannot be meant."""
    if config.executor not in EXECUTORS:
        raise document.problem(f"unknown executor {config.executor!r}", ("executor",), nearest(config.executor, EXECUTORS))
    where = config.prefill["where"]
    if where not in PREFILL:
        raise document.problem(f"unknown place {where!r}", ("prefill", "where"), nearest(where, PREFILL))
    if config.prefill["auto"] and config.executor == "slurm" and (where != "job" or not config.prefill.get("partition")):
        what = "the watcher fills the cache by a job, and no partition for it is named"
        todo = "write where: job and partition: the name of one whose nodes have a network, such as lrd_all_serial"
        raise document.problem(what, ("prefill", "auto"), todo)
    if config.pin_max == 0:
        raise document.problem("is no size", ("pin_max",), "write 500G or 2T")
    if config.poll < 1:
        raise document.problem(f"{config.poll:g}s is too often", ("poll",), "write 1s or more; 60s is usual")
    if not config.python.strip():
        raise document.problem("is empty", ("python",), "give the interpreter that has torch")


def check_slurm(document: Document, config: Config) -> None:
    """Problem for an sbatch option that the watcher sets itself, or that is none."""
    for key in ("account", "partition", "qos", "gres", "time", "mem", "time_max", "mem_max"):
        value = getattr(config.slurm, key)
        if value is not None and not re.fullmatch(r"[^\s-]\S*", value):
            raise document.problem(f"{value!r} is not one word", ("slurm", key), "write one word, or leave it out")
    for key, measure in (("time_max", seconds), ("mem_max", mebibytes)):
        value = getattr(config.slurm, key)
        if value is not None and measure(value) is None:
            todo = "write 24:00:00 or 1-00:00:00" if key == "time_max" else "write 64G or 64000"
            raise document.problem(f"{value!r} is no limit", ("slurm", key), todo)
    for key, measure in (("time", seconds), ("mem", mebibytes)):
        value = config.prefill.get(key)
        if value is not None and measure(value) is None:
            todo = "write 04:00:00 or 1-00:00:00" if key == "time" else "write 16G or 16000"
            raise document.problem(f"{value!r} is none that sbatch takes", ("prefill", key), todo)
    for word in config.slurm.extra:
        option = word.partition("=")[0]
        if not word.startswith("-"):
            raise document.problem(f"{word!r} is not an option", ("slurm", "extra"), "write --name=value, each as one word")
        if _OURS.fullmatch(option):
            raise document.problem(f"{option} is the watcher's own", ("slurm", "extra"), "leave it out")
        if option in _OWN_KEYS:
            key = option[2:].replace("-", "_")
            raise document.problem(f"{option} has a key of its own", ("slurm", "extra"), f"write slurm: {key}: instead")


def check_stages(document: Document, config: Config) -> None:
    """Problem for a schedule that never comes, a bridge that leads nowhere, or two stages that are one."""
    if not config.stages:
        raise document.problem("has no stages", ("stages",), "write one, or leave stages: out for the built-in four")
    seen: dict[tuple[Path, Path], str] = {}
    for name, stage in config.stages.items():
        place = ("stages", name)
        if not _NAME.fullmatch(name):
            todo = "use letters, digits, _ . and -, beginning with a letter or digit"
            raise document.problem("not a name for a stage", place, todo)
        _check_schedule(document, stage, place)
        _check_scoring(document, stage, place)
        _check_bridge(document, config, stage, (*place, "bridge"))
        key = (_real(stage.checkpoints), _real(stage.results))
        if key in seen:
            what = f"watches the same checkpoints as {seen[key]}, with the same results"
            raise document.problem(what, (*place, "checkpoints"), "name the suites of both in one stage")
        seen[key] = name


def _check_schedule(document: Document, stage: Stage, place: Place) -> None:
    said = {key for key in ("steps", "every", "from", "to", "final") if (*place, key) in document.lines}
    if not said.intersection(("steps", "every", "final")):
        raise document.problem("has no schedule", place, "write steps:, every: or final: true; steps: [] scores on request only")
    for key in ("from", "to"):
        if key in said and stage.every is None and getattr(stage, "start" if key == "from" else key) is not None:
            raise document.problem(f"{key} without every", (*place, key), "write every: N, or leave it out")
    if stage.first is not None and stage.to is not None and stage.to < stage.first:
        raise document.problem(f"ends at {stage.to}, before its first step {stage.first}", (*place, "to"), "let it end later")


def _check_scoring(document: Document, stage: Stage, place: Place) -> None:
    if not stage.suites:
        raise document.problem("names no suite", (*place, "suites"), "name at least one")
    twice = sorted({suite for suite in stage.suites if stage.suites.count(suite) > 1})
    if twice:
        raise document.problem(f"{twice[0]!r} stands there twice", (*place, "suites"), "keep one of the two")
    if stage.backend not in BACKENDS:
        raise document.problem(f"unknown backend {stage.backend!r}", (*place, "backend"), nearest(stage.backend, BACKENDS))
    if stage.backend == "command" and not stage.command:
        todo = "write command:, or export LIGHTEVAL_CMD"
        raise document.problem("command without a command", (*place, "backend"), todo)
    if stage.backend != "command" and stage.command:
        raise document.problem(f"is not used by backend {stage.backend}", (*place, "command"), "write backend: command")


def _check_bridge(document: Document, config: Config, stage: Stage, place: Place) -> None:
    bridge = stage.bridge
    if bridge is None:
        return
    if bridge.source not in config.stages:
        todo = nearest(bridge.source, [name for name in config.stages if name != stage.name])
        raise document.problem(f"no stage {bridge.source!r}", (*place, "from"), todo)
    if bridge.source == stage.name:
        raise document.problem("a stage cannot be its own baseline", (*place, "from"), "name the stage before it")


def check_places(document: Document, stages_in: Document, config: Config) -> None:
    """Problem where something of ours would lie among checkpoints: what moves those to S3 deletes every folder there."""
    ours: list[tuple[Path | None, Document, Place]] = [
        (config.results, document, ("results",)),
        (config.eval_data, document, ("eval_data",)),
        (config.state, document, ("state",)),
        (config.mirror, document, ("mirror",)),
        *((stage.results, stages_in, ("stages", name, "results")) for name, stage in config.stages.items()),
    ]
    for folder, said_in, place in ours:
        if folder is None:
            continue
        for stage in config.stages.values():
            checkpoints = _real(stage.checkpoints)
            if checkpoints in (_real(folder), *_real(folder).parents):
                what = f"{folder} lies inside the checkpoints of {stage.name}, {stage.checkpoints}"
                raise said_in.problem(what, place, "keep it elsewhere: folders there are deleted by trainers")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))

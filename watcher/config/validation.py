"""Checks values and their relations: schedules, bridges, sbatch options, folders."""

import os
import re
from pathlib import Path

from suites.checkpoint.model_config_reader import ASSUMPTIONS, ROPE_SCALING_KEY
from suites.common.yaml_reader import YamlDocument, YamlPath, suggest_name
from watcher.config.settings import Config, Stage
from watcher.config.units import SUBMISSION_COMMANDS, count_poll_commands, parse_memory_mib, parse_slurm_time

EXECUTORS = ("slurm", "local")

BACKENDS = ("direct", "transformers", "nanotron", "command")

PREFILL_RUNNERS = ("login", "job")
"""Who fills the data cache: a process on the login node, or a Slurm job."""

_STAGE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

_RESERVED_OPTIONS = re.compile(
    r"--(job-name|comment|output|error|hold|parsable|(no-)?requeue|open-mode|signal|dependency|export|array|wait|wrap|chdir|test-only)"
    r"|-[JoeHdaWD].*"
)

"""Options that ``executors.slurm`` sets, or that would break one attempt, one job."""

_RATE_HINT = "raise limits.slurm_calls_per_minute, or raise poll"

_CONFIG_KEY_OPTIONS = {"--account", "--partition", "--qos", "--gres", "--cpus-per-task", "--time", "--mem"}


def check_values(document: YamlDocument, config: Config) -> None:
    """UserError for an unknown choice or an impossible time."""
    document.require_choice((), "executor", config.executor, EXECUTORS)
    runner = document.require_choice(("prefill",), "where", config.prefill["where"], PREFILL_RUNNERS)
    if config.prefill["auto"] and config.executor == "slurm" and (runner != "job" or not config.prefill.get("partition")):
        message = "the watcher fills the cache by a job, and no partition is set for it"
        hint = "set where: job, and partition: to one whose nodes have a network, such as lrd_all_serial"
        raise document.make_error(message, ("prefill", "auto"), hint)
    if config.pin_max == 0:
        raise document.make_error("is not a size", ("pin_max",), "write 500G or 2T")
    if config.poll < 1:
        raise document.make_error(f"{config.poll:g}s is too often", ("poll",), "write 1s or more; 60s is usual")
    if not config.python.strip():
        raise document.make_error("is empty", ("python",), "give the interpreter that has torch")
    document.require_choice((), "canary", config.canary, ("stop", "warn", "off"))
    for name in config.budget.per_stage:
        document.require_choice(("budget", "per_stage"), name, name, list(config.written_stages))
    has_budget = config.budget.gpu_hours is not None or bool(config.budget.per_stage)
    if has_budget and parse_slurm_time(config.slurm.time) is None:
        message = "needs slurm.time: without it nobody knows what a job may use"
        raise document.make_error(message, ("budget",), "set slurm: time: 04:00:00, or leave budget out")
    if config.executor == "slurm":
        _check_command_rate(document, config)


def _check_command_rate(document: YamlDocument, config: Config) -> None:
    """UserError where polls leave no Slurm command for a submission."""
    per_minute, polls = config.limits.slurm_calls_per_minute, count_poll_commands(config.poll)
    if per_minute < polls + SUBMISSION_COMMANDS:
        needs = f"a poll every {config.poll:g} s ({polls}) and a submission ({SUBMISSION_COMMANDS})"
        message = f"{per_minute} Slurm commands per minute are too few for {needs}"
        key: YamlPath = ("limits", "slurm_calls_per_minute")
        # The line is the one that somebody wrote.
        raise document.make_error(message, key if key in document.lines else ("poll",), _RATE_HINT)


def check_slurm_options(document: YamlDocument, config: Config) -> None:
    """Refuse sbatch options that are unknown or the watcher's own."""
    for key in ("account", "partition", "qos", "gres", "time", "mem", "time_max", "mem_max"):
        value = getattr(config.slurm, key)
        if value is not None and not re.fullmatch(r"[^\s-]\S*", value):
            raise document.make_error(f"{value!r} is not one word", ("slurm", key), "write one word, or leave it out")
    # The limits of raises: an unreadable one would be ignored at the first out-of-memory error.
    for key, parse in (("time_max", parse_slurm_time), ("mem_max", parse_memory_mib)):
        value = getattr(config.slurm, key)
        if value is not None and parse(value) is None:
            hint = "write 24:00:00 or 1-00:00:00" if key == "time_max" else "write 64G or 64000"
            raise document.make_error(f"{value!r} is not a limit", ("slurm", key), hint)
    for key, parse in (("time", parse_slurm_time), ("mem", parse_memory_mib)):
        value = config.prefill.get(key)
        if value is not None and parse(value) is None:
            hint = "write 04:00:00 or 1-00:00:00" if key == "time" else "write 16G or 16000"
            raise document.make_error(f"{value!r} is not accepted by sbatch", ("prefill", key), hint)
    for argument in config.slurm.extra:
        option = argument.partition("=")[0]
        if not argument.startswith("-"):
            raise document.make_error(
                f"{argument!r} is not an option", ("slurm", "extra"), "write --name=value, each as one word"
            )
        if _RESERVED_OPTIONS.fullmatch(option):
            raise document.make_error(f"{option} is set by the watcher", ("slurm", "extra"), "remove it")
        if option == "--cpus-per-gpu":
            message = "--cpus-per-gpu excludes --cpus-per-task, which the batch script sets"
            raise document.make_error(message, ("slurm", "extra"), "write slurm: cpus_per_task: instead")
        if option in _CONFIG_KEY_OPTIONS:
            key = option[2:].replace("-", "_")
            raise document.make_error(f"{option} has its own key", ("slurm", "extra"), f"write slurm: {key}: instead")


def check_stages(document: YamlDocument, config: Config) -> None:
    """UserError for an empty schedule, a bridge to nowhere, or equal stages."""
    if not config.written_stages:
        raise document.make_error("has no stages", ("stages",), "add one, or omit stages: for the built-in four")
    names_by_folders: dict[tuple[Path, Path], str] = {}
    names_by_root: dict[Path, str] = {}
    for name, stage in config.written_stages.items():
        location = ("stages", name)
        if not _STAGE_NAME.fullmatch(name):
            hint = "use letters, digits, _ . and -, beginning with none of the last two"
            raise document.make_error("not a valid stage name", location, hint)
        _check_schedule(document, stage, location)
        _check_scoring(document, stage, location)
        _check_bridge(document, config, stage, (*location, "bridge"))
        key = (_resolve_links(stage.checkpoints), _resolve_links(stage.results))
        if key in names_by_folders:
            message = f"watches the same checkpoints as {names_by_folders[key]}, with the same results"
            raise document.make_error(message, (*location, "checkpoints"), "put the suites of both into one stage")
        names_by_folders[key] = name
        # Steps of two stages have equal names, so in one folder each would replace the other's scores.
        root = _resolve_links(stage.root)
        if root in names_by_root:
            message = f"{stage.root} has the results of {names_by_root[root]}, too"
            raise document.make_error(message, (*location, "result_root"), "give each stage a folder of its own")
        names_by_root[root] = name


def _check_schedule(document: YamlDocument, stage: Stage, location: YamlPath) -> None:
    given_keys = {key for key in ("steps", "every", "from", "to", "final") if (*location, key) in document.lines}
    if not given_keys.intersection(("steps", "every", "final")):
        raise document.make_error(
            "has no schedule", location, "write steps:, every: or final: true; steps: [] scores on request only"
        )
    for key in ("from", "to"):
        if key in given_keys and stage.every is None and getattr(stage, "start" if key == "from" else key) is not None:
            raise document.make_error(f"{key} without every", (*location, key), f"add every: N, or remove {key}")
    if stage.first_step is not None and stage.to is not None and stage.to < stage.first_step:
        raise document.make_error(
            f"ends at {stage.to}, before its first step {stage.first_step}", (*location, "to"), "set a later end"
        )


def _check_scoring(document: YamlDocument, stage: Stage, location: YamlPath) -> None:
    if not stage.suites:
        raise document.make_error("lists no suite", (*location, "suites"), "name at least one")
    duplicates = sorted({suite for suite in stage.suites if stage.suites.count(suite) > 1})
    if duplicates:
        raise document.make_error(f"{duplicates[0]!r} is listed twice", (*location, "suites"), "keep one of the two")
    document.require_choice(location, "backend", stage.backend, BACKENDS)
    if stage.backend == "command" and not stage.command:
        hint = "set command:, or export LIGHTEVAL_CMD"
        raise document.make_error("backend command has no command", (*location, "backend"), hint)
    for key, choice in stage.assume.items():
        document.require_choice((*location, "assume"), key, choice, ASSUMPTIONS)
        if choice == "applied" and key != ROPE_SCALING_KEY:
            raise document.make_error(f"only {ROPE_SCALING_KEY} can be applied", (*location, "assume", key), "write ignored")
    if stage.average is not None and stage.backend not in {"direct", "transformers"}:
        message, hint = f"backend {stage.backend} scores checkpoints as they are", "remove it, or use backend: direct"
        raise document.make_error(message, (*location, "average"), hint)
    if stage.assume and stage.backend != "direct":
        raise document.make_error(f"is not used by backend {stage.backend}", (*location, "assume"), "remove it")
    if stage.backend != "command" and stage.command:
        raise document.make_error(f"is not used by backend {stage.backend}", (*location, "command"), "set backend: command")


def _check_bridge(document: YamlDocument, config: Config, stage: Stage, location: YamlPath) -> None:
    bridge = stage.bridge
    if bridge is None:
        return
    if bridge.source not in config.stages:
        hint = suggest_name(bridge.source, [name for name in config.stages if name != stage.name])
        raise document.make_error(f"no stage {bridge.source!r}", (*location, "from"), hint)
    if bridge.source == stage.name:
        raise document.make_error("a stage cannot be its own baseline", (*location, "from"), "name the stage before it")


def check_folders(document: YamlDocument, stages_document: YamlDocument, config: Config) -> None:
    """UserError for a folder of the watcher that would not work.

    It may not lie inside a stage's checkpoints: scripts that move checkpoints to S3 delete every folder in them. sbatch takes
    names of logs for patterns; it has no escape for a backslash.
    """
    # Symbolic links are followed: a folder may lie among checkpoints under another path.
    folders: list[tuple[Path | None, YamlDocument, YamlPath]] = [
        (config.results, document, ("results",)),
        (config.eval_data, document, ("eval_data",)),
        (config.state, document, ("state",)),
        (config.mirror, document, ("mirror",)),
        *(
            (folder, stages_document, ("stages", name, "results" if stage.result_root is None else "result_root"))
            for name, stage in config.written_stages.items()
            for folder in ((stage.results, stage.root) if stage.result_root is None else (stage.root,))
        ),
    ]
    for folder, source_document, location in folders:
        if folder is None:
            continue
        if any(character < " " or character == "\x7f" for character in str(folder)):
            message = f"{str(folder)!r} has a control character"
            raise source_document.make_error(message, location, "rename the folder; lists of files have one path a line")
        if config.executor == "slurm" and location[-1] in {"results", "result_root"} and "\\" in str(folder):
            message = f"Slurm cannot write a log below {folder}"
            raise source_document.make_error(message, location, "use a path without a backslash, or executor: local")
        for stage in config.stages.values():
            checkpoints = _resolve_links(stage.checkpoints)
            if checkpoints in (_resolve_links(folder), *_resolve_links(folder).parents):
                message = f"{folder} lies inside the checkpoints of {stage.name}, {stage.checkpoints}"
                raise source_document.make_error(message, location, "choose another folder; training jobs delete folders in it")


def _resolve_links(path: Path) -> Path:
    return Path(os.path.realpath(path))

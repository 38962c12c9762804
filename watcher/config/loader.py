"""The config file: found, read, filled in, checked. What comes out is ``settings.Config``, or one Problem with file and line."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

import suites
from suites.common.errors import Problem
from suites.common.yaml_reader import Document, Place, convert, parse, read
from suites.contract.objectives import RATES, TIERS, Margins, Objectives, check_objectives
from watcher.config import file_schema as config_file
from watcher.config.settings import Bridge, Config, Limits, Reporting, Retry, Slurm, Stage
from watcher.config.units import mebibytes
from watcher.config.validation import check_places, check_slurm, check_stages, check_values

BUILT_IN = "built-in"

SUITES = Path(suites.__file__).parent

DEFAULT = Path(__file__).with_name("default.yaml")

SHELL = ("setup", "notify", "command")
"""Keys whose values are shell: their variables are expanded where they run."""


def find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The config file: ``path``, else $WATCHER_CONFIG, else ./watcher.yaml, else None: the built-in one."""
    if path is not None:
        return path.absolute()
    if environ.get("WATCHER_CONFIG"):
        return Path(environ["WATCHER_CONFIG"]).expanduser().absolute()
    here = Path("watcher.yaml").absolute()
    return here if here.exists() else None


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The config of ``find``, resolved: paths absolute, defaults filled in. Suites are named, not opened: see ``check``.

    Raises Problem (usage) with file, line and the nearest valid name for whatever cannot be meant.
    """
    return _load(path, environ)[0]


def check(path: Path | None, environ: Mapping[str, str]) -> Config:
    """``load``, and every stage's suites load too, at most one of a tier, and have what its objectives name."""
    from suites.definitions.suite import load_suite  # noqa: PLC0415  `watcher status` does without

    config, document = _load(path, environ)
    for name, stage in config.stages.items():
        place = ("stages", name, "suites")
        tiers: dict[str, str] = {}
        scored: dict[str, tuple[str, ...]] = {}
        for suite in stage.suites:
            try:
                loaded = load_suite(suite, environ)
            except Problem as error:
                what = error.what if str(error.where) == suite else f"{error.where}: {error.what}"
                raise document.problem(f"{suite!r}: {what}", place, error.todo) from error
            if loaded.tier in tiers:
                what = f"{tiers[loaded.tier]!r} and {suite!r} are both of {loaded.tier}"
                raise document.problem(what, place, "join them in one file with extends")
            tiers[loaded.tier] = suite
            scored[loaded.tier] = RATES if loaded.tier == TIERS["tier4"] else tuple(loaded.definition)
        check_objectives(document, ("stages", name, "objectives"), stage.objectives, scored)
    return config


def _load(path: Path | None, environ: Mapping[str, str]) -> tuple[Config, Document]:
    """The config and the document that its stages stand in."""
    found = find(path, environ)
    if found is None:
        if not environ.get("SCRATCH"):
            todo = "export SCRATCH, or write a config with `watcher init`"
            raise Problem("$SCRATCH is not set, and the built-in config needs it", where=BUILT_IN, todo=todo)
        document = _built_in(environ)
        return _resolve(document, _file(document), document, Path.cwd(), environ), document
    document = read(found, environ, verbatim=SHELL)
    if document.data is None:
        document.data = {}
    if not isinstance(document.data, dict):
        raise document.problem("not a config", (), "write KEY: value lines; `watcher init` writes an example")
    file = _file(document)
    if file.stages is not None:
        return _resolve(document, file, document, found.parent, environ), document
    scratch = file.scratch or environ.get("SCRATCH")
    if not scratch:
        todo = "export SCRATCH, or write stages:"
        raise document.problem("has no stages, and the built-in ones need $SCRATCH, which is not set", (), todo)
    stages_in = _built_in({**environ, "SCRATCH": str(_path(found.parent, scratch))})
    return _resolve(document, file, stages_in, found.parent, environ), stages_in


def _file(document: Document) -> config_file.File:
    _refuse_bare_variables(document, document.data, ())
    return convert(document, config_file.File)


def _built_in(environ: Mapping[str, str]) -> Document:
    return parse(DEFAULT.read_text(encoding="utf-8"), BUILT_IN, environ, verbatim=SHELL)


def _resolve(document: Document, file: config_file.File, stages_in: Document, base: Path, environ: Mapping[str, str]) -> Config:
    scratch = file.scratch or (Path(environ["SCRATCH"]) if environ.get("SCRATCH") else None)
    results = file.results or (scratch / "evaluation_results" if scratch else None)
    if results is None:
        todo = "export SCRATCH, or write scratch: or results:"
        raise document.problem("has no scratch, and $SCRATCH is not set", (), todo)
    results = _path(base, results)
    config = Config(
        source=document.source,
        scratch=_path(base, scratch) if scratch else results.parent,
        results=results,
        eval_data=_path(base, file.eval_data or results / "eval_data"),
        state=_path(base, file.state or results / ".watcher"),
        python=str(_path(base, file.python)) if "/" in file.python else file.python,
        executor=file.executor,
        poll=float(file.poll),
        settle=float(file.settle),
        slurm=_slurm(file.slurm or config_file.Slurm()),
        prefill={
            key: str(value) if key in {"time", "mem"} else value
            for key, value in msgspec.structs.asdict(file.prefill or config_file.Prefill()).items()
            if value is not None
        },
        limits=Limits(**msgspec.structs.asdict(file.limits or config_file.Limits())),
        retry=Retry(
            attempts=(file.retry or config_file.Retry()).attempts, backoff=float((file.retry or config_file.Retry()).backoff)
        ),
        report=Reporting(
            page=bool((file.report or config_file.Reporting()).page),
            compare=bool((file.report or config_file.Reporting()).compare),
        ),
        notify=file.notify,
        pin=bool(file.pin),
        pin_max=(mebibytes(str(file.pin_max)) or 0) * 2**20,
        mirror=_path(base, file.mirror) if file.mirror else None,
        stages=_stages(stages_in, base, results, environ),
    )
    check_values(document, config)
    check_slurm(document, config)
    check_stages(stages_in, config)
    check_places(document, stages_in, config)
    return config


def _stages(document: Document, base: Path, results: Path, environ: Mapping[str, str]) -> dict[str, Stage]:
    stages = convert(document, dict[str, config_file.Stage], ("stages",))
    foreign = environ.get("LIGHTEVAL_CMD") or None
    return {
        name: msgspec.structs.replace(
            _stage(document, stage, ("stages", name), base, results), **_scorer(stage.backend, stage.command, foreign)
        )
        for name, stage in stages.items()
    }


def _scorer(
    backend: str | None, command: str | tuple[str, ...] | None, foreign: str | None
) -> dict[str, str | tuple[str, ...] | None]:
    """What the file says counts; where it says nothing, $LIGHTEVAL_CMD does."""
    if backend is None:
        backend = "command" if command or foreign else "direct"
    return {"backend": backend, "command": (command or foreign) if backend == "command" else command}


def _stage(document: Document, stage: config_file.Stage, place: Place, base: Path, results: Path) -> Stage:
    training_config = _path(base, stage.training_config) if stage.training_config else None
    if training_config is not None and not training_config.is_file():
        if (*place, "training_config") not in document.defaulted:
            what = f"{training_config}: no such file"
            raise document.problem(what, (*place, "training_config"), "give the path of the training's config.yaml")
        training_config = None
    suites = (stage.suites,) if isinstance(stage.suites, str) else stage.suites
    return Stage(
        name=str(place[-1]),
        checkpoints=_path(base, stage.checkpoints),
        results=_path(base, stage.results) if stage.results else results,
        steps=_steps(document, stage.steps, (*place, "steps")),
        every=stage.every,
        start=stage.start,
        to=stage.to,
        final=bool(stage.final),
        suites=tuple(_suite(base, suite) for suite in suites),
        tokenizer=_tokenizer(base, stage.tokenizer),
        seq_len=stage.seq_len,
        use_fast=bool(stage.use_fast),
        training_config=training_config,
        objectives=_objectives(stage.objectives),
        bridge=_bridge(base, stage.bridge),
    )


def _steps(document: Document, steps: tuple[int, ...] | int | str | None, place: Place) -> tuple[int, ...]:
    """Also ``500 1500 3500`` and ``500,1500``, which is how a variable holds them."""
    if isinstance(steps, str):
        words = steps.replace(",", " ").split()
        if not all(word.isascii() and word.isdigit() for word in words):
            raise document.problem(f"{steps!r} is not a list of steps", place, "write [500, 1500] or 500 1500")
        return tuple(sorted({int(word) for word in words}))
    return tuple(sorted(set((steps,) if isinstance(steps, int) else steps or ())))


def _objectives(said: config_file.Objectives | None) -> Objectives:
    if said is None:
        return Objectives()
    groups = {name: _names(members) for name, members in (said.groups or {}).items()}
    margins = said.margins or Margins()
    return Objectives(improve=_names(said.improve), hold=_names(said.hold), groups=groups, margins=margins)


def _names(said: config_file.Names) -> tuple[str, ...]:
    return (said,) if isinstance(said, str) else said


def _bridge(base: Path, bridge: config_file.Bridge | None) -> Bridge | None:
    if bridge is None:
        return None
    checkpoint = str(_path(base, bridge.checkpoint)) if bridge.checkpoint else None
    return Bridge(source=bridge.source, step=bridge.step, checkpoint=checkpoint, enabled=bool(bridge.enabled))


def _suite(base: Path, name: str) -> str:
    """A name stays one if it is shipped with the project; what lies beside the config becomes a path."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        return str(_path(base, name))
    beside = base / f"{name}.yaml"
    return str(beside) if not (SUITES / f"{name}.yaml").is_file() and beside.is_file() else name


def _tokenizer(base: Path, name: str | None) -> str | None:
    """The id of a tokenizer, or a path where it is written like one (/, ./, ../, ~)."""
    return str(_path(base, name)) if name and name.startswith(("/", "./", "../", "~")) else name


def _slurm(slurm: config_file.Slurm) -> Slurm:
    values = msgspec.structs.asdict(slurm)
    for key, value in values.items():
        if key not in {"cpus_per_task", "array"} and isinstance(value, int):  # `mem: 64000`: Slurm takes words
            values[key] = str(value)
    extra, setup = slurm.extra, slurm.setup
    values["extra"] = tuple(extra.split()) if isinstance(extra, str) else extra
    values["setup"] = tuple(setup.splitlines()) if isinstance(setup, str) else setup
    return Slurm(**values)


def _path(base: Path, path: Path | str) -> Path:
    if "\0" in str(path):
        raise Problem("a path cannot hold a NUL character", where=str(path).replace("\0", "?"), todo="write it without")
    return Path(os.path.abspath(base / Path(path).expanduser()))  # noqa: PTH100  resolve() would follow links


def _refuse_bare_variables(document: Document, value: Any, place: Place) -> None:
    """``$SCRATCH/x`` would be a folder of that very name."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key not in SHELL:
                _refuse_bare_variables(document, each, (*place, key))
    elif isinstance(value, str) and value.startswith("$"):
        name = value[1:].partition("/")[0]
        raise document.problem(f"{value!r} is taken as it stands", place, f"write ${{{name}}}")

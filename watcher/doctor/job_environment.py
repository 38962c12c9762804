"""What a job will find: its interpreter after the setup lines, its data, its tokenizer. Children are asked."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from suites.contract.paths import DataPaths
from suites.definitions.data_cache import lacking, prefill_command
from suites.definitions.tokenizer_files import known_digest
from watcher import __version__
from watcher.config.settings import Config, Stage
from watcher.doctor.check import OK, WARNING, WRONG, Check, asked, last_words
from watcher.executors.slurm_commands import Run, clean_environment, run_command
from watcher.journal import journal as ledger
from watcher.observe.local_data import Contents
from watcher.observe.stage_plans import Plans

IMPORTS, READING = 180.0, 1800.0
"""Seconds: torch from a cold file server takes minutes; --offline reads the whole cache."""

_SOURCE = 'if [ -n "$1" ]; then source "$1"; fi; shift; exec "$@"'
"""As the batch script does it."""

_LOOK = """
import importlib, json, sys
found = {"python": sys.version.split()[0], "executable": sys.executable}
for name in "torch numpy transformers tokenizers datasets pyarrow safetensors scoring suites watcher".split():
    try:
        module = importlib.import_module(name)
        found[name] = getattr(module, "__version__", "there")
    except BaseException as error:
        found[name] = None
        found.setdefault("errors", {})[name] = f"{type(error).__name__}: {error}"
if found["torch"] is not None:
    import torch
    found["cuda"] = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    found["built_for"] = torch.version.cuda or torch.version.hip
print(json.dumps(found))
"""


def checks(config: Config, environ: Mapping[str, str], *, offline: bool, run: Run = run_command) -> Iterator[Check]:
    """The interpreter, then each stage's suites, tokenizer and data."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
        setup = Path(scratch) / "setup.sh"
        setup.write_text("".join(f"{line}\n" for line in config.slurm.setup), encoding="utf-8")
        shell = ["bash", "-c", _SOURCE, "doctor", str(setup) if config.slurm.setup else ""]
        environment = clean_environment(environ)
        yield from _interpreter(config, [*shell, config.python], environment, run)
        plans, journal = Plans(environ, Contents(config.paths.contents)), ledger.read(config.paths)
        for stage in config.stages.values():
            plan = plans.look(stage, 0.0)
            if plan.trouble:
                yield Check(WRONG, f"{stage.name} suites", plan.trouble, "mend that file; the stage waits for it")
                continue
            tokenizer = plan.settled(journal.facts.get(stage.name)).tokenizer
            if tokenizer is None:
                words = "no tokenizer is known before its first checkpoint"
                yield Check(OK, f"{stage.name} data", f"{words}; stages.{stage.name}.tokenizer would let prefill run now")
                continue
            yield _cache(config, stage, tokenizer, plans)
            if offline:
                yield _offline(config, stage, tokenizer, [*shell, config.python], environment=environment, run=run)


def _interpreter(config: Config, shell: list[str], environment: Mapping[str, str], run: Run) -> Iterator[Check]:
    ran = asked([*shell, "-c", _LOOK], environment, IMPORTS, run)
    found = _document(ran.out)
    if found is None:
        todo = "check python: and slurm: setup: in the config"
        yield Check(WRONG, "job's python", f"{config.python}: {last_words(ran)}", todo)
        return
    absent = {name: words for name, words in found.get("errors", {}).items() if name != "watcher"}
    versions = ", ".join(f"{name} {found[name]}" for name in ("torch", "transformers", "datasets") if found.get(name))
    said = f"{found['executable']} {found['python']}" + (f", {versions}" if versions else "")
    if absent:
        name, words = next(iter(absent.items()))
        todo = "pip install 'checkpoint-watcher[scoring]' there, or name another python:"
        yield Check(WRONG, "job's python", f"{said}: cannot import {', '.join(absent)} ({name}: {words})", todo)
        return
    other = found.get("watcher")
    if other not in {None, __version__}:
        yield Check(
            WARNING, "job's python", f"{said}: checkpoint-watcher {other}, here {__version__}", "install the same in both"
        )
    else:
        yield Check(OK, "job's python", said)
    yield _cuda(config, found)


def _cuda(config: Config, found: Mapping[str, Any]) -> Check:
    if found["cuda"]:
        return Check(OK, "cuda", f"{len(found['cuda'])} x {found['cuda'][0]}")
    if not found["built_for"]:
        todo = "" if config.executor == "local" else "install a torch with CUDA: on a GPU node this one would score on its CPUs"
        return Check(OK if config.executor == "local" else WARNING, "cuda", "this torch is built without it", todo)
    if config.executor == "local":
        return Check(WARNING, "cuda", "no GPU here, and jobs run here: on CPUs", "executor: slurm, where there is one")
    return Check(OK, "cuda", f"torch for {found['built_for']}; no GPU here, jobs see theirs")


def _cache(config: Config, stage: Stage, tokenizer: str, plans: Plans) -> Check:
    plan, data = plans.look(stage, 0.0), DataPaths(config.eval_data)
    entries = sum(len(suite.definition) for suite in plan.suites)
    absent = lacking(plan.suites, tokenizer, data, use_fast=stage.use_fast)
    name = f"{stage.name} data"
    if absent:
        shown = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")  # noqa: PLR2004
        return Check(
            WARNING, name, f"{len(absent)} of {entries} are not in the cache: {shown}", f"`watcher prefill {stage.name}`"
        )
    kept = "in the cache" if known_digest(tokenizer, data) else "made by the jobs, from local files"
    return Check(OK, name, f"{entries} slices, tasks and prompts, tokenizer {tokenizer}: {kept}")


def _offline(
    config: Config, stage: Stage, tokenizer: str, shell: list[str], *, environment: Mapping[str, str], run: Run
) -> Check:
    """Every byte, as a job without a network would read it."""
    command = [*shell, "-m", "scoring", "doctor", "--offline", "--json", "--eval-data", str(config.eval_data)]
    command += ["--tokenizer", tokenizer, *(word for suite in stage.suites for word in ("--suite", suite))]
    command += [] if stage.use_fast else ["--slow-tokenizer"]
    ran = asked(command, environment, READING, run)
    name = f"{stage.name} offline"
    found = _document(ran.out)
    if found is None:
        return Check(WRONG, name, last_words(ran), "see that python can run `python -m scoring doctor`")
    wrong = [entry for entry in found["entries"] if entry["state"] not in {"whole", "made by the job"}]
    troubles = [*found["tokenizer"]["problems"], *(f"{entry['suite']}/{entry['name']} is {entry['state']}" for entry in wrong)]
    if ran.code != 0 or troubles:
        todo = found.get("prefill") or prefill_command(
            stage.suites, DataPaths(config.eval_data), tokenizer, use_fast=stage.use_fast
        )
        more = f" and {len(troubles) - 3} more" if len(troubles) > 3 else ""  # noqa: PLR2004
        return Check(WRONG, name, ", ".join(troubles[:3]) + more or last_words(ran), todo)
    return Check(OK, name, f"{len(found['entries'])} entries read whole, network {found['network']}")


def _document(out: str) -> dict[str, Any] | None:
    """The JSON document that a child printed, after whatever its setup lines said."""
    for start in (out.rfind("\n{") + 1, out.find("{")):
        try:
            found = json.loads(out[start:])
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return None

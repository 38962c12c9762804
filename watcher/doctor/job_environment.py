"""What a job will find: interpreter after the setup lines, data, tokenizer."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from suites.contract.paths import DataPaths
from suites.definitions.data_cache import build_prefill_command, missing_entries
from suites.definitions.tokenizer_files import read_cached_digest
from watcher import __version__
from watcher.config.settings import Config, Stage
from watcher.doctor.check import OK, WARNING, WRONG, DoctorCheck, get_last_output_line, run_with_timeout
from watcher.executors.slurm_commands import CommandRunner, clean_environment, run_command
from watcher.journal import journal as ledger
from watcher.observe.local_data import LocalDataHashes
from watcher.observe.stage_plans import StageRequirementsCache

IMPORT_TIMEOUT_SECONDS, CACHE_READ_TIMEOUT_SECONDS = 180.0, 1800.0
"""Seconds: torch from a cold file server takes minutes; --offline reads the whole cache."""

_SETUP_SCRIPT = 'if [ -n "$1" ]; then source "$1"; fi; shift; exec "$@"'
"""As the batch script does it."""

_INTERPRETER_PROBE = """
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


def check_job_environment(
    config: Config, environ: Mapping[str, str], *, offline: bool, run: CommandRunner = run_command
) -> Iterator[DoctorCheck]:
    """The interpreter, then each stage's suites, tokenizer and data."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
        setup = Path(scratch) / "setup.sh"
        setup.write_text("".join(f"{line}\n" for line in config.slurm.setup), encoding="utf-8")
        shell = ["bash", "-c", _SETUP_SCRIPT, "doctor", str(setup) if config.slurm.setup else ""]
        environment = clean_environment(environ)
        yield from _check_interpreter(config, [*shell, config.python], environment, run)
        plans, journal_state = (
            StageRequirementsCache(environ, LocalDataHashes(config.paths.contents_json)),
            ledger.read_journal(config.paths),
        )
        for stage in config.stages.values():
            plan = plans.get_requirements(stage, 0.0)
            if plan.error:
                yield DoctorCheck(WRONG, f"{stage.name} suites", plan.error, "mend that file; the stage waits for it")
                continue
            tokenizer = plan.resolve_settings(journal_state.stage_settings.get(stage.name)).tokenizer
            if tokenizer is None:
                message = "no tokenizer is known before its first checkpoint"
                yield DoctorCheck(OK, f"{stage.name} data", f"{message}; stages.{stage.name}.tokenizer would let prefill run now")
                continue
            yield _check_data_cache(config, stage, tokenizer, plans)
            if offline:
                yield _check_offline_read(config, stage, tokenizer, [*shell, config.python], environment=environment, run=run)


def _check_interpreter(
    config: Config, shell: list[str], environment: Mapping[str, str], run: CommandRunner
) -> Iterator[DoctorCheck]:
    result = run_with_timeout([*shell, "-c", _INTERPRETER_PROBE], environment, IMPORT_TIMEOUT_SECONDS, run)
    interpreter_info = _parse_json_output(result.stdout)
    if interpreter_info is None:
        hint = "check python: and slurm: setup: in the config"
        yield DoctorCheck(WRONG, "job's python", f"{config.python}: {get_last_output_line(result)}", hint)
        return
    import_errors = {name: import_error for name, import_error in interpreter_info.get("errors", {}).items() if name != "watcher"}
    versions = ", ".join(
        f"{name} {interpreter_info[name]}" for name in ("torch", "transformers", "datasets") if interpreter_info.get(name)
    )
    description = f"{interpreter_info['executable']} {interpreter_info['python']}" + (f", {versions}" if versions else "")
    if import_errors:
        name, import_error = next(iter(import_errors.items()))
        hint = "pip install 'checkpoint-watcher[scoring]' there, or name another python:"
        yield DoctorCheck(
            WRONG, "job's python", f"{description}: cannot import {', '.join(import_errors)} ({name}: {import_error})", hint
        )
        return
    job_version = interpreter_info.get("watcher")
    if job_version not in {None, __version__}:
        yield DoctorCheck(
            WARNING,
            "job's python",
            f"{description}: checkpoint-watcher {job_version}, here {__version__}",
            "install the same in both",
        )
    else:
        yield DoctorCheck(OK, "job's python", description)
    yield _check_cuda(config, interpreter_info)


def _check_cuda(config: Config, interpreter_info: Mapping[str, Any]) -> DoctorCheck:
    if interpreter_info["cuda"]:
        return DoctorCheck(OK, "cuda", f"{len(interpreter_info['cuda'])} x {interpreter_info['cuda'][0]}")
    if not interpreter_info["built_for"]:
        hint = "" if config.executor == "local" else "install a torch with CUDA: on a GPU node this one would score on its CPUs"
        return DoctorCheck(OK if config.executor == "local" else WARNING, "cuda", "this torch is built without it", hint)
    if config.executor == "local":
        return DoctorCheck(WARNING, "cuda", "no GPU here, and jobs run here: on CPUs", "executor: slurm, where there is one")
    return DoctorCheck(OK, "cuda", f"torch for {interpreter_info['built_for']}; no GPU here, jobs see theirs")


def _check_data_cache(config: Config, stage: Stage, tokenizer: str, plans: StageRequirementsCache) -> DoctorCheck:
    plan, data_paths = plans.get_requirements(stage, 0.0), DataPaths(config.eval_data)
    entry_count = sum(len(suite.definition) for suite in plan.suites)
    missing_labels = missing_entries(plan.suites, tokenizer, data_paths, use_fast=stage.use_fast)
    name = f"{stage.name} data"
    if missing_labels:
        shown = ", ".join(missing_labels[:3]) + (f" and {len(missing_labels) - 3} more" if len(missing_labels) > 3 else "")  # noqa: PLR2004
        return DoctorCheck(
            WARNING,
            name,
            f"{len(missing_labels)} of {entry_count} are not in the cache: {shown}",
            f"`watcher prefill {stage.name}`",
        )
    source = "in the cache" if read_cached_digest(tokenizer, data_paths) else "made by the jobs, from local files"
    return DoctorCheck(OK, name, f"{entry_count} slices, tasks and prompts, tokenizer {tokenizer}: {source}")


def _check_offline_read(
    config: Config, stage: Stage, tokenizer: str, shell: list[str], *, environment: Mapping[str, str], run: CommandRunner
) -> DoctorCheck:
    """Every byte, as a job without a network would read it."""
    command = [*shell, "-m", "scoring", "doctor", "--offline", "--json", "--eval-data", str(config.eval_data)]
    command += ["--tokenizer", tokenizer, *(argument for suite in stage.suites for argument in ("--suite", suite))]
    command += [] if stage.use_fast else ["--slow-tokenizer"]
    result = run_with_timeout(command, environment, CACHE_READ_TIMEOUT_SECONDS, run)
    name = f"{stage.name} offline"
    document = _parse_json_output(result.stdout)
    if document is None:
        return DoctorCheck(WRONG, name, get_last_output_line(result), "see that python can run `python -m scoring doctor`")
    bad_entries = [entry for entry in document["entries"] if entry["state"] not in {"whole", "made by the job"}]
    errors = [
        *document["tokenizer"]["problems"],
        *(f"{entry['suite']}/{entry['name']} is {entry['state']}" for entry in bad_entries),
    ]
    if result.exit_code != 0 or errors:
        hint = document.get("prefill") or build_prefill_command(
            stage.suites, DataPaths(config.eval_data), tokenizer, use_fast=stage.use_fast
        )
        remainder = f" and {len(errors) - 3} more" if len(errors) > 3 else ""  # noqa: PLR2004
        return DoctorCheck(WRONG, name, ", ".join(errors[:3]) + remainder or get_last_output_line(result), hint)
    return DoctorCheck(OK, name, f"{len(document['entries'])} entries read whole, network {document['network']}")


def _parse_json_output(stdout: str) -> dict[str, Any] | None:
    """The JSON document that a child printed after its setup lines' output."""
    for start in (stdout.rfind("\n{") + 1, stdout.find("{")):
        try:
            document = json.loads(stdout[start:])
        except ValueError:
            continue
        if isinstance(document, dict):
            return document
    return None

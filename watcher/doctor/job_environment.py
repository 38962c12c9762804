"""The jobs' environment: interpreter after the setup lines, data, tokenizer."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from suites.common.formatting import format_count, format_names
from suites.common.python_path import drop_other_packages
from suites.contract.paths import DataPaths
from suites.definitions.data_cache import missing_entries
from suites.definitions.tokenizer_files import read_cached_digest
from watcher import __version__
from watcher.config.settings import Config, Stage
from watcher.doctor.check import OK, WARNING, WRONG, DoctorCheck, get_last_output_line, run_check, run_with_timeout, warn_if
from watcher.executors.slurm_commands import CommandRunner, clean_environment, run_command
from watcher.journal.journal import read_journal
from watcher.observe.local_data import LocalDataHashes
from watcher.observe.stage_plans import StageRequirementsCache
from watcher.reconcile.prefill_job import format_prefill_command

IMPORT_TIMEOUT_SECONDS, CACHE_READ_TIMEOUT_SECONDS = 180.0, 1800.0
"""Seconds: torch from a cold file server takes minutes; --offline reads the entire cache."""

_SETUP_SCRIPT = r"""
setup=$1; shift; command=("$@"); set --
fail() { [ "$3" != "$setup" ] || { echo "setup line $2 failed with $1: $(sed -n "$2p" -- "$setup")" >&2; exit 69; }; }
if [ -n "$setup" ]; then
    trap 'fail "$?" "$LINENO" "${BASH_SOURCE[0]}"' ERR
    source "$setup"
    code=$?
    trap - ERR
    [ "$code" = 0 ] || { echo "the setup lines failed with $code" >&2; exit 69; }
fi
exec "${command[@]}"
"""
"""Runs the setup lines and then the command, as the batch script does."""

_INTERPRETER_PROBE = """
import importlib, json, sys
info = {"python": sys.version.split()[0], "executable": sys.executable}
for name in "torch numpy transformers tokenizers datasets pyarrow safetensors scoring suites watcher".split():
    try:
        module = importlib.import_module(name)
        info[name] = getattr(module, "__version__", "present")
    except BaseException as error:
        info[name] = None
        info.setdefault("errors", {})[name] = f"{type(error).__name__}: {error}"
if info["torch"] is not None:
    import torch
    info["cuda"] = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    info["built_for"] = torch.version.cuda or torch.version.hip
print(json.dumps(info))
"""


def check_job_environment(
    config: Config, environ: Mapping[str, str], *, offline: bool, run: CommandRunner = run_command
) -> Iterator[DoctorCheck]:
    """Check the interpreter, then each stage's suites, tokenizer and data."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
        setup = Path(scratch) / "setup.sh"
        setup.write_text("".join(f"{line}\n" for line in config.slurm.setup), encoding="utf-8")
        shell = ["bash", "-c", _SETUP_SCRIPT, "doctor", str(setup) if config.slurm.setup else ""]
        environment = drop_other_packages(clean_environment(environ))
        yield from run_check("job's python", lambda: _check_interpreter(config, [*shell, config.python], environment, run))
        # As the daemon does it: a tokenizer may be known from a checkpoint alone, and the journal remembers it.
        plans = StageRequirementsCache(environ, LocalDataHashes(config.paths.contents_json))
        for stage in config.stages.values():
            checks = _check_stage(
                config, stage, plans, [*shell, config.python], environment=environment, run=run, offline=offline
            )
            yield from run_check(f"{stage.name} data", partial(iter, checks))


def _check_stage(
    config: Config,
    stage: Stage,
    plans: StageRequirementsCache,
    shell: list[str],
    *,
    environment: Mapping[str, str],
    run: CommandRunner,
    offline: bool,
) -> Iterator[DoctorCheck]:
    plan = plans.get_requirements(stage, 0.0)
    if plan.error:
        yield DoctorCheck(WRONG, f"{stage.name} suites", plan.error, "fix the suite file; the stage waits until then")
        return
    tokenizer = plan.resolve_settings(read_journal(config.paths).stage_settings.get(stage.name)).tokenizer
    if tokenizer is None:
        message = (
            f"tokenizer unknown until the watcher reads a complete checkpoint; set stages.{stage.name}.tokenizer to prefill now"
        )
        yield DoctorCheck(OK, f"{stage.name} data", message)
        return
    yield _check_data_cache(config, stage, tokenizer, plans)
    if offline:
        yield _check_offline_read(config, stage, tokenizer, shell, environment=environment, run=run)


def _check_interpreter(
    config: Config, shell: list[str], environment: Mapping[str, str], run: CommandRunner
) -> Iterator[DoctorCheck]:
    result = run_with_timeout([*shell, "-P", "-c", _INTERPRETER_PROBE], environment, IMPORT_TIMEOUT_SECONDS, run)
    interpreter_info = _parse_json_output(result.stdout)
    if interpreter_info is None:
        if "Unknown option: -P" in result.stderr:
            message = f"{config.python} is older than Python 3.11"
            yield DoctorCheck(WRONG, "job's python", message, "name a newer one as `python` in the config")
            return
        hint = "check `python` and `slurm: setup` in the config"
        yield DoctorCheck(WRONG, "job's python", f"{config.python}: {get_last_output_line(result)}", hint)
        return
    # A watcher that the job's python lacks is no error: the job needs scoring and suites only.
    import_errors = {name: import_error for name, import_error in interpreter_info.get("errors", {}).items() if name != "watcher"}
    versions = ", ".join(
        f"{name} {interpreter_info[name]}" for name in ("torch", "transformers", "datasets") if interpreter_info.get(name)
    )
    description = f"{interpreter_info['executable']} {interpreter_info['python']}" + (f", {versions}" if versions else "")
    if import_errors:
        name, import_error = next(iter(import_errors.items()))
        hint = "install the watcher's source in it (pip install -c constraints.txt '.[scoring]'), or name another as `python`"
        message = f"{description}: cannot import {', '.join(import_errors)} ({name}: {import_error})"
        yield DoctorCheck(WRONG, "job's python", message, hint)
        return
    job_version = interpreter_info.get("watcher")
    differs = job_version not in {None, __version__}
    difference = f": checkpoint-watcher {job_version}, here {__version__}" if differs else ""
    yield warn_if(differs, "job's python", f"{description}{difference}", "install the same version in both")
    yield _check_cuda(config, interpreter_info)


def _check_cuda(config: Config, interpreter_info: Mapping[str, Any]) -> DoctorCheck:
    if interpreter_info["cuda"]:
        return DoctorCheck(OK, "cuda", f"{len(interpreter_info['cuda'])} x {interpreter_info['cuda'][0]}")
    if not interpreter_info["built_for"]:
        hint = "install a torch with CUDA; this one scores on the CPUs of a GPU node"
        asks_for_gpu = config.executor != "local" and config.slurm.gres is not None
        return warn_if(asks_for_gpu, "cuda", "this torch is built without CUDA", hint)
    if config.executor == "local":
        hint = "set executor: slurm, if there is a cluster"
        return DoctorCheck(WARNING, "cuda", "no GPU here, and jobs run here, on the CPUs", hint)
    return DoctorCheck(OK, "cuda", f"torch for {interpreter_info['built_for']}; no GPU here, jobs use those of their node")


def _check_data_cache(config: Config, stage: Stage, tokenizer: str, plans: StageRequirementsCache) -> DoctorCheck:
    plan, data_paths = plans.get_requirements(stage, 0.0), DataPaths(config.eval_data)
    entry_count = sum(len(suite.definition) for suite in plan.suites)
    missing_labels = missing_entries(plan.suites, tokenizer, data_paths, use_fast=stage.use_fast)
    name = f"{stage.name} data"
    if missing_labels:
        message = f"{len(missing_labels)} of {entry_count} are not in the cache: {format_names(missing_labels)}"
        return DoctorCheck(WARNING, name, message, f"run `{format_prefill_command(stage.name, config)}`")
    is_cached = read_cached_digest(tokenizer, data_paths, use_fast=stage.use_fast) is not None
    source = "in the cache" if is_cached else "read by the jobs from local files"
    return DoctorCheck(OK, name, f"{entry_count} slices, tasks and prompts, tokenizer {tokenizer}: {source}")


def _check_offline_read(
    config: Config, stage: Stage, tokenizer: str, shell: list[str], *, environment: Mapping[str, str], run: CommandRunner
) -> DoctorCheck:
    """Read every byte of the data, as a job without a network does."""
    command = [*shell, "-P", "-m", "scoring", "doctor", "--offline", "--json", "--eval-data", str(config.eval_data)]
    command += ["--tokenizer", tokenizer, *(argument for suite in stage.suites for argument in ("--suite", suite))]
    command += [] if stage.use_fast else ["--slow-tokenizer"]
    result = run_with_timeout(command, environment, CACHE_READ_TIMEOUT_SECONDS, run)
    name = f"{stage.name} offline"
    document = _parse_json_output(result.stdout)
    if document is None:
        return DoctorCheck(WRONG, name, get_last_output_line(result), f"run `{config.python} -P -m scoring doctor` to see why")
    # The child exits with an error for a bad entry; its document says which one and what fetches it.
    bad_entries = [entry for entry in document["entries"] if entry["state"] not in {"whole", "made by the job"}]
    errors = [
        *document["tokenizer"]["problems"],
        *(f"{entry['suite']}/{entry['name']} is {entry['state']}" for entry in bad_entries),
    ]
    if result.exit_code != 0 or errors:
        hint = document.get("prefill") or f"run `{format_prefill_command(stage.name, config)}`"
        return DoctorCheck(WRONG, name, format_names(errors) or get_last_output_line(result), hint)
    return DoctorCheck(
        OK, name, f"{format_count(len(document['entries']), 'entry', 'entries')} read in full, network {document['network']}"
    )


def _parse_json_output(stdout: str) -> dict[str, Any] | None:
    """The JSON document after the setup lines' output; None without one."""
    for start in (stdout.rfind("\n{") + 1, stdout.find("{")):
        try:
            document = json.loads(stdout[start:])
        except ValueError:
            continue
        if isinstance(document, dict):
            return document
    return None

"""Forms of weights that are not read, each with the command that makes readable ones.

Pickles run code when they are read; shards of FSDP and DeepSpeed, and adapters, are not a model by themselves.
"""

import json
import re
import shlex
from pathlib import Path

_OUTPUT = "OUT"
"""The folder that a person chooses."""

_PATTERNS = (
    # Before pickles: these folders hold such files, too.
    (re.compile(r"adapter_config\.json|adapter_model\.(?:safetensors|bin)"), "adapter"),
    (re.compile(r"zero_to_fp32\.py|global_step[0-9]+"), "deepspeed"),
    (re.compile(r"pytorch_model_fsdp_[0-9]+|pytorch_model_fsdp\.bin|\.metadata|__[0-9]+_[0-9]+\.distcp"), "fsdp"),
    (re.compile(r"consolidated\.[0-9]+\.pth"), "meta"),
    (re.compile(r"pytorch_model(?:-[0-9]+-of-[0-9]+)?\.bin|pytorch_model\.bin\.index\.json"), "pickle"),
    (re.compile(r"tf_model\.h5|flax_model\.msgpack"), "other_framework"),
    (re.compile(r".+\.gguf"), "gguf"),
)


def describe_adapter(folder: Path, names: frozenset[str]) -> str:
    """Why a folder with an adapter is refused, weights beside it or not; empty without one."""
    adapter = next((name for name in sorted(names) if _PATTERNS[0][0].fullmatch(name)), None)
    return _describe("adapter", adapter, folder) if adapter is not None else ""


def describe_unsupported_weights(folder: Path, names: frozenset[str]) -> str:
    """Why the weights in a folder without safetensors are refused, and the command that converts them; empty for none."""
    for pattern, kind in _PATTERNS:
        name = next((name for name in sorted(names) if pattern.fullmatch(name)), None)
        if name is not None:
            return _describe(kind, name, folder)
    return ""


def is_unsupported(names: frozenset[str]) -> bool:
    """Whether any entry is of such a form."""
    return any(pattern.fullmatch(name) for pattern, _ in _PATTERNS for name in names)


def _describe(kind: str, name: str, folder: Path) -> str:
    return f"{_describe_command(kind, name, folder)}; copy the tokenizer, and config.json where it is missing, into {_OUTPUT}"


def _describe_command(kind: str, name: str, folder: Path) -> str:
    source, quoted, save = shlex.quote(str(folder)), json.dumps(str(folder)), f'save_pretrained("{_OUTPUT}")'
    match kind:
        case "adapter":
            call = f"AutoPeftModelForCausalLM.from_pretrained({quoted}).merge_and_unload().{save}"
            return f"{name} is an adapter, not a model; merge it: {_python('from peft import AutoPeftModelForCausalLM', call)}"
        case "deepspeed":
            command = f"python {shlex.quote(str(folder / 'zero_to_fp32.py'))} {source} {_OUTPUT} --safe_serialization"
            return f"{name} is of DeepSpeed, whose shards are not read; merge them: {command}"
        case "fsdp":
            shards = shlex.quote(str(folder / name)) if name.startswith("pytorch_model_fsdp_") else source
            return f"{name} is of FSDP, whose shards are not read; merge them: accelerate merge-weights {shards} {_OUTPUT}"
        case "meta":
            command = (
                f"python -m transformers.models.llama.convert_llama_weights_to_hf --input_dir {source} --output_dir {_OUTPUT}"
            )
            return f"{name} is a pickle, which is never read; convert it: {command}"
        case "gguf":
            call = f"AutoModelForCausalLM.from_pretrained({quoted}, gguf_file={json.dumps(name)}).{save}"
            return f"{name} is quantised, and only safetensors are read; convert it: {_python(_AUTO_MODEL, call)}"
    call = f'AutoModelForCausalLM.from_pretrained({quoted}, dtype="auto").{save}'
    reason = "is a pickle, which is never read" if kind == "pickle" else "is of another framework, and only safetensors are read"
    return f"{name} {reason}; convert it: {_python(_AUTO_MODEL, call)}"


_AUTO_MODEL = "from transformers import AutoModelForCausalLM"


def _python(*statements: str) -> str:
    """A command line that runs the statements."""
    return f"python -c {shlex.quote('; '.join(statements))}"

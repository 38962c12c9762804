"""Loads a Hugging Face checkpoint with transformers, tensor by tensor, without running code of the checkpoint.

transformers chooses the class by config.json and converts names and shapes; the tensors are read here: never mapped, since a map
of a file that is truncated kills the process.
"""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from scoring.model.memory_budget import refuse_oversized_model
from scoring.model.open_checkpoint import (
    CheckpointSource,
    make_cannot_score_error,
    refuse_other_configs,
    refuse_rewritten_checkpoint,
)
from scoring.model.tensor_reader import has_finite_values, read_tensor
from scoring.model.transformers_model import NotCausalError, NotFiniteError, TransformersModel
from suites.checkpoint.shard_headers import BYTES_PER_ELEMENT
from suites.common.errors import UserError
from suites.common.formatting import describe_error, format_names

_OTHER_MODALITIES = ("vision", "visual", "image", "multi_modal", "mm_projector", "audio", "speech", "video")
"""Parts of the names of tensors that a model of text alone does not need."""


_DERIVED_BUFFER = re.compile(r"(?:^|\.)(?:masked_bias|attention\.bias|inv_freq|position_ids)$")
"""Names of buffers that older versions saved, and that follow from the config: causal masks, rope's frequencies, positions."""


class _LazyTensor:
    """A tensor that is read when transformers takes it."""

    def __init__(self, reader: "_TensorReader", name: str, shape: tuple[int, ...]) -> None:
        self._reader, self._name, self._shape = reader, name, shape

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._reader.read(self._name, self._shape)[index]

    def get_shape(self) -> list[int]:
        """As safetensors' slices."""
        return list(self._shape)


class _TensorReader:
    """Reads tensors of one checkpoint, or of the mean of several, for threads of transformers.

    transformers collects errors in texts, so the first one is kept.
    """

    def __init__(self, sources: Sequence[CheckpointSource]) -> None:
        self._sources = sources
        self.error: UserError | None = None

    def make_state_dict(self) -> dict[str, Any]:
        """Name -> tensor to be read."""
        parameters = self._sources[-1].contents.architecture.parameters()
        return {parameter.name: _LazyTensor(self, parameter.name, parameter.shape) for parameter in parameters}

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor in its stored type. Raises UserError as ``read_tensor``, and where a value is not finite."""
        try:
            tensor = read_tensor(self._sources, name, shape)
            if tensor.numel() and not has_finite_values(tensor):
                source = self._sources[-1]
                message = f"{name} has values that are not finite ({source.contents.tensors[name][0].file})"
                raise make_cannot_score_error(source.folder, message, "check the training run: it diverged")
        except UserError as error:
            self.error = self.error or error
            raise
        return tensor


def load_transformers_model(
    sources: Sequence[CheckpointSource], *, device: torch.device, dtype: torch.dtype, padded_vocab: str
) -> TransformersModel:
    """The model of a checkpoint whose tensors are as stored, or of the mean of several.

    Raises UserError: CANNOT_SCORE, with the reason, where this version of transformers has no such model, or the tensors are not
    the model's; UNAVAILABLE without enough memory; CHANGED where a checkpoint is written meanwhile.
    """
    import transformers  # noqa: PLC0415  importing it takes a second, which other backends need not wait

    started_seconds = time.monotonic()
    folder, contents = sources[-1].folder, sources[-1].contents
    architecture = contents.architecture
    refuse_oversized_model(architecture, device=device, bytes_per_value=dtype.itemsize, folder=folder)
    reader = _TensorReader(sources)
    with _quiet_transformers(transformers), _explain_errors(folder, transformers.__version__, reader):
        configs = [_read_config(source.folder, transformers, reader) for source in sources]
        refuse_other_configs(sources, [config.to_dict() for config in configs])
        config = configs[-1]
        model_class = _choose_class(config, transformers, folder)
        # Kernels for soft-capped attention scores are rare, and without them the cap would be left out.
        is_capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
        model, loading = model_class.from_pretrained(
            None,
            config=config,
            state_dict=reader.make_state_dict(),
            dtype=dtype,
            attn_implementation="eager" if is_capped else None,
            ignore_mismatched_sizes=True,  # they are refused by name below
            output_loading_info=True,
            local_files_only=True,
        )
        if reader.error is not None:
            raise reader.error
        ignored = _refuse_other_tensors(loading, folder)
        model = model.to(device).eval().requires_grad_(requires_grad=False)
        head = model.get_output_embeddings()
        if head is not None:
            architecture = msgspec.structs.replace(architecture, vocab=head.weight.shape[0])
        for source in sources:
            refuse_rewritten_checkpoint(source.folder, source.contents)
        description = {
            "architecture": architecture.family,
            "class": model_class.__name__,
            "attention": model.config._attn_implementation,  # noqa: SLF001  no public name
            "vocab": architecture.vocab,
            "checkpoint_dtypes": _list_dtypes(sources),
            "files": sum(source.contents.file_count for source in sources),
            "bytes": sum(source.contents.size_bytes for source in sources),
            "ignored": [*(file for source in sources for file in source.contents.ignored), *ignored],
            "load_seconds": round(time.monotonic() - started_seconds, 3),
        }
        try:
            return TransformersModel(model, architecture, padded_vocab, description)
        except NotCausalError as error:
            hint = "give a causal language model"
            raise make_cannot_score_error(folder, f"{model_class.__name__}: {error}", hint) from error
        except NotFiniteError as error:
            hint = "check the training run, which may have diverged, and the numbers in config.json"
            raise make_cannot_score_error(folder, f"{model_class.__name__}: {error}", hint) from error


def _read_config(folder: Path, transformers: Any, reader: _TensorReader) -> Any:
    with _explain_errors(folder, transformers.__version__, reader):
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _list_dtypes(sources: Sequence[CheckpointSource]) -> list[str]:
    names = {shard.dtype for source in sources for shards in source.contents.tensors.values() for shard in shards}
    return sorted(names, key=lambda name: -BYTES_PER_ELEMENT[name])


def _choose_class(config: Any, transformers: Any, folder: Path) -> Any:
    mapping = transformers.AutoModelForCausalLM._model_mapping  # noqa: SLF001  its public method takes a folder and maps files
    if type(config) not in mapping:
        message = f"transformers {transformers.__version__} has no causal language model for model_type {config.model_type!r}"
        raise make_cannot_score_error(folder, message, "give a causal language model, or install a newer transformers")
    model_class = mapping[type(config)]
    if not isinstance(model_class, list | tuple):
        return model_class
    named = {cls.__name__: cls for cls in model_class}
    return next((named[name] for name in config.architectures or () if name in named), model_class[0])


def _refuse_other_tensors(loading: Mapping[str, Any], folder: Path) -> list[str]:
    """Tensors of other modalities and derived buffers, which are left out. Raises UserError for any other difference."""
    hint = "give the checkpoint as its training saved it"
    if missing := sorted(loading["missing_keys"]):
        raise make_cannot_score_error(folder, f"lacks {format_names(missing, limit=3)}, which the model needs", hint)
    if mismatched := sorted(str(key[0] if isinstance(key, tuple) else key) for key in loading["mismatched_keys"]):
        raise make_cannot_score_error(folder, f"{format_names(mismatched, limit=3)}: other shapes than config.json implies", hint)
    if errors := loading.get("error_msgs"):
        raise make_cannot_score_error(folder, str(errors[0])[:300], hint)
    unexpected = sorted(loading["unexpected_keys"])
    surplus = [
        name for name in unexpected if not (any(part in name for part in _OTHER_MODALITIES) or _DERIVED_BUFFER.search(name))
    ]
    if surplus:
        message = f"holds {format_names(surplus, limit=3)}, which the model of config.json does not have"
        raise make_cannot_score_error(folder, message, hint)
    return unexpected


@contextlib.contextmanager
def _quiet_transformers(transformers: Any) -> Iterator[None]:
    """No progress bars and no tables of tensors: what matters of them is an error here."""
    logging = transformers.utils.logging
    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _explain_errors(folder: Path, version: str, reader: _TensorReader) -> Iterator[None]:
    """Raise UserError (CANNOT_SCORE) for any error of transformers, which has many kinds of them."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        if reader.error is not None:
            raise reader.error from error
        text = " ".join(describe_error(error).split())
        if "trust_remote_code" in text:
            message = "its model is code of its own repository (auto_map in config.json), which is never run"
            hint = "install a transformers that has the model, or convert the checkpoint to one that it has"
            raise make_cannot_score_error(folder, message, hint) from error
        message = f"transformers {version} cannot load it: {type(error).__name__}: {text[:300]}"
        raise make_cannot_score_error(folder, message, "give a model that AutoModelForCausalLM loads") from error

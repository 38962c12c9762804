"""Loads and runs a checkpoint with nanotron's own code, for cross-checks.

Nanotron needs CUDA, flash attention and bfloat16. It is imported only here, from the source tree $NANOTRON_ROOT or as installed.
"""

import contextlib
import importlib
import importlib.util
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from scoring.model.attention_mask import QueryBlock
from scoring.model.causal_lm import ModelVocabulary
from scoring.model.memory_budget import MIN_TOKEN_POSITIONS, TokenBudget
from scoring.model.open_checkpoint import open_expected_checkpoint, refuse_rewritten_checkpoint
from suites.checkpoint.contents import CheckpointShards
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error
from suites.contract.scoring_request import ScoringRequest

_HINT = "run on a node with a GPU; install nanotron, or set NANOTRON_ROOT to its source tree"


def require_nanotron(environ: Mapping[str, str] = os.environ) -> None:
    """Raise UserError (UNAVAILABLE) without a GPU or nanotron.

    Puts $NANOTRON_ROOT on the path; imports nothing.
    """
    if not torch.cuda.is_available():
        raise _make_unavailable_error("nanotron needs CUDA, which is not available here")
    # A source tree has the package in src/ or at its top.
    root = environ.get("NANOTRON_ROOT")
    if root:
        source = next((folder for folder in (Path(root) / "src", Path(root)) if (folder / "nanotron").is_dir()), None)
        if source is None:
            raise _make_unavailable_error("contains no nanotron package", location=f"NANOTRON_ROOT {root}")
        if str(source) not in sys.path:
            sys.path.insert(0, str(source))
    elif importlib.util.find_spec("nanotron") is None:
        raise _make_unavailable_error("nanotron is not installed, and NANOTRON_ROOT is not set")


def _make_unavailable_error(message: str, location: str = "backend") -> UserError:
    return UserError(message, location=location, hint=_HINT, code=ExitCode.UNAVAILABLE)


def refuse_unsupported_options(request: ScoringRequest) -> None:
    """Raise UserError for options that nanotron does not support.

    First of all UNAVAILABLE, as ``require_nanotron`` does.
    """
    require_nanotron()
    constraints = (("dtype", request.dtype, "bfloat16"), ("padded_vocab", request.padded_vocab, "in_softmax"))
    for name, value, supported in constraints:
        if value not in {None, supported}:
            hint = f"nanotron supports only {supported}; omit the option"
            raise UserError(f"{name} is {value}", location="backend nanotron", hint=hint)
    if request.device not in {None, "cuda", "cuda:0"}:
        hint = "nanotron uses the first visible GPU; omit the option or set CUDA_VISIBLE_DEVICES"
        raise UserError(f"device is {request.device}", location="backend nanotron", hint=hint)


class _HiddenStatesCaptured(Exception):  # noqa: N818  ends the forward pass before its head
    """Its argument is the hidden states that the head would get."""


class NanotronModel(ModelVocabulary):
    """A nanotron model behind the interface ``scoring.inference.loglikelihood.Model``."""

    padded_vocab = "in_softmax"
    dtype = "bfloat16"
    can_take_trees = False

    def __init__(self, nanotron_model: Any, contents: CheckpointShards) -> None:
        super().__init__(contents.architecture)
        self.nanotron_model = nanotron_model
        self.parameter_count = sum(parameter.numel() for parameter in nanotron_model.parameters())
        self.budget = TokenBudget(MIN_TOKEN_POSITIONS)
        self.description: dict[str, Any] = {
            "architecture": contents.architecture.family,
            "class": type(nanotron_model).__name__,
            "bytes": contents.size_bytes,
            "mup": contents.training_config.mup,
        }

    @property
    def device(self) -> torch.device:
        """The current CUDA device, where nanotron puts the weights."""
        return torch.device("cuda", torch.cuda.current_device())

    @torch.inference_mode()
    def hidden_states(
        self,
        tokens: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        mask: Sequence[QueryBlock] | None = None,
        *,
        output_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Int64 [B, S] -> bfloat16 [B, S, hidden] or [U, hidden].

        The input of nanotron's head. Takes no positions and no masks.
        """
        if position_ids is not None or mask is not None:
            raise NotImplementedError("nanotron's forward pass takes no positions and no masks")
        batch, length = tokens.shape
        is_qwen2 = self.architecture.family == "qwen2"
        if is_qwen2:  # position ids [B, S]; a 0 begins a document
            inputs = {"input_ids": tokens, "position_ids": torch.arange(length, device=tokens.device).repeat(batch, 1)}
        else:
            inputs = {"input_ids": tokens, "input_mask": torch.ones_like(tokens, dtype=torch.bool)}
        # The forward pass ends before its head, whose logits [B, S, V] would fill the memory.
        hook = self.nanotron_model.lm_head.register_forward_pre_hook(_capture_hidden, with_kwargs=True)
        try:
            self.nanotron_model(**inputs)
        except _HiddenStatesCaptured as captured:
            hidden: torch.Tensor = captured.args[0]
        else:
            raise RuntimeError("nanotron's forward pass ended without its head")
        finally:
            hook.remove()
        # [B, S, hidden] of Qwen2's [B * S, hidden], or of the others' [S, B, hidden]
        hidden = hidden.view(batch, length, -1) if is_qwen2 else hidden.transpose(0, 1)
        return hidden if output_positions is None else hidden.flatten(0, 1)[output_positions]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """bfloat16 [..., hidden] -> float32 [..., V].

        Nanotron's head computes in bfloat16 and casts.
        """
        # Qwen2's head takes [N, hidden], the others' [S, B, hidden]
        flat = hidden.flatten(0, -2) if self.architecture.family == "qwen2" else hidden.reshape(-1, 1, hidden.shape[-1])
        out: torch.Tensor = self.nanotron_model.lm_head(x=flat)["logits"].float()  # [N, V] or [N, 1, V]
        return out.reshape(*hidden.shape[:-1], -1)


def _capture_hidden(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    raise _HiddenStatesCaptured(kwargs["x"] if "x" in kwargs else args[0])


def load_nanotron_model(folder: Path, *, expected_fingerprint: str | None = None) -> NanotronModel:
    """Load a checkpoint with nanotron's own code.

    In bfloat16 on the current CUDA device.
    Raises UserError: UNAVAILABLE (no GPU, no nanotron, or a broken one), CHANGED, CANNOT_SCORE.
    """
    require_nanotron()
    contents = open_expected_checkpoint(folder, expected_fingerprint)
    with contextlib.redirect_stdout(sys.stderr):  # nanotron prints, but stdout belongs to the command's output
        model = _build_nanotron_model(folder)
    refuse_rewritten_checkpoint(folder, contents)
    return NanotronModel(model, contents)


_NANOTRON_MODULES = ("config", "models", "parallel", "parallel.tensor_parallel.enum", "random", "serialize", "trainer")


def _build_nanotron_model(folder: Path) -> Any:
    """Nanotron's model of a checkpoint, with its weights.

    Built in the order of nanotron's own generation script.
    """
    # nanotron starts torch.distributed, here with one process and a free port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    single_process = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update({**single_process, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    hint = "repair the nanotron installation; its README lists the requirements"
    with _explain_errors("nanotron cannot be imported", location="backend", hint=hint, code=ExitCode.UNAVAILABLE):
        nanotron = {name: importlib.import_module(f"nanotron.{name}") for name in _NANOTRON_MODULES}
    with _explain_errors("nanotron refuses this config.yaml", location=folder, hint="use the nanotron that wrote it"):
        read_config = nanotron["config"].get_config_from_file
        config = read_config(str(folder / "config.yaml"), skip_unused_config_keys=True, skip_null_keys=True).model.model_config
    # Logging attention probabilities is on by default; it changes no logit, but keeps [S, S] for each head.
    if hasattr(config, "log_attn_probs"):
        config.log_attn_probs = False
    hint = "read nanotron's message; a checkpoint of another version needs the nanotron that wrote it"
    with _explain_errors("nanotron cannot load it", location=folder, hint=hint):
        return _load_weights(nanotron, config, folder)


@contextlib.contextmanager
def _explain_errors(message: str, *, location: str | Path, hint: str, code: ExitCode = ExitCode.CANNOT_SCORE) -> Iterator[None]:
    """Raise UserError for any error of nanotron.

    It fails in many ways: missing packages, names, shapes, kernels.
    """
    try:
        yield
    except Exception as error:
        error_text = f"{message}: {type(error).__name__}: {describe_error(error)}"
        raise UserError(error_text, location=location, hint=hint, code=code) from error


def _load_weights(nanotron: Mapping[str, Any], config: Any, folder: Path) -> Any:
    """Nanotron's model of a config, with the checkpoint's weights.

    On the current device.
    """
    tp_mode = nanotron["parallel.tensor_parallel.enum"].TensorParallelLinearMode.ALL_REDUCE
    parallel_args = nanotron["config"].ParallelismArgs(dp=1, pp=1, tp=1, tp_mode=tp_mode, tp_linear_async_communication=False)
    context = nanotron["parallel"].ParallelContext(data_parallel_size=1, pipeline_parallel_size=1, tensor_parallel_size=1)
    # Dropout's random states: the model's constructor needs them, scoring does not.
    random = nanotron["random"]
    random.set_random_seed(42)
    synced_state = random.get_synced_random_state(random_state=random.get_current_random_state(), pg=context.tp_pg)
    states = random.RandomStates({"tp_synced": synced_state})
    cls = nanotron["trainer"].CONFIG_TO_MODEL_CLASS[type(config).__name__]
    model = nanotron["models"].build_model(
        model_builder=lambda: cls(config=config, parallel_context=context, parallel_config=parallel_args, random_states=states),
        dtype=torch.bfloat16,
        parallel_context=context,
    )
    nanotron["trainer"].mark_tied_parameters(model=model, parallel_context=context, parallel_config=parallel_args)
    nanotron["serialize"].load_weights(model=model, parallel_context=context, root_folder=folder)
    return model.eval().model

"""The same checkpoint through nanotron itself: its classes, its loader, its kernels. For cross-checks, not for speed.

Nanotron needs CUDA, flash attention and bfloat16, and is imported only here: from $NANOTRON_ROOT (a source tree), or as
it is installed. One process, tp = pp = 1: nanotron's own loader merges the shards of any topology.
"""

import contextlib
import importlib
import importlib.util
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from scoring.model.attention_mask import QueryBlock
from scoring.model.memory_budget import MIN_TOKEN_POSITIONS, TokenBudget
from suites.checkpoint import completeness
from suites.checkpoint.architecture import UnscorableCheckpoint
from suites.checkpoint.shard_headers import IncompleteFile
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error
from suites.contract.scoring_request import ScoringRequest

_HINT = "run on a node with a GPU, with NANOTRON_ROOT set to nanotron's source tree or nanotron installed"


def require_nanotron(environ: Mapping[str, str] = os.environ) -> None:
    """Problem (unavailable) where there is no GPU or no nanotron. Imports nothing of it."""
    if not torch.cuda.is_available():
        raise UserError(
            "nanotron needs CUDA, which is not available here", location="backend", hint=_HINT, code=ExitCode.UNAVAILABLE
        )
    root = environ.get("NANOTRON_ROOT")
    if root:
        source = next((folder for folder in (Path(root) / "src", Path(root)) if (folder / "nanotron").is_dir()), None)
        if source is None:
            raise UserError("holds no nanotron", location=f"NANOTRON_ROOT {root}", hint=_HINT, code=ExitCode.UNAVAILABLE)
        if str(source) not in sys.path:
            sys.path.insert(0, str(source))
    elif importlib.util.find_spec("nanotron") is None:
        raise UserError(
            "nanotron is not installed, and NANOTRON_ROOT is not set", location="backend", hint=_HINT, code=ExitCode.UNAVAILABLE
        )


def refuse_unsupported_options(request: ScoringRequest) -> None:
    """Problem for what nanotron cannot do: usage, or unavailable as ``require_nanotron`` has it, first of all."""
    require_nanotron()
    constraints = (("dtype", request.dtype, "bfloat16"), ("padded_vocab", request.padded_vocab, "in_softmax"))
    for name, value, supported in constraints:
        if value not in {None, supported}:
            raise UserError(f"{name} is {value}", location="backend nanotron", hint=f"it knows {supported} alone: leave that out")
    if request.device not in {None, "cuda", "cuda:0"}:
        hint = "it runs on the first GPU that it sees: leave that out, or set CUDA_VISIBLE_DEVICES"
        raise UserError(f"device is {request.device}", location="backend nanotron", hint=hint)


class _HiddenStatesCaptured(Exception):  # noqa: N818  not an error: how the forward pass is left before its head
    """Carries the hidden states that the head was about to see."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class NanotronModel:
    """What ``scoring.inference.loglikelihood.Model`` asks for, answered by a nanotron model."""

    padded_vocab = "in_softmax"
    dtype = "bfloat16"
    can_take_trees = False

    def __init__(self, nanotron_model: Any, contents: completeness.CheckpointShards) -> None:
        self.nanotron_model, self.architecture = nanotron_model, contents.architecture
        self.parameter_count = sum(parameter.numel() for parameter in nanotron_model.parameters())
        self.real_vocab = contents.architecture.vocab
        self.budget = TokenBudget(MIN_TOKEN_POSITIONS)  # for cross-checks, not for speed
        self.description: dict[str, Any] = {
            "architecture": contents.architecture.family,
            "class": type(nanotron_model).__name__,
            "bytes": contents.size_bytes,
            "mup": contents.training_config.mup,
        }

    @property
    def vocab_size(self) -> int:
        """Rows of the head, padding included."""
        return self.architecture.vocab

    @property
    def device(self) -> torch.device:
        """Where nanotron put it."""
        return torch.device("cuda", torch.cuda.current_device())

    def fit_tokenizer(self, token_count: int) -> None:
        """Refuse a tokenizer that the model has no rows for; padding rows stay in the softmax, as nanotron has them."""
        if token_count > self.vocab_size:
            message = f"the tokenizer has {token_count} tokens, the model only {self.vocab_size}"
            raise UserError(
                message, location="tokenizer", hint="give the tokenizer that it was trained with", code=ExitCode.CANNOT_SCORE
            )
        self.real_vocab = token_count

    @torch.inference_mode()
    def hidden_states(
        self,
        tokens: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        mask: Sequence[QueryBlock] | None = None,
        *,
        output_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Int64 [B, S] -> bfloat16 [B, S, hidden] or [U, hidden], what nanotron's head is given. No positions, no masks."""
        if position_ids is not None or mask is not None:
            raise NotImplementedError("nanotron's own forward pass")
        batch, length = tokens.shape
        is_qwen2 = self.architecture.family == "qwen2"
        if is_qwen2:  # [B, S]; a 0 begins a document
            inputs = {"input_ids": tokens, "position_ids": torch.arange(length, device=tokens.device).repeat(batch, 1)}
        else:
            inputs = {"input_ids": tokens, "input_mask": torch.ones_like(tokens, dtype=torch.bool)}
        hook = self.nanotron_model.lm_head.register_forward_pre_hook(_capture_hidden, with_kwargs=True)
        try:
            self.nanotron_model(**inputs)
        except _HiddenStatesCaptured as captured:
            hidden = captured.hidden
        else:
            raise RuntimeError("nanotron's forward pass ended without its head")
        finally:
            hook.remove()
        # Qwen2's rows are [B * S, hidden], the others' [S, B, hidden]
        hidden = hidden.view(batch, length, -1) if is_qwen2 else hidden.transpose(0, 1)
        return hidden if output_positions is None else hidden.flatten(0, 1)[output_positions]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """bfloat16 [..., hidden] -> float32 [..., V]: nanotron's head computes in bfloat16 and casts."""
        flat = hidden.reshape(-1, 1, hidden.shape[-1]) if self.architecture.family != "qwen2" else hidden.flatten(0, -2)
        out: torch.Tensor = self.nanotron_model.lm_head(x=flat)["logits"].float()
        return out.reshape(*hidden.shape[:-1], -1)


def _capture_hidden(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    raise _HiddenStatesCaptured(kwargs["x"] if "x" in kwargs else args[0])


def load_nanotron_model(folder: Path, *, expected_fingerprint: str | None = None) -> NanotronModel:
    """Load a checkpoint with nanotron's own code, in bfloat16 on the current CUDA device.

    Raises Problem: unavailable (no GPU, no nanotron, or one that cannot be imported), changed, cannot score.
    """
    require_nanotron()
    try:
        contents = completeness.open_checkpoint_shards(folder)
    except (UnscorableCheckpoint, IncompleteFile, OSError) as error:
        hint = "give a whole nanotron checkpoint"
        raise UserError(describe_error(error), location=folder, hint=hint, code=ExitCode.CANNOT_SCORE) from error
    if expected_fingerprint is not None and contents.fingerprint != expected_fingerprint:
        hint = "it is scored again when it is complete again"
        raise UserError("is no longer what was judged complete", location=folder, hint=hint, code=ExitCode.CHANGED)
    with contextlib.redirect_stdout(sys.stderr):  # nanotron prints, and stdout is for what was asked
        model = _build_nanotron_model(folder)
    if completeness.compute_fingerprint(folder) != contents.fingerprint:
        hint = "it is scored again when it is complete again"
        raise UserError("was rewritten while it was loaded", location=folder, hint=hint, code=ExitCode.CHANGED)
    return NanotronModel(model, contents)


_NANOTRON_MODULES = ("config", "models", "parallel", "parallel.tensor_parallel.enum", "random", "serialize", "trainer")


def _build_nanotron_model(folder: Path) -> Any:
    """Nanotron's model of a checkpoint with its weights, in the order of nanotron's own generation script."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    single_process = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update({**single_process, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    try:
        nanotron = {name: importlib.import_module(f"nanotron.{name}") for name in _NANOTRON_MODULES}
    except Exception as error:  # what it lacks (flash_attn, triton ...) fails in many ways
        message = f"nanotron cannot be imported: {type(error).__name__}: {describe_error(error)}"
        raise UserError(
            message, location="backend", hint="mend that installation; its README says what it needs", code=ExitCode.UNAVAILABLE
        ) from error
    try:
        read_config = nanotron["config"].get_config_from_file
        config = read_config(str(folder / "config.yaml"), skip_unused_config_keys=True, skip_null_keys=True).model.model_config
    except Exception as error:  # its config classes refuse in their own ways
        message = f"nanotron refuses this config.yaml: {type(error).__name__}: {describe_error(error)}"
        raise UserError(message, location=folder, hint="use the nanotron that wrote it", code=ExitCode.CANNOT_SCORE) from error
    if hasattr(config, "log_attn_probs"):  # on by default; changes no logit, and has flash attention keep [S, S] a head
        config.log_attn_probs = False
    try:
        return _load_weights(nanotron, config, folder)
    except Exception as error:  # names of before 2024-04-24, shapes, kernels: it refuses in its own ways
        message = f"nanotron cannot load it: {type(error).__name__}: {describe_error(error)}"
        hint = "see what it says; a checkpoint of another version needs the nanotron that wrote it"
        raise UserError(message, location=folder, hint=hint, code=ExitCode.CANNOT_SCORE) from error


def _load_weights(nanotron: Mapping[str, Any], config: Any, folder: Path) -> Any:
    """The model of a config, built on the current device, with the checkpoint's weights."""
    tp_mode = nanotron["parallel.tensor_parallel.enum"].TensorParallelLinearMode.ALL_REDUCE
    parallel_args = nanotron["config"].ParallelismArgs(dp=1, pp=1, tp=1, tp_mode=tp_mode, tp_linear_async_communication=False)
    context = nanotron["parallel"].ParallelContext(data_parallel_size=1, pipeline_parallel_size=1, tensor_parallel_size=1)
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

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

from scoring.model.attention_mask import Strip
from scoring.model.memory_budget import LEAST, Budget
from suites.checkpoint import completeness as checkpoint
from suites.checkpoint.architecture import Refused
from suites.checkpoint.shard_headers import Torn
from suites.common.errors import Exit, Problem
from suites.common.formatting import plainly
from suites.contract.scoring_request import Request

_TODO = "run on a node with a GPU, with NANOTRON_ROOT set to nanotron's source tree or nanotron installed"


def require(environ: Mapping[str, str] = os.environ) -> None:
    """Problem (unavailable) where there is no GPU or no nanotron. Imports nothing of it."""
    if not torch.cuda.is_available():
        raise Problem("nanotron needs CUDA, which is not available here", where="backend", todo=_TODO, code=Exit.UNAVAILABLE)
    root = environ.get("NANOTRON_ROOT")
    if root:
        source = next((folder for folder in (Path(root) / "src", Path(root)) if (folder / "nanotron").is_dir()), None)
        if source is None:
            raise Problem("holds no nanotron", where=f"NANOTRON_ROOT {root}", todo=_TODO, code=Exit.UNAVAILABLE)
        if str(source) not in sys.path:
            sys.path.insert(0, str(source))
    elif importlib.util.find_spec("nanotron") is None:
        raise Problem(
            "nanotron is not installed, and NANOTRON_ROOT is not set", where="backend", todo=_TODO, code=Exit.UNAVAILABLE
        )


def refuse(request: Request) -> None:
    """Problem for what nanotron cannot do: usage, or unavailable as ``require`` has it, first of all."""
    require()
    asked = (("dtype", request.dtype, "bfloat16"), ("padded_vocab", request.padded_vocab, "in_softmax"))
    for name, value, only in asked:
        if value not in {None, only}:
            raise Problem(f"{name} is {value}", where="backend nanotron", todo=f"it knows {only} alone: leave that out")
    if request.device not in {None, "cuda", "cuda:0"}:
        todo = "it runs on the first GPU that it sees: leave that out, or set CUDA_VISIBLE_DEVICES"
        raise Problem(f"device is {request.device}", where="backend nanotron", todo=todo)


class _Captured(Exception):  # noqa: N818  not an error: how the forward pass is left before its head
    """Carries the hidden states that the head was about to see."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class NanotronModel:
    """What ``scoring.inference.loglikelihood.Model`` asks for, answered by a nanotron model."""

    padded_vocab = "in_softmax"
    dtype = "bfloat16"
    takes_trees = False

    def __init__(self, inner: Any, contents: checkpoint.Contents) -> None:
        self.inner, self.architecture = inner, contents.architecture
        self.n_params = sum(parameter.numel() for parameter in inner.parameters())
        self.real_vocab = contents.architecture.vocab
        self.budget = Budget(LEAST)  # for cross-checks, not for speed
        self.description: dict[str, Any] = {
            "architecture": contents.architecture.family,
            "class": type(inner).__name__,
            "bytes": contents.size,
            "mup": contents.facts.mup,
        }

    @property
    def vocab_size(self) -> int:
        """Rows of the head, padding included."""
        return self.architecture.vocab

    @property
    def device(self) -> torch.device:
        """Where nanotron put it."""
        return torch.device("cuda", torch.cuda.current_device())

    def fit_tokenizer(self, size: int) -> None:
        """Refuse a tokenizer that the model has no rows for; padding rows stay in the softmax, as nanotron has them."""
        if size > self.vocab_size:
            what = f"the tokenizer has {size} tokens, the model only {self.vocab_size}"
            raise Problem(what, where="tokenizer", todo="give the tokenizer that it was trained with", code=Exit.CANNOT_SCORE)
        self.real_vocab = size

    @torch.inference_mode()
    def hidden_states(
        self,
        tokens: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        seen: Sequence[Strip] | None = None,
        *,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Int64 [B, S] -> bfloat16 [B, S, hidden] or [U, hidden], what nanotron's head is given. No positions, no masks."""
        if position_ids is not None or seen is not None:
            raise NotImplementedError("nanotron's own forward pass")
        batch, length = tokens.shape
        qwen = self.architecture.family == "qwen2"
        if qwen:  # [B, S]; a 0 begins a document
            inputs = {"input_ids": tokens, "position_ids": torch.arange(length, device=tokens.device).repeat(batch, 1)}
        else:
            inputs = {"input_ids": tokens, "input_mask": torch.ones_like(tokens, dtype=torch.bool)}
        hook = self.inner.lm_head.register_forward_pre_hook(_leave, with_kwargs=True)
        try:
            self.inner(**inputs)
        except _Captured as captured:
            hidden = captured.hidden
        else:
            raise RuntimeError("nanotron's forward pass ended without its head")
        finally:
            hook.remove()
        # Qwen2's rows are [B * S, hidden], the others' [S, B, hidden]
        hidden = hidden.view(batch, length, -1) if qwen else hidden.transpose(0, 1)
        return hidden if rows is None else hidden.flatten(0, 1)[rows]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """bfloat16 [..., hidden] -> float32 [..., V]: nanotron's head computes in bfloat16 and casts."""
        flat = hidden.reshape(-1, 1, hidden.shape[-1]) if self.architecture.family != "qwen2" else hidden.flatten(0, -2)
        out: torch.Tensor = self.inner.lm_head(x=flat)["logits"].float()
        return out.reshape(*hidden.shape[:-1], -1)


def _leave(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    raise _Captured(kwargs["x"] if "x" in kwargs else args[0])


def load(folder: Path, *, expected_fingerprint: str | None = None) -> NanotronModel:
    """Load a checkpoint with nanotron's own code, in bfloat16 on the current CUDA device.

    Raises Problem: unavailable (no GPU, no nanotron, or one that cannot be imported), changed, cannot score.
    """
    require()
    try:
        contents = checkpoint.open_contents(folder)
    except (Refused, Torn, OSError) as error:
        todo = "give a whole nanotron checkpoint"
        raise Problem(plainly(error), where=folder, todo=todo, code=Exit.CANNOT_SCORE) from error
    if expected_fingerprint is not None and contents.fingerprint != expected_fingerprint:
        todo = "it is scored again when it is complete again"
        raise Problem("is no longer what was judged complete", where=folder, todo=todo, code=Exit.CHANGED)
    with contextlib.redirect_stdout(sys.stderr):  # nanotron prints, and stdout is for what was asked
        model = _built(folder)
    if checkpoint.take_fingerprint(folder) != contents.fingerprint:
        todo = "it is scored again when it is complete again"
        raise Problem("was rewritten while it was loaded", where=folder, todo=todo, code=Exit.CHANGED)
    return NanotronModel(model, contents)


_MODULES = ("config", "models", "parallel", "parallel.tensor_parallel.enum", "random", "serialize", "trainer")


def _built(folder: Path) -> Any:
    """Nanotron's model of a checkpoint with its weights, in the order of nanotron's own generation script."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update({**alone, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    try:
        nanotron = {name: importlib.import_module(f"nanotron.{name}") for name in _MODULES}
    except Exception as error:  # what it lacks (flash_attn, triton ...) fails in many ways
        what = f"nanotron cannot be imported: {type(error).__name__}: {plainly(error)}"
        raise Problem(
            what, where="backend", todo="mend that installation; its README says what it needs", code=Exit.UNAVAILABLE
        ) from error
    try:
        read = nanotron["config"].get_config_from_file
        config = read(str(folder / "config.yaml"), skip_unused_config_keys=True, skip_null_keys=True).model.model_config
    except Exception as error:  # its config classes refuse in their own ways
        what = f"nanotron refuses this config.yaml: {type(error).__name__}: {plainly(error)}"
        raise Problem(what, where=folder, todo="use the nanotron that wrote it", code=Exit.CANNOT_SCORE) from error
    if hasattr(config, "log_attn_probs"):  # on by default; changes no logit, and has flash attention keep [S, S] a head
        config.log_attn_probs = False
    try:
        return _loaded(nanotron, config, folder)
    except Exception as error:  # names of before 2024-04-24, shapes, kernels: it refuses in its own ways
        what = f"nanotron cannot load it: {type(error).__name__}: {plainly(error)}"
        todo = "see what it says; a checkpoint of another version needs the nanotron that wrote it"
        raise Problem(what, where=folder, todo=todo, code=Exit.CANNOT_SCORE) from error


def _loaded(nanotron: Mapping[str, Any], config: Any, folder: Path) -> Any:
    """The model of a config, built on the current device, with the checkpoint's weights."""
    mode = nanotron["parallel.tensor_parallel.enum"].TensorParallelLinearMode.ALL_REDUCE
    parallel = nanotron["config"].ParallelismArgs(dp=1, pp=1, tp=1, tp_mode=mode, tp_linear_async_communication=False)
    context = nanotron["parallel"].ParallelContext(data_parallel_size=1, pipeline_parallel_size=1, tensor_parallel_size=1)
    random = nanotron["random"]
    random.set_random_seed(42)
    synced = random.get_synced_random_state(random_state=random.get_current_random_state(), pg=context.tp_pg)
    states = random.RandomStates({"tp_synced": synced})
    cls = nanotron["trainer"].CONFIG_TO_MODEL_CLASS[type(config).__name__]
    model = nanotron["models"].build_model(
        model_builder=lambda: cls(config=config, parallel_context=context, parallel_config=parallel, random_states=states),
        dtype=torch.bfloat16,
        parallel_context=context,
    )
    nanotron["trainer"].mark_tied_parameters(model=model, parallel_context=context, parallel_config=parallel)
    nanotron["serialize"].load_weights(model=model, parallel_context=context, root_folder=folder)
    return model.eval().model

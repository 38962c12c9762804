"""The cross-check with nanotron: what it says where there is no nanotron, and how it judges two sets of logits."""

import json
import sys

import pytest
import torch

from scoring.inference import verify
from scoring.inference.verify import compare_logits, sample_tokens
from scoring.model import nanotron_backend
from scoring.model.nanotron_backend import NanotronModel
from suites.checkpoint.completeness import open_checkpoint_shards
from suites.common.errors import ExitCode, UserError
from support.models.nanotron_checkpoint import write_tiny_checkpoint
from support.models.tiny_llama_items import LLAMA_CHECKPOINT
from support.runs.scoring_jobs import make_score_arguments, run_scoring_in_process, write_suites

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpu_but_no_nanotron(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("NANOTRON_ROOT", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "nanotron"]:
        del sys.modules[name]


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_it_says_so_and_exits_69(capsys):
    assert run_scoring_in_process(["verify", "--checkpoint", str(LLAMA_CHECKPOINT)]) == 69
    assert "nanotron needs CUDA, which is not available here" in last_line(capsys)


@pytest.mark.usefixtures("gpu_but_no_nanotron")
def test_without_nanotron_it_says_so_and_exits_69(capsys):
    assert run_scoring_in_process(["verify", "--checkpoint", str(LLAMA_CHECKPOINT)]) == 69
    assert "nanotron is not installed, and NANOTRON_ROOT is not set" in last_line(capsys)


@pytest.mark.usefixtures("gpu_but_no_nanotron")
def test_a_root_that_holds_no_nanotron_is_named(tmp_path):
    with pytest.raises(UserError, match="contains no nanotron package") as caught:
        nanotron_backend.require_nanotron({"NANOTRON_ROOT": str(tmp_path)})
    assert caught.value.code is ExitCode.UNAVAILABLE
    assert str(tmp_path) in str(caught.value)


@pytest.mark.usefixtures("gpu_but_no_nanotron")
def test_a_nanotron_that_cannot_be_imported_is_unavailable_with_its_own_words(tmp_path, monkeypatch):
    (tmp_path / "src" / "nanotron").mkdir(parents=True)
    (tmp_path / "src" / "nanotron" / "__init__.py").write_text("")
    (tmp_path / "src" / "nanotron" / "config.py").write_text("import flash_attn_that_is_not_there\n")
    monkeypatch.setenv("NANOTRON_ROOT", str(tmp_path))
    for name in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "CUDA_DEVICE_MAX_CONNECTIONS",
    ):
        monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match="flash_attn_that_is_not_there") as caught:
        nanotron_backend.load_nanotron_model(LLAMA_CHECKPOINT)
    assert caught.value.code is ExitCode.UNAVAILABLE


FAKE = {
    "__init__": "",
    "config": """
from types import SimpleNamespace
def get_config_from_file(*_, **__):
    print("skip_unused_config_keys set")
    return SimpleNamespace(model=SimpleNamespace(model_config=SimpleNamespace(log_attn_probs=True)))
ParallelismArgs = SimpleNamespace
""",
    "models": "def build_model(model_builder, dtype, parallel_context):\n    return model_builder()\n",
    "parallel/__init__": "ParallelContext = lambda **_: __import__('types').SimpleNamespace(tp_pg=None)\n",
    "parallel/tensor_parallel/__init__": "",
    "parallel/tensor_parallel/enum": "class TensorParallelLinearMode:\n    ALL_REDUCE = 1\n",
    "random": """
def set_random_seed(_): pass
def get_current_random_state(): pass
def get_synced_random_state(**_): pass
RandomStates = dict
""",
    "serialize": """
def load_weights(model, parallel_context, root_folder):
    assert not model.config.log_attn_probs
    raise ValueError("Could not find any shards")
""",
    "trainer": """
class Model:
    def __init__(self, config, **_): self.config = config
CONFIG_TO_MODEL_CLASS = {"SimpleNamespace": Model}
def mark_tied_parameters(**_): pass
""",
}


@pytest.mark.usefixtures("gpu_but_no_nanotron")
def test_a_checkpoint_that_nanotron_itself_cannot_load_is_told_in_its_words_and_stdout_stays_clean(tmp_path, monkeypatch, capsys):
    for name, text in FAKE.items():
        path = tmp_path / "src" / "nanotron" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("NANOTRON_ROOT", str(tmp_path))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match="nanotron cannot load it: ValueError: Could not find any shards") as caught:
        nanotron_backend.load_nanotron_model(LLAMA_CHECKPOINT)
    assert caught.value.code is ExitCode.CANNOT_SCORE
    said = capsys.readouterr()
    assert said.out == ""
    assert "skip_unused_config_keys set" in said.err


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--dtype", "float32", "--device", "cuda"), "dtype is float32"),
        (("--padded-vocab", "masked", "--device", "cuda"), "padded_vocab is masked"),
        (("--device", "cpu"), "device is cpu"),
        (("--device", "cuda:1"), "device is cuda:1"),
    ],
)
def test_what_nanotron_cannot_do_is_refused_before_anything_is_loaded(more, why, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(nanotron_backend, "require_nanotron", lambda: None)
    write_suites(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path, "--backend", "nanotron", *more)) == 2
    assert why in last_line(capsys)


@pytest.mark.usefixtures("no_gpu")
def test_scoring_with_it_without_a_gpu_exits_69(tmp_path, capsys):
    write_suites(tmp_path)
    assert run_scoring_in_process(make_score_arguments(tmp_path, "--backend", "nanotron")) == 69
    assert "nanotron needs CUDA" in last_line(capsys)


def logits(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 4


def test_differences_of_the_size_of_rounding_agree():
    exact = logits(0, 200, 64)
    found = compare_logits(exact.bfloat16().float(), exact + 0.01 * logits(1, 200, 64), exact)
    assert found.agree
    assert found.verdict.startswith("agree: ")
    assert found.tokens == 200
    assert found.max_difference <= found.max_allowed


@pytest.mark.parametrize("wrong", ["a row", "everything a little", "nan"])
def test_larger_differences_do_not(wrong):
    exact = logits(0, 200, 64)
    ours, theirs = exact + 0.001 * logits(1, 200, 64), exact.clone()
    if wrong == "a row":
        theirs[17] = theirs[18]
    elif wrong == "nan":
        theirs[3, 3] = float("nan")
    else:
        theirs += 0.02 * logits(2, 200, 64)
    found = compare_logits(theirs, ours, exact)
    assert not found.agree
    assert found.verdict.startswith("DIFFER: ")


@pytest.mark.parametrize(("longest", "shape"), [(8192, (1, 1000)), (64, (16, 64))])
def test_a_thousand_tokens_in_rows_that_the_model_has_positions_for(longest, shape):
    ids = sample_tokens(512, longest, 1000)
    assert ids.shape == shape
    assert torch.equal(ids, sample_tokens(512, longest, 1000))
    assert ids.max() < 512


class Head(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x):
        return {"logits": x @ self.weight.T}


class LikeNanotron(torch.nn.Module):
    """Takes and gives what nanotron's Llama (rows [S, B]) or Qwen2 (rows [B * S]) does; the body is an embedding."""

    def __init__(self, *, qwen):
        super().__init__()
        self.qwen = qwen
        self.embedding = torch.nn.Embedding(256, 8)
        self.lm_head = Head(torch.randn(256, 8))

    def forward(self, input_ids, position_ids=None, input_mask=None):
        assert (position_ids is not None) == self.qwen
        assert (input_mask is not None) != self.qwen
        rows = self.embedding(input_ids.view(-1) if self.qwen else input_ids.transpose(0, 1))
        return self.lm_head(x=rows)["logits"]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@torch.inference_mode()
def test_hidden_states_are_taken_before_the_head_in_either_order_of_rows(family, tmp_path):
    kind = {"is_llama_config": family == "llama", "is_qwen2_config": family == "qwen2"}
    contents = open_checkpoint_shards(write_tiny_checkpoint(tmp_path / "20", 20, model_config=kind))
    inner = LikeNanotron(qwen=family == "qwen2")
    model = NanotronModel(inner, contents)
    tokens = torch.arange(12).view(3, 4)
    hidden = model.hidden_states(tokens)
    assert torch.equal(hidden, inner.embedding(tokens))
    torch.testing.assert_close(model.logits(hidden), hidden @ inner.lm_head.weight.T)
    torch.testing.assert_close(model.logits(hidden[0]), hidden[0] @ inner.lm_head.weight.T)
    assert not inner.lm_head._forward_pre_hooks
    with pytest.raises(UserError, match="the tokenizer has 257 tokens"):
        model.fit_tokenizer(257)


def test_the_command_prints_figures_and_a_verdict(monkeypatch, capsys):
    exact = logits(0, 20, 64)
    monkeypatch.setattr(verify, "verify_logits", lambda _folder, **_options: compare_logits(exact, exact, exact))
    assert run_scoring_in_process(["verify", "--checkpoint", str(LLAMA_CHECKPOINT), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["agree"], printed["max_difference"], printed["same_next_token"]) == (True, 0.0, 1.0)
    monkeypatch.setattr(
        verify, "verify_logits", lambda _folder, **_options: compare_logits(exact + 9 * logits(1, 20, 64), exact, exact)
    )
    assert run_scoring_in_process(["verify", "--checkpoint", str(LLAMA_CHECKPOINT)]) == 65
    assert capsys.readouterr().out.startswith("DIFFER: ")

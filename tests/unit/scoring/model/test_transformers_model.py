"""Hugging Face checkpoints: their numbers are those of a plain loop over transformers' own model."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from scoring.inference.generation import GenerationRequest, fit_shape, generate_answers
from scoring.inference.loglikelihood import compute_token_logprobs
from scoring.inference.prefix_tree import TokenSpan
from scoring.model.loader import load_averaged_lm, load_causal_lm, open_members
from scoring.model.open_checkpoint import CheckpointSource, open_expected_checkpoint
from scoring.model.transformers_loader import load_transformers_model
from suites.checkpoint.completeness import compute_fingerprint, open_checkpoint_shards
from suites.common.errors import ExitCode, UserError
from suites.contract.averages import AverageMember
from support.models.hf_models import (
    KNOWN,
    OTHERS,
    compute_plain_logprobs,
    generate_plainly,
    make_hf_model,
    save_hf_model,
)
from support.models.transformers_parity import TOKENS, compute_logits, compute_transformers_logits, randomize_weights

pytestmark = pytest.mark.scoring


def load(folder, *, dtype=torch.float32, fingerprint=None):
    contents = open_expected_checkpoint(folder, fingerprint, as_stored=True)
    source = CheckpointSource(folder, contents)
    return load_transformers_model((source,), device=torch.device("cpu"), dtype=dtype, padded_vocab="in_softmax")


def largest_difference(actual, expected):
    return float((actual - expected).abs().max())


@pytest.mark.parametrize("name", KNOWN)
def test_this_decoder_has_transformers_logits_where_it_knows_the_model(tmp_path, name):
    model = make_hf_model(name)
    folder = save_hf_model(model, tmp_path / "model", max_shard_size="20KB")
    ours = load_causal_lm(folder, device="cpu")
    assert largest_difference(compute_logits(ours), compute_transformers_logits(model)) <= 5e-6 * float(
        compute_transformers_logits(model).abs().max()
    )
    assert ours.description["files"] > 1


@pytest.mark.parametrize("name", [*OTHERS, "llama"])
def test_numbers_are_those_of_a_plain_loop(tmp_path, name):
    """Rows of many lengths in one batch: log-likelihoods, and greedy answers."""
    model = make_hf_model(name)
    folder = save_hf_model(model, tmp_path / "model")
    if name in OTHERS:
        assert open_checkpoint_shards(folder).architecture.stored_parameters
    ours = load(folder)
    assert largest_difference(compute_logits(ours), compute_transformers_logits(model)) < 1e-4
    draw = np.random.default_rng(0)
    spans = [TokenSpan(draw.integers(0, 96, length), 1) for length in (30, 5, 64, 2, 12)]
    for span, found in zip(spans, compute_token_logprobs(ours, spans), strict=True):
        assert np.abs(found - compute_plain_logprobs(model, span.tokens)).max() < 1e-4
    requests = [GenerationRequest(tokens=draw.integers(0, 96, length).tolist(), max_new_tokens=10) for length in (3, 40, 9)]
    answers = generate_answers(ours, requests, shape=fit_shape(requests), decode=lambda _: "")
    expected = [generate_plainly(model, request.tokens, 10) for request in requests]
    assert [answer.tokens for answer in answers] == expected
    # Models whose head stands alone give logits of the needed positions only.
    assert ours.description["split"] == (name != "opt")


def test_an_average_is_of_the_stored_tensors(tmp_path):
    """Both ways: this decoder's fused matrices, and transformers' own tensors."""
    for name in ("llama", "gpt2"):
        models = [make_hf_model(name), make_hf_model(name)]
        for parameter in models[1].parameters():
            parameter.data.mul_(0.5).add_(0.01)
        folders = [save_hf_model(model, tmp_path / name / str(step)) for step, model in enumerate(models)]
        members = [
            AverageMember(step=step, weight=weight, checkpoint=str(folder), fingerprint=compute_fingerprint(folder))
            for step, (folder, weight) in enumerate(zip(folders, (0.25, 0.75), strict=True))
        ]
        averaged = {
            key: (0.25 * value.double() + 0.75 * models[1].state_dict()[key].double()).float()
            for key, value in models[0].state_dict().items()
        }
        models[0].load_state_dict(averaged)
        expected = compute_transformers_logits(models[0])
        sources = open_members(members, as_stored=True)
        ours = load_transformers_model(sources, device=torch.device("cpu"), dtype=torch.float32, padded_vocab="in_softmax")
        assert torch.equal(compute_logits(ours), expected)
        if name == "llama":
            assert largest_difference(compute_logits(load_averaged_lm(members, device="cpu")), expected) < 5e-6


def test_logits_are_fp32_where_weights_are_bfloat16(tmp_path):
    model = make_hf_model("gemma2")
    ours = load(save_hf_model(model, tmp_path / "model"), dtype=torch.bfloat16)
    assert ours.dtype == "bfloat16"
    assert ours.description["split"]
    hidden = ours.hidden_states(TOKENS)
    logits = ours.logits(hidden)
    assert logits.dtype is torch.float32
    cap = model.config.final_logit_softcapping
    # The product and the soft cap behind it, in fp64, of the same hidden states.
    product = hidden.double() @ model.lm_head.weight.bfloat16().double().t()
    torch.testing.assert_close(logits.double(), cap * torch.tanh(product / cap), atol=1e-4, rtol=1e-5)


def test_padding_rows_may_be_masked(tmp_path):
    ours = load(save_hf_model(make_hf_model("neox"), tmp_path / "model"))
    ours.fit_tokenizer(90)
    ours.padded_vocab = "masked"
    assert compute_logits(ours)[..., 90:].max() == -torch.inf
    with pytest.raises(UserError, match="the tokenizer has 97 tokens, the model only 96"):
        ours.fit_tokenizer(97)


def test_learned_positions_are_counted(tmp_path):
    for name, count in (("gpt2", 128), ("opt", 128), ("neox", None), ("mistral", None)):
        assert load(save_hf_model(make_hf_model(name), tmp_path / name)).position_count == count


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rewrite_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


NORM = "gpt_neox.final_layer_norm.weight"
REFUSED = {
    "missing": (lambda folder: rewrite(folder, lambda tensors: tensors.pop(NORM)), f"lacks {NORM}, which the model needs"),
    "surplus": (
        lambda folder: rewrite(folder, lambda tensors: tensors.update({"gpt_neox.more.weight": torch.zeros(2)})),
        "holds gpt_neox.more.weight, which the model of config.json does not have",
    ),
    "misshapen": (
        lambda folder: rewrite(folder, lambda tensors: tensors.update({NORM: torch.zeros(7)})),
        f"{NORM}: other shapes than config.json implies",
    ),
    "not finite": (
        lambda folder: rewrite(folder, lambda tensors: tensors[NORM].fill_(torch.nan)),
        f"{NORM} has values that are not finite (model.safetensors)",
    ),
    "remote code": (
        lambda folder: rewrite_config(
            folder, model_type="ours", auto_map={"AutoConfig": "code.Ours", "AutoModelForCausalLM": "code.OursLM"}
        ),
        "its model is code of its own repository (auto_map in config.json), which is never run",
    ),
    "unknown type": (lambda folder: rewrite_config(folder, model_type="ours"), "cannot load it: ValueError"),
    "no language model": (
        lambda folder: rewrite_config(folder, model_type="vit"),
        "no causal language model for model_type 'vit'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_transformers_cannot_load_is_refused_by_name(tmp_path, case):
    folder = save_hf_model(make_hf_model("neox"), tmp_path / "model")
    damage, message = REFUSED[case]
    (folder / "code.py").write_text("raise SystemExit(3)")
    damage(folder)
    with pytest.raises(UserError) as caught:
        load(folder)
    assert caught.value.code is ExitCode.CANNOT_SCORE
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def test_tensors_of_other_modalities_are_left_out_and_said(tmp_path):
    folder = save_hf_model(make_hf_model("neox"), tmp_path / "model")
    rewrite(folder, lambda tensors: tensors.update({"vision_tower.weight": torch.zeros(2)}))
    assert load(folder).description["ignored"] == ["vision_tower.weight"]


def test_old_names_and_derived_buffers_are_understood(tmp_path):
    """As published GPT-2s have them: no prefix, causal masks among the weights."""
    model = make_hf_model("gpt2")
    folder = save_hf_model(model, tmp_path / "model")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(compute_logits(load(folder)), compute_transformers_logits(model))


def test_a_tied_model_with_a_head_of_its_own_is_transformers(tmp_path):
    model = make_hf_model("llama, tied")
    folder = save_hf_model(model, tmp_path / "model")
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assert open_checkpoint_shards(folder).architecture.stored_parameters
    assert torch.equal(compute_logits(load(folder)), compute_transformers_logits(model))


def test_a_model_that_sees_later_tokens_is_refused(tmp_path):
    from transformers import BertConfig, BertLMHeadModel  # noqa: PLC0415  one test alone

    config = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    folder = save_hf_model(randomize_weights(BertLMHeadModel(BertConfig(**config, is_decoder=False))), tmp_path / "model")
    with pytest.raises(UserError, match="later tokens change its hidden states"):
        load(folder)


def test_a_model_whose_outputs_are_not_finite_is_not_called_another_kind(tmp_path):
    folder = save_hf_model(make_hf_model("llama"), tmp_path / "model")
    rewrite_config(folder, rms_norm_eps=float("nan"))
    with pytest.raises(UserError, match="LlamaForCausalLM: its outputs are not finite; check the training run"):
        load(folder)


def test_a_rewrite_while_it_loads_is_noticed(tmp_path):
    folder = save_hf_model(make_hf_model("neox"), tmp_path / "model")
    fingerprint = open_checkpoint_shards(folder).fingerprint
    rewrite_config(folder, vocab_size=96, note="changed")
    with pytest.raises(UserError) as caught:
        load(folder, fingerprint=fingerprint)
    assert caught.value.code is ExitCode.CHANGED

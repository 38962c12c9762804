"""Greedy answers: token by token those of transformers' own generate, for every family, in any company."""

import pytest
import torch

from scoring.inference import generation as generating
from scoring.inference.generation import GenerationRequest, GenerationShape, fit_shape, generate_answers
from scoring.inference.loglikelihood import NotFiniteError
from scoring.model.causal_lm import CausalModel, build_decoder
from scoring.model.loader import load_causal_lm
from suites.checkpoint.architecture import Architecture, Experts
from support.models import hf_to_nanotron
from support.models import moe as mixtures
from support.models.tiny_llama_items import LLAMA_CHECKPOINT
from support.models.transformers_parity import load_from_nanotron, make_transformers_model

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

SIZES = hf_to_nanotron.TINY_SIZES
ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
LLAMA_KEYS = {**SIZES, "rope_theta": 1e4, "rms_norm_eps": 1e-6, "is_llama_config": True, "rope_interleaved": False}
QWEN2_KEYS = {**SIZES, "is_llama_config": False, "is_qwen2_config": True, "rms_norm_eps": 1e-6, "rope_theta": 1e4}
PROMPTS = [[5], [7, 3, 9, 11, 2], list(range(1, 20)), [40, 41, 42] * 7, [90] * 12]
NEW = 24


SEED = 14
"""Of weights with which no token of FROM_TRANSFORMERS is chosen by less than NEAR: equality is not left to rounding."""


def randomize_decisively(model):
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(0, 0.25, generator=generator)
        if "norm" in name and name.endswith("bias"):
            parameter.data.mul_(0.1)  # a large one at the end says the same token whatever was read
        elif "norm" in name:
            parameter.data.add_(1)
    return model.eval()


def llama():
    model = randomize_decisively(make_transformers_model("Llama", **SIZES, **ENDS, rms_norm_eps=1e-6, tie_word_embeddings=False))
    return model, LLAMA_KEYS, model.state_dict()


def llama_interleaved_and_tied():
    model = randomize_decisively(make_transformers_model("Llama", **SIZES, **ENDS, rms_norm_eps=1e-6, tie_word_embeddings=True))
    return model, *hf_to_nanotron.convert_llama(model, interleaved=True)


def qwen2():
    model = randomize_decisively(make_transformers_model("Qwen2", **SIZES, **ENDS, rms_norm_eps=1e-6, tie_word_embeddings=False))
    return model, {**QWEN2_KEYS, "attention_bias": True}, model.state_dict()


def qwen2_tied():
    model = randomize_decisively(make_transformers_model("Qwen2", **SIZES, **ENDS, rms_norm_eps=1e-6, tie_word_embeddings=True))
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    return model, {**QWEN2_KEYS, "attention_bias": True, "tie_word_embeddings": True}, tensors


def interpolated():
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    model = randomize_decisively(
        make_transformers_model("Qwen2", **SIZES, **ENDS, rms_norm_eps=1e-6, tie_word_embeddings=False, rope_parameters=rope)
    )
    return model, {**QWEN2_KEYS, "attention_bias": True, "rope_seq_len_interpolation_factor": 4.0}, model.state_dict()


def sliding():
    window = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0}
    model = randomize_decisively(
        make_transformers_model("Qwen2", **SIZES, **ENDS, **window, rms_norm_eps=1e-6, tie_word_embeddings=False)
    )
    return model, {**QWEN2_KEYS, "attention_bias": True, "sliding_window_size": 7}, model.state_dict()


def nope():
    model = randomize_decisively(
        make_transformers_model(
            "SmolLM3",
            **SIZES,
            **ENDS,
            rms_norm_eps=1e-6,
            no_rope_layer_interval=2,
            use_sliding_window=False,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        )
    )
    return model, {**QWEN2_KEYS, "no_rope_layer": 2}, model.state_dict()


def mixture_of_experts():
    model = randomize_decisively(mixtures.make_qwen2_moe({**SIZES, **ENDS}))
    moe, tensors = mixtures.convert_moe(model)
    return model, {**QWEN2_KEYS, "attention_bias": True, "moe_config": moe}, tensors


def mixture_without_a_shared_expert():
    model = mixtures.zero_shared_experts(randomize_decisively(mixtures.make_qwen2_moe({**SIZES, **ENDS}, num_experts_per_tok=3)))
    moe, tensors = mixtures.convert_moe(model, shared=False)
    return model, {**QWEN2_KEYS, "attention_bias": True, "moe_config": moe}, tensors


def starcoder2():
    model = randomize_decisively(
        make_transformers_model("Starcoder2", **SIZES, **ENDS, sliding_window=7, tie_word_embeddings=True)
    )
    return model, *hf_to_nanotron.convert_starcoder2(model, multi_query=False)


def starcoder2_multi_query():
    model = randomize_decisively(
        make_transformers_model(
            "Starcoder2", **{**SIZES, "num_key_value_heads": 1}, **ENDS, sliding_window=None, tie_word_embeddings=True
        )
    )
    return model, *hf_to_nanotron.convert_starcoder2(model, multi_query=True)


FROM_TRANSFORMERS = (
    *(llama, llama_interleaved_and_tied, qwen2, qwen2_tied, interpolated, sliding, nope),
    *(mixture_of_experts, mixture_without_a_shared_expert, starcoder2, starcoder2_multi_query),
)


def questions(prompts=PROMPTS, new=NEW, **more):
    return [GenerationRequest(tokens=list(prompt), max_new_tokens=new, **more) for prompt in prompts]


def answers(model, asked, rows=None):
    fitted = fit_shape(asked)
    shape = fitted if rows is None else GenerationShape(rows=rows, prompt_width=fitted.prompt_width, width=fitted.width)
    return generate_answers(model, asked, shape=shape, decode=lambda tokens: " ".join(map(str, tokens)))


def generate_with_transformers(model, prompt, new=NEW):
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    return made[0, len(prompt) :].tolist()


def load_for_answers(folder, keys, tensors, dtype="float32"):
    model = load_from_nanotron(folder, keys, tensors, dtype=dtype)
    model.fit_tokenizer(96)
    return model


@pytest.mark.parametrize("family", FROM_TRANSFORMERS)
def test_answers_are_those_of_transformers_generate(family, tmp_path):
    theirs, keys, tensors = family()
    replies = answers(load_for_answers(tmp_path, keys, tensors), questions())
    assert [reply.tokens for reply in replies] == [generate_with_transformers(theirs, prompt) for prompt in PROMPTS]
    assert len({tuple(reply.tokens) for reply in replies}) > 1
    assert sum(reply.near_ties for reply in replies) == 0


class NoCache:
    """A model that only reads whole sequences, as nanotron's does."""

    def __init__(self, model):
        self.model, self.device, self.real_vocab = model, model.device, model.real_vocab

    def hidden_states(self, tokens):
        return self.model.hidden_states(tokens)

    def logits(self, hidden):
        return self.model.logits(hidden)


def decoder(**keys):
    """A model with random weights, straight from what an architecture says."""
    common = {"layers": 4, "hidden": 32, "intermediate": 48, "heads": 4, "vocab": 96, "norm_eps": 1e-5, "max_positions": 128}
    architecture = Architecture(**{**common, "tied": False, "activation": "silu", "kv_heads": 2, **keys})
    body = build_decoder(architecture, mup=False, device=torch.device("cpu")).to_empty(device="cpu")
    made = CausalModel(
        randomize_decisively(body), torch.randn(96, 32, generator=torch.Generator().manual_seed(3)), architecture, "masked", {}
    )
    made.fit_tokenizer(96)
    return made


EXPERTS = Experts(count=4, top_k=2, intermediate=16, shared_intermediate=24, layers=(0, 2, 3))
FAMILIES = {
    "llama": {"family": "llama"},
    "qwen2, window without rope in some layers": {"family": "qwen2", "sliding_window": 5, "no_rope_every": 2},
    "qwen2, experts": {"family": "qwen2", "experts": EXPERTS},
    "qwen2, interpolated": {"family": "qwen2", "rope_factor": 4.0, "attention_bias": True},
    "starcoder2": {
        "family": "starcoder2",
        "activation": "gelu",
        "attention_bias": True,
        "sliding_window": 7,
        "global_layers": (1,),
    },
    "starcoder2, multi-query": {"family": "starcoder2", "activation": "gelu", "multi_query": True, "kv_heads": 1},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_changes_no_answer_of_any_family(family):
    model = decoder(**FAMILIES[family])
    replies = answers(model, questions())
    assert replies == answers(NoCache(model), questions())
    assert len({tuple(reply.tokens) for reply in replies}) > 1


@pytest.mark.parametrize("name", ["llama_gqa_tp2_pp2", "llama_rope_interleaved", "qwen2_bias_tp1", "qwen2_nope_tied_tp2"])
def test_what_nanotron_saved_answers_the_same_with_and_without_a_cache(name):
    model = load_causal_lm(max((LLAMA_CHECKPOINT.parent.parent / name).glob("[0-9]*")), device="cpu")
    model.fit_tokenizer(model.vocab_size)
    asked = questions([[5], [7, 3, 9, 11, 2], list(range(1, 20))], new=20)
    assert answers(model, asked) == answers(NoCache(model), asked)


@pytest.mark.parametrize("family", [llama, sliding, mixture_of_experts, starcoder2])
def test_in_bf16_an_answer_is_the_same_every_time_and_in_any_company(family, tmp_path):
    _, keys, tensors = family()
    model = load_for_answers(tmp_path, keys, tensors, dtype="bfloat16")
    shape = fit_shape(questions())
    runs = [generate_answers(model, questions(prompts), shape=shape, decode=str) for prompts in (PROMPTS, PROMPTS, PROMPTS[::-1])]
    assert runs[0] == runs[1] == runs[2][::-1]
    alone = [generate_answers(model, questions([prompt]), shape=shape, decode=str)[0] for prompt in PROMPTS[:2]]
    assert alone == runs[0][:2]
    assert len({tuple(reply.tokens) for reply in runs[0]}) > 1


@pytest.mark.parametrize("family", [llama, mixture_of_experts])
@pytest.mark.parametrize("rows", [1, 2, 8])
def test_an_answer_does_not_depend_on_how_many_are_answered_together(rows, family, tmp_path):
    _, keys, tensors = family()
    model = load_for_answers(tmp_path, keys, tensors)
    assert answers(model, questions(), rows) == answers(model, questions())


def test_company_changes_no_bit_of_what_decides(tmp_path, monkeypatch):
    """With the shapes fixed, logits are equal bit by bit whoever stands in the other rows."""
    _, keys, tensors = sliding()
    model = load_for_answers(tmp_path, keys, tensors)
    seen = []
    choose = generating._choose_tokens

    def listen(of, hidden):
        seen.append(of.logits(hidden)[:, : of.real_vocab].clone())
        return choose(of, hidden)

    monkeypatch.setattr(generating, "_choose_tokens", listen)
    shape = fit_shape(questions())
    runs = []
    for company in ([], [[1, 2, 3]] * 4, PROMPTS):
        seen.clear()
        generate_answers(model, questions([PROMPTS[1], *company]), shape=shape, decode=str)
        runs.append([logits[0].clone() for logits in seen[:NEW]])
    for other in runs[1:]:
        assert all(torch.equal(one, two) for one, two in zip(runs[0], other, strict=True))


def test_an_answer_ends_at_a_stop_token_which_is_no_part_of_its_text(tmp_path):
    _, keys, tensors = llama()
    model = load_for_answers(tmp_path, keys, tensors)
    (uncut,) = answers(model, questions([PROMPTS[1]]))
    stop = uncut.tokens[6]
    first = uncut.tokens.index(stop)
    (cut,) = answers(model, questions([PROMPTS[1]], stop_ids=frozenset({stop})))
    assert (cut.finish, cut.tokens) == ("stop_token", uncut.tokens[: first + 1])
    assert cut.text == " ".join(map(str, uncut.tokens[:first]))


def test_an_answer_ends_at_a_stop_string_even_across_tokens_and_an_early_one_is_no_matter_for_the_others(tmp_path):
    _, keys, tensors = llama()
    model = load_for_answers(tmp_path, keys, tensors)
    plain = answers(model, questions())
    string = " ".join(map(str, plain[1].tokens[8:10]))
    stopped = answers(model, questions(stop_strings=(string,)))
    assert stopped[1].finish == "stop_string"
    assert string not in stopped[1].text
    assert plain[1].text.startswith(stopped[1].text)
    assert [reply.finish for reply in plain] == ["length"] * 5
    for before, after in zip(plain, stopped, strict=True):
        assert before.tokens[: len(after.tokens)] == after.tokens


def test_rows_of_the_head_that_stand_for_no_token_are_never_chosen(tmp_path):
    _, keys, tensors = llama()
    model = load_for_answers(tmp_path, keys, tensors)
    model.fit_tokenizer(10)
    assert all(token < 10 for reply in answers(model, questions()) for token in reply.tokens)


def test_a_logit_that_is_not_finite_is_said(tmp_path):
    _, keys, weights = llama()
    weights["lm_head.weight"] = torch.full_like(weights["lm_head.weight"], 3e38)
    model = load_for_answers(tmp_path, keys, weights)
    with pytest.raises(NotFiniteError):
        answers(model, questions())


def test_between_counts_what_is_put_in_and_may_stop(tmp_path):
    _, keys, tensors = llama()
    model = load_for_answers(tmp_path, keys, tensors)
    asked, counted = questions([[1, 2, 3], [4]], new=3), []
    generate_answers(model, asked, shape=fit_shape(asked), decode=str, on_batch=counted.append)
    assert counted == [4, 2, 2]

    def stop(tokens):
        raise InterruptedError(tokens)

    with pytest.raises(InterruptedError):
        generate_answers(model, asked, shape=fit_shape(asked), decode=str, on_batch=stop)

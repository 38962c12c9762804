"""SmolLM2-135M-Instruct on the shipped prompts: its answers are transformers' own, token by token, in fp32."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from scoring.data.tokenizer_cache import resolve_tokenizer
from scoring.inference.generation import GenerationRequest, fit_shape, generate_answers
from scoring.model.loader import load_causal_lm
from suites.contract.paths import DataPaths
from suites.definitions.suite import load_suite
from support.models import smollm2
from support.tokenizers.comparison import open_chat

pytestmark = pytest.mark.scoring
FEW = ("concise_capital", "clean_hello", "json_sum")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(our model, transformers', the chat, the tokenizer) of the same weights."""
    folder = tmp_path_factory.mktemp("smollm2")
    tensors = smollm2.load_hf_tensors()
    checkpoint = smollm2.write_smollm2_checkpoint(folder, tensors=tensors)
    tokenizer = resolve_tokenizer(str(folder / "tokenizer"), DataPaths(folder))
    template = load_suite("stage4_sft_native", {}).definition["clean_hello"]["chat_template"]
    chat = open_chat(tokenizer, fallback=template)
    ours = load_causal_lm(checkpoint, device="cpu")
    ours.fit_tokenizer(tokenizer.vocab_size)
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "vocab_size")
    config = LlamaConfig(
        **{name: smollm2.MODEL_CONFIG[name] for name in names},
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": smollm2.MODEL_CONFIG["rope_theta"]},
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.device("meta"):
        theirs = LlamaForCausalLM(config)
    theirs.load_state_dict({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, assign=True)
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config)
    return ours, theirs.eval(), chat, tokenizer


def compare(both, names, most, rows=None):
    ours, theirs, chat, tokenizer = both
    suite = load_suite("stage4_sft_native", {}).definition
    asked = []
    for name in names:
        tokens = chat.render(suite[name]["messages"]).tokens
        new = min(most, suite[name]["max_new_tokens"])
        asked.append(GenerationRequest(tokens=tokens, max_new_tokens=new, stop_ids=chat.stop_ids))
    shape = fit_shape(asked)
    shape = type(shape)(rows=rows or len(asked), prompt_width=shape.prompt_width, width=shape.width)
    replies = generate_answers(ours, asked, shape=shape, decode=tokenizer.decode)
    for name, question, reply in zip(names, asked, replies, strict=True):
        ids = torch.tensor([question.tokens])
        with torch.inference_mode():
            made = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=question.max_new_tokens, do_sample=False
            )
        assert reply.tokens == made[0, len(question.tokens) :].tolist(), name
    return dict(zip(names, replies, strict=True))


def test_a_few_answers_are_transformers_own(both):
    found = compare(both, FEW, 10)
    assert found["concise_capital"].text == "The capital of Japan is Tokyo."
    assert found["concise_capital"].finish == "stop_token"
    assert found["json_sum"].finish == "length"


@pytest.mark.slow
def test_an_answer_to_every_fifth_prompt_is_transformers_own(both):
    suite = load_suite("stage4_sft_native", {}).definition
    found = compare(both, list(suite)[::5], 48, rows=16)
    assert {reply.finish for reply in found.values()} == {"stop_token", "length"}

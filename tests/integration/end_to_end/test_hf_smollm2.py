"""SmolLM2-135M as a Hugging Face folder: tiers 2 to 4 by the command line are those of a plain loop over transformers."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from support.models import plain_tiers, smollm2
from support.models.hf_models import save_hf_model
from support.runs.scoring_jobs import run_scoring_in_process

pytestmark = [pytest.mark.scoring, pytest.mark.slow]

CLOSE = 1e-4


@pytest.fixture(scope="module")
def model():
    plain_tiers.set_one_thread()
    tensors = smollm2.load_hf_tensors()
    same = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "vocab_size")
    config = LlamaConfig(
        **{name: smollm2.MODEL_CONFIG[name] for name in same},
        rms_norm_eps=smollm2.MODEL_CONFIG["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": smollm2.MODEL_CONFIG["rope_theta"]},
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.device("meta"):
        made = LlamaForCausalLM(config)
    made.load_state_dict({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, assign=True)
    made.tie_weights()
    made.model.rotary_emb = type(made.model.rotary_emb)(config)
    return made.eval()


@pytest.mark.parametrize("backend", ["direct", "transformers"])
def test_all_tiers_are_those_of_a_plain_loop(backend, model, tmp_path):
    folder = save_hf_model(model, tmp_path / "SmolLM2-135M", max_shard_size="200MB")
    smollm2.write_tokenizer(folder)
    suites = [argument for suite in plain_tiers.write_suites(tmp_path) for argument in ("--suite", suite)]
    arguments = ["score", "--checkpoint", str(folder), *suites, "--results", str(tmp_path / "results"), "--device", "cpu"]
    arguments += ["--eval-data", str(tmp_path / "data"), "--seq-len", str(plain_tiers.SEQ_LEN), "--backend", backend]
    assert run_scoring_in_process(arguments) == 0
    (tier2,) = (tmp_path / "results").rglob("tier2_ppl.json")
    plain_tiers.compare_with_plain_loop(tier2.parent, model, folder)
    assert json.loads(tier2.read_text())["backend"] == backend

"""Log-likelihoods and picks as anybody would write them with transformers: the other side of a comparison.

``loglik`` is one forward pass a request. ``logliks`` gives the same in a fifth of the time: each context is read once and
its keys and values kept, and what may follow it is one batch, padded at the right, where no token before it looks. A test
holds that both are equal.
"""

import math

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
)


class ReferenceModel:
    """A tied Llama of transformers: log p(continuation | context), natural logarithms, summed in float64."""

    def __init__(self, model_config, tensors, tokenizer, seq_len):
        config = LlamaConfig(
            **{name: model_config[name] for name in _SIZES},
            rms_norm_eps=model_config["rms_norm_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": model_config["rope_theta"]},
            max_position_embeddings=model_config["max_position_embeddings"],
            tie_word_embeddings=True,
        )
        with torch.device("meta"):
            self.model = LlamaForCausalLM(config).eval()
        self.model.to_empty(device="cpu")
        self.model.model.rotary_emb = type(self.model.model.rotary_emb)(config)
        missing, surplus = self.model.load_state_dict(tensors, strict=False)
        assert (missing, surplus) == (["lm_head.weight"], [])
        self.model.tie_weights()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer / "tokenizer.json"))
        self.seq_len = seq_len

    def tokenize_pair(self, context, continuation):
        """(token ids, how many of the last are the continuation), the beginning cut off where the window is too short."""
        before = self.tokenizer(context, add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
        assert whole[: len(before)] == before
        return whole[-(self.seq_len + 1) :], len(whole) - len(before)

    @torch.inference_mode()
    def compute_loglikelihood(self, context, continuation):
        """The plainest way."""
        ids, count = self.tokenize_pair(context, continuation)
        predicted = self.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        return math.fsum(float(predicted[place - 1, ids[place]]) for place in range(len(ids) - count, len(ids)))

    def compute_float64_loglikelihood(self, context, continuation):
        """The same in float64."""
        self.model.double()
        found = self.compute_loglikelihood(context, continuation)
        self.model.float()
        return found

    def compute_loglikelihoods(self, pairs):
        """``compute_loglikelihood`` of each (context, continuation)."""
        split = [self.tokenize_pair(*pair) for pair in pairs]
        following = {}
        for ids, count in split:
            following.setdefault(tuple(ids[:-count]), {})[tuple(ids[-count:])] = None
        found = {context: self._following(context, continuations) for context, continuations in following.items()}
        return [found[tuple(ids[:-count])][tuple(ids[-count:])] for ids, count in split]

    @torch.inference_mode()
    def _following(self, context, continuations):
        """Continuation -> its log-likelihood, all after the same context."""
        read = self.model(torch.tensor([context]), logits_to_keep=1)
        rows = pad_sequence([torch.tensor(tokens) for tokens in continuations], batch_first=True)  # [n, longest]
        logits = read.logits.expand(len(rows), -1, -1)  # [n, 1, V]: of the first token of each
        if rows.shape[1] > 1:
            read.past_key_values.batch_repeat_interleave(len(rows))
            more = self.model(rows[:, :-1], past_key_values=read.past_key_values).logits  # [n, longest - 1, V]
            logits = torch.cat([logits, more], 1)
        predicted = logits.double().log_softmax(-1)
        return {
            tokens: math.fsum(float(predicted[row, place, token]) for place, token in enumerate(tokens))
            for row, tokens in enumerate(continuations)
        }


def score_example(example, model):
    """An item (a line of examples.jsonl) by the loop: (ll, ll_uncond or None, {metric: one number a choice})."""
    ll = model.compute_loglikelihoods(example["pairs"])
    uncond = None if example["uncond"] is None else model.compute_loglikelihoods(example["uncond"])
    texts = [continuation for _, continuation in example["pairs"]]
    assert all(text.startswith(" ") for text in texts)
    # winogrande has one continuation after two contexts, which lm-evaluation-harness calls the choices.
    is_shared = len(set(texts)) == 1
    lengths = [len(context) if is_shared else len(text) - 1 for context, text in example["pairs"]]
    tokens = [model.tokenize_pair(*pair)[1] for pair in example["pairs"]]
    metrics = {
        "acc": ll,
        "acc_norm": [value / length for value, length in zip(ll, lengths, strict=True)],
        "acc_per_char": [value / len(text) for value, text in zip(ll, texts, strict=True)],
        "acc_per_byte": [value / len(text.encode()) for value, text in zip(ll, texts, strict=True)],
        "acc_per_token": [value / count for value, count in zip(ll, tokens, strict=True)],
    }
    if uncond is not None:
        metrics["acc_uncond"] = [value - alone for value, alone in zip(ll, uncond, strict=True)]
    return ll, uncond, metrics

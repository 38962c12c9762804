"""Chat templates: rendered and tokenised as transformers does it, one BOS, and the end of an answer known from the template."""

import json
import shutil

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from scoring.data.tokenizer_cache import resolve_tokenizer
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import DataPaths
from suites.definitions.suite import load_suite
from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.tokenizers.comparison import open_chat

pytestmark = pytest.mark.scoring

CHATML = load_suite("stage4_sft_native", {}).definition["clean_hello"]["chat_template"]
HEADERS = (
    "{{- bos_token }}{% for message in messages %}{{- '<|start|>' + message['role'] + '<|mid|>\n\n' + message['content'] | trim"
    " + '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{- '<|start|>assistant<|mid|>\n\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}{{ bos_token }}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} {{ eos_token }}"
    "{% endif %}{% endfor %}"
)
GENERATION = (
    "{% set now = strftime_now('%d %B %Y') %}{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|eot|>{% endgeneration %}{% else %}{{ m.content | tojson }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<|start|>", "<|mid|>", "<|eot|>", "<|im_start|>", "<|im_end|>"]
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello, \u00e9t\u00e9!"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "  And <now>?  "},
]


def write_tokenizer(folder, template=None, *, bos=True, special=SPECIAL, **settings):
    """Bytes and a few special tokens; what it encodes by itself begins with BOS."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer(models.BPE({token: n for n, token in enumerate(sorted(alphabet))}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if bos:
        start = backend.token_to_id("<s>")
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>", "__type": "AddedToken"}, **settings}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def chat_of(folder, fallback=None, *, use_fast=True):
    data = DataPaths(folder.parent / "data")
    tokenizer = resolve_tokenizer(str(folder), data, use_fast=use_fast)
    chat = open_chat(tokenizer, fallback=fallback)
    chat.decode, chat.special_tokens = tokenizer.decode, frozenset(tokenizer.resolved.reading.special_tokens)
    return chat


def of_transformers(folder, template, talk):
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), chat_template=template, **ends)
    text = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    return text, list(theirs(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("template", [CHATML, HEADERS, GENERATION])
def test_a_conversation_is_rendered_and_tokenised_as_transformers_does_it(tmp_path, template):
    folder = write_tokenizer(tmp_path / "tokenizer", template)
    found = chat_of(folder).render(TALK)
    assert (found.text, found.tokens) == of_transformers(folder, template, TALK)
    assert not found.system_in_user


def test_there_is_one_bos_and_it_is_the_template_s(tmp_path):
    chat = chat_of(write_tokenizer(tmp_path / "tokenizer", HEADERS))
    tokens = chat.render(TALK).tokens
    bos = len(SPECIAL) + 256 - 7
    assert tokens[0] == bos
    assert tokens.count(bos) == 1
    assert "<s>" in chat.special_tokens


def test_before_the_suite_s_template_stands_what_the_tokenizer_itself_would_write(tmp_path):
    chat = chat_of(write_tokenizer(tmp_path / "tokenizer"), fallback=CHATML)
    assert chat.describe().source == "suite"
    assert chat.decode(chat.render(TALK).tokens).startswith("<s><|im_start|>system\nBe kind.<|im_end|>")
    without = chat_of(write_tokenizer(tmp_path / "without", bos=False), fallback=CHATML)
    assert without.decode(without.render(TALK).tokens).startswith("<|im_start|>")
    own = chat_of(write_tokenizer(tmp_path / "own", CHATML), fallback=HEADERS)
    assert own.describe().source == "tokenizer"
    assert own.decode(own.render(TALK).tokens).startswith("<|im_start|>")


@pytest.mark.parametrize(
    ("template", "token"), [(CHATML, "<|im_end|>"), (HEADERS, "<|eot|>"), (NO_SYSTEM, "</s>"), (GENERATION, "<|eot|>")]
)
def test_the_token_after_an_answer_ends_it_and_so_does_eos(tmp_path, template, token):
    chat = chat_of(write_tokenizer(tmp_path / "tokenizer", template))
    ends = {chat.decode([index]) for index in chat.stop_ids}
    assert ends == {token, "</s>"}
    assert chat.stop_strings == ()


def test_where_the_template_s_marks_are_no_tokens_they_end_an_answer_as_strings(tmp_path):
    chat = chat_of(write_tokenizer(tmp_path / "tokenizer", special=["<s>", "</s>"]), fallback=CHATML)
    assert chat.stop_strings == ("<|im_end|>",)
    assert chat.describe().stop_strings == ("<|im_end|>",)


IGNORES_SYSTEM = NO_SYSTEM.partition("{% endif %}")[2].replace("{% else %}", "{% elif m.role == 'assistant' %}")


@pytest.mark.parametrize("template", [NO_SYSTEM, IGNORES_SYSTEM])
def test_a_template_that_refuses_or_ignores_a_system_role_gets_its_message_in_the_first_user_s(tmp_path, template):
    chat = chat_of(write_tokenizer(tmp_path / "tokenizer", template))
    found = chat.render(TALK)
    assert found.system_in_user
    assert found.text.startswith("<s>[INST] Be kind.\n\nHello, \u00e9t\u00e9! [/INST] Hi. </s>")
    without = chat.render(TALK[1:])
    assert not without.system_in_user
    assert without.text == found.text.replace("Be kind.\n\n", "")


def test_a_slow_tokenizer_renders_ends_and_decodes_as_the_fast_one_does(tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    added = {str(vocabulary.index(token)): {"content": token, "special": True, "normalized": False} for token in SPECIAL}
    ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "</s>"}
    settings = {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": added, "chat_template": CHATML, **ends}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    slow = chat_of(folder, use_fast=False)
    fast = chat_of(write_tokenizer(tmp_path / "fast", CHATML, bos=False))
    assert slow.render(TALK) == fast.render(TALK)
    assert (slow.stop_ids, slow.stop_strings, slow.special_tokens) == (fast.stop_ids, fast.stop_strings, fast.special_tokens)
    tokens = [*slow.render(TALK).tokens, *range(200, 256)]
    assert slow.decode(tokens) == fast.decode(tokens)
    assert slow.decode(tokens).startswith("<|im_start|>system\nBe kind.<|im_end|>")


def test_a_template_in_a_file_of_its_own_or_among_several_is_found(tmp_path):
    folder = write_tokenizer(tmp_path / "file", HEADERS)
    (folder / "chat_template.jinja").write_text(CHATML)
    assert chat_of(folder).template == CHATML
    named = [{"name": "tool_use", "template": NO_SYSTEM}, {"name": "default", "template": CHATML}]
    assert chat_of(write_tokenizer(tmp_path / "named", named)).template == CHATML


def test_the_same_prompt_is_rendered_every_day(tmp_path):
    template = "{{ strftime_now('%d %b %Y') }} {% for m in messages %}{{ m.content }}{% endfor %}"
    assert chat_of(write_tokenizer(tmp_path / "tokenizer", template)).render(TALK[1:]).text.startswith("01 Jan 2025 Hello")


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ raise_exception('never') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[0].nothing.more }}",
        "{{ 1 + 'x' }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_one_clear_line(tmp_path, template):
    with pytest.raises(UserError) as caught:
        chat_of(write_tokenizer(tmp_path / "tokenizer", template)).render(TALK)
    assert caught.value.code is ExitCode.CANNOT_SCORE
    assert "chat template" in str(caught.value)
    assert "tokenizer" in caught.value.location


def test_without_any_template_nothing_is_made_up(tmp_path):
    shutil.copytree(BYTE_TOKENIZER, tmp_path / "tokenizer")
    with pytest.raises(UserError, match="has no chat template"):
        chat_of(tmp_path / "tokenizer")


def test_text_of_special_tokens_in_an_answer_is_spelled_out_and_broken_bytes_are_replaced(tmp_path):
    chat = chat_of(write_tokenizer(tmp_path / "tokenizer", CHATML))
    tokens = chat.render([{"role": "user", "content": "\u00e9"}]).tokens
    middle = next(n for n in range(len(tokens)) if chat.decode(tokens[: n + 1]).endswith("\ufffd"))
    assert chat.decode(tokens[: middle + 1]).startswith("<|im_start|>user\n")
    chat.decode(tokens[: middle + 1]).encode()

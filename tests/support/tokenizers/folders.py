"""Tokenizer folders as people have them: the rows of the matrix.

A folder is a vocabulary, a pipeline around it, and what its configuration says: class, flags, special tokens.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from support.tokenizers.vocabularies import (
    CHATML,
    ENDOFTEXT,
    GEORGIAN,
    IM_END,
    IM_START,
    PADDING,
    UNK,
    add_specials,
    added,
    begins_with,
    byte_level,
    characters,
    llama_bytes,
    qwen,
    save,
    unigram,
    vocab_and_merges,
    words,
)

FAST = "PreTrainedTokenizerFast"

ENDS = {"bos_token": "<s>", "eos_token": "</s>"}


class FolderKind(NamedTuple):
    """One row of the matrix."""

    name: str
    write: Callable[[Path], None]


def kind(name: str, backend: Callable[[], Tokenizer] | None, settings: Any = None, **documents: Any) -> FolderKind:
    """A row with a tokenizer.json."""
    return FolderKind(name, lambda folder: save(folder, backend() if backend else None, settings, **documents))


def eot() -> Tokenizer:
    """GPT-2's vocabulary in small."""
    return byte_level(ENDOFTEXT)


def neox() -> Tokenizer:
    """GPT-NeoX's vocabulary in small."""
    return byte_level(ENDOFTEXT, PADDING)


def sent(**options: Any) -> Tokenizer:
    """Bytes with <s> and </s>."""
    return byte_level("<s>", "</s>", **options)


def list_sentencepiece_kinds(model: bytes, piece_count: int) -> Iterator[FolderKind]:
    """Folders with a tokenizer.model alone."""
    llama = {"tokenizer_class": "LlamaTokenizer", **ENDS, "unk_token": UNK}
    ends = {**added(0, UNK), **added(1, "<s>"), **added(2, "</s>")}

    def add_chat(start: int) -> dict[str, Any]:
        return {"added_tokens_decoder": {**ends, **added(start, IM_START), **added(start + 1, IM_END)}}

    for name, settings in {
        "bos": {**llama, "add_bos_token": True},
        "no_bos": {**llama, "add_bos_token": False},
        "not_legacy": {**llama, "add_bos_token": True, "legacy": False},
        "defaults": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
        "added": {**llama, "add_bos_token": True, **add_chat(piece_count)},
        "gap": {**llama, "add_bos_token": True, **add_chat(piece_count + 80)},
    }.items():

        def write(folder: Path, settings: dict[str, Any] = settings) -> None:
            save(folder, None, settings)
            (folder / "tokenizer.model").write_bytes(model)

        yield FolderKind(f"sentencepiece_{name}", write)


def list_folder_kinds() -> Iterator[FolderKind]:
    """All rows, by name."""
    yield from _class_defaults()
    yield from _added_tokens()
    yield from _flags()
    yield from _families()
    yield from _small_alphabets()
    yield from _without_tokenizer_json()


def _class_defaults() -> Iterator[FolderKind]:
    """BOS and EOS from class defaults and from documents."""
    for model_type in ("gpt2", "qwen2", "gptj", "gpt_neo"):
        yield kind(f"defaults_{model_type}", eot, {"model_max_length": 1024}, config={"model_type": model_type})
    for name in ("GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast"):
        yield kind(f"class_{name}", eot, {"tokenizer_class": name})
    yield kind("class_GPTNeoXTokenizerFast", neox, {"tokenizer_class": "GPTNeoXTokenizerFast"})
    for model_type in ("gpt_neox", "olmo"):
        yield kind(f"defaults_{model_type}", neox, {"model_max_length": 1024}, config={"model_type": model_type})
    yield kind("nothing_named", eot, {})
    yield kind("no_config_at_all", eot)
    yield kind("class_null_bos", eot, {"tokenizer_class": "GPT2Tokenizer", "bos_token": None, "eos_token": ENDOFTEXT})
    yield kind("special_tokens_map_only", sent, None, special_tokens_map=ENDS)
    yield kind(
        "special_tokens_map_objects",
        sent,
        {"tokenizer_class": FAST},
        special_tokens_map={
            "bos_token": {"content": "<s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False},
            "eos_token": "</s>",
        },
    )
    yield kind(
        "map_against_config", sent, {"tokenizer_class": FAST, "eos_token": "<s>"}, special_tokens_map={"eos_token": "</s>"}
    )


def _added_tokens() -> Iterator[FolderKind]:
    """Tokens that only tokenizer_config.json names."""
    chat = {**added(256, IM_START), **added(257, IM_END)}
    yield kind("added_chat_tokens", byte_level, {"tokenizer_class": FAST, "added_tokens_decoder": chat, "eos_token": IM_END})
    yield kind("added_by_name", byte_level, {"tokenizer_class": FAST, "eos_token": "</s>"})
    yield kind(
        "added_class_gpt2", byte_level, {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": chat, "eos_token": IM_END}
    )
    yield kind(
        "added_not_special",
        eot,
        {
            "tokenizer_class": FAST,
            "added_tokens_decoder": {**added(256, ENDOFTEXT), **added(257, "    ", special=False)},
            "eos_token": ENDOFTEXT,
        },
    )
    yield kind(
        "added_additional",
        eot,
        {"tokenizer_class": FAST, "eos_token": ENDOFTEXT, "additional_special_tokens": [IM_START, IM_END]},
    )
    yield kind("added_extra", eot, {"tokenizer_class": FAST, "eos_token": ENDOFTEXT, "pad_token": "<|pad|>"})
    yield kind("added_tokens_json", eot, {"tokenizer_class": FAST, "eos_token": ENDOFTEXT}, added_tokens={IM_START: 257})
    yield kind(
        "added_lstrip",
        eot,
        {
            "tokenizer_class": FAST,
            "eos_token": ENDOFTEXT,
            "added_tokens_decoder": {**added(256, ENDOFTEXT), **added(257, "<mask>", lstrip=True)},
        },
    )


def _flags() -> Iterator[FolderKind]:
    """add_bos_token against the post-processor, and add_prefix_space."""
    for name in (FAST, "LlamaTokenizerFast", "GPT2Tokenizer", "GPTNeoXTokenizerFast", None):
        label = {None: "none", FAST: "fast"}.get(name, str(name).removesuffix("Fast").removesuffix("Tokenizer").lower())
        ends = ENDS if name is None else {**ENDS, "tokenizer_class": name}
        specials = ("<s>", "</s>", PADDING, ENDOFTEXT) if label == "gptneox" else ("<s>", "</s>")
        yield kind(f"flag_true_{label}", lambda specials=specials: byte_level(*specials), {**ends, "add_bos_token": True})
        yield kind(
            f"flag_false_template_{label}",
            lambda specials=specials: begins_with(byte_level(*specials), "<s>"),
            {**ends, "add_bos_token": False},
        )
    yield kind(
        "template_bos_eos", lambda: begins_with(byte_level("<s>", "</s>"), "<s>", "</s>"), {**ENDS, "tokenizer_class": FAST}
    )
    yield kind("template_bos_no_flag", lambda: begins_with(byte_level("<s>", "</s>"), "<s>"), {**ENDS, "tokenizer_class": FAST})
    yield kind("flag_eos", sent, {**ENDS, "tokenizer_class": FAST, "add_eos_token": True})
    yield kind("prefix_space_config", eot, {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True})
    yield kind(
        "prefix_space_file",
        lambda: byte_level(ENDOFTEXT, prefix_space=True),
        {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True},
    )
    yield kind(
        "prefix_space_off",
        lambda: byte_level(ENDOFTEXT, prefix_space=True),
        {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": False},
    )
    yield kind(
        "prefix_space_file_silent", lambda: byte_level(ENDOFTEXT, prefix_space=True), {"tokenizer_class": "GPT2TokenizerFast"}
    )
    yield kind("prefix_space_fast", eot, {"tokenizer_class": FAST, "eos_token": ENDOFTEXT, "add_prefix_space": True})
    yield kind("prefix_space_neox", neox, {"tokenizer_class": "GPTNeoXTokenizerFast", "add_prefix_space": True})


def _families() -> Iterator[FolderKind]:
    """Pipelines of model families."""
    yield kind(
        "smollm2",
        lambda: byte_level(ENDOFTEXT, IM_START, IM_END),
        {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            "bos_token": ENDOFTEXT,
            "eos_token": ENDOFTEXT,
            "unk_token": ENDOFTEXT,
            "chat_template": CHATML,
        },
    )
    yield kind(
        "smollm2_instruct",
        lambda: byte_level(ENDOFTEXT, IM_START, IM_END),
        {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": IM_START,
            "eos_token": IM_END,
            "pad_token": IM_END,
            "chat_template": CHATML,
        },
    )
    yield kind(
        "qwen2",
        lambda: qwen(ENDOFTEXT, IM_START, IM_END),
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_bos_token": False,
            "bos_token": None,
            "eos_token": IM_END,
            "pad_token": ENDOFTEXT,
            "chat_template": CHATML,
        },
        config={"model_type": "qwen2"},
    )
    yield kind(
        "llama3",
        lambda: begins_with(byte_level("<|begin_of_text|>", "<|end_of_text|>"), "<|begin_of_text|>"),
        {"tokenizer_class": FAST, "bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
        config={"model_type": "llama"},
    )
    yield kind(
        "olmo2",
        eot,
        {"tokenizer_class": "GPT2Tokenizer", "bos_token": ENDOFTEXT, "eos_token": ENDOFTEXT, "pad_token": "<|pad|>"},
        config={"model_type": "olmo2"},
    )
    for name, split in (("metaspace", "metaspace"), ("normalizer", "normalizer")):
        yield kind(
            f"llama2_{name}",
            lambda split=split: begins_with(llama_bytes(split=split), "<s>"),
            {"tokenizer_class": "LlamaTokenizer", "legacy": False, **ENDS, "unk_token": "<unk>", "add_bos_token": True},
            config={"model_type": "llama"},
        )
    yield kind("llama2_no_post_processor", llama_bytes, {"tokenizer_class": "LlamaTokenizerFast", **ENDS, "unk_token": "<unk>"})
    yield kind(
        "mistral",
        lambda: begins_with(llama_bytes(split="normalizer"), "<s>"),
        {"tokenizer_class": "LlamaTokenizer", **ENDS, "unk_token": "<unk>"},
        config={"model_type": "mistral"},
    )
    yield kind(
        "gemma",
        lambda: begins_with(add_specials(llama_bytes(split="gemma"), "<mask>"), "<s>"),
        {"tokenizer_class": "GemmaTokenizer", **ENDS, "unk_token": "<unk>", "pad_token": "<s>", "add_bos_token": True},
    )
    yield kind("unigram", unigram, {"tokenizer_class": FAST, **ENDS, "unk_token": "<unk>"})
    yield kind("t5_like", unigram, {"tokenizer_class": FAST, "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<s>"})


def _small_alphabets() -> Iterator[FolderKind]:
    """Vocabularies that do not cover all text."""
    yield kind("dna", lambda: characters("ACGTN", "<s>", "</s>"), {"tokenizer_class": FAST, **ENDS})
    yield kind(
        "dna_unk",
        lambda: characters("ACGTN", "<unk>", "<s>", "</s>", unk="<unk>"),
        {"tokenizer_class": FAST, **ENDS, "unk_token": "<unk>"},
    )
    yield kind("digits", lambda: characters("0123456789+-*/=. \n", "<s>", "</s>"), {"tokenizer_class": FAST, **ENDS})
    yield kind(
        "georgian",
        lambda: characters(GEORGIAN + " .,", "<unk>", "<s>", "</s>", unk="<unk>"),
        {"tokenizer_class": FAST, **ENDS, "unk_token": "<unk>"},
    )
    yield kind(
        "words",
        lambda: words("[UNK]", "[BOS]", "[EOS]"),
        {"tokenizer_class": FAST, "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]"},
    )
    yield kind(
        "bert",
        lambda: begins_with(words("[UNK]", "[CLS]", "[SEP]"), "[CLS]", "[SEP]"),
        {"tokenizer_class": FAST, "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"},
    )


def _without_tokenizer_json() -> Iterator[FolderKind]:
    """vocab.json and merges.txt."""
    for name, config in (
        ("gpt2", {"tokenizer_class": "GPT2Tokenizer", "bos_token": ENDOFTEXT, "eos_token": ENDOFTEXT}),
        ("gpt2_defaults", {"tokenizer_class": "GPT2Tokenizer"}),
        ("gpt2_prefix_space", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}),
        ("gpt2_add_bos", {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}),
        ("qwen2", {"tokenizer_class": "Qwen2Tokenizer", "eos_token": ENDOFTEXT}),
    ):
        yield FolderKind(f"vocab_{name}", lambda folder, config=config: vocab_and_merges(folder, config, ENDOFTEXT))
    yield FolderKind("vocab_model_type", lambda folder: vocab_and_merges(folder, None, ENDOFTEXT, config={"model_type": "gpt2"}))

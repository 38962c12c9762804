"""Tokenizer folders of every kind that pre-training runs use, as small files: the rows of the matrix.

A folder is a vocabulary, a pipeline around it, and what its configuration says: class, flags, special tokens.
"""

import json
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
"""The 256 symbols of byte-level vocabularies, in the order of their ids."""

GEORGIAN = "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ"

ENDOFTEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

UNK, WORD_UNK = "<unk>", "[UNK]"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class FolderKind(NamedTuple):
    """One row of the matrix."""

    name: str
    write: Callable[[Path], None]


def save(folder: Path, backend: Tokenizer | None, settings: dict[str, Any] | None, **documents: Any) -> None:
    """tokenizer.json, tokenizer_config.json and other documents (``config`` is config.json)."""
    folder.mkdir(parents=True, exist_ok=True)
    if backend is not None:
        backend.save(str(folder / "tokenizer.json"))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")


def add_specials(backend: Tokenizer, *tokens: str) -> Tokenizer:
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return backend


def byte_level(
    *specials: str, merges: tuple[tuple[str, str], ...] = (), prefix_space: bool = False, post: Any = "bytes"
) -> Tokenizer:
    """BPE over the 256 byte symbols; special tokens follow from 256 on."""
    vocab = {symbol: index for index, symbol in enumerate(BYTES)}
    for left, right in merges:
        vocab[left + right] = len(vocab)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    if post == "bytes":
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
    add_specials(backend, *specials)
    return backend


def begins_with(backend: Tokenizer, token: str, end: str | None = None) -> Tokenizer:
    """With a post-processor that puts ``token`` before a text, and ``end`` after it."""
    used = [token] if end is None else [token, end]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{token} $A" + (f" {end}" if end else ""),
        special_tokens=[(text, backend.token_to_id(text)) for text in used],
    )
    return backend


def qwen(*specials: str) -> Tokenizer:
    """Qwen2's pipeline: NFC, its regular expression, bytes."""
    backend = byte_level(*specials, merges=(("t", "h"), ("th", "e")))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return backend


def _regex(pattern: str) -> Any:
    from tokenizers import Regex  # noqa: PLC0415  a name that few need

    return Regex(pattern)


def llama_bytes(*, letters: str = string.ascii_lowercase, split: str = "metaspace") -> Tokenizer:
    """Llama 2's vocabulary in small: <unk>, <s>, </s>, 256 bytes, pieces with a leading mark."""
    pieces = ["▁", *letters, "▁t", "th", "▁th", "he"]
    vocab = {token: n for n, token in enumerate(["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *pieces])}
    merges = [("▁", "t"), ("t", "h"), ("▁t", "h"), ("h", "e")]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=UNK, fuse_unk=True, byte_fallback=True))
    if split == "metaspace":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    elif split == "gemma":
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = [] if split == "gemma" else [decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return add_specials(backend, "<unk>", "<s>", "</s>")


def characters(alphabet: str, *specials: str, unk: str | None = None) -> Tokenizer:
    """One token a character of a small alphabet: DNA, digits, a script."""
    tokens = [*specials, *alphabet]
    backend = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=[], unk_token=unk))
    backend.decoder = decoders.Fuse()
    return add_specials(backend, *specials)


def words(*specials: str) -> Tokenizer:
    """Whole words, [UNK] for others."""
    tokens = [*specials, "the", "cat", "sat", "on", "mat", ".", ","]
    backend = Tokenizer(models.WordLevel({token: n for n, token in enumerate(tokens)}, unk_token=WORD_UNK))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return add_specials(backend, *specials)


def unigram() -> Tokenizer:
    """SentencePiece's unigram in tokenizer.json, with bytes."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((f"<0x{n:02X}>", -20.0) for n in range(256))]
    pieces += [("▁", -3.0), *((letter, -5.0) for letter in string.ascii_lowercase), ("▁the", -4.0), ("▁a", -4.5)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return add_specials(backend, "<unk>", "<s>", "</s>")


def added(index: int, text: str, *, special: bool = True, **options: bool) -> dict[str, Any]:
    """One entry of added_tokens_decoder."""
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, **options}
    return {str(index): {"content": text, "special": special, **flags}}


def vocab_and_merges(folder: Path, settings: dict[str, Any] | None, *specials: str, **documents: Any) -> None:
    """A folder without tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {symbol: index for index, symbol in enumerate([*BYTES, "th", "the", *specials])}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\n", encoding="utf-8")
    save(folder, None, settings, **documents)


FAST = "PreTrainedTokenizerFast"
ENDS = {"bos_token": "<s>", "eos_token": "</s>"}


def kind(name: str, backend: Callable[[], Tokenizer] | None, settings: Any = None, **documents: Any) -> FolderKind:
    """A row with a tokenizer.json."""
    return FolderKind(name, lambda folder: save(folder, backend() if backend else None, settings, **documents))


def eot() -> Tokenizer:
    """GPT-2's vocabulary in small."""
    return byte_level(ENDOFTEXT)


def sent(**options: Any) -> Tokenizer:
    """Bytes with <s> and </s>."""
    return byte_level("<s>", "</s>", **options)


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
    for model_type in ("gpt2", "gpt_neox", "qwen2", "gptj", "gpt_neo", "olmo"):
        yield kind(f"defaults_{model_type}", eot, {"model_max_length": 1024}, config={"model_type": model_type})
    for name in ("GPT2Tokenizer", "GPT2TokenizerFast", "GPTNeoXTokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast"):
        yield kind(f"class_{name}", eot, {"tokenizer_class": name})
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
        yield kind(f"flag_true_{label}", sent, {**ends, "add_bos_token": True})
        yield kind(
            f"flag_false_template_{label}",
            lambda: begins_with(byte_level("<s>", "</s>"), "<s>"),
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
    yield kind("prefix_space_neox", eot, {"tokenizer_class": "GPTNeoXTokenizerFast", "add_prefix_space": True})


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
        "llama2_bos_off",
        lambda: begins_with(llama_bytes(), "<s>"),
        {"tokenizer_class": "LlamaTokenizer", **ENDS, "add_bos_token": False},
        config={"model_type": "llama"},
    )
    yield kind(
        "mistral",
        lambda: begins_with(llama_bytes(split="normalizer"), "<s>"),
        {"tokenizer_class": "LlamaTokenizer", **ENDS, "unk_token": "<unk>"},
        config={"model_type": "mistral"},
    )
    yield kind(
        "gemma",
        lambda: begins_with(llama_bytes(split="gemma"), "<s>"),
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

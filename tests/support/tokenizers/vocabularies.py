"""Small vocabularies and pipelines of every kind that pre-training runs use, and the files around them."""

import json
import string
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
"""The 256 symbols of byte-level vocabularies, in the order of their ids."""

GEORGIAN = "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ"

PADDING = "<|padding|>"

ENDOFTEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

UNK, WORD_UNK = "<unk>", "[UNK]"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


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

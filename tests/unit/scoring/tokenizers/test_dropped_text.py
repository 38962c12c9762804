"""What a tokenizer's steps drop is counted, and what they only change is not."""

import io
import json

import pytest
import sentencepiece
import tokenizers
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from scoring.tokenizers.codecs import PipelineCodec, SentencePieceCodec
from support.tokenizers.vocabularies import BYTES, byte_level, llama_bytes, qwen, unigram, words

pytestmark = pytest.mark.scoring


def normalized(backend, *steps):
    backend.normalizer = normalizers.Sequence(list(steps))
    return backend


def split(backend, *steps):
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    return backend


def trimmed(backend):
    """With a post-processor that takes spaces out of the offsets, and an unknown token."""
    backend.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    pipeline = json.loads(backend.to_str())
    pipeline["model"]["unk_token"] = BYTES[0]
    return tokenizers.Tokenizer.from_str(json.dumps(pipeline))


def letters(alphabet, *, unk="[UNK]", **options):
    backend = tokenizers.Tokenizer(models.BPE({t: n for n, t in enumerate([unk, *alphabet])}, [], unk_token=unk))
    for name, value in options.items():
        setattr(backend, name, value)
    return backend


def word_pieces():
    """BERT's pipeline with small words."""
    vocabulary = ["[UNK]", *"abcdeÉ,.", "the", "cat", "##s", "##at", "e", "ete"]
    backend = tokenizers.Tokenizer(
        models.WordPiece({t: n for n, t in enumerate(dict.fromkeys(vocabulary))}, unk_token="[UNK]")  # noqa: S106
    )
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def suffixed():
    """BPE whose tokens say where a word ends, as in GPT-1."""
    vocabulary = ["<unk>", "c", "a", "t", "t</w>", "a</w>"]
    backend = tokenizers.Tokenizer(
        models.BPE({t: n for n, t in enumerate(vocabulary)}, [], unk_token="<unk>", end_of_word_suffix="</w>")  # noqa: S106
    )
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.WhitespaceSplit(), decoders.BPEDecoder()
    return backend


BYTE_SPLIT = pre_tokenizers.ByteLevel(add_prefix_space=False)

PIPELINES = {  # kind -> pipeline, text, what of it has no token
    "bytes": (byte_level(), "hello wörld  o\n", ""),
    "bytes, NFC": (qwen(), "e\u0301te\u0301 \u1100\u1161", ""),
    "bytes, trimmed offsets": (trimmed(byte_level()), " hello  wörld ", ""),
    "bytes, o replaced by nothing": (normalized(byte_level(), normalizers.Replace("o", "")), "hello wörld o", "oo"),
    "bytes, é replaced by nothing": (normalized(byte_level(), normalizers.Replace("é", "")), "été", "éé"),
    "bytes, a pattern replaced by nothing": (normalized(byte_level(), normalizers.Replace(Regex("[0-9]+"), "")), "a12b3", "123"),
    "bytes, several replaced by one": (normalized(byte_level(), normalizers.Replace(Regex(" {2,}"), " ")), "a   b c", "  "),
    "bytes, a letter replaced by another": (normalized(byte_level(), normalizers.Replace("o", "0")), "hello o", ""),
    "bytes, stripped": (normalized(byte_level(), normalizers.Strip()), "  a b\n", "  \n"),
    "bytes, accents stripped": (
        normalized(byte_level(), normalizers.NFD(), normalizers.StripAccents()),
        "été e\u0301",
        "\u0301",
    ),
    "bytes, lower case and NFKC": (normalized(byte_level(), normalizers.NFKC(), normalizers.Lowercase()), "ÀÉ ﬁ ① e\u0301", ""),
    "bytes, white space removed": (split(byte_level(), pre_tokenizers.WhitespaceSplit(), BYTE_SPLIT), "ab c\nd", " \n"),
    "bytes, a mark removed": (split(byte_level(), pre_tokenizers.Split("-", "removed"), BYTE_SPLIT), "a-b--c d", "---"),
    "bytes, punctuation removed": (split(byte_level(), pre_tokenizers.Punctuation("removed"), BYTE_SPLIT), "a, b.", ",."),
    "Llama, bytes": (llama_bytes(), "the  cat é\n", ""),
    "Llama, prefix by a normalizer": (llama_bytes(split="normalizer"), " the  cat é", ""),
    "Llama, x replaced by nothing": (normalized(llama_bytes(split="gemma"), normalizers.Replace("x", "")), "xaxb x", "xxx"),
    "unigram, bytes": (unigram(), "the  a é\n", ""),
    "words": (words("[UNK]"), "the cat sat", ""),
    "words, more white space": (words("[UNK]"), " the  cat\n\nsat. ", "  \n "),
    "words, an unknown one": (words("[UNK]"), "the dög sat", "dög"),
    "words, lower case": (normalized(words("[UNK]"), normalizers.Lowercase()), "The CAT", ""),
    "letters, NFC": (normalized(letters("é a"), normalizers.NFC()), "e\u0301 a", ""),
    "letters, mark without a token": (normalized(letters("éa"), normalizers.NFC()), "e\u0301a\u0300", "a\u0300"),
    "BERT": (word_pieces(), "The cats,  été\x00", " \x00"),
    "ends of words": (suffixed(), "cat  cat", " "),
    "letters, white space split": (letters("abcd", pre_tokenizer=pre_tokenizers.WhitespaceSplit()), "ab cd", " "),
    "letters, prefix before an unknown one": (letters("▁ab", pre_tokenizer=pre_tokenizers.Metaspace()), "é ab", "é"),
    "letters, a delimiter removed": (letters("ab", pre_tokenizer=pre_tokenizers.CharDelimiterSplit("|")), "a|b||a", "|||"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PIPELINES)
def test_what_has_no_token_is_counted(kind):
    backend, text, lost = PIPELINES[kind]
    codec = PipelineCodec(backend)
    (unknown,) = codec.count_unknown([text])
    assert unknown == (len(lost), len(lost.encode()))
    assert not (codec.unknown_text_counter.covers_all_text and lost)


@pytest.fixture(scope="module")
def precompiled():
    """SentencePiece's nmt_nfkc rules, as the tokenizers of T5 and XLM-R have them."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat"] * 50), model_writer=written, vocab_size=20,
        hard_vocab_limit=False, minloglevel=2, normalization_rule_name="nmt_nfkc",
    )  # fmt: skip
    model = ModelProto.FromString(written.getvalue())
    return normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)


SPACES = normalizers.Replace(Regex(" {2,}"), " ")


@pytest.mark.parametrize(
    ("more", "text", "lost"),
    [
        ((), "the\x01 cat", "\x01"),
        ((), "ﬁ ① ㌔ … ｶﾞ e\u0301 \u1100\u1161 \u3000\t🙂", ""),
        ((), "a\u200bb\ufeff", ""),
        ((SPACES,), "a  \u3000b\x02", "  \x02"),
        ((SPACES,), "a \x7f b", "\x7f "),
        ((normalizers.Strip(left=False, right=True), SPACES), "  a  b\t\n", "  \t\n"),
    ],
)
def test_what_precompiled_rules_drop_is_counted(precompiled, more, text, lost):
    codec = PipelineCodec(normalized(byte_level(), precompiled, *more))
    assert not codec.unknown_text_counter.covers_all_text
    assert codec.count_unknown([text]) == [(len(lost), len(lost.encode()))]


def test_no_text_is_looked_at_where_nothing_can_be_lost():
    for backend in (byte_level(), qwen(), llama_bytes(), llama_bytes(split="gemma"), unigram()):
        assert PipelineCodec(backend).unknown_text_counter.covers_all_text


def test_text_of_1200_bytes_without_200_of_them():
    codec = PipelineCodec(normalized(byte_level(), normalizers.Replace("o", "")))
    text = "hollow" * 200
    assert len(codec.encode([text])[0]) == 800
    assert codec.count_unknown([text]) == [(400, 400)]


@pytest.fixture
def train(tmp_path):
    """Trains a model of SentencePiece."""

    def train_model(**options):
        written = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["the cat sat on the mat and it was there then"] * 50),
            model_writer=written, hard_vocab_limit=False, minloglevel=2, **options,
        )  # fmt: skip
        (tmp_path / "tokenizer.model").write_bytes(written.getvalue())
        return SentencePieceCodec(tmp_path / "tokenizer.model", {})

    return train_model


@pytest.mark.parametrize(
    ("options", "text", "lost"),
    [
        ({"byte_fallback": True}, "the cat é e\u0301 ﬁ", ""),
        ({"byte_fallback": True}, "  the  cat\n\n sat\n", "   \n\n\n"),
        ({"byte_fallback": True}, "the\x01 cat", "\x01"),
        ({"byte_fallback": True}, " \n", " \n"),
        ({"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}, "  the\x01\n ", ""),
        ({"normalization_rule_name": "nmt_nfkc_cf", "vocab_size": 40}, "The  CAT ü", " ü"),
    ],
)
def test_what_sentencepiece_drops_is_counted(train, options, text, lost):
    codec = train(model_type="bpe", **{"vocab_size": 300, **options})
    assert codec.count_unknown([text]) == [(len(lost), len(lost.encode()))]
    assert codec.covers_all_text == ("remove_extra_whitespaces" in options)

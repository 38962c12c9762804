"""resolved.json: what a tokenizer's folder means. Written once, with transformers; read by jobs and the login node."""

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from suites.common.documents import DamagedDocument, read_struct
from suites.contract.encoding import canonical_digest, encode_json

RESOLVED_JSON = "resolved.json"

PIPELINE_JSON = "pipeline.json"
"""The tokenizers library's pipeline, where tokenizer.json alone does not give it."""

TokenizerWay = Literal["tokenizer.json", "sentencepiece", "transformers"]
"""Where the ids of text come from: a pipeline of tokenizers, SentencePiece's model, or a Python class of transformers."""


class SpecialToken(msgspec.Struct, frozen=True, kw_only=True):
    """BOS or EOS."""

    text: str
    id: int


class TokenizerReading(msgspec.Struct, frozen=True, kw_only=True):
    """What decides tokens. Its digest is part of every key of the data cache."""

    schema: int = 1
    files: str
    """Digest of the folder's files."""
    pipeline: str | None = None
    """sha256 of pipeline.json; None where there is none."""
    way: TokenizerWay
    model_file: str
    """File with the vocabulary, such as ``tokenizer.model``."""
    tokenizer_class: str
    """Class of transformers that the folder names or implies."""
    bos: SpecialToken | None
    eos: SpecialToken | None
    prefix_ids: tuple[int, ...]
    """What the tokenizer puts before a text."""
    vocab_size: int
    """Highest id plus one."""
    special_tokens: dict[str, int]
    """Text -> id of what is left out of an answer's text."""
    splits_special_tokens: bool = False
    """Special tokens in a prompt are ordinary text, too (``split_special_tokens``)."""
    covers_all_text: bool
    """Every byte has a token, so no character is without one."""
    template: str | None = None
    """sha256 of the tokenizer's chat template."""


class ResolvedTokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """The document: the reading, how it came about, and what a person should know."""

    reading: TokenizerReading
    revision: str | None = None
    """Commit of the hub's repository."""
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    """Library -> version at the reading."""
    notes: tuple[str, ...] = ()
    """Sentences that go into tier files: what was guessed or decided."""

    @property
    def digest(self) -> str:
        """24 hex digits for the reading."""
        return canonical_digest(msgspec.to_builtins(self.reading))[:24]

    def write(self, folder: Path) -> None:
        """Write resolved.json into a folder that nobody reads yet."""
        (folder / RESOLVED_JSON).write_bytes(encode_json(self))


def read_resolved_tokenizer(folder: Path) -> ResolvedTokenizer | None:
    """resolved.json of a cached tokenizer.

    None where it is missing or damaged.
    """
    try:
        return read_struct(folder / RESOLVED_JSON, ResolvedTokenizer)
    except (OSError, DamagedDocument):
        return None


def has_its_pipeline(folder: Path, reading: TokenizerReading) -> bool:
    """Whether pipeline.json is the one of the reading."""
    if reading.pipeline is None:
        return True
    try:
        with (folder / PIPELINE_JSON).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == reading.pipeline
    except OSError:
        return False

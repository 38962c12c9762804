"""A tokenizer as scoring uses it: texts and pairs to token ids, and what stands between documents.

Texts are never truncated, and special-token text inside them is ordinary text.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from scoring.tokenizers.codecs import Codec, load_codec
from scoring.tokenizers.unknown_text import UnknownText
from suites.common.errors import ExitCode, UserError
from suites.contract.resolved_tokenizer import ResolvedTokenizer


class TokenRequest(msgspec.Struct, frozen=True):
    """One request as tokens: ll(continuation | context)."""

    context: list[int]
    """At least one token: the first token of a sequence cannot be predicted."""
    continuation: list[int]
    """At least one token."""


class DocumentSeparator(NamedTuple):
    """What stands before and after the tokens of each document of a slice."""

    before: tuple[int, ...]
    after: tuple[int, ...]


class EncodedText(NamedTuple):
    """The tokens of a text, and what of it has none."""

    tokens: list[int]
    unknown: UnknownText


class Tokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded tokenizer, and what scoring must know of it."""

    identifier: str
    """As it was requested: a path, or a hub id with its revision."""
    use_fast: bool
    folder: Path
    """Its copy in the data cache."""
    resolved: ResolvedTokenizer
    codec: Codec

    @property
    def digest(self) -> str:
        """As cache keys have it."""
        return self.folder.name

    @property
    def vocab_size(self) -> int:
        """Highest id plus one. The model's vocabulary must be at least as large."""
        return self.resolved.reading.vocab_size

    @property
    def bos_id(self) -> int | None:
        """Id of BOS."""
        return None if self.resolved.reading.bos is None else self.resolved.reading.bos.id

    @property
    def eos_id(self) -> int | None:
        """Id of EOS."""
        return None if self.resolved.reading.eos is None else self.resolved.reading.eos.id

    @property
    def prefix(self) -> tuple[int, ...]:
        """What the tokenizer puts before a text: its BOS, or nothing."""
        return self.resolved.reading.prefix_ids

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text: no BOS, no EOS, no truncation."""
        return self.codec.encode(texts)

    def encode_with_unknown(self, texts: Sequence[str]) -> list[EncodedText]:
        """Token ids of each text, and what of it has no token."""
        return [EncodedText(*encoded) for encoded in zip(self.encode(texts), self.count_unknown(texts), strict=True)]

    def count_unknown(self, texts: Sequence[str]) -> list[UnknownText]:
        """What of each text has no token."""
        has_all = self.resolved.reading.covers_all_text
        return [UnknownText(0, 0)] * len(texts) if has_all else self.codec.count_unknown(texts)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens as valid UTF-8, special tokens included."""
        return valid_utf8(self.codec.decode(tokens))

    def separate_documents(self, *, bos: bool = True, eos: bool = True) -> DocumentSeparator:
        """BOS before and EOS after each document, where the tokenizer has them and a slice wants them.

        Where they are one token, and the tokenizer itself puts none before a text, it stands once.
        """
        is_one_token = self.bos_id == self.eos_id and not self.prefix
        before = () if self.bos_id is None or not bos or (is_one_token and eos) else (self.bos_id,)
        return DocumentSeparator(before, (self.eos_id,) if eos and self.eos_id is not None else ())

    def describe(self) -> dict[str, Any]:
        """The tokenizer in tier files and in meta.json."""
        resolved, reading = self.resolved, self.resolved.reading
        return {
            "id": self.identifier,
            "digest": self.digest,
            "class": reading.tokenizer_class,
            "way": reading.way,
            "file": reading.model_file,
            "use_fast": self.use_fast,
            "revision": resolved.revision,
            "bos": msgspec.to_builtins(reading.bos),
            "eos": msgspec.to_builtins(reading.eos),
            "prefix_ids": list(reading.prefix_ids),
            "document_separator": {name: list(ids) for name, ids in self.separate_documents()._asdict().items()},
            "vocab_size": reading.vocab_size,
            "template": reading.template,
            "read_with": resolved.versions,
            "notes": list(resolved.notes),
        }

    def summarize(self) -> str:
        """The reading in one line, for a person."""
        reading = self.resolved.reading
        bos, eos = (f"{token.id} ({token.text})" if token else "none" for token in (reading.bos, reading.eos))
        before = " ".join(map(str, reading.prefix_ids)) or "nothing"
        source = f"{reading.tokenizer_class}, ids of {reading.model_file or reading.way}, {reading.vocab_size:,} tokens"
        return f"{source}; BOS {bos}, EOS {eos}, {before} before a text"

    def encode_pairs(self, pairs: Sequence[tuple[str, str]], *, name_item: Callable[[int], str]) -> list[TokenRequest]:
        """Encode (context, continuation) pairs, split where the context's tokens end.

        The continuation is what follows the context in the tokens of context + continuation. If those do not begin with
        the context's tokens, the boundary moves back to their longest common prefix. ``name_item(i)`` names pair i in errors.

        Raises UserError (cannot score) for a continuation without a token.
        """
        contexts = list(dict.fromkeys(context for context, _ in pairs))
        context_ids = dict(zip(contexts, self.encode(contexts), strict=True))
        joint_ids = self.encode([context + continuation for context, continuation in pairs])
        return [
            self._split(context_ids[context], ids, name_item, index)
            for index, ((context, _), ids) in enumerate(zip(pairs, joint_ids, strict=True))
        ]

    def _split(self, context: list[int], joint_ids: list[int], name_item: Callable[[int], str], index: int) -> TokenRequest:
        boundary = len(context)
        if joint_ids[:boundary] != context:
            # A token spans the boundary: what both have in common is the context.
            boundary = next(
                (n for n, (a, b) in enumerate(zip(context, joint_ids, strict=False)) if a != b), min(len(context), len(joint_ids))
            )
        if boundary >= len(joint_ids):
            raise UserError(
                "a choice has no token of its own",
                location=name_item(index),
                hint="fix or remove that row",
                code=ExitCode.CANNOT_SCORE,
            )
        request_context = [*self.prefix, *joint_ids[:boundary]]
        if not request_context:
            # As lm-evaluation-harness does: BOS, else EOS, stands for an empty context.
            start_id = self.bos_id if self.bos_id is not None else self.eos_id
            if start_id is None:
                message = "has an empty context, and the tokenizer has neither BOS nor EOS to replace it"
                raise UserError(message, location=name_item(index), hint="give it a context", code=ExitCode.CANNOT_SCORE)
            request_context = [start_id]
        return TokenRequest(request_context, joint_ids[boundary:])


def load_tokenizer(identifier: str, folder: Path, resolved: ResolvedTokenizer, *, use_fast: bool = True) -> Tokenizer:
    """A tokenizer of the data cache.

    Raises UserError: cannot score (files that do not fit together), unavailable (a library is missing).
    """
    try:
        codec = load_codec(folder, resolved.reading)
    except ImportError as error:
        hint = f"install it for the jobs' Python: pip install {error.name}"
        message = f"this tokenizer needs the library {error.name}, which is not installed"
        raise UserError(message, location=identifier, hint=hint, code=ExitCode.UNAVAILABLE) from error
    except UserError:
        raise
    except Exception as error:  # the libraries raise bare Exception for a file that they cannot read
        message = f"this tokenizer cannot be loaded: {error}"
        raise UserError(message, location=identifier, hint="fix its files", code=ExitCode.CANNOT_SCORE) from error
    return Tokenizer(identifier=identifier, use_fast=use_fast, folder=folder, resolved=resolved, codec=codec)


def valid_utf8(text: str) -> str:
    """The text with surrogate pairs joined and lone halves replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

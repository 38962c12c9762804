"""Tokenizers: which one, and text to token ids.

Text is tokenised whole: never truncated, special-token text inside it is ordinary text, and nothing is added but what
the caller asks for. tokenizer.json is read by the tokenizers library itself: transformers would take a second to import.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from suites.common.atomic_files import read_json
from suites.common.errors import Exit, Problem, of_writing
from suites.contract.paths import DataPaths
from suites.definitions.data_cache import prefill_command
from suites.definitions.tokenizer_files import TOKENIZER_FILES, entry_digest, keep_tokenizer, known_digest

Encode = Callable[[Sequence[str]], list[list[int]]]

_ADD_BOS_UNASKED = frozenset(
    {"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast", "GemmaTokenizer"}
)
"""Classes that put BOS before a text where tokenizer_config.json says nothing about it."""


class TokenRequest(msgspec.Struct, frozen=True):
    """One request as tokens: ll(continuation | context)."""

    context: list[int]
    """At least one token: nothing can be predicted from nothing."""
    continuation: list[int]
    """At least one token."""


class Tokenizer:
    """A tokenizer at rest in the data cache, and the three ways in which scoring uses it."""

    def __init__(self, identifier: str, digest: str, encode: Encode, facts: "Facts") -> None:
        self.identifier, self.digest = identifier, digest
        self.vocab_size = facts.vocab_size
        """Highest id plus one: what the model's vocabulary must reach."""
        self.bos_id, self.eos_id = facts.bos_id, facts.eos_id
        self.prefix = facts.prefix
        """What the tokenizer itself puts before a text: its BOS, or nothing."""
        self._encode = encode

    def encode_document(self, text: str) -> list[int]:
        """The ids of ``text`` and of nothing else: no BOS, no EOS, no truncation."""
        return self._encode([text])[0]

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode_document`` of each, on all cores."""
        return self._encode(texts)

    def encode_pair(self, context: str, continuation: str, *, item: str) -> TokenRequest:
        """``encode_pairs`` of one."""
        return self.encode_pairs([(context, continuation)], item=lambda _: item)[0]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]], *, item: Callable[[int], str]) -> list[TokenRequest]:
        """Context and continuation as the model would read them in one text, the boundary where the context's tokens end.

        The continuation is what follows the context in the tokens of context + continuation; where those do not begin with
        the context's own tokens, the boundary moves back to their longest common prefix. ``item(i)`` names pair i in errors.

        Raises Problem (cannot score) where a continuation has no token of its own.
        """
        contexts = list(dict.fromkeys(context for context, _ in pairs))
        encoded = dict(zip(contexts, self._encode(contexts), strict=True))
        whole = self._encode([context + continuation for context, continuation in pairs])
        return [
            self._split(encoded[context], ids, item, index)
            for index, ((context, _), ids) in enumerate(zip(pairs, whole, strict=True))
        ]

    def _split(self, context: list[int], whole: list[int], item: Callable[[int], str], index: int) -> TokenRequest:
        boundary = len(context)
        if whole[:boundary] != context:
            boundary = next(
                (n for n, (a, b) in enumerate(zip(context, whole, strict=False)) if a != b), min(len(context), len(whole))
            )
        if boundary >= len(whole):
            raise Problem(
                "a choice has no token of its own", where=item(index), todo="mend that row, or drop it", code=Exit.CANNOT_SCORE
            )
        before = [*self.prefix, *whole[:boundary]]
        if not before:  # as lm-evaluation-harness does for an empty context
            start = self.bos_id if self.bos_id is not None else self.eos_id
            if start is None:
                raise Problem(
                    "has an empty context, and the tokenizer has neither BOS nor EOS to stand for it",
                    where=item(index),
                    todo="give it a context",
                    code=Exit.CANNOT_SCORE,
                )
            before = [start]
        return TokenRequest(before, whole[boundary:])


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a Tokenizer must know besides how to encode."""

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    prefix: tuple[int, ...]


def resolve_tokenizer(
    identifier: str, data: DataPaths, *, use_fast: bool = True, offline: bool = False, suites: Sequence[str] = ("SUITE",)
) -> Tokenizer:
    """The tokenizer of a folder or hub id, read from its private copy in the data cache.

    A folder is looked at each time: when its files change, so does the digest. An id is looked up once; from then on every
    job uses that copy and asks no network. A folder that is gone (or on another machine) is served from its copy, too.

    Raises Problem: data missing (offline and never seen, with the command that fetches it for ``suites``; or nothing to be
    found), temporary (the network is at fault), cannot write (the cache).
    """
    digest = None
    folder = Path(identifier).expanduser()
    try:
        if folder.is_dir():
            digest = keep_tokenizer(folder, identifier, data)
            if digest is None:
                raise Problem("holds no tokenizer", where=folder, todo="name a folder with a tokenizer.json")
        else:
            digest = known_digest(identifier, data)
            if digest is None:
                command = prefill_command(suites, data, identifier, use_fast=use_fast)
                digest = keep_tokenizer(_fetch(identifier, command, offline=offline), identifier, data)
    except OSError as error:
        raise _unwritable(error, data) from error
    if digest is None:
        raise Problem("holds no tokenizer", where=identifier, todo="name another one", code=Exit.DATA_MISSING)
    return load_tokenizer(identifier, data.tokenizer(digest), digest, use_fast=use_fast)


def _unwritable(error: OSError, data: DataPaths) -> Problem:
    where = error.filename or data.eval_data
    return Problem(
        f"the tokenizer cannot be copied ({error.strerror})",
        where=where,
        todo="make it readable, and the cache writable",
        code=of_writing(error),
    )


def _fetch(identifier: str, prefill: str, *, offline: bool) -> Path:
    """A folder with the tokenizer's files, from the hub or from the hub's own cache on this machine."""
    if identifier.startswith(("/", ".", "~")) or identifier.count("/") > 1:
        raise Problem(
            "no such tokenizer folder, and no copy of it in the cache",
            where=identifier,
            todo="give its path",
            code=Exit.DATA_MISSING,
        )
    from scoring.data.hub import fetch_tokenizer  # noqa: PLC0415  only here is the network asked

    return fetch_tokenizer(identifier, [*TOKENIZER_FILES, "config.json"], offline=offline, command=prefill)


def load_tokenizer(identifier: str, folder: Path, digest: str, *, use_fast: bool = True) -> Tokenizer:
    """Read a tokenizer's folder. Problem (cannot score) where its files do not fit together."""
    try:
        if use_fast and (folder / "tokenizer.json").is_file():
            encode, facts = _from_json(folder)
        else:
            encode, facts = _from_transformers(folder, use_fast=use_fast)
            digest = entry_digest(digest, use_fast=use_fast)
    except Problem:
        raise
    except Exception as error:  # both libraries raise bare Exception for a file that they cannot read
        raise Problem(
            f"not a tokenizer that can be loaded: {error}", where=identifier, todo="mend its files", code=Exit.CANNOT_SCORE
        ) from error
    return Tokenizer(identifier, digest, encode, facts)


def _from_json(folder: Path) -> tuple[Encode, Facts]:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    config = settings(folder)
    bos_id, eos_id = (_special_id(backend, config.get(name)) for name in ("bos_token", "eos_token"))
    backend.encode_special_tokens = False
    prefix = _prefix(backend, config, bos_id)
    backend.encode_special_tokens = True  # from here on special-token text is ordinary text

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
    return encode, Facts(vocab_size=vocab_size, bos_id=bos_id, eos_id=eos_id, prefix=prefix)


def settings(folder: Path) -> Mapping[str, Any]:
    """tokenizer_config.json over special_tokens_map.json."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        found = read_json(folder / name)
        if isinstance(found, dict):
            merged.update({key: value for key, value in found.items() if value is not None})
    return merged


def _special_id(backend: tokenizers.Tokenizer, token: Any) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(text) if isinstance(text, str) else None


def _prefix(backend: tokenizers.Tokenizer, config: Mapping[str, Any], bos_id: int | None) -> tuple[int, ...]:
    """What stands before a text, by add_bos_token where it is set, else by what tokenizer.json's post-processor does."""
    asked = config.get("add_bos_token")
    if asked is None and backend.post_processor is None:
        asked = config.get("tokenizer_class") in _ADD_BOS_UNASKED
    if asked is not None:
        return (bos_id,) if asked and bos_id is not None else ()
    with_specials, plain = backend.encode("a").ids, backend.encode("a", add_special_tokens=False).ids
    return tuple(with_specials[: _find(with_specials, plain)])


def _find(whole: list[int], part: list[int]) -> int:
    """Where ``part`` begins in ``whole``; 0 where it does not occur."""
    return next((n for n in range(len(whole) - len(part) + 1) if whole[n : n + len(part)] == part), 0)


def _from_transformers(folder: Path, *, use_fast: bool) -> tuple[Encode, Facts]:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import AutoTokenizer  # noqa: PLC0415  a second's import, only for tokenizers without tokenizer.json

    loaded: Any = AutoTokenizer.from_pretrained(str(folder), use_fast=use_fast, local_files_only=True, trust_remote_code=False)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [list(loaded.encode(text, add_special_tokens=False, split_special_tokens=True)) for text in texts]

    plain = encode(["a"])[0]
    with_specials = list(loaded.encode("a"))
    return encode, Facts(
        vocab_size=max(loaded.get_vocab().values()) + 1,
        bos_id=loaded.bos_token_id,
        eos_id=loaded.eos_token_id,
        prefix=tuple(with_specials[: _find(with_specials, plain)]),
    )

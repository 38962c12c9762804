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
from suites.common.errors import ExitCode, UserError, classify_write_error
from suites.contract.paths import DataPaths
from suites.definitions.data_cache import build_prefill_command
from suites.definitions.tokenizer_files import TOKENIZER_FILES, make_cache_digest, read_cached_digest, store_tokenizer

EncodeFn = Callable[[Sequence[str]], list[list[int]]]

_ADD_BOS_BY_DEFAULT = frozenset(
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

    def __init__(self, identifier: str, digest: str, encode: EncodeFn, info: "TokenizerInfo") -> None:
        self.identifier, self.digest = identifier, digest
        self.vocab_size = info.vocab_size
        """Highest id plus one: what the model's vocabulary must reach."""
        self.bos_id, self.eos_id = info.bos_id, info.eos_id
        self.prefix = info.prefix
        """What the tokenizer itself puts before a text: its BOS, or nothing."""
        self._encode = encode

    def encode_document(self, text: str) -> list[int]:
        """The ids of ``text`` and of nothing else: no BOS, no EOS, no truncation."""
        return self._encode([text])[0]

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode_document`` of each, on all cores."""
        return self._encode(texts)

    def encode_pair(self, context: str, continuation: str, *, item_name: str) -> TokenRequest:
        """``encode_pairs`` of one."""
        return self.encode_pairs([(context, continuation)], name_item=lambda _: item_name)[0]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]], *, name_item: Callable[[int], str]) -> list[TokenRequest]:
        """Context and continuation as the model would read them in one text, the boundary where the context's tokens end.

        The continuation is what follows the context in the tokens of context + continuation; where those do not begin with
        the context's own tokens, the boundary moves back to their longest common prefix. ``name_item(i)`` names pair i in errors.

        Raises Problem (cannot score) where a continuation has no token of its own.
        """
        contexts = list(dict.fromkeys(context for context, _ in pairs))
        encoded = dict(zip(contexts, self._encode(contexts), strict=True))
        joint_ids = self._encode([context + continuation for context, continuation in pairs])
        return [
            self._split(encoded[context], ids, name_item, index)
            for index, ((context, _), ids) in enumerate(zip(pairs, joint_ids, strict=True))
        ]

    def _split(self, context: list[int], joint_ids: list[int], name_item: Callable[[int], str], index: int) -> TokenRequest:
        boundary = len(context)
        if joint_ids[:boundary] != context:
            boundary = next(
                (n for n, (a, b) in enumerate(zip(context, joint_ids, strict=False)) if a != b), min(len(context), len(joint_ids))
            )
        if boundary >= len(joint_ids):
            raise UserError(
                "a choice has no token of its own",
                location=name_item(index),
                hint="mend that row, or drop it",
                code=ExitCode.CANNOT_SCORE,
            )
        context_ids = [*self.prefix, *joint_ids[:boundary]]
        if not context_ids:  # as lm-evaluation-harness does for an empty context
            start_id = self.bos_id if self.bos_id is not None else self.eos_id
            if start_id is None:
                raise UserError(
                    "has an empty context, and the tokenizer has neither BOS nor EOS to stand for it",
                    location=name_item(index),
                    hint="give it a context",
                    code=ExitCode.CANNOT_SCORE,
                )
            context_ids = [start_id]
        return TokenRequest(context_ids, joint_ids[boundary:])


class TokenizerInfo(msgspec.Struct, frozen=True, kw_only=True):
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
            digest = store_tokenizer(folder, identifier, data)
            if digest is None:
                raise UserError("holds no tokenizer", location=folder, hint="name a folder with a tokenizer.json")
        else:
            digest = read_cached_digest(identifier, data)
            if digest is None:
                command = build_prefill_command(suites, data, identifier, use_fast=use_fast)
                digest = store_tokenizer(_fetch_tokenizer(identifier, command, offline=offline), identifier, data)
    except OSError as error:
        raise _make_copy_error(error, data) from error
    if digest is None:
        raise UserError("holds no tokenizer", location=identifier, hint="name another one", code=ExitCode.DATA_MISSING)
    return load_tokenizer(identifier, data.tokenizer(digest), digest, use_fast=use_fast)


def _make_copy_error(error: OSError, data: DataPaths) -> UserError:
    location = error.filename or data.eval_data
    return UserError(
        f"the tokenizer cannot be copied ({error.strerror})",
        location=location,
        hint="make it readable, and the cache writable",
        code=classify_write_error(error),
    )


def _fetch_tokenizer(identifier: str, prefill_command: str, *, offline: bool) -> Path:
    """A folder with the tokenizer's files, from the hub or from the hub's own cache on this machine."""
    if identifier.startswith(("/", ".", "~")) or identifier.count("/") > 1:
        raise UserError(
            "no such tokenizer folder, and no copy of it in the cache",
            location=identifier,
            hint="give its path",
            code=ExitCode.DATA_MISSING,
        )
    from scoring.data.hub import fetch_tokenizer  # noqa: PLC0415  only here is the network asked

    return fetch_tokenizer(identifier, [*TOKENIZER_FILES, "config.json"], offline=offline, command=prefill_command)


def load_tokenizer(identifier: str, folder: Path, digest: str, *, use_fast: bool = True) -> Tokenizer:
    """Read a tokenizer's folder. Problem (cannot score) where its files do not fit together."""
    try:
        if use_fast and (folder / "tokenizer.json").is_file():
            encode, info = _load_json_tokenizer(folder)
        else:
            encode, info = _load_transformers_tokenizer(folder, use_fast=use_fast)
            digest = make_cache_digest(digest, use_fast=use_fast)
    except UserError:
        raise
    except Exception as error:  # both libraries raise bare Exception for a file that they cannot read
        raise UserError(
            f"not a tokenizer that can be loaded: {error}", location=identifier, hint="mend its files", code=ExitCode.CANNOT_SCORE
        ) from error
    return Tokenizer(identifier, digest, encode, info)


def _load_json_tokenizer(folder: Path) -> tuple[EncodeFn, TokenizerInfo]:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    config = read_tokenizer_settings(folder)
    bos_id, eos_id = (_find_special_id(backend, config.get(name)) for name in ("bos_token", "eos_token"))
    backend.encode_special_tokens = False
    prefix = _find_prefix(backend, config, bos_id)
    backend.encode_special_tokens = True  # from here on special-token text is ordinary text

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
    return encode, TokenizerInfo(vocab_size=vocab_size, bos_id=bos_id, eos_id=eos_id, prefix=prefix)


def read_tokenizer_settings(folder: Path) -> Mapping[str, Any]:
    """tokenizer_config.json over special_tokens_map.json."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        document = read_json(folder / name)
        if isinstance(document, dict):
            merged.update({key: value for key, value in document.items() if value is not None})
    return merged


def _find_special_id(backend: tokenizers.Tokenizer, token: Any) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(text) if isinstance(text, str) else None


def _find_prefix(backend: tokenizers.Tokenizer, config: Mapping[str, Any], bos_id: int | None) -> tuple[int, ...]:
    """What stands before a text, by add_bos_token where it is set, else by what tokenizer.json's post-processor does."""
    add_bos = config.get("add_bos_token")
    if add_bos is None and backend.post_processor is None:
        add_bos = config.get("tokenizer_class") in _ADD_BOS_BY_DEFAULT
    if add_bos is not None:
        return (bos_id,) if add_bos and bos_id is not None else ()
    full_ids, plain_ids = backend.encode("a").ids, backend.encode("a", add_special_tokens=False).ids
    return tuple(full_ids[: _find_sublist(full_ids, plain_ids)])


def _find_sublist(sequence: list[int], part: list[int]) -> int:
    """Where ``part`` begins in ``sequence``; 0 where it does not occur."""
    return next((n for n in range(len(sequence) - len(part) + 1) if sequence[n : n + len(part)] == part), 0)


def _load_transformers_tokenizer(folder: Path, *, use_fast: bool) -> tuple[EncodeFn, TokenizerInfo]:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import AutoTokenizer  # noqa: PLC0415  a second's import, only for tokenizers without tokenizer.json

    loaded: Any = AutoTokenizer.from_pretrained(str(folder), use_fast=use_fast, local_files_only=True, trust_remote_code=False)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [list(loaded.encode(text, add_special_tokens=False, split_special_tokens=True)) for text in texts]

    plain_ids = encode(["a"])[0]
    full_ids = list(loaded.encode("a"))
    return encode, TokenizerInfo(
        vocab_size=max(loaded.get_vocab().values()) + 1,
        bos_id=loaded.bos_token_id,
        eos_id=loaded.eos_token_id,
        prefix=tuple(full_ids[: _find_sublist(full_ids, plain_ids)]),
    )

"""Tokenizers: which one a job uses, and text to token ids.

Texts are never truncated, and special-token text inside them is ordinary text. tokenizer.json is read by the tokenizers
library itself, because importing transformers takes a second.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from suites.common.documents import read_json
from suites.common.errors import ExitCode, UserError, classify_write_error
from suites.contract.paths import DataPaths
from suites.definitions.data_cache import build_prefill_command
from suites.definitions.tokenizer_files import TOKENIZER_FILES, make_cache_digest, read_cached_digest, store_tokenizer

EncodeFn = Callable[[Sequence[str]], list[list[int]]]

_ADD_BOS_BY_DEFAULT = frozenset(
    {"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast", "GemmaTokenizer"}
)
"""Classes that put BOS before a text when tokenizer_config.json has no add_bos_token."""


class TokenRequest(msgspec.Struct, frozen=True):
    """One request as tokens: ll(continuation | context)."""

    context: list[int]
    """At least one token: the first token of a sequence cannot be predicted."""
    continuation: list[int]
    """At least one token."""


class Tokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded tokenizer, and what scoring must know of it."""

    identifier: str
    """As it was requested: a path or a hub id."""
    digest: str
    """As cache keys have it."""
    encode: EncodeFn
    """Token ids of each text, on all cores: no BOS, no EOS, no truncation."""
    vocab_size: int
    """Highest id plus one. The model's vocabulary must be at least as large."""
    bos_id: int | None
    eos_id: int | None
    prefix: tuple[int, ...]
    """What the tokenizer puts before a text: its BOS, or nothing."""

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


def resolve_tokenizer(
    identifier: str, data: DataPaths, *, use_fast: bool = True, offline: bool = False, suites: Sequence[str] = ("SUITE",)
) -> Tokenizer:
    """Load the tokenizer of a folder or hub id.

    It is read from its copy in the data cache. A folder is read each time: when its files change, so does the digest. A hub
    id is looked up once, and later jobs use the copy without a network. So they do for a folder that no longer exists.

    Raises UserError: data missing (no such tokenizer, or offline without a copy: then the hint is the command that fetches
    it for ``suites``), temporary (network), cannot write (the cache), usage (a folder without a tokenizer).
    """
    folder = Path(identifier).expanduser()
    try:
        if folder.is_dir():
            digest = store_tokenizer(folder, identifier, data)
            if digest is None:
                raise UserError("contains no tokenizer", location=folder, hint="name a folder with a tokenizer.json")
        else:
            # The copy of an earlier job needs no network.
            digest = read_cached_digest(identifier, data)
            if digest is None:
                command = build_prefill_command(suites, data, identifier, use_fast=use_fast)
                digest = store_tokenizer(_fetch_tokenizer(identifier, command, offline=offline), identifier, data)
    except OSError as error:
        raise UserError(
            f"the tokenizer cannot be copied ({error.strerror})",
            location=error.filename or data.eval_data,
            hint="make it readable, and the cache writable",
            code=classify_write_error(error),
        ) from error
    if digest is None:
        raise UserError("contains no tokenizer", location=identifier, hint="name another tokenizer", code=ExitCode.DATA_MISSING)
    return load_tokenizer(identifier, data.tokenizer(digest), digest, use_fast=use_fast)


def _fetch_tokenizer(identifier: str, prefill_command: str, *, offline: bool) -> Path:
    """A folder with the tokenizer's files, from the hub or from the hub's local cache."""
    if identifier.startswith(("/", ".", "~")) or identifier.count("/") > 1:
        message = "no such tokenizer folder, and the cache has no copy of it"
        raise UserError(message, location=identifier, hint="fix the path", code=ExitCode.DATA_MISSING)
    from scoring.sources.hub import fetch_tokenizer  # noqa: PLC0415  only here the network is needed

    return fetch_tokenizer(identifier, [*TOKENIZER_FILES, "config.json"], offline=offline, command=prefill_command)


def load_tokenizer(identifier: str, folder: Path, digest: str, *, use_fast: bool = True) -> Tokenizer:
    """Load a tokenizer's folder.

    Raises UserError (cannot score) for files that do not fit together.
    """
    try:
        if use_fast and (folder / "tokenizer.json").is_file():
            return _load_json_tokenizer(identifier, folder, digest)
        return _load_transformers_tokenizer(identifier, folder, make_cache_digest(digest, use_fast=use_fast), use_fast=use_fast)
    except Exception as error:  # both libraries raise bare Exception for a file that they cannot read
        message = f"this tokenizer cannot be loaded: {error}"
        raise UserError(message, location=identifier, hint="fix its files", code=ExitCode.CANNOT_SCORE) from error


def open_json_backend(folder: Path) -> tokenizers.Tokenizer:
    """tokenizer.json, without the truncation and padding that it may ask for."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    return backend


def open_transformers_backend(folder: Path, *, use_fast: bool) -> Any:
    """The tokenizer of transformers, for folders without tokenizer.json and for slow implementations."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import AutoTokenizer  # noqa: PLC0415  its import takes a second

    return AutoTokenizer.from_pretrained(str(folder), use_fast=use_fast, local_files_only=True, trust_remote_code=False)


def read_tokenizer_settings(folder: Path) -> Mapping[str, Any]:
    """special_tokens_map.json and tokenizer_config.json as one; the latter has precedence."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        document = read_json(folder / name)
        if isinstance(document, dict):
            merged.update({key: value for key, value in document.items() if value is not None})
    return merged


def get_token_text(token: Any) -> Any:
    """The text of a special token: a string, or an object's ``content``."""
    return token.get("content") if isinstance(token, dict) else token


def _load_json_tokenizer(identifier: str, folder: Path, digest: str) -> Tokenizer:
    backend, settings = open_json_backend(folder), read_tokenizer_settings(folder)
    texts = [get_token_text(settings.get(name)) for name in ("bos_token", "eos_token")]
    bos_id, eos_id = (backend.token_to_id(text) if isinstance(text, str) else None for text in texts)
    backend.encode_special_tokens = False
    prefix = _detect_prefix(backend, settings, bos_id)
    backend.encode_special_tokens = True  # from now on special-token text is ordinary text
    return Tokenizer(
        identifier=identifier,
        digest=digest,
        encode=lambda texts: [ids.ids for ids in backend.encode_batch_fast(list(texts), add_special_tokens=False)],
        vocab_size=max(backend.get_vocab(with_added_tokens=True).values()) + 1,
        bos_id=bos_id,
        eos_id=eos_id,
        prefix=prefix,
    )


def _detect_prefix(backend: tokenizers.Tokenizer, settings: Mapping[str, Any], bos_id: int | None) -> tuple[int, ...]:
    """What precedes a text: decided by add_bos_token if it is set, else by tokenizer.json's post-processor."""
    add_bos = settings.get("add_bos_token")
    if add_bos is None and backend.post_processor is None:
        add_bos = settings.get("tokenizer_class") in _ADD_BOS_BY_DEFAULT
    if add_bos is not None:
        return (bos_id,) if add_bos and bos_id is not None else ()
    return _get_ids_before(backend.encode("a").ids, backend.encode("a", add_special_tokens=False).ids)


def _get_ids_before(full_ids: list[int], plain_ids: list[int]) -> tuple[int, ...]:
    """What precedes ``plain_ids`` in ``full_ids``; empty if they do not occur in it."""
    starts = range(len(full_ids) - len(plain_ids) + 1)
    return tuple(full_ids[: next((n for n in starts if full_ids[n : n + len(plain_ids)] == plain_ids), 0)])


def _load_transformers_tokenizer(identifier: str, folder: Path, digest: str, *, use_fast: bool) -> Tokenizer:
    backend = open_transformers_backend(folder, use_fast=use_fast)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [list(backend.encode(text, add_special_tokens=False, split_special_tokens=True)) for text in texts]

    return Tokenizer(
        identifier=identifier,
        digest=digest,
        encode=encode,
        vocab_size=max(backend.get_vocab().values()) + 1,
        bos_id=backend.bos_token_id,
        eos_id=backend.eos_token_id,
        prefix=_get_ids_before(list(backend.encode("a")), encode(["a"])[0]),
    )

"""Conversations as the model saw them in training: the chat template, rendered and tokenised, and where an answer ends.

The template is the tokenizer's own (chat_template.jinja, or chat_template in tokenizer_config.json), else the suite's. What it
renders is tokenised as it stands, special tokens recognised and nothing added: a template that writes BOS gets one BOS, not two.
Only before the suite's template, which knows nothing of the tokenizer, stands what the tokenizer itself puts before a text.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import msgspec
import tokenizers

from scoring.data.tokenizer import Tokenizer, settings
from suites.common.errors import Exit, Problem

TODAY = datetime(2025, 1, 1, tzinfo=UTC)
"""What a template that writes today's date is told: the same prompt every day."""

_MARK = "This-is-a-mark"

_FAILS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What somebody else's template may raise."""

Messages = Sequence[dict[str, str]]


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt as the model reads it."""

    text: str
    tokens: list[int]
    system_in_user: bool
    """The template refuses or ignores a system role: its message stands at the beginning of the first user's."""


class Chat:
    """One template with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, folder: Path, *, use_fast: bool, fallback: str | None) -> None:
        """``folder`` holds the tokenizer's files. Problem (cannot score) where there is no template, or none that can be read."""
        facts = settings(folder)
        own = _own_template(folder, facts.get("chat_template"))
        template = own if own is not None else fallback
        self.where = f"tokenizer {tokenizer.identifier}" if own is not None else "chat_template of the suite"
        if template is None:
            todo = "give the suite a chat_template, or the tokenizer its own"
            raise Problem("has no chat template", where=self.where, todo=todo, code=Exit.CANNOT_SCORE)
        self.template, self.source = template, "tokenizer" if own is not None else "suite"
        self._prefix = list(tokenizer.prefix) if own is None else []
        self._tokens = {key: _content(value) for key, value in facts.items() if key.endswith("_token")}
        self._encode, self._decode, special = (_of_json if use_fast and (folder / "tokenizer.json").is_file() else _of_slow)(
            folder
        )
        self.special = frozenset(special.values())
        try:
            self._compiled = _environment().from_string(template)
        except _FAILS as error:
            raise self._refused(error) from error
        self._knows_system = self._has_system_role()
        self.stop_ids, self.stop_strings = self._ends(tokenizer.eos_id, special)

    @property
    def described(self) -> dict[str, Any]:
        """As the tier file has it."""
        return {
            "source": self.source,
            "sha256": hashlib.sha256(self.template.encode()).hexdigest(),
            "stop_tokens": sorted(self.stop_ids),
            "stop_strings": list(self.stop_strings),
        }

    def render(self, messages: Messages) -> Rendered:
        """The conversation up to where the answer begins. Problem (cannot score) where the template refuses it."""
        folded = messages[0]["role"] == "system" and not self._knows_system
        if folded:
            system, first, *rest = messages
            messages = [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]
        try:
            text = self._rendered(messages, answering=True)
        except _FAILS as error:
            raise self._refused(error) from error
        tokens = self._encode(text)
        if tokens[: len(self._prefix)] != self._prefix:
            tokens = [*self._prefix, *tokens]
        return Rendered(text=text, tokens=tokens, system_in_user=folded)

    def decode(self, tokens: Sequence[int]) -> str:
        """Valid UTF-8; special tokens are spelled out."""
        return whole(self._decode(tokens))

    def _rendered(self, messages: Messages, *, answering: bool) -> str:
        return self._compiled.render(messages=list(messages), add_generation_prompt=answering, **self._tokens)

    def _refused(self, error: Exception) -> Problem:
        what = f"the chat template fails: {error}"
        return Problem(what, where=self.where, todo="mend the template, or the prompt", code=Exit.CANNOT_SCORE)

    def _has_system_role(self) -> bool:
        """Some templates refuse a system message, and some leave it out without a word."""
        try:
            text = self._rendered([{"role": "system", "content": _MARK}, {"role": "user", "content": "?"}], answering=True)
        except _FAILS:
            return False
        return _MARK in text

    def _ends(self, eos: int | None, special: dict[int, str]) -> tuple[frozenset[int], tuple[str, ...]]:
        """EOS, and what the template writes after an answer: a special token, or else its first line as a string."""
        ids = set() if eos is None else {eos}
        try:
            text = self._rendered([{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}], answering=False)
        except _FAILS as error:
            raise self._refused(error) from error
        after = text.rpartition(_MARK)[2].strip()
        if _MARK not in text or not after:
            return frozenset(ids), ()
        first = self._encode(after)[0]
        if first in special:
            return frozenset({*ids, first}), ()
        return frozenset(ids), (after.splitlines()[0],)


def _own_template(folder: Path, configured: Any) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if isinstance(configured, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in configured if isinstance(each, dict)}
        configured = named.get("default")
    return configured if isinstance(configured, str) else None


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


_Coded = tuple[Callable[[str], list[int]], Callable[[Sequence[int]], str], dict[int, str]]


def _of_json(folder: Path) -> _Coded:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    special = {index: token.content for index, token in backend.get_added_tokens_decoder().items() if token.special}

    def encode(text: str) -> list[int]:
        return list(backend.encode(text, add_special_tokens=False).ids)

    def decode(tokens: Sequence[int]) -> str:
        return str(backend.decode(list(tokens), skip_special_tokens=False))

    return encode, decode, special


def _of_slow(folder: Path) -> _Coded:
    from transformers import AutoTokenizer  # noqa: PLC0415  a second's import, only for tokenizers without tokenizer.json

    loaded: Any = AutoTokenizer.from_pretrained(str(folder), use_fast=False, local_files_only=True, trust_remote_code=False)
    special = {index: str(token) for index, token in loaded.added_tokens_decoder.items() if token.special}
    special |= {index: str(loaded.convert_ids_to_tokens(index)) for index in loaded.all_special_ids}

    def encode(text: str) -> list[int]:
        return list(loaded.encode(text, add_special_tokens=False))

    def decode(tokens: Sequence[int]) -> str:
        return str(loaded.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    return encode, decode, special


class _Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}, by which training marks what is learnt: here, only its content."""

    tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The statements between the two."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """What templates on the hub are written for; they are other people's code, so they run in a sandbox."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )

    def refuse(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, indent: int | None = None, **_more: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=refuse, strftime_now=TODAY.strftime)
    return environment


def whole(text: str) -> str:
    """The text with surrogate pairs joined and lone halves replaced by U+FFFD: valid UTF-8, whatever a decoder made."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

"""Chat templates: conversations as in training, and what ends an answer.

The template is the tokenizer's (chat_template.jinja, or chat_template in tokenizer_config.json), else the suite's. Its text
is tokenised with special tokens and nothing is added, so a template that writes BOS gets one; before the suite's template,
which knows no tokenizer, comes what the tokenizer puts before a text.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import msgspec

from scoring.data.tokenizer import (
    Tokenizer,
    get_token_text,
    open_json_backend,
    open_transformers_backend,
    read_tokenizer_settings,
)
from suites.common.errors import ExitCode, UserError

FIXED_DATE = datetime(2025, 1, 1, tzinfo=UTC)
"""Today for templates that write the date: prompts stay the same every day."""

_SENTINEL = "This-is-a-mark"

_TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""Errors that a template of somebody else may raise."""

Messages = Sequence[dict[str, str]]


class RenderedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt as the model reads it."""

    text: str
    tokens: list[int]
    system_in_user: bool
    """The template has no system role: the system message begins the first user message."""


class _StopCriteria(NamedTuple):
    """What ends an answer."""

    ids: frozenset[int]
    strings: tuple[str, ...]


class _Codec(NamedTuple):
    """Text to tokens with special tokens recognised, and back."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    special_tokens: dict[int, str]
    """Id -> text."""


class ChatTemplate:
    """One template with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, folder: Path, *, use_fast: bool, fallback: str | None) -> None:
        """``folder`` holds the tokenizer's files, ``fallback`` is the suite's template.

        Raises UserError (cannot score) for a missing or invalid template.
        """
        settings = read_tokenizer_settings(folder)
        tokenizer_template = _read_tokenizer_template(folder, settings.get("chat_template"))
        template = tokenizer_template if tokenizer_template is not None else fallback
        self.location = f"tokenizer {tokenizer.identifier}" if tokenizer_template is not None else "chat_template of the suite"
        if template is None:
            raise UserError(
                "has no chat template",
                location=self.location,
                hint="add a chat_template to the suite or the tokenizer",
                code=ExitCode.CANNOT_SCORE,
            )
        self.template, self.source = template, "tokenizer" if tokenizer_template is not None else "suite"
        self._prefix = list(tokenizer.prefix) if tokenizer_template is None else []
        self._special_texts = {key: get_token_text(value) for key, value in settings.items() if key.endswith("_token")}
        has_json = use_fast and (folder / "tokenizer.json").is_file()
        self._codec = (_load_json_codec if has_json else _load_slow_codec)(folder)
        self.special_tokens = frozenset(self._codec.special_tokens.values())
        try:
            self._compiled = _make_environment().from_string(template)
        except _TEMPLATE_ERRORS as error:
            raise self._make_error(error) from error
        # Both render with the compiled template.
        self._accepts_system_role = self._detect_system_role()
        self.stop_ids, self.stop_strings = self._find_stop_criteria(tokenizer.eos_id)

    @property
    def description(self) -> dict[str, Any]:
        """The template's part of the tier file."""
        return {
            "source": self.source,
            "sha256": hashlib.sha256(self.template.encode()).hexdigest(),
            "stop_tokens": sorted(self.stop_ids),
            "stop_strings": list(self.stop_strings),
        }

    def render(self, messages: Messages) -> RenderedPrompt:
        """The conversation up to the beginning of the answer.

        Raises UserError (cannot score) when the template refuses it.
        """
        is_folded = messages[0]["role"] == "system" and not self._accepts_system_role
        if is_folded:
            system, first, *remainder = messages
            messages = [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *remainder]
        try:
            text = self._render_text(messages, add_generation_prompt=True)
        except _TEMPLATE_ERRORS as error:
            raise self._make_error(error) from error
        tokens = self._codec.encode(text)
        if tokens[: len(self._prefix)] != self._prefix:
            tokens = [*self._prefix, *tokens]
        return RenderedPrompt(text=text, tokens=tokens, system_in_user=is_folded)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens as valid UTF-8, special tokens included."""
        return valid_utf8(self._codec.decode(tokens))

    def _render_text(self, messages: Messages, *, add_generation_prompt: bool) -> str:
        arguments = {"messages": list(messages), "add_generation_prompt": add_generation_prompt, **self._special_texts}
        return self._compiled.render(arguments)

    def _make_error(self, error: Exception) -> UserError:
        return UserError(
            f"the chat template fails: {error}",
            location=self.location,
            hint="fix the template or the prompt",
            code=ExitCode.CANNOT_SCORE,
        )

    def _detect_system_role(self) -> bool:
        """Whether a system message gets into the text: some templates refuse it, some omit it silently."""
        try:
            text = self._render_text(
                [{"role": "system", "content": _SENTINEL}, {"role": "user", "content": "?"}], add_generation_prompt=True
            )
        except _TEMPLATE_ERRORS:
            return False
        return _SENTINEL in text

    def _find_stop_criteria(self, eos_id: int | None) -> _StopCriteria:
        """EOS, and what the template writes after an answer: a special token, else the first line as a string."""
        ids = frozenset() if eos_id is None else frozenset({eos_id})
        conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}]
        try:
            text = self._render_text(conversation, add_generation_prompt=False)
        except _TEMPLATE_ERRORS as error:
            raise self._make_error(error) from error
        after = text.rpartition(_SENTINEL)[2].strip()
        if _SENTINEL not in text or not after:
            return _StopCriteria(ids, ())
        first = self._codec.encode(after)[0]
        if first in self._codec.special_tokens:
            return _StopCriteria(ids | {first}, ())
        return _StopCriteria(ids, (after.splitlines()[0],))


def _read_tokenizer_template(folder: Path, configured: Any) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if isinstance(configured, list):  # several named templates
        templates_by_name = {variant.get("name"): variant.get("template") for variant in configured if isinstance(variant, dict)}
        configured = templates_by_name.get("default")
    return configured if isinstance(configured, str) else None


def _load_json_codec(folder: Path) -> _Codec:
    backend = open_json_backend(folder)
    added_tokens = backend.get_added_tokens_decoder().items()
    return _Codec(
        encode=lambda text: list(backend.encode(text, add_special_tokens=False).ids),
        decode=lambda tokens: str(backend.decode(list(tokens), skip_special_tokens=False)),
        special_tokens={index: token.content for index, token in added_tokens if token.special},
    )


def _load_slow_codec(folder: Path) -> _Codec:
    backend = open_transformers_backend(folder, use_fast=False)
    special = {index: str(token) for index, token in backend.added_tokens_decoder.items() if token.special}
    special |= {index: str(backend.convert_ids_to_tokens(index)) for index in backend.all_special_ids}
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return _Codec(
        encode=lambda text: list(backend.encode(text, add_special_tokens=False)),
        decode=lambda tokens: str(backend.decode(list(tokens), **options)),
        special_tokens=special,
    )


class _GenerationTag(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}, which marks trained text; here only its content counts."""

    tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The statements between the two tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _make_environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """The environment that templates of the hub expect, as a sandbox: they are other people's code."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )

    def refuse(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, indent: int | None = None, **_more: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=refuse, strftime_now=FIXED_DATE.strftime)
    return environment


def valid_utf8(text: str) -> str:
    """The text with surrogate pairs joined and lone halves replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

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

from scoring.data.tokenizer import Tokenizer, read_tokenizer_settings
from suites.common.errors import ExitCode, UserError

FIXED_DATE = datetime(2025, 1, 1, tzinfo=UTC)
"""What a template that writes today's date is told: the same prompt every day."""

_SENTINEL = "This-is-a-mark"

_TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What somebody else's template may raise."""

Messages = Sequence[dict[str, str]]


class RenderedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt as the model reads it."""

    text: str
    tokens: list[int]
    system_in_user: bool
    """The template refuses or ignores a system role: its message stands at the beginning of the first user's."""


class ChatTemplate:
    """One template with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, folder: Path, *, use_fast: bool, fallback: str | None) -> None:
        """``folder`` holds the tokenizer's files. Problem (cannot score) where there is no template, or none that can be read."""
        settings_values = read_tokenizer_settings(folder)
        tokenizer_template = _read_tokenizer_template(folder, settings_values.get("chat_template"))
        template = tokenizer_template if tokenizer_template is not None else fallback
        self.location = f"tokenizer {tokenizer.identifier}" if tokenizer_template is not None else "chat_template of the suite"
        if template is None:
            hint = "give the suite a chat_template, or the tokenizer its own"
            raise UserError("has no chat template", location=self.location, hint=hint, code=ExitCode.CANNOT_SCORE)
        self.template, self.source = template, "tokenizer" if tokenizer_template is not None else "suite"
        self._prefix = list(tokenizer.prefix) if tokenizer_template is None else []
        self._tokens = {key: _get_token_content(value) for key, value in settings_values.items() if key.endswith("_token")}
        self._encode, self._decode, special = (
            _load_json_codec if use_fast and (folder / "tokenizer.json").is_file() else _load_slow_codec
        )(folder)
        self.special_ids = frozenset(special.values())
        try:
            self._compiled = _make_environment().from_string(template)
        except _TEMPLATE_ERRORS as error:
            raise self._make_error(error) from error
        self._accepts_system_role = self._detect_system_role()
        self.stop_ids, self.stop_strings = self._find_stops(tokenizer.eos_id, special)

    @property
    def description(self) -> dict[str, Any]:
        """As the tier file has it."""
        return {
            "source": self.source,
            "sha256": hashlib.sha256(self.template.encode()).hexdigest(),
            "stop_tokens": sorted(self.stop_ids),
            "stop_strings": list(self.stop_strings),
        }

    def render(self, messages: Messages) -> RenderedPrompt:
        """The conversation up to where the answer begins. Problem (cannot score) where the template refuses it."""
        is_folded = messages[0]["role"] == "system" and not self._accepts_system_role
        if is_folded:
            system, first, *remainder = messages
            messages = [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *remainder]
        try:
            text = self._render_text(messages, add_generation_prompt=True)
        except _TEMPLATE_ERRORS as error:
            raise self._make_error(error) from error
        tokens = self._encode(text)
        if tokens[: len(self._prefix)] != self._prefix:
            tokens = [*self._prefix, *tokens]
        return RenderedPrompt(text=text, tokens=tokens, system_in_user=is_folded)

    def decode(self, tokens: Sequence[int]) -> str:
        """Valid UTF-8; special tokens are spelled out."""
        return valid_utf8(self._decode(tokens))

    def _render_text(self, messages: Messages, *, add_generation_prompt: bool) -> str:
        return self._compiled.render(messages=list(messages), add_generation_prompt=add_generation_prompt, **self._tokens)

    def _make_error(self, error: Exception) -> UserError:
        message = f"the chat template fails: {error}"
        return UserError(message, location=self.location, hint="mend the template, or the prompt", code=ExitCode.CANNOT_SCORE)

    def _detect_system_role(self) -> bool:
        """Some templates refuse a system message, and some leave it out without a word."""
        try:
            text = self._render_text(
                [{"role": "system", "content": _SENTINEL}, {"role": "user", "content": "?"}], add_generation_prompt=True
            )
        except _TEMPLATE_ERRORS:
            return False
        return _SENTINEL in text

    def _find_stops(self, eos: int | None, special: dict[int, str]) -> tuple[frozenset[int], tuple[str, ...]]:
        """EOS, and what the template writes after an answer: a special token, or else its first line as a string."""
        ids = set() if eos is None else {eos}
        try:
            text = self._render_text(
                [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}], add_generation_prompt=False
            )
        except _TEMPLATE_ERRORS as error:
            raise self._make_error(error) from error
        after = text.rpartition(_SENTINEL)[2].strip()
        if _SENTINEL not in text or not after:
            return frozenset(ids), ()
        first = self._encode(after)[0]
        if first in special:
            return frozenset({*ids, first}), ()
        return frozenset(ids), (after.splitlines()[0],)


def _read_tokenizer_template(folder: Path, configured: Any) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if isinstance(configured, list):  # several, by name
        templates_by_name = {variant.get("name"): variant.get("template") for variant in configured if isinstance(variant, dict)}
        configured = templates_by_name.get("default")
    return configured if isinstance(configured, str) else None


def _get_token_content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


_Codec = tuple[Callable[[str], list[int]], Callable[[Sequence[int]], str], dict[int, str]]


def _load_json_codec(folder: Path) -> _Codec:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    special = {index: token.content for index, token in backend.get_added_tokens_decoder().items() if token.special}

    def encode(text: str) -> list[int]:
        return list(backend.encode(text, add_special_tokens=False).ids)

    def decode(tokens: Sequence[int]) -> str:
        return str(backend.decode(list(tokens), skip_special_tokens=False))

    return encode, decode, special


def _load_slow_codec(folder: Path) -> _Codec:
    from transformers import AutoTokenizer  # noqa: PLC0415  a second's import, only for tokenizers without tokenizer.json

    loaded: Any = AutoTokenizer.from_pretrained(str(folder), use_fast=False, local_files_only=True, trust_remote_code=False)
    special = {index: str(token) for index, token in loaded.added_tokens_decoder.items() if token.special}
    special |= {index: str(loaded.convert_ids_to_tokens(index)) for index in loaded.all_special_ids}

    def encode(text: str) -> list[int]:
        return list(loaded.encode(text, add_special_tokens=False))

    def decode(tokens: Sequence[int]) -> str:
        return str(loaded.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    return encode, decode, special


class _GenerationTag(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}, by which training marks what is learnt: here, only its content."""

    tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The statements between the two."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _make_environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """What templates on the hub are written for; they are other people's code, so they run in a sandbox."""
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
    """The text with surrogate pairs joined and lone halves replaced by U+FFFD: valid UTF-8, whatever a decoder made."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

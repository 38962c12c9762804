"""Chat templates: conversations as in training, and what ends an answer.

transformers renders the template, which is the tokenizer's, else the suite's. Its text is tokenised with special tokens and
nothing is added, so a template that writes BOS gets one; before the suite's template, which knows no tokenizer, comes what
the tokenizer puts before a text.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple, Self
from unittest import mock

from scoring.tokenizers.codecs import SentencePieceCodec
from scoring.tokenizers.library import describe_error, make_sentencepiece_prompt_encoder, open_sentencepiece_backend
from scoring.tokenizers.reading import find_default_template
from scoring.tokenizers.rendered_prompt import RenderedPrompt, TemplateDescription
from scoring.tokenizers.tokenizer import Tokenizer
from suites.common.errors import ExitCode, UserError

FIXED_DATE = datetime(2025, 1, 1, tzinfo=UTC)
"""Today for templates that write the date: prompts stay the same every day."""

_SENTINEL = "This-is-mark-{}-x"

MAX_PROMPT_CHARACTERS = 1 << 22
"""Longer prompts than any model reads."""

_TEMPLATE_ERRORS = Exception
"""Code of somebody else raises anything: errors of types, recursion, memory, nested blocks."""

Messages = Sequence[dict[str, str]]


class _Form(NamedTuple):
    """How messages are given to the template."""

    system_in_user: bool
    content_parts: bool

    def convert(self, messages: Messages) -> list[dict[str, Any]]:
        """The messages in this form."""
        if self.system_in_user:
            system, first, *remainder = messages
            messages = [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *remainder]
        if not self.content_parts:
            return list(messages)
        return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


class _StopCriteria(NamedTuple):
    """What ends an answer."""

    ids: frozenset[int]
    strings: tuple[str, ...]


class ChatTemplate:
    """One template with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, library: Any, *, fallback: str | None) -> None:
        """``library`` is transformers' tokenizer of the folder, ``fallback`` the suite's template.

        Raises UserError (cannot score) for a missing or invalid template.
        """
        self._library = library
        own_template = find_default_template(self._library)
        template = own_template if own_template is not None else fallback
        self.location = f"tokenizer {tokenizer.identifier}" if own_template is not None else "chat_template of the suite"
        if template is None:
            raise UserError(
                "has no chat template",
                location=self.location,
                hint="add a chat_template to the suite or the tokenizer",
                code=ExitCode.CANNOT_SCORE,
            )
        self.template, self.source = template, "tokenizer" if own_template is not None else "suite"
        self._prefix = list(tokenizer.prefix) if own_template is None else []
        self._special_ids = frozenset(tokenizer.resolved.reading.special_tokens.values())
        self._encode = _choose_encoder(tokenizer, self._library)
        self._forms: dict[tuple[str, ...], _Form] = {}
        stop = self._find_stop_criteria(tokenizer.eos_id)
        self.stop_ids, self.stop_strings = stop

    def describe(self) -> TemplateDescription:
        """The template's part of the tier file."""
        missing_header = self._find_missing_header()
        note = f"the chat template writes no beginning of an answer: the model writes {missing_header!r} itself"
        return TemplateDescription(
            source=self.source,
            sha256=hashlib.sha256(self.template.encode()).hexdigest(),
            stop_tokens=tuple(sorted(self.stop_ids)),
            stop_strings=self.stop_strings,
            generation_prompt=self._render_probe(add_generation_prompt=True) != self._render_probe(add_generation_prompt=False),
            notes=(note,) if missing_header else (),
        )

    def render(self, messages: Messages) -> RenderedPrompt:
        """The conversation up to the beginning of the answer.

        Raises UserError (cannot score) when the template refuses it, or loses one of its messages.
        """
        form = self._choose_form(tuple(message["role"] for message in messages))
        try:
            text = self._render_text(form.convert(messages), add_generation_prompt=True)
        except _TEMPLATE_ERRORS as error:
            raise self._make_error(f"fails: {describe_error(error)}") from error
        tokens = self._encode(text)
        if tokens[: len(self._prefix)] != self._prefix:
            tokens = [*self._prefix, *tokens]
        return RenderedPrompt(text=text, tokens=tokens, system_in_user=form.system_in_user, content_parts=form.content_parts)

    def _render_text(self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        text = render_template(self._library, self.template, messages, add_generation_prompt=add_generation_prompt)
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise ValueError(f"it writes {len(text):,} characters, and {MAX_PROMPT_CHARACTERS:,} are the most")
        text.encode()  # half of a surrogate pair is no text
        return text

    def _render_probe(self, *, add_generation_prompt: bool) -> str:
        probe = [{"role": "user", "content": _SENTINEL.format(0)}]
        return self._render_text(self._choose_form(("user",)).convert(probe), add_generation_prompt=add_generation_prompt)

    def _make_error(self, failure: str) -> UserError:
        return UserError(
            f"the chat template {failure}",
            location=self.location,
            hint="fix the template or the prompt",
            code=ExitCode.CANNOT_SCORE,
        )

    def _choose_form(self, roles: tuple[str, ...]) -> _Form:
        """The first form in which all messages get into the text: some templates refuse one, some lose it silently."""
        if roles in self._forms:
            return self._forms[roles]
        messages = [{"role": role, "content": _SENTINEL.format(number)} for number, role in enumerate(roles)]
        folds = (False, True) if roles[0] == "system" else (False,)
        failure = ""
        for form in (_Form(fold, parts) for parts in (False, True) for fold in folds):
            try:
                text = self._render_text(form.convert(messages), add_generation_prompt=True).casefold()
            except _TEMPLATE_ERRORS as error:
                failure = failure or f"fails: {describe_error(error)}"
                continue
            lost = next((message["role"] for message in messages if message["content"].casefold() not in text), None)
            if lost is None:
                return self._forms.setdefault(roles, form)
            failure = failure or f"loses the {lost}'s message"
        raise self._make_error(failure)

    def _find_missing_header(self) -> str:
        """What the model must write before its answer, since the template does not; else an empty text."""
        prompt = self._render_probe(add_generation_prompt=True)
        if prompt != self._render_probe(add_generation_prompt=False):
            return ""
        answered = self._render_answered_probe()
        before = answered.partition(_SENTINEL.format(1))[0]
        return before.removeprefix(prompt).strip() if before.startswith(prompt) else ""

    def _render_answered_probe(self) -> str:
        """A conversation with an answer. The template may lose that: not every prompt has one."""
        roles = ("user", "assistant")
        conversation = [{"role": role, "content": _SENTINEL.format(number)} for number, role in enumerate(roles)]
        return self._render_text(self._choose_form(("user",)).convert(conversation), add_generation_prompt=False)

    def _find_stop_criteria(self, eos_id: int | None) -> _StopCriteria:
        """EOS, and what the template writes after an answer: a special token, else the first line as a string."""
        ids = frozenset() if eos_id is None else frozenset({eos_id})
        try:
            text = self._render_answered_probe()
        except _TEMPLATE_ERRORS as error:
            raise self._make_error(f"fails: {describe_error(error)}") from error
        _, mark, after = text.rpartition(_SENTINEL.format(1))
        after = after.strip()
        if not mark or not after:
            return _StopCriteria(ids, ())
        first = self._encode(after)[0]
        if first in self._special_ids:
            return _StopCriteria(ids | {first}, ())
        return _StopCriteria(ids, (after.splitlines()[0],))


def render_template(library: Any, template: str, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool) -> str:
    """What transformers renders on FIXED_DATE. Raises what the template raises."""
    options = {"chat_template": template, "tokenize": False, "add_generation_prompt": add_generation_prompt}
    with _stop_the_clock():
        return str(library.apply_chat_template(list(messages), **options))


def _choose_encoder(tokenizer: Tokenizer, library: Any) -> Callable[[str], list[int]]:
    """Rendered prompt -> ids."""
    if not isinstance(tokenizer.codec, SentencePieceCodec):
        return tokenizer.codec.encode_prompt
    backend = open_sentencepiece_backend(tokenizer.folder, library, tokenizer.resolved.reading.model_file)
    return make_sentencepiece_prompt_encoder(backend)


class _FixedDatetime(datetime):
    """The class that templates take the time from."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        """Always FIXED_DATE."""
        del tz
        return cls(FIXED_DATE.year, FIXED_DATE.month, FIXED_DATE.day)


@contextlib.contextmanager
def _stop_the_clock() -> Iterator[None]:
    """Templates see FIXED_DATE. transformers has no argument for its clock."""
    from transformers.utils import chat_template_utils  # noqa: PLC0415  its import takes seconds

    with mock.patch.object(chat_template_utils, "datetime", _FixedDatetime):
        yield

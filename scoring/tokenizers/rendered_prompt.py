"""Rendered prompts and their template, as the data cache keeps them. Needs no template engine."""

import msgspec


class RenderedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt as the model reads it."""

    text: str
    tokens: list[int]
    system_in_user: bool
    """The template has no system role: the system message begins the first user message."""
    content_parts: bool = False
    """The template takes content only as a list of parts."""


class TemplateDescription(msgspec.Struct, frozen=True, kw_only=True):
    """The chat template of prompts; also in the tier file."""

    source: str
    """``tokenizer`` or ``suite``."""
    sha256: str
    stop_tokens: tuple[int, ...]
    """Tokens and strings that end an answer."""
    stop_strings: tuple[str, ...]
    generation_prompt: bool
    """Whether it writes the beginning of an answer when asked to."""
    notes: tuple[str, ...] = ()
    """What a person should know."""

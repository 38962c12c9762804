"""Renders prompts in a process of its own, of limited time and memory: a template may ask for any amount of both."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from scoring.tokenizers.rendered_prompt import RenderedPrompt, TemplateDescription
from scoring.tokenizers.tokenizer import Tokenizer, load_tokenizer
from suites.common.errors import ExitCode, UserError
from suites.contract.resolved_tokenizer import ResolvedTokenizer

CPU_SECONDS = 10
"""Processor time for a prompt. Usual ones take a thousandth of it."""

WALL_SECONDS = 600
"""Time for a prompt on a machine that is busy, or that swaps."""

MEMORY_BYTES = 1 << 30
"""Address space for rendering, beyond what the loaded tokenizer has."""

_LIMITS = {
    signal.SIGPROF: f"takes more than {CPU_SECONDS} s of processor time",
    signal.SIGALRM: f"takes more than {WALL_SECONDS} s",
}

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
"""Each thread would reserve address space."""


class PromptToRender(msgspec.Struct, frozen=True):
    """The messages of a prompt, and the suite's template for a tokenizer that has none."""

    messages: list[dict[str, str]]
    fallback: str | None


class RenderedPrompts(msgspec.Struct, frozen=True):
    """All prompts in their order, and their templates."""

    prompts: list[RenderedPrompt]
    template_indices: list[int]
    """Of each prompt, in ``templates``."""
    templates: list[TemplateDescription]


class _Request(msgspec.Struct, frozen=True):
    identifier: str
    use_fast: bool
    folder: str
    resolved: ResolvedTokenizer
    prompts: list[PromptToRender]


class _Failure(msgspec.Struct, frozen=True):
    message: str
    location: str
    hint: str
    code: int


class _Answer(msgspec.Struct, frozen=True):
    rendered: RenderedPrompts | None = None
    failure: _Failure | None = None


def render_prompts(prompts: Sequence[PromptToRender], tokenizer: Tokenizer) -> RenderedPrompts:
    """Render and tokenise all prompts.

    Raises UserError (cannot score) for a template that is missing, fails, loses a message, or exceeds the limits.
    """
    request = _Request(tokenizer.identifier, tokenizer.use_fast, str(tokenizer.folder), tokenizer.resolved, list(prompts))
    command = [sys.executable, "-P", "-m", "scoring.tokenizers.prompt_renderer"]
    child = subprocess.run(
        command, input=msgspec.json.encode(request), env={**os.environ, **_ONE_THREAD}, capture_output=True, check=False
    )
    if child.returncode < 0:
        ended = signal.Signals(-child.returncode)
        failure = _LIMITS.get(ended, f"ends the process that renders it ({ended.name}), perhaps for lack of memory")
        raise UserError(
            f"the chat template {failure}",
            location="chat_template of the suite"
            if tokenizer.resolved.reading.template is None
            else f"tokenizer {tokenizer.identifier}",
            hint="fix the template or the prompt",
            code=ExitCode.CANNOT_SCORE,
        )
    if child.returncode != 0:
        raise RuntimeError(f"rendering ended with {child.returncode}: {child.stderr.decode(errors='replace')[-2000:]}")
    answer = msgspec.json.decode(child.stdout, type=_Answer)
    if answer.failure is not None:
        failed = answer.failure
        raise UserError(failed.message, location=failed.location, hint=failed.hint, code=ExitCode(failed.code))
    assert answer.rendered is not None  # noqa: S101  one of the two
    return answer.rendered


def _render(request: _Request) -> RenderedPrompts:
    """What the child does."""
    from scoring.tokenizers.chat_template import ChatTemplate, render_template  # noqa: PLC0415  its import takes seconds
    from scoring.tokenizers.library import open_library_tokenizer  # noqa: PLC0415  likewise

    folder = Path(request.folder)
    tokenizer = load_tokenizer(request.identifier, folder, request.resolved, use_fast=request.use_fast)
    library = open_library_tokenizer(folder, use_fast=request.use_fast).tokenizer
    # The first use imports what the limits would forbid: torch reserves gigabytes of addresses.
    render_template(library, "", [{"role": "user", "content": ""}], add_generation_prompt=False)
    _limit_memory()
    chats: dict[str | None, ChatTemplate] = {}
    rendered, indices = [], []
    for prompt in request.prompts:
        _limit_time()
        if prompt.fallback not in chats:
            chats[prompt.fallback] = ChatTemplate(tokenizer, library, fallback=prompt.fallback)
        rendered.append(chats[prompt.fallback].render(prompt.messages))
        indices.append(list(chats).index(prompt.fallback))
    _limit_time()
    return RenderedPrompts(rendered, indices, [chat.describe() for chat in chats.values()])


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time() -> None:
    """Begin the time of a prompt. The signals end the process, also inside of a single operation on a long text."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says what follows from it
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=_Request)
    with contextlib.redirect_stdout(sys.stderr):  # libraries print
        try:
            answer = _Answer(rendered=_render(request))
        except UserError as error:
            answer = _Answer(failure=_Failure(error.message, error.location, error.hint, int(error.code)))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    _main()

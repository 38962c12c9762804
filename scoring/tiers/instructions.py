"""Tier 4: does it follow instructions? Prompts answered greedily, answers checked by rules.

tier4_sft_native.json says after its head:

    chat_template  where it is from (``tokenizer`` or ``suite``), its sha256, the tokens and strings that end an answer
    prompts        name -> category, ``passed`` (every check), ``format`` and ``clean`` (all checks of that kind; format is null
                   where the prompt has none), ``checks`` (check, kind, passed, in order: the prompt's own, then the clean ones),
                   ``response`` (tokens, characters, words, finish, near_ties). By ``passed`` two checkpoints are paired (McNemar)
    by_category    for each: prompts, and the shares of them that ``pass``, are of the demanded ``format`` and ``clean``
    summary        shares, null where nothing counts:
        instruction_match_rate  of all checks that the prompts name themselves (format and instruction), those that pass
        all_checks_pass_rate    of all prompts, those that pass every check, the clean ones included
        format_valid_rate       of the prompts with format checks, those that pass all of them
        chat_clean_rate         of all prompts, those that pass all clean checks
        code_parse_rate         of the python_code prompts, those whose Python parses
        json_valid_rate         of the strict_json prompts, those whose whole answer is JSON that fits its schema

The rates of garbage are about 0: a blank answer passes no check, and one that was cut or repeats itself passes none that any
text could pass (``scoring.answer_checks``). A cut answer is never clean, so it never passes.

tier4_sft_native_generations.jsonl has a line a prompt, in the suite's order and by the same ``name``: the messages, the prompt
as it was rendered and its tokens, the answer and its tokens, how it ended, whether it passed, every check with its evidence.
It is ASCII: what an answer holds of escape sequences, markup or other scripts stands there as JSON escapes. Whoever shows it
escapes it for his medium; lone surrogates were replaced by U+FFFD when the answer was decoded.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from scoring.answer_checks import registry as probes
from scoring.answer_checks.base import Answer
from scoring.answer_checks.json_and_code import refuse_schema
from scoring.answer_checks.text import split_words
from scoring.data.chat_template import Chat, Rendered
from scoring.inference.generation import Question, Shape, generate, shape_of
from scoring.model.backends import Loaded
from scoring.runtime.parts import Part, part_of
from scoring.tiers.base import Given, Scored, Work
from scoring.tiers.canary import Sample, of_texts
from suites.common.errors import Exit, Problem
from suites.contract.encoding import canonical
from suites.contract.paths import DataPaths, EvaluationPaths
from suites.definitions.prompts import PromptDefinition

TIER = "tier4_sft_native"

NAME = "prompts"

PROMPTS_A_PART = 32

_TOKENS = pa.list_(pa.int32())

_CHECK = pa.struct([("check", pa.string()), ("kind", pa.string()), ("passed", pa.bool_()), ("evidence", pa.string())])

ROWS = pa.schema(
    [
        ("name", pa.string()),
        ("category", pa.string()),
        ("rendered", pa.string()),
        ("system_in_user", pa.bool_()),  # the template knows no system role
        ("prompt_tokens", _TOKENS),
        ("answer", pa.string()),
        ("tokens", _TOKENS),
        ("finish", pa.string()),
        ("near_ties", pa.int64()),
        ("checks", pa.list_(_CHECK)),
    ]
)
"""Columns of a part."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt, ready to be answered."""

    name: str
    definition: dict[str, Any]
    rendered: Rendered
    question: Question
    chat: Chat


class Prompts(msgspec.Struct, frozen=True):
    """All prompts of a run, and the shape of every forward pass."""

    prompts: list[Prompt]
    shape: Shape


class Instructions:
    """Tier 4: a stretch of prompts is a part."""

    section = "prompts"

    def works(self, names: Mapping[str, dict[str, Any]], given: Given) -> Iterator[Work]:
        """One work, of all prompts. Problem where a prompt cannot be rendered, or leaves no room for an answer."""
        given.stop.check()
        chats: dict[str | None, Chat] = {}
        prompts = [_prompt(name, definition, chats, given) for name, definition in names.items()]
        templates = canonical([chat.described for chat in chats.values()])
        data_key = hashlib.sha256((templates + canonical([prompt.rendered.tokens for prompt in prompts])).encode()).hexdigest()
        parts = []
        for start in range(0, len(prompts), PROMPTS_A_PART):
            stretch = prompts[start : start + PROMPTS_A_PART]
            # by what is asked, not by the whole suite: a suite that grows at its end re-owes only its end
            definition = {each.name: {**each.definition, "tokens": each.rendered.tokens} for each in stretch}
            stop = start + len(stretch)
            parts.append(part_of(TIER, NAME, definition, templates, given.identity, start=start, stop=stop))
        entry = Prompts(prompts, shape_of([prompt.question for prompt in prompts]))
        yield Work(tier=TIER, name=NAME, definition=dict(names), data_key=data_key, entry=entry, parts=parts)

    def sample(self, work: Work, seq_len: int) -> Sample:
        """The prompts as they are rendered."""
        return of_texts([prompt.rendered.tokens for prompt in work.entry.prompts], seq_len)

    def score(
        self, work: Work, part: Part, model: Loaded, given: Given, between: Callable[[int], None]
    ) -> tuple[dict[str, Any] | None, pa.Table]:
        """Answers and their checks."""
        del given
        entry: Prompts = work.entry
        prompts = entry.prompts[part.start : part.stop]
        questions = [prompt.question for prompt in prompts]
        replies = generate(model, questions, shape=entry.shape, decode=prompts[0].chat.decode, between=between)
        rows = []
        for prompt, reply in zip(prompts, replies, strict=True):
            answer = Answer(text=reply.text, finish=reply.finish, special=prompt.chat.special)
            outcomes = probes.judge(answer, prompt.definition["checks"])
            rows.append(
                {
                    "name": prompt.name,
                    "category": prompt.definition["category"],
                    "rendered": prompt.rendered.text,
                    "system_in_user": prompt.rendered.system_in_user,
                    "prompt_tokens": prompt.rendered.tokens,
                    "answer": reply.text,
                    "tokens": reply.tokens,
                    "finish": reply.finish,
                    "near_ties": reply.near_ties,
                    "checks": msgspec.to_builtins(outcomes),
                }
            )
        return None, pa.Table.from_pylist(rows, schema=ROWS)

    def assemble(self, scored: Sequence[Scored]) -> dict[str, Any]:
        """``summary``, ``by_category``, ``chat_template``, ``prompts``."""
        (each,) = scored
        first: Prompt = each.work.entry.prompts[0]
        prompts = {row["name"]: _entry(row) for row in each.table().to_pylist()}
        return {
            "summary": summary(prompts),
            "by_category": by_category(prompts),
            "chat_template": first.chat.described,
            "data_key": each.work.data_key,
            self.section: prompts,
        }

    def files(self, paths: EvaluationPaths, scored: Sequence[Scored]) -> Iterator[tuple[Path, bytes]]:
        """The generations."""
        (each,) = scored
        messages = {prompt.name: prompt.definition["messages"] for prompt in each.work.entry.prompts}
        rows = ({**row, "messages": messages[row["name"]], "passed": _entry(row)["passed"]} for row in each.table().to_pylist())
        lines = (json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n" for row in rows)
        yield paths.generations, "".join(lines).encode("ascii")


def _prompt(name: str, definition: dict[str, Any], chats: dict[str | None, Chat], given: Given) -> Prompt:
    typed = msgspec.convert(definition, PromptDefinition)
    for check in typed.checks:
        if check["check"] == "json_schema":
            refuse_schema(check["schema"], where=f"prompt {name}")
    request, tokenizer = given.request, given.tokenizer
    if typed.chat_template not in chats:
        folder = DataPaths(Path(request.eval_data)).tokenizer(tokenizer.digest.removesuffix("-slow"))
        chats[typed.chat_template] = Chat(tokenizer, folder, use_fast=request.use_fast, fallback=typed.chat_template)
    chat = chats[typed.chat_template]
    rendered = chat.render([msgspec.to_builtins(message) for message in typed.messages])
    room = request.seq_len - len(rendered.tokens)
    if room < 1 or not rendered.tokens:
        what = f"takes {len(rendered.tokens)} tokens of a sequence length of {request.seq_len}: no room for an answer"
        todo = "give a larger seq_len, or leave the prompt out"
        raise Problem(what, where=f"prompt {name}", todo=todo, code=Exit.CANNOT_SCORE)
    question = Question(
        tokens=rendered.tokens,
        max_new_tokens=min(typed.max_new_tokens, room),
        stop_ids=chat.stop_ids,
        stop_strings=(*typed.stop, *chat.stop_strings),
    )
    return Prompt(name=name, definition=definition, rendered=rendered, question=question, chat=chat)


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt's entry in the tier file."""
    checks = [{key: check[key] for key in ("check", "kind", "passed")} for check in row["checks"]]
    answer = row["answer"]
    return {
        "category": row["category"],
        "passed": all(check["passed"] for check in checks),
        "format": _all_of(checks, "format"),
        "clean": _all_of(checks, "clean"),
        "checks": checks,
        "response": {
            "tokens": len(row["tokens"]),
            "characters": len(answer),
            "words": len(split_words(answer)),
            "finish": row["finish"],
            "near_ties": row["near_ties"],
        },
    }


def _all_of(checks: Sequence[Mapping[str, Any]], kind: str) -> bool | None:
    passed = [bool(check["passed"]) for check in checks if check["kind"] == kind]
    return all(passed) if passed else None


def _share(values: Sequence[bool | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _shares(prompts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "prompts": len(prompts),
        "pass": _share([prompt["passed"] for prompt in prompts]),
        "format": _share([prompt["format"] for prompt in prompts]),
        "clean": _share([prompt["clean"] for prompt in prompts]),
    }


def by_category(prompts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``prompts``, ``pass``, ``format``, ``clean`` of each category, in the order in which they come."""
    names = dict.fromkeys(prompt["category"] for prompt in prompts.values())
    return {name: _shares([prompt for prompt in prompts.values() if prompt["category"] == name]) for name in names}


def summary(prompts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The tier's figures, as the module says."""
    of_all = list(prompts.values())
    own = [check["passed"] for prompt in of_all for check in prompt["checks"] if check["kind"] != "clean"]
    shares = _shares(of_all)
    return {
        "instruction_match_rate": _share(own),
        "all_checks_pass_rate": shares["pass"],
        "format_valid_rate": shares["format"],
        "chat_clean_rate": shares["clean"],
        "code_parse_rate": _share([_holds(each, "python_parses") for each in of_all if each["category"] == "python_code"]),
        "json_valid_rate": _share(
            [_holds(each, "json_only", "json_schema") for each in of_all if each["category"] == "strict_json"]
        ),
        "prompts": len(of_all),
    }


def _holds(prompt: Mapping[str, Any], *names: str) -> bool | None:
    """Whether its checks of these names pass; None where it has none of them."""
    passed = [bool(check["passed"]) for check in prompt["checks"] if check["check"] in names]
    return all(passed) if passed else None

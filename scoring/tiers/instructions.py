"""Tier 4: instruction following. Prompts answered greedily, answers checked by rules.

tier4_sft_native.json has after its head:

    chat_template  its source (``tokenizer`` or ``suite``), its sha256, the tokens and strings that end an answer
    prompts        name -> category, ``passed`` (every check), ``format`` and ``clean`` (all checks of that kind; format is null
                   where the prompt has none), ``checks`` (check, kind, passed, in order: the prompt's own, then the clean ones),
                   ``response`` (tokens, characters, words, finish, near_ties). A comparison pairs prompts by ``passed``
    by_category    category -> prompts, and the shares of them that ``pass``, have the required ``format`` and are ``clean``
    summary        shares, null where nothing counts:
        instruction_match_rate  of all checks that the prompts name themselves (format and instruction), those that pass
        all_checks_pass_rate    of all prompts, those that pass every check, the clean ones included
        format_valid_rate       of the prompts with format checks, those that pass all of them
        chat_clean_rate         of all prompts, those that pass all clean checks
        code_parse_rate         of the python_code prompts, those whose Python parses
        json_valid_rate         of the strict_json prompts, those whose whole answer is JSON that fits its schema

A cut answer is never clean, so it never passes; ``scoring.answer_checks.registry`` says how blank or looping answers fail.

tier4_sft_native_generations.jsonl has a line a prompt, in the suite's order and by the same ``name``: the messages, the rendered
prompt and its tokens, the answer and its tokens, how it ended, whether it passed, every check with its evidence. It is ASCII:
escape sequences, markup and other scripts in an answer are JSON escapes, and a viewer must escape them for its medium. Lone
surrogates became U+FFFD when the answer was decoded.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from scoring.answer_checks import registry as check_registry
from scoring.answer_checks.base import ModelAnswer
from scoring.answer_checks.json_and_code import refuse_schema
from scoring.answer_checks.rates import PROMPT_RATES, PromptEntry, all_pass, list_requested_outcomes
from scoring.answer_checks.text import split_word_tokens
from scoring.data.prompt_entries import PromptsEntry, StoredPrompt, ensure_prompts
from scoring.inference.generation import GenerationRequest, GenerationShape, fit_shape, generate_answers
from scoring.model.backends import LoadedModel
from scoring.runtime.parts import Part, build_part
from scoring.tiers.base import JobContext, PartScores, ScoredItem, WorkItem
from scoring.tiers.canary import CanarySample, sample_texts
from scoring.tokenizers.rendered_prompt import TemplateDescription
from suites.common.errors import ExitCode, UserError
from suites.contract.encoding import canonical_json
from suites.contract.paths import DataPaths, EvaluationPaths
from suites.definitions.prompts import PromptDefinition

TIER = "tier4_sft_native"

WORK_ITEM_NAME = "prompts"

PROMPTS_PER_PART = 32

_TOKENS = pa.list_(pa.int32())

_CHECK_TYPE = pa.struct([("check", pa.string()), ("kind", pa.string()), ("passed", pa.bool_()), ("evidence", pa.string())])

PROMPT_ROW_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("category", pa.string()),
        ("rendered", pa.string()),
        ("system_in_user", pa.bool_()),  # the template has no system role
        ("prompt_tokens", _TOKENS),
        ("answer", pa.string()),
        ("tokens", _TOKENS),
        ("finish", pa.string()),
        ("near_ties", pa.int64()),
        ("checks", pa.list_(_CHECK_TYPE)),
    ]
)
"""Columns of a part's rows: one row a prompt."""


class PreparedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt, rendered and ready for generation."""

    name: str
    definition: dict[str, Any]
    rendered: StoredPrompt
    generation_request: GenerationRequest


class PreparedPrompts(msgspec.Struct, frozen=True):
    """All prompts of a run, and the shape of every forward pass."""

    prompts: list[PreparedPrompt]
    shape: GenerationShape
    templates: list[TemplateDescription]
    """Those of the prompts, without duplicates."""


class Instructions:
    """Tier 4. A part is a range of prompts."""

    section = "prompts"

    def plan_work(self, definitions: Mapping[str, dict[str, Any]], context: JobContext) -> Iterator[WorkItem]:
        """One work item of all prompts.

        Raises UserError where a prompt cannot be rendered or leaves no room for an answer.
        """
        context.stop.check()
        data = DataPaths(Path(context.request.eval_data))
        entries = [
            ensure_prompts(suite.name, suite.definition, tokenizer=context.tokenizer, data=data)
            for suite in context.request.suites
            if suite.tier == TIER
        ]
        prompts = [
            _prepare_prompt(name, definitions[name], entry, context.request.seq_len)
            for entry in entries
            for name in entry.prompts
        ]
        # Suites share a template as a rule.
        descriptions = list(dict.fromkeys(template for entry in entries for template in entry.templates))
        templates = canonical_json(msgspec.to_builtins(descriptions))
        tokens = canonical_json([prompt.rendered.tokens for prompt in prompts])
        data_key = hashlib.sha256((templates + tokens).encode()).hexdigest()
        parts = []
        for start in range(0, len(prompts), PROMPTS_PER_PART):
            part_prompts = prompts[start : start + PROMPTS_PER_PART]
            # Key a part by its own prompts: a suite that grows at its end rescores only its end.
            definition = {
                part_prompt.name: {**part_prompt.definition, "tokens": part_prompt.rendered.tokens}
                for part_prompt in part_prompts
            }
            stop = start + len(part_prompts)
            parts.append(build_part(TIER, WORK_ITEM_NAME, definition, templates, context.identity, start=start, stop=stop))
        entry = PreparedPrompts(prompts, fit_shape([prompt.generation_request for prompt in prompts]), descriptions)
        yield WorkItem(tier=TIER, name=WORK_ITEM_NAME, definition=dict(definitions), data_key=data_key, entry=entry, parts=parts)

    def sample_for_canary(self, work_item: WorkItem, seq_len: int) -> CanarySample:
        """The beginnings of rendered prompts."""
        return sample_texts([prompt.rendered.tokens for prompt in work_item.entry.prompts], seq_len)

    def score_part(
        self, work_item: WorkItem, part: Part, model: LoadedModel, context: JobContext, on_batch: Callable[[int], None]
    ) -> PartScores:
        """Answer the part's prompts and check the answers."""
        tokenizer = context.tokenizer
        special_tokens = frozenset(tokenizer.resolved.reading.special_tokens)
        entry: PreparedPrompts = work_item.entry
        prompts = entry.prompts[part.start : part.stop]
        requests = [prompt.generation_request for prompt in prompts]
        results = generate_answers(model, requests, shape=entry.shape, decode=tokenizer.decode, on_batch=on_batch)
        # Checks run here, in the part, so that evidence is kept although the tier file has only verdicts.
        rows = []
        for prompt, result in zip(prompts, results, strict=True):
            answer = ModelAnswer(text=result.text, finish=result.finish, special_tokens=special_tokens)
            outcomes = check_registry.check_answer(answer, prompt.definition["checks"])
            rows.append(
                {
                    "name": prompt.name,
                    "category": prompt.definition["category"],
                    "rendered": prompt.rendered.text,
                    "system_in_user": prompt.rendered.system_in_user,
                    "prompt_tokens": prompt.rendered.tokens,
                    "answer": result.text,
                    "tokens": result.tokens,
                    "finish": result.finish,
                    "near_ties": result.near_ties,
                    "checks": msgspec.to_builtins(outcomes),
                }
            )
        return PartScores(None, pa.Table.from_pylist(rows, schema=PROMPT_ROW_SCHEMA))

    def build_sections(self, scored_items: Sequence[ScoredItem]) -> dict[str, Any]:
        """``summary``, ``by_category``, ``chat_template``, ``data_key`` and ``prompts``."""
        (scored_item,) = scored_items
        templates: list[TemplateDescription] = scored_item.work_item.entry.templates
        prompts = {row["name"]: _build_entry(row) for row in scored_item.concat_rows().to_pylist()}
        return {
            "summary": summarise_prompts(prompts),
            "by_category": summarise_categories(prompts),
            "chat_template": msgspec.to_builtins(templates[0]),
            "notes": list(dict.fromkeys(note for template in templates for note in template.notes)),
            "data_key": scored_item.work_item.data_key,
            self.section: prompts,
        }

    def encode_files(self, paths: EvaluationPaths, scored_items: Sequence[ScoredItem]) -> Iterator[tuple[Path, bytes]]:
        """The generations as JSON lines."""
        (scored_item,) = scored_items
        messages = {prompt.name: prompt.definition["messages"] for prompt in scored_item.work_item.entry.prompts}
        rows = (
            {**row, "messages": messages[row["name"]], "passed": _build_entry(row)["passed"]}
            for row in scored_item.concat_rows().to_pylist()
        )
        lines = (json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n" for row in rows)
        yield paths.generations, "".join(lines).encode("ascii")


def _prepare_prompt(name: str, definition: dict[str, Any], entry: PromptsEntry, seq_len: int) -> PreparedPrompt:
    """One prompt of the data cache, with the room for its answer."""
    prompt_definition = msgspec.convert(definition, PromptDefinition)
    # The login node has no jsonschema, so schemas are checked here, before anything is scored.
    for check in prompt_definition.checks:
        if check["check"] == "json_schema":
            refuse_schema(check["schema"], location=f"prompt {name}")
    rendered = entry.prompts[name]
    template = entry.templates[rendered.template]
    # Prompt and answer share the sequence length.
    max_answer_tokens = seq_len - len(rendered.tokens)
    if max_answer_tokens < 1 or not rendered.tokens:
        detail = f"takes {len(rendered.tokens)} tokens of a sequence length of {seq_len}: no room for an answer"
        hint = "give a larger seq_len, or leave the prompt out"
        raise UserError(detail, location=f"prompt {name}", hint=hint, code=ExitCode.CANNOT_SCORE)
    generation_request = GenerationRequest(
        tokens=rendered.tokens,
        max_new_tokens=min(prompt_definition.max_new_tokens, max_answer_tokens),
        stop_ids=frozenset(template.stop_tokens),
        stop_strings=(*prompt_definition.stop, *template.stop_strings),
    )
    return PreparedPrompt(name=name, definition=definition, rendered=rendered, generation_request=generation_request)


def _build_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt's entry in the tier file."""
    checks = [{key: check[key] for key in ("check", "kind", "passed")} for check in row["checks"]]
    answer = row["answer"]
    return {
        "category": row["category"],
        "passed": all(check["passed"] for check in checks),
        "format": all_pass(check["passed"] for check in checks if check["kind"] == "format"),
        "clean": all_pass(check["passed"] for check in checks if check["kind"] == "clean"),
        "checks": checks,
        "response": {
            "tokens": len(row["tokens"]),
            "characters": len(answer),
            "words": len(split_word_tokens(answer)),
            "finish": row["finish"],
            "near_ties": row["near_ties"],
        },
    }


def _compute_share(values: Sequence[bool | None]) -> float | None:
    """The share of True among known values; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def summarise_categories(prompts: Mapping[str, PromptEntry]) -> dict[str, Any]:
    """``prompts``, ``pass``, ``format`` and ``clean`` of each category, in order."""
    by_category: dict[str, list[PromptEntry]] = {}
    for prompt in prompts.values():
        by_category.setdefault(prompt["category"], []).append(prompt)
    return {
        category: {
            "prompts": len(entries),
            "pass": _compute_share([entry["passed"] for entry in entries]),
            "format": _compute_share([entry["format"] for entry in entries]),
            "clean": _compute_share([entry["clean"] for entry in entries]),
        }
        for category, entries in by_category.items()
    }


def summarise_prompts(prompts: Mapping[str, PromptEntry]) -> dict[str, Any]:
    """The tier's summary, as the module's docstring defines it."""
    requested = [passed for prompt in prompts.values() for passed in list_requested_outcomes(prompt)]
    return {
        "instruction_match_rate": _compute_share(requested),
        **{rate: _compute_share([passes(prompt) for prompt in prompts.values()]) for rate, passes in PROMPT_RATES.items()},
        "prompts": len(prompts),
    }

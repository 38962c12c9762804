"""Checks of JSON and Python. Python is parsed and never run."""

import ast
import json
import textwrap
import warnings
from typing import Any, NoReturn

import jsonschema
import msgspec
import referencing
import referencing.exceptions

from scoring.answer_checks.base import CheckVerdict, ModelAnswer, quote_text
from suites.common.errors import UserError
from suites.definitions import checks

MAX_CODE_CHARACTERS = 100_000
"""Longer code fails without being parsed."""

_PYTHON_LABELS = frozenset({"", "python", "python3", "py"})

_NO_EFFECT_NODES = (ast.Name, ast.Constant, ast.Tuple, ast.Attribute, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp)

_PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _parse_json(text: str) -> Any:
    """The value of a text that is one JSON text.

    Raises ValueError or RecursionError for any other text; NaN and infinities are not JSON.
    """
    return json.loads(text.strip(" \t\r\n"), parse_constant=_refuse_constant)


def check_json_only(answer: ModelAnswer, _check: checks.AnswerCheck) -> CheckVerdict:
    """Passes where the whole answer is one JSON text (RFC 8259).

    White space around it is allowed. A code fence, words before or after, single quotes, a trailing comma and NaN fail.
    """
    try:
        _parse_json(answer.text)
    except (ValueError, RecursionError) as error:
        return CheckVerdict(False, f"not JSON: {quote_text(str(error), 80)}")
    return CheckVerdict(True, "one JSON text")


def check_json_schema(answer: ModelAnswer, check: checks.JsonSchema) -> CheckVerdict:
    """Passes where the whole answer is JSON that fits the schema.

    The schema is of draft 2020-12; ``format`` only annotates.
    """
    try:
        value = _parse_json(answer.text)
        validator = jsonschema.Draft202012Validator(check.schema, registry=referencing.Registry())
        error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    except (ValueError, RecursionError, OverflowError) as parse_error:
        return CheckVerdict(False, f"not JSON: {quote_text(str(parse_error), 80)}")
    return (
        CheckVerdict(True, "fits the schema")
        if error is None
        else CheckVerdict(False, f"{error.json_path}: {quote_text(error.message, 80)}")
    )


def refuse_schema(schema: dict[str, Any], *, location: str) -> None:
    """Raise UserError (usage) where a schema is invalid or refers elsewhere."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema, registry=referencing.Registry()).is_valid(None)
    except jsonschema.SchemaError as error:
        raise UserError(
            f"json_schema: {error.json_path}: {error.message}", location=location, hint="correct the schema"
        ) from error
    except referencing.exceptions.Unresolvable as error:
        raise UserError(
            f"json_schema: {error}", location=location, hint="put the definition that it refers to into the schema"
        ) from error


class FencedBlock(msgspec.Struct):
    """One fenced block of an answer, as far as it was read."""

    language: str
    lines: list[str]
    is_closed: bool = False


def find_code_blocks(text: str) -> list[FencedBlock]:
    """The fenced blocks of a text; the last one may be open."""
    blocks: list[FencedBlock] = []
    for line in text.splitlines():
        is_inside = bool(blocks) and not blocks[-1].is_closed
        is_fence = line.lstrip().startswith("```")
        if is_inside and is_fence:
            blocks[-1].is_closed = True
        elif is_inside:
            blocks[-1].lines.append(line)
        elif is_fence:
            blocks.append(FencedBlock(line.strip().lstrip("`").strip().lower(), []))
    return blocks


def extract_python(text: str) -> str:
    """The Python code in an answer.

    That is its fenced blocks of Python or of no language, joined; without any fenced block, the entire answer.
    """
    blocks = find_code_blocks(text)
    if not blocks:
        return textwrap.dedent(text).strip()
    return "\n\n".join(textwrap.dedent("\n".join(block.lines)) for block in blocks if block.language in _PYTHON_LABELS)


class _ParsedPython(msgspec.Struct, frozen=True):
    """An answer's syntax tree, or why it does not parse."""

    tree: ast.Module
    error: str = ""


def _parse_python(text: str) -> _ParsedPython:
    code = extract_python(text)
    if len(code) > MAX_CODE_CHARACTERS:
        return _ParsedPython(ast.Module([], []), f"{len(code)} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in the answer's strings
            return _ParsedPython(ast.parse(code))
    except _PARSE_ERRORS as error:
        return _ParsedPython(ast.Module([], []), quote_text(f"{type(error).__name__}: {error}", 80))


def check_python_parses(answer: ModelAnswer, _check: checks.AnswerCheck) -> CheckVerdict:
    """Passes where the Python parses and a statement has an effect.

    The Python is in fenced blocks, or the entire answer where there are none; blocks of another language do not count.
    "Sure" parses and fails: a name, a number or a comparison alone has no effect.
    """
    parsed = _parse_python(answer.text)
    if parsed.error:
        return CheckVerdict(False, f"does not parse: {parsed.error}")
    effective = [
        node for node in parsed.tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, _NO_EFFECT_NODES))
    ]
    return CheckVerdict(bool(effective), f"{len(parsed.tree.body)} statements" if effective else "no statement with an effect")


def check_python_defines(answer: ModelAnswer, check: checks.PythonDefinition) -> CheckVerdict:
    """Passes where the answer's Python parses and defines the function or class.

    Where the check lists arguments, they must match by name and order; defaults and annotations are free.
    """
    parsed = _parse_python(answer.text)
    if parsed.error:
        return CheckVerdict(False, f"does not parse: {parsed.error}")
    node_types = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    # Methods and nested functions count, too.
    definitions = [node for node in ast.walk(parsed.tree) if isinstance(node, node_types) and node.name == check.name]
    if not definitions:
        return CheckVerdict(False, f"does not define {check.name}")
    if check.arguments is None:
        return CheckVerdict(True, f"defines {check.name}")
    for node in definitions:
        if not isinstance(node, ast.ClassDef):
            argument_names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if argument_names == list(check.arguments):
                return CheckVerdict(True, f"defines {check.name}({', '.join(argument_names)})")
    return CheckVerdict(False, f"defines {check.name} with other arguments")


def check_code_block(answer: ModelAnswer, check: checks.CodeBlock) -> CheckVerdict:
    """Passes where there is one fenced block of the required language.

    It must be closed. Without a required language, any will do. With ``alone``, nothing may stand before or after the block.
    """
    blocks = find_code_blocks(answer.text)
    if len(blocks) != 1:
        return CheckVerdict(False, f"{len(blocks)} fenced blocks")
    block, text = blocks[0], answer.text.strip()
    summary = f"one fenced block of {quote_text(block.language, 20)}{'' if block.is_closed else ', not closed'}"
    if check.alone and not (text.startswith("```") and text.endswith("```")):
        outside = (text.partition("```")[0] or text.rpartition("```")[2]).strip()
        return CheckVerdict(False, f"{summary}; and also {quote_text(outside, 60)}")
    return CheckVerdict(block.is_closed and check.language in {None, block.language}, summary)

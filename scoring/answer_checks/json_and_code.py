"""Checks of JSON and of Python. JSON is parsed strictly; Python is parsed, and never run."""

import ast
import json
import textwrap
import warnings
from typing import Any, NoReturn

import jsonschema
import referencing
import referencing.exceptions

from scoring.answer_checks.base import CheckVerdict, ModelAnswer, quote_text
from suites.common.errors import UserError
from suites.definitions import checks

MAX_CODE_CHARACTERS = 100_000
"""Characters. More is no answer to a question, and not worth a parser's time."""

_PYTHON_LABELS = frozenset({"", "python", "python3", "py"})

_NO_EFFECT_NODES = (ast.Name, ast.Constant, ast.Tuple, ast.Attribute, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp)

_PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _parse_json(text: str) -> Any:
    """ValueError or RecursionError where the whole text is not one JSON text; NaN and infinities are none."""
    return json.loads(text.strip(" \t\r\n"), parse_constant=_refuse_constant)


def check_json_only(answer: ModelAnswer, _check: checks.AnswerCheck) -> CheckVerdict:
    """Passes where the whole answer is one JSON text (RFC 8259), white space around it aside.

    Fails for a code fence, for words before or after, for single quotes, for a comma too many, and for NaN.
    """
    try:
        _parse_json(answer.text)
    except (ValueError, RecursionError) as error:
        return CheckVerdict(False, f"no JSON: {quote_text(str(error), 80)}")
    return CheckVerdict(True, "one JSON text")


def check_json_schema(answer: ModelAnswer, check: checks.JsonSchema) -> CheckVerdict:
    """Passes where the whole answer is JSON that fits the schema (draft 2020-12; ``format`` only annotates)."""
    try:
        value = _parse_json(answer.text)
        validator = jsonschema.Draft202012Validator(check.schema, registry=referencing.Registry())
        error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    except (ValueError, RecursionError, OverflowError) as parse_error:
        return CheckVerdict(False, f"no JSON: {quote_text(str(parse_error), 80)}")
    return (
        CheckVerdict(True, "fits the schema")
        if error is None
        else CheckVerdict(False, f"{error.json_path}: {quote_text(error.message, 80)}")
    )


def refuse_schema(schema: dict[str, Any], *, location: str) -> None:
    """Problem (usage) where a schema is itself none, or refers to what it does not hold."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema, registry=referencing.Registry()).is_valid(None)
    except jsonschema.SchemaError as error:
        raise UserError(f"json_schema: {error.json_path}: {error.message}", location=location, hint="mend the schema") from error
    except referencing.exceptions.Unresolvable as error:
        raise UserError(f"json_schema: {error}", location=location, hint="write what it refers to into the schema") from error


def find_code_blocks(text: str) -> list[tuple[str, str, bool]]:
    """(language, content, whether it is closed) of every fenced block."""
    code_blocks: list[tuple[str, list[str], bool]] = []
    is_inside = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            if is_inside:
                code_blocks[-1] = (*code_blocks[-1][:2], True)
            else:
                code_blocks.append((line.strip().lstrip("`").strip().lower(), [], False))
            is_inside = not is_inside
        elif is_inside:
            code_blocks[-1][1].append(line)
    return [(language, "\n".join(content), is_closed) for language, content, is_closed in code_blocks]


def extract_python(text: str) -> str:
    """The Python in an answer: its fenced blocks of Python, or of no language, one after the other; without any, all of it."""
    code_blocks = find_code_blocks(text)
    if not code_blocks:
        return textwrap.dedent(text).strip()
    return "\n\n".join(textwrap.dedent(content) for language, content, _ in code_blocks if language in _PYTHON_LABELS)


def _parse_python(text: str) -> ast.Module | str:
    """The syntax tree, or why there is none."""
    code = extract_python(text)
    if len(code) > MAX_CODE_CHARACTERS:
        return f"{len(code)} characters"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about doubtful escapes in it
            return ast.parse(code)
    except _PARSE_ERRORS as error:
        return quote_text(f"{type(error).__name__}: {error}", 80)


def check_python_parses(answer: ModelAnswer, _check: checks.AnswerCheck) -> CheckVerdict:
    """Passes where the answer's Python parses and holds a statement that does something.

    The Python is what stands in fenced blocks, or the whole answer where there are none; a language other than Python does not
    count. "Sure" parses, too, and fails: a name, a number or a comparison alone does nothing.
    """
    tree = _parse_python(answer.text)
    if isinstance(tree, str):
        return CheckVerdict(False, f"does not parse: {tree}")
    effective = [node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, _NO_EFFECT_NODES))]
    return CheckVerdict(bool(effective), f"{len(tree.body)} statements" if effective else "no statement that does something")


def check_python_defines(answer: ModelAnswer, check: checks.PythonDefinition) -> CheckVerdict:
    """Passes where the answer's Python parses and defines the function or class, with these arguments where they are given.

    Arguments are compared by name and order; defaults and annotations are free.
    """
    tree = _parse_python(answer.text)
    if isinstance(tree, str):
        return CheckVerdict(False, f"does not parse: {tree}")
    node_types = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    definitions = [node for node in ast.walk(tree) if isinstance(node, node_types) and node.name == check.name]
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
    """Passes where there is exactly one fenced block, closed, and of the language that is asked for, if any is.

    With ``alone``, the answer begins and ends with it.
    """
    code_blocks = find_code_blocks(answer.text)
    if len(code_blocks) != 1:
        return CheckVerdict(False, f"{len(code_blocks)} fenced blocks")
    language, _, is_closed = code_blocks[0]
    summary = f"one fenced block of {quote_text(language, 20)}{'' if is_closed else ', not closed'}"
    text = answer.text.strip()
    if check.alone and not (text.startswith("```") and text.endswith("```")):
        return CheckVerdict(
            False, f"{summary}; and also {quote_text((text.partition('```')[0] or text.rpartition('```')[2]).strip(), 60)}"
        )
    return CheckVerdict(is_closed and check.language in {None, language}, summary)

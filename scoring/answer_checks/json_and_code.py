"""Checks of JSON and of Python. JSON is parsed strictly; Python is parsed, and never run."""

import ast
import json
import textwrap
import warnings
from typing import Any, NoReturn

import jsonschema
import referencing
import referencing.exceptions

from scoring.answer_checks.base import Answer, Verdict, shown
from suites.common.errors import Problem
from suites.definitions import checks

LONGEST_CODE = 100_000
"""Characters. More is no answer to a question, and not worth a parser's time."""

_PYTHON = frozenset({"", "python", "python3", "py"})

_SAYS_NOTHING = (ast.Name, ast.Constant, ast.Tuple, ast.Attribute, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp)

_CANNOT = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _parsed(text: str) -> Any:
    """ValueError or RecursionError where the whole text is not one JSON text; NaN and infinities are none."""
    return json.loads(text.strip(" \t\r\n"), parse_constant=_no_number)


def json_only(answer: Answer, _check: checks.Check) -> Verdict:
    """Passes where the whole answer is one JSON text (RFC 8259), white space around it aside.

    Fails for a code fence, for words before or after, for single quotes, for a comma too many, and for NaN.
    """
    try:
        _parsed(answer.text)
    except (ValueError, RecursionError) as error:
        return Verdict(False, f"no JSON: {shown(str(error), 80)}")
    return Verdict(True, "one JSON text")


def json_schema(answer: Answer, check: checks.Schema) -> Verdict:
    """Passes where the whole answer is JSON that fits the schema (draft 2020-12; ``format`` only annotates)."""
    try:
        value = _parsed(answer.text)
        validator = jsonschema.Draft202012Validator(check.schema, registry=referencing.Registry())
        error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    except (ValueError, RecursionError, OverflowError) as broken:
        return Verdict(False, f"no JSON: {shown(str(broken), 80)}")
    return Verdict(True, "fits the schema") if error is None else Verdict(False, f"{error.json_path}: {shown(error.message, 80)}")


def refuse_schema(schema: dict[str, Any], *, where: str) -> None:
    """Problem (usage) where a schema is itself none, or refers to what it does not hold."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema, registry=referencing.Registry()).is_valid(None)
    except jsonschema.SchemaError as error:
        raise Problem(f"json_schema: {error.json_path}: {error.message}", where=where, todo="mend the schema") from error
    except referencing.exceptions.Unresolvable as error:
        raise Problem(f"json_schema: {error}", where=where, todo="write what it refers to into the schema") from error


def blocks(text: str) -> list[tuple[str, str, bool]]:
    """(language, content, whether it is closed) of every fenced block."""
    found: list[tuple[str, list[str], bool]] = []
    inside = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            if inside:
                found[-1] = (*found[-1][:2], True)
            else:
                found.append((line.strip().lstrip("`").strip().lower(), [], False))
            inside = not inside
        elif inside:
            found[-1][1].append(line)
    return [(language, "\n".join(content), closed) for language, content, closed in found]


def code_of(text: str) -> str:
    """The Python in an answer: its fenced blocks of Python, or of no language, one after the other; without any, all of it."""
    fenced = blocks(text)
    if not fenced:
        return textwrap.dedent(text).strip()
    return "\n\n".join(textwrap.dedent(content) for language, content, _ in fenced if language in _PYTHON)


def _tree(text: str) -> ast.Module | str:
    """The syntax tree, or why there is none."""
    code = code_of(text)
    if len(code) > LONGEST_CODE:
        return f"{len(code)} characters"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about doubtful escapes in it
            return ast.parse(code)
    except _CANNOT as error:
        return shown(f"{type(error).__name__}: {error}", 80)


def python_parses(answer: Answer, _check: checks.Check) -> Verdict:
    """Passes where the answer's Python parses and holds a statement that does something.

    The Python is what stands in fenced blocks, or the whole answer where there are none; a language other than Python does not
    count. "Sure" parses, too, and fails: a name, a number or a comparison alone does nothing.
    """
    tree = _tree(answer.text)
    if isinstance(tree, str):
        return Verdict(False, f"does not parse: {tree}")
    does = [node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, _SAYS_NOTHING))]
    return Verdict(bool(does), f"{len(tree.body)} statements" if does else "no statement that does something")


def python_defines(answer: Answer, check: checks.Defines) -> Verdict:
    """Passes where the answer's Python parses and defines the function or class, with these arguments where they are given.

    Arguments are compared by name and order; defaults and annotations are free.
    """
    tree = _tree(answer.text)
    if isinstance(tree, str):
        return Verdict(False, f"does not parse: {tree}")
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds) and node.name == check.name]
    if not found:
        return Verdict(False, f"does not define {check.name}")
    if check.arguments is None:
        return Verdict(True, f"defines {check.name}")
    for node in found:
        if not isinstance(node, ast.ClassDef):
            given = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if given == list(check.arguments):
                return Verdict(True, f"defines {check.name}({', '.join(given)})")
    return Verdict(False, f"defines {check.name} with other arguments")


def code_block(answer: Answer, check: checks.CodeBlock) -> Verdict:
    """Passes where there is exactly one fenced block, closed, and of the language that is asked for, if any is.

    With ``alone``, the answer begins and ends with it.
    """
    found = blocks(answer.text)
    if len(found) != 1:
        return Verdict(False, f"{len(found)} fenced blocks")
    language, _, closed = found[0]
    said = f"one fenced block of {shown(language, 20)}{'' if closed else ', not closed'}"
    text = answer.text.strip()
    if check.alone and not (text.startswith("```") and text.endswith("```")):
        return Verdict(False, f"{said}; and also {shown((text.partition('```')[0] or text.rpartition('```')[2]).strip(), 60)}")
    return Verdict(closed and check.language in {None, language}, said)

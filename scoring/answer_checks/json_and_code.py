"""Checks of JSON and Python. Python is parsed and never run."""

import ast
import builtins
import json
import re
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

_PYTHON_LABELS = frozenset({"", "python", "python2", "python3", "py", "py3", "ipython", "ipython3"})

_FENCE = re.compile(r"(?P<fence>`{3,}|~{3,})\s*(?P<info>[^`]*)")

_LIST_MARKERS = re.compile(r"\ufeff?\s*(?:(?:[-*+]|\d{1,3}[.)])\s+)*")
"""Before a fence that opens within an item of a list."""

_LONG_DIGITS = re.compile(r"(?<![\w.])(\d{4000})\d+")
"""Python converts no longer number from text, although its grammar has it."""

_LANGUAGE = re.compile(r"[\w+#-]+")

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

    fence: str
    language: str
    lines: list[str]
    is_closed: bool = False


def find_code_blocks(text: str) -> list[FencedBlock]:
    """The fenced blocks of a text; the last one may be open.

    As in CommonMark, a fence closes a block that began with no more of its characters.
    """
    blocks: list[FencedBlock] = []
    for line in text.splitlines():
        is_inside = bool(blocks) and not blocks[-1].is_closed
        match = _FENCE.match(line.strip())
        if is_inside and match and not match["info"] and match["fence"].startswith(blocks[-1].fence):
            blocks[-1].is_closed = True
        elif is_inside:
            blocks[-1].lines.append(line)
        elif match := _FENCE.match(_LIST_MARKERS.sub("", line, count=1).strip()):
            language = _LANGUAGE.search(match["info"].lower())
            blocks.append(FencedBlock(match["fence"], language[0] if language else "", []))
    return blocks


def extract_python(text: str) -> str:
    """The Python code in an answer.

    That is its fenced blocks of Python or of no language, joined; without any fenced block, the entire answer.
    """
    blocks = find_code_blocks(text)
    if not blocks:
        return textwrap.dedent(text.lstrip("\ufeff")).strip()
    return "\n\n".join(
        textwrap.dedent("\n".join(block.lines).lstrip("\ufeff")) for block in blocks if block.language in _PYTHON_LABELS
    )


class _ParsedPython(msgspec.Struct, frozen=True):
    """An answer's syntax tree, or why it does not parse."""

    tree: ast.Module
    code: str = ""
    error: str = ""


def _parse_python(text: str) -> _ParsedPython:
    code = extract_python(text)
    if len(code) > MAX_CODE_CHARACTERS:
        return _ParsedPython(ast.Module([], []), error=f"{len(code)} characters")
    code = _LONG_DIGITS.sub(r"\1", code)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in the answer's strings
            tree = ast.parse(code)
            # Compiling, too, runs nothing; it refuses what parses and is no program, such as `return home`.
            compile(tree, "<answer>", "exec", dont_inherit=True)
            return _ParsedPython(tree, code)
    except _PARSE_ERRORS as error:
        return _ParsedPython(ast.Module([], []), error=quote_text(f"{type(error).__name__}: {error}", 80))


def _has_effect(tree: ast.Module, code: str) -> bool:
    """Whether a statement defines, assigns, calls or loops, in itself or in a part of it."""
    bound_names = _find_bound_names(tree)
    # Not recursive: an answer may nest deeper than Python can call.
    pending: list[ast.AST] = [*tree.body]
    while pending:
        match node := pending.pop():
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Assign() | ast.AugAssign() | ast.NamedExpr():
                return True
            case ast.For() | ast.AsyncFor() | ast.While() | ast.With() | ast.AsyncWith() | ast.Await():
                return True
            case ast.AnnAssign():  # "Answer: 42" declares a name and does nothing
                if node.value is not None:
                    return True
            case ast.Call(func=ast.Name(id=name)) if name not in bound_names and _has_blank_before_arguments(node, code):
                continue  # "Sure (really)" is no call; "print (x)" is
            case ast.Call():
                return True
            case ast.Lambda():
                continue
            case _:
                pending.extend(ast.iter_child_nodes(node))
    return False


def _has_blank_before_arguments(call: ast.Call, code: str) -> bool:
    line = code.splitlines()[(call.func.end_lineno or 1) - 1].encode()
    return line[call.func.end_col_offset or 0 :][:1].isspace()


def _find_bound_names(tree: ast.Module) -> frozenset[str]:
    """Builtins, and the names that the program defines, assigns or imports."""
    names = set(dir(builtins))
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.alias():
                names.add((node.asname or node.name).partition(".")[0])
    return frozenset(names)


def check_python_parses(answer: ModelAnswer, _check: checks.AnswerCheck) -> CheckVerdict:
    """Passes where the answer is a Python program: it compiles, and defines, assigns, calls or loops.

    The Python is in fenced blocks, or the entire answer where there are none; blocks of another language do not count.
    "Sure", "Answer: 42", "[1, 2]", "import this" and "Yes (maybe)" parse and fail: they do nothing, or only look like Python.
    """
    parsed = _parse_python(answer.text)
    if parsed.error:
        return CheckVerdict(False, f"does not parse: {parsed.error}")
    is_program = _has_effect(parsed.tree, parsed.code)
    return CheckVerdict(is_program, f"{len(parsed.tree.body)} statements" if is_program else "no statement with an effect")


def _list_argument_names(arguments: ast.arguments) -> list[str]:
    """Names in order; ``*`` before those by keyword only, ``*args`` and ``**kwargs`` with their stars."""
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    if arguments.vararg is not None:
        names.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        names.append("*")
    names += [argument.arg for argument in arguments.kwonlyargs]
    return names if arguments.kwarg is None else [*names, f"**{arguments.kwarg.arg}"]


def _find_signatures(tree: ast.Module, name: str) -> list[list[str] | None]:
    """The arguments of each definition of a name; None for a class."""
    signatures: list[list[str] | None] = []
    # Methods and nested functions count, too.
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() if node.name == name:
                signatures.append(_list_argument_names(node.args))
            case ast.ClassDef() if node.name == name:
                signatures.append(None)
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Lambda() as function) if target == name:
                signatures.append(_list_argument_names(function.args))
    return signatures


def check_python_defines(answer: ModelAnswer, check: checks.PythonDefinition) -> CheckVerdict:
    """Passes where the answer's Python compiles and defines the function or class.

    Where the check lists arguments, they must match by name and order, with the stars of ``*args`` and ``**kwargs`` and a ``*``
    before those by keyword only; defaults and annotations are free.
    """
    parsed = _parse_python(answer.text)
    if parsed.error:
        return CheckVerdict(False, f"does not parse: {parsed.error}")
    signatures = _find_signatures(parsed.tree, check.name)
    if not signatures:
        return CheckVerdict(False, f"does not define {check.name}")
    if check.arguments is None:
        return CheckVerdict(True, f"defines {check.name}")
    if list(check.arguments) in signatures:
        return CheckVerdict(True, f"defines {check.name}({', '.join(check.arguments)})")
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
    outside = text.partition(block.fence)[0].strip() or text.rpartition(block.fence)[2].strip("`~").strip()
    if check.alone and outside:
        return CheckVerdict(False, f"{summary}; and also {quote_text(outside, 60)}")
    return CheckVerdict(block.is_closed and check.language in {None, block.language}, summary)

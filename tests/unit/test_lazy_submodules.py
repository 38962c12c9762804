"""A submodule is an attribute of its package only once something has imported it: each file imports those that it uses."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import scoring
import suites
import watcher

pytestmark = pytest.mark.scoring

OURS = ("scoring", "suites", "watcher")

LOOK = """
import importlib.util, json, sys, types
imports, chains = json.loads(sys.argv[1])
if importlib.util.find_spec(imports[0].partition(".")[0]) is None:
    sys.exit()  # an extra that is not installed here
for name in imports:
    importlib.import_module(name)
for package, names in chains:
    found = sys.modules[package]
    for depth, name in enumerate(names, start=1):
        if not isinstance(found, types.ModuleType):
            break
        if not hasattr(found, name):
            print(".".join([package, *names[:depth]]))
            break
        found = getattr(found, name)
"""
"""Prints what is not there when only ``imports`` were made."""


def used(source: str) -> dict[str, tuple[set[str], set[tuple[str, tuple[str, ...]]]]]:
    """Package that is not ours -> (what ``source`` imports of it, what it looks up from a name that an import binds)."""
    tree = ast.parse(source)
    bound: dict[str, str] = {}
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports.add(alias.name)
                bound[alias.asname or alias.name.partition(".")[0]] = alias.name if alias.asname else alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports.add(node.module)
    found: dict[str, tuple[set[str], set[tuple[str, tuple[str, ...]]]]] = {}
    for node in filter(lambda node: isinstance(node, ast.Attribute), ast.walk(tree)):
        base: ast.AST = node
        names: list[str] = []
        while isinstance(base, ast.Attribute):
            names.insert(0, base.attr)
            base = base.value
        if isinstance(base, ast.Name) and base.id in bound:
            package = bound[base.id].partition(".")[0]
            if package not in OURS:
                of_it = {name for name in imports if name.partition(".")[0] == package}
                found.setdefault(package, (of_it, set()))[1].add((bound[base.id], tuple(names)))
    return found


def absent(sources: list[str]) -> set[str]:
    """What one of ``sources`` looks up and a process that made only that source's imports does not have."""
    groups: dict[tuple[str, ...], set[tuple[str, tuple[str, ...]]]] = {}
    for source in sources:
        for imports, chains in used(source).values():
            groups.setdefault(tuple(sorted(imports)), set()).update(chains)
    lines: set[str] = set()
    for imports, chains in groups.items():
        command = [sys.executable, "-W", "ignore", "-c", LOOK, json.dumps([imports, sorted(chains)])]
        lines.update(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())
    return lines


def test_a_submodule_that_is_not_imported_is_found():
    assert absent(["import huggingface_hub\nprint(huggingface_hub.constants.HF_HUB_OFFLINE)"]) == {"huggingface_hub.constants"}
    assert absent(["import huggingface_hub.constants\nprint(huggingface_hub.constants.HF_HUB_OFFLINE)"]) == set()


def test_every_file_imports_the_submodules_that_it_uses():
    folders = [Path(package.__file__).parent for package in (scoring, suites, watcher)]
    assert absent([path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.rglob("*.py"))]) == set()

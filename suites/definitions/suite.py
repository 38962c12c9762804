"""Suites as data: what is scored, from YAML, with the digest that says whether two suites ask for the same scores.

A suite is named by its file (``stage1_ppl_slices``) or by a path. ``extends`` adds to other files of the
same tier; ``defaults`` fill in the slices, tasks or prompts of their own file. Sources are not opened here.
"""

import hashlib
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from suites.common.errors import Problem
from suites.common.yaml_reader import Document, Place, convert, nearest, read
from suites.contract.encoding import canonical
from suites.contract.scoring_request import SuiteInRequest
from suites.definitions.prompts import PromptDefaults, PromptDefinition, fill_prompt

PRIMARY_METRIC = {
    "hellaswag": "acc_per_char",
    "piqa": "acc_per_char",
    "winogrande": "acc",
    "arc_easy": "acc_per_char",
    "arc_challenge": "acc_uncond",
    "openbookqa": "acc_uncond",
    "commonsense_qa": "acc_uncond",
    "social_i_qa": "acc_per_char",
    "sciq": "acc",
    "qasc": "acc_uncond",
    "copa": "acc",
    "mmlu": "acc_per_char",
    "multiple_choice": "acc_per_char",
}
"""Every adapter and the metric that its task is judged by. scoring/data/task_adapters.py has one function for each."""

_ACC_NORM_IN_LM_EVAL = {"hellaswag", "piqa", "arc_easy", "arc_challenge", "openbookqa", "sciq"}

FORMATS = ("ours", "lm_eval")

ARTICLES = ("wikitext",)

SHIPPED = Path(__file__).resolve().parents[1]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

Count = Annotated[int, msgspec.Meta(ge=1)]


def primary_metric(adapter: str, form: str) -> str:
    """What a task is judged by: for ``lm_eval``, what lm-evaluation-harness publishes of it."""
    if form == "lm_eval":
        return "acc_norm" if adapter in _ACC_NORM_IN_LM_EVAL else "acc"
    return PRIMARY_METRIC[adapter]


class _Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where rows come from: a data set on the hub, or files here."""

    hf_dataset: str | None = None
    hf_config: str | None = None
    split: str | None = None
    """Of ``hf_dataset``; ``train`` where nothing is said."""
    revision: str | None = None
    data_files: tuple[str, ...] | str | None = None
    """Paths or globs of jsonl, jsonl.gz, parquet or txt; relative ones start at the suite's folder."""
    streaming: bool = True


class SliceDefinition(_Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One perplexity slice."""

    text_field: str | None = None
    """The column that holds the document; ``text`` where nothing is said and there is no template."""
    text_template: str | None = None
    """A document joined from several columns: ``{problem}\\n\\n{generated_solution}``."""
    where: dict[str, bool | int | float | str | None] | None = None
    """Only rows whose columns equal these values."""
    articles: str | None = None
    """``wikitext``: rows are lines; those of one article make one document."""
    target_tokens: Count = 5_000_000
    bos: bool = True
    eos: bool = True
    isolate_documents: bool = False


class TaskDefinition(_Source, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cloze task."""

    adapter: str | None = None
    subset_size: Count = 12_000
    format: str = "ours"


_Type = type[SliceDefinition] | type[TaskDefinition] | type[PromptDefinition]

_SECTIONS: dict[str, tuple[str, _Type]] = {
    "tier2_ppl": ("slices", SliceDefinition),
    "tier3_cf": ("tasks", TaskDefinition),
    "tier4_sft_native": ("prompts", PromptDefinition),
}

_ONLY_ON_THE_HUB = ("hf_config", "split", "revision")


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """A suite as its file says it now."""

    name: str
    tier: str
    digest: str
    """sha256 over tier and definition: equal digests ask for the same scores."""
    definition: dict[str, dict[str, Any]]
    """Slice, task or prompt name -> its definition, defaults filled in, keys without a value left out: plain JSON."""
    path: Path
    files: tuple[Path, ...]
    """Where all of it was read: its own file and those that it extends."""

    def in_request(self) -> SuiteInRequest:
        """As it travels to the job."""
        source = self.name if self.path.parent == SHIPPED else str(self.path)
        return SuiteInRequest(name=self.name, tier=self.tier, digest=self.digest, definition=self.definition, source=source)


def load_suite(name_or_path: str, environ: Mapping[str, str], *, base: Path | None = None) -> Suite:
    """The suite of that name or path; a relative path starts at ``base`` (default: the working folder).

    Raises Problem (usage) with file, line and the nearest valid name for anything that cannot be meant.
    """
    path, files = _find(name_or_path, base), dict[Path, None]()
    tier, definition = _load(path, environ, (), files)
    digest = suite_digest(tier, definition)
    return Suite(name=path.stem, tier=tier, digest=digest, definition=definition, path=path, files=tuple(files))


def suite_digest(tier: str, definition: Mapping[str, Mapping[str, Any]]) -> str:
    """sha256 (hex) of the canonical JSON of tier and definition."""
    return hashlib.sha256(canonical({"tier": tier, "definition": definition}).encode()).hexdigest()


def shipped_suites() -> list[str]:
    """The names of the suites that come with the project."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _find(name_or_path: str, base: Path | None) -> Path:
    if "/" not in name_or_path and not name_or_path.endswith((".yaml", ".yml")):
        for folder in (SHIPPED, base):
            if folder is not None and (folder / f"{name_or_path}.yaml").is_file():
                return (folder / f"{name_or_path}.yaml").resolve()
        raise Problem("no suite of that name", where=name_or_path, todo=nearest(name_or_path, shipped_suites()))
    path = ((base or Path.cwd()) / Path(name_or_path).expanduser()).resolve()
    if not path.is_file():
        raise Problem("no such file", where=path, todo="give the path of a suite, or a name: " + ", ".join(shipped_suites()))
    return path


def _load(
    path: Path, environ: Mapping[str, str], above: tuple[Path, ...], files: dict[Path, None]
) -> tuple[str, dict[str, dict[str, Any]]]:
    """(tier, definition); every file that was read is added to ``files``."""
    document = read(path, environ)
    files[path] = None
    if not isinstance(document.data, dict):
        raise document.problem("not a suite", (), "write tier: and slices:, tasks: or prompts:")
    tier, section, type_ = _tier(document)
    for key in document.data:
        if key not in {"tier", "extends", "defaults", section}:
            raise document.problem(f"unknown key {key!r}", (key,), nearest(key, ["tier", "extends", "defaults", section]))
    definition = _extended(document, tier, environ, (*above, path), files)
    defaults = _mapping(document, "defaults")
    if defaults:
        convert(document, PromptDefaults if type_ is PromptDefinition else type_, ("defaults",))
    own = _mapping(document, section)
    for name, entry in own.items():
        place = (section, name)
        if not _NAME.fullmatch(name):
            raise document.problem("not a name", place, "use letters, digits, _ . and -, beginning with a letter or digit")
        if name in definition:
            raise document.problem("is already in a suite that this one extends", place, "give it another name")
        convert(document, type_, place)
        definition[name] = _filled(document, place, type_, defaults, entry)
    if not definition:
        raise document.problem(f"has no {section}", (), f"write them under {section}:")
    return tier, definition


def _tier(document: Document) -> tuple[str, str, _Type]:
    tier = document.data.get("tier")
    if tier is None:
        raise document.problem("has no tier", (), "write one of: " + ", ".join(f"tier: {name}" for name in _SECTIONS))
    if not isinstance(tier, str) or tier not in _SECTIONS:
        raise document.problem(f"unknown tier {tier!r}", ("tier",), nearest(str(tier), _SECTIONS))
    return tier, *_SECTIONS[tier]


def _mapping(document: Document, key: str) -> dict[str, Any]:
    value = document.data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise document.problem(f"expected names and values, got {type(value).__name__}", (key,), "write KEY: value lines")
    return value


def _extended(
    document: Document, tier: str, environ: Mapping[str, str], above: tuple[Path, ...], files: dict[Path, None]
) -> dict[str, dict[str, Any]]:
    value = document.data.get("extends")
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise document.problem("expected the name or path of a suite, or a list of them", ("extends",), "write extends: NAME")
    definition: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            other = _find(name, above[-1].parent)
        except Problem as error:
            raise document.problem(f"{name!r}: {error.what}", ("extends",), error.todo) from error
        if other in above:
            raise document.problem(f"{name!r} extends this file in turn", ("extends",), "break the circle")
        other_tier, more = _load(other, environ, above, files)
        if other_tier != tier:
            raise document.problem(
                f"{name!r} is of {other_tier}, this is {tier}", ("extends",), "extend a suite of the same tier"
            )
        for key, entry in more.items():
            if definition.setdefault(key, entry) != entry:
                raise document.problem(f"two of these suites define {key!r}, differently", ("extends",), "extend one of them")
    return definition


def _filled(document: Document, place: Place, type_: _Type, defaults: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    merged, folder = {**defaults, **entry}, Path(document.source).parent
    if type_ is PromptDefinition:
        return fill_prompt(document, place, merged)
    if entry.get("hf_dataset") and entry.get("data_files"):
        raise document.problem("has hf_dataset and data_files", place, "keep one of the two")
    if entry.get("data_files") or not merged.get("hf_dataset"):
        merged.pop("hf_dataset", None)
    else:
        merged.pop("data_files", None)
    if merged.get("data_files"):
        for key in _ONLY_ON_THE_HUB:
            if entry.get(key) is not None:
                raise document.problem(f"{key} says nothing about data_files", (*place, key), "leave it out, or use hf_dataset")
            merged.pop(key, None)
        files = merged["data_files"]
        merged["data_files"] = [str(folder / Path(file).expanduser()) for file in ([files] if isinstance(files, str) else files)]
    elif merged.get("hf_dataset"):
        merged["split"] = merged.get("split") or "train"
    else:
        raise document.problem("has no source", place, "give hf_dataset or data_files")
    (_fill_slice if type_ is SliceDefinition else _fill_task)(document, place, merged, entry)
    whole = msgspec.json.decode(msgspec.json.encode(msgspec.convert(merged, type_)))
    return {key: value for key, value in whole.items() if value is not None}


def _fill_slice(document: Document, place: Place, merged: dict[str, Any], entry: dict[str, Any]) -> None:
    if merged.get("text_template") is None:
        merged["text_field"] = merged.get("text_field") or "text"
    elif entry.get("text_field") and entry.get("text_template"):
        raise document.problem("has text_field and text_template", place, "keep one of the two")
    elif entry.get("text_field"):
        merged.pop("text_template")
    else:
        merged.pop("text_field", None)
        if not template_fields(merged["text_template"]):
            raise document.problem("names no column", (*place, "text_template"), "write columns as {name}, braces as {{ and }}")
    articles = merged.get("articles")
    if articles is not None and articles not in ARTICLES:
        raise document.problem(f"unknown way to join articles {articles!r}", (*place, "articles"), nearest(articles, ARTICLES))


def _fill_task(document: Document, place: Place, merged: dict[str, Any], entry: dict[str, Any]) -> None:
    del entry
    adapter, form = merged.get("adapter"), merged.get("format", "ours")
    if adapter is None:
        raise document.problem("has no adapter", place, "give one of: " + ", ".join(PRIMARY_METRIC))
    if adapter not in PRIMARY_METRIC:
        raise document.problem(f"unknown adapter {adapter!r}", (*place, "adapter"), nearest(adapter, PRIMARY_METRIC))
    if form not in FORMATS:
        raise document.problem(f"unknown format {form!r}", (*place, "format"), nearest(form, FORMATS))


def template_fields(template: str) -> list[str]:
    """The columns that a text_template names, in order; empty where it is not a template of plain columns."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:
        return []
    fields = [field for _, field, _, _ in parsed if field is not None]
    plain = all(field.isidentifier() for field in fields) and not any(spec or conversion for _, _, spec, conversion in parsed)
    return fields if plain else []

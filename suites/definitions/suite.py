"""Loads a suite from YAML and computes its digest.

The name of a suite is that of its file (``stage1_ppl_slices``), or a path. ``extends`` adds to other suites of the tier;
``defaults`` apply to the slices, tasks or prompts of the same file. ``NAME@quick`` cuts it (``quick_suites``). Data sources are
not opened here.
"""

import re
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from suites.common.errors import UserError
from suites.common.yaml_reader import YamlDocument, YamlPath, convert_document, read_yaml, suggest_name
from suites.contract.encoding import canonical_digest, to_plain_json
from suites.contract.scoring_request import SuiteInRequest
from suites.contract.tier_files import TIER4, TIER_SECTIONS
from suites.definitions.other_forms import name_listed_entries, share_total_tokens
from suites.definitions.prompts import PromptDefaults, PromptDefinition, fill_prompt
from suites.definitions.quick_suites import QUICK_SUFFIX, cut_definition

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
"""Adapter -> metric that decides its task. scoring/sources/task_adapters.py has one function for each adapter."""

_ACC_NORM_IN_LM_EVAL = {"hellaswag", "piqa", "arc_easy", "arc_challenge", "openbookqa", "sciq"}

TASK_FORMATS = ("ours", "lm_eval")

ARTICLE_STYLES = ("wikitext",)

SHIPPED_SUITES_FOLDER = Path(__file__).resolve().parents[1]

_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]


def get_primary_metric(adapter: str, task_format: str) -> str:
    """The metric that decides a task.

    For format ``lm_eval``, the one that lm-evaluation-harness publishes.
    """
    if task_format == "lm_eval":
        return "acc_norm" if adapter in _ACC_NORM_IN_LM_EVAL else "acc"
    return PRIMARY_METRIC[adapter]


class _DataSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Source of rows: a hub data set, or local files."""

    hf_dataset: str | None = None
    hf_config: str | None = None
    split: str | None = None
    """Split of ``hf_dataset``; default ``train``."""
    revision: str | None = None
    data_files: tuple[str, ...] | str | None = None
    """Paths or globs of jsonl, jsonl.gz, parquet or txt, relative to the suite's folder."""
    streaming: bool = True


class SliceDefinition(_DataSource, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One perplexity slice."""

    text_field: str | None = None
    """Column of the document; default ``text`` without a template."""
    text_template: str | None = None
    """Template of a document from several columns: ``{problem}\\n\\n{generated_solution}``."""
    where: dict[str, bool | int | float | str | None] | None = None
    """Selects the rows whose columns equal these values."""
    articles: str | None = None
    """``wikitext``: rows are lines, and the lines of one article make one document."""
    target_tokens: PositiveInt = 5_000_000
    bos: bool = True
    eos: bool = True
    isolate_documents: bool = False


class TaskDefinition(_DataSource, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cloze task."""

    adapter: str | None = None
    subset_size: PositiveInt = 12_000
    format: str = "ours"
    delimiter: str = " "
    """Joins a choice to its context: white space, or nothing for languages without spaces."""


_DefinitionType = type[SliceDefinition] | type[TaskDefinition] | type[PromptDefinition]

_DEFINITION_TYPES: dict[str, _DefinitionType] = {
    "tier2_ppl": SliceDefinition,
    "tier3_cf": TaskDefinition,
    TIER4: PromptDefinition,
}

_HUB_ONLY_KEYS = ("hf_config", "split", "revision")


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """A suite as its files define it now."""

    name: str
    tier: str
    digest: str
    """SHA-256 over tier and definition; equal digests mean equal scores."""
    definition: dict[str, dict[str, Any]]
    """Slice, task or prompt -> its definition as plain JSON, with defaults, without null values."""
    path: Path
    files: tuple[Path, ...]
    """All files that were read: its own and those that it extends."""

    def to_request(self) -> SuiteInRequest:
        """The suite for a ScoringRequest."""
        suffix = QUICK_SUFFIX if self.name.endswith(QUICK_SUFFIX) else ""
        source = self.name if self.path.parent == SHIPPED_SUITES_FOLDER else f"{self.path}{suffix}"
        return SuiteInRequest(name=self.name, tier=self.tier, digest=self.digest, definition=self.definition, source=source)


def load_suite(name_or_path: str, environ: Mapping[str, str], *, base: Path | None = None) -> Suite:
    """The suite of that name or path.

    ``base`` (default: the working folder) is the start of relative paths.
    Raises UserError (usage) with file, line and the nearest valid name for an invalid suite.
    """
    suite = _load_suite_file(_find_suite_file(name_or_path.removesuffix(QUICK_SUFFIX), base), environ, ())
    return _cut_suite(suite) if name_or_path.endswith(QUICK_SUFFIX) else suite


def _cut_suite(suite: Suite) -> Suite:
    definition = cut_definition(suite.definition)
    if definition == suite.definition:  # prompts, or a suite that is small already
        return suite
    digest = canonical_digest({"tier": suite.tier, "definition": definition})
    return msgspec.structs.replace(suite, name=suite.name + QUICK_SUFFIX, definition=definition, digest=digest)


def list_shipped_suites() -> list[str]:
    """Names of the suites that come with the project."""
    return sorted(path.stem for path in SHIPPED_SUITES_FOLDER.glob("*.yaml"))


def _find_suite_file(name_or_path: str, base: Path | None) -> Path:
    if "/" not in name_or_path and not name_or_path.endswith((".yaml", ".yml")):
        for folder in (SHIPPED_SUITES_FOLDER, base):  # a shipped name cannot be replaced by accident
            if folder is not None and (folder / f"{name_or_path}.yaml").is_file():
                return (folder / f"{name_or_path}.yaml").resolve()
        raise UserError("no suite of that name", location=name_or_path, hint=suggest_name(name_or_path, list_shipped_suites()))
    path = ((base or Path.cwd()) / Path(name_or_path).expanduser()).resolve()
    if not path.is_file():
        raise UserError("no such file", location=path, hint="give a path, or a name: " + ", ".join(list_shipped_suites()))
    return path


def _load_suite_file(path: Path, environ: Mapping[str, str], ancestors: tuple[Path, ...]) -> Suite:
    """The suite in ``path``; ``ancestors`` are the files that extend it."""
    document = read_yaml(path, environ)
    if not isinstance(document.data, dict):
        raise document.make_error("not a suite", (), "write tier: and slices:, tasks: or prompts:")
    tier = document.require_choice((), "tier", document.data.get("tier"), TIER_SECTIONS)
    section, type_ = TIER_SECTIONS[tier], _DEFINITION_TYPES[tier]
    name_listed_entries(document, section)
    if type_ is SliceDefinition:
        share_total_tokens(document, section)
    for key in document.data:
        if key not in {"tier", "extends", "defaults", section}:
            raise document.make_unknown_key_error(key, (), ["tier", "extends", "defaults", section])
    extended_suites = _load_extended_suites(document, tier, environ, (*ancestors, path))
    definition = _merge_definitions(document, extended_suites)
    # Defaults and entries are checked as they stand, then each entry is filled from the defaults of its own file.
    defaults = _read_mapping(document, "defaults")
    if defaults:
        convert_document(document, PromptDefaults if type_ is PromptDefinition else type_, ("defaults",))
    entries = _read_mapping(document, section)
    for name, entry in entries.items():
        location = (section, name)
        if not _NAME_PATTERN.fullmatch(name):
            raise document.make_error("not a name", location, "use letters, digits, _ . and -; begin with a letter or digit")
        if name in definition:
            raise document.make_error("is already in a suite that this one extends", location, "give it another name")
        convert_document(document, type_, location)
        definition[name] = _fill_definition(document, location, type_, defaults, entry)
    if not definition:
        raise document.make_error(f"has no {section}", (), f"write them under {section}:")
    files = dict.fromkeys((path, *(file for suite in extended_suites for file in suite.files)))
    digest = canonical_digest({"tier": tier, "definition": definition})
    return Suite(name=path.stem, tier=tier, digest=digest, definition=definition, path=path, files=tuple(files))


def _read_mapping(document: YamlDocument, key: str) -> dict[str, Any]:
    value = document.data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise document.make_error(f"expected names and values, got {type(value).__name__}", (key,), "write KEY: value lines")
    return value


def _load_extended_suites(
    document: YamlDocument, tier: str, environ: Mapping[str, str], ancestors: tuple[Path, ...]
) -> list[Suite]:
    value = document.data.get("extends")
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise document.make_error("expected the name or path of a suite, or a list of them", ("extends",), "write extends: NAME")
    suites = []
    for name in names:
        # An error in the name is reported at the line of extends, not in the other file.
        try:
            extended_path = _find_suite_file(name, ancestors[-1].parent)
        except UserError as error:
            raise document.make_error(f"{name!r}: {error.message}", ("extends",), error.hint) from error
        if extended_path in ancestors:
            raise document.make_error(f"{name!r} also extends this file", ("extends",), "remove one of the two extends")
        suite = _load_suite_file(extended_path, environ, ancestors)
        if suite.tier != tier:
            raise document.make_error(f"{name!r} is of {suite.tier}, this is {tier}", ("extends",), "extend a suite of this tier")
        suites.append(suite)
    return suites


def _merge_definitions(document: YamlDocument, suites: Iterable[Suite]) -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for suite in suites:
        for name, entry in suite.definition.items():
            if merged.setdefault(name, entry) != entry:
                raise document.make_error(f"two of these suites define {name!r} differently", ("extends",), "extend only one")
    return merged


def _fill_definition(
    document: YamlDocument, location: YamlPath, type_: _DefinitionType, defaults: dict[str, Any], entry: dict[str, Any]
) -> dict[str, Any]:
    merged, folder = {**defaults, **entry}, Path(document.source).parent
    if type_ is PromptDefinition:
        return fill_prompt(document, location, merged)
    if entry.get("hf_dataset") and entry.get("data_files"):
        raise document.make_error("has hf_dataset and data_files", location, "keep one of the two")
    # An entry's own source replaces the other kind of source in the defaults.
    if entry.get("data_files") or not merged.get("hf_dataset"):
        merged.pop("hf_dataset", None)
    else:
        merged.pop("data_files", None)
    if merged.get("data_files"):
        for key in _HUB_ONLY_KEYS:
            if entry.get(key) is not None:
                raise document.make_error(f"{key} does not apply to data_files", (*location, key), "remove it, or use hf_dataset")
            merged.pop(key, None)
        files = merged["data_files"]
        merged["data_files"] = [str(folder / Path(file).expanduser()) for file in ([files] if isinstance(files, str) else files)]
    elif merged.get("hf_dataset"):
        merged["split"] = merged.get("split") or "train"
    else:
        raise document.make_error("has no source", location, "give hf_dataset or data_files")
    if type_ is SliceDefinition:
        _fill_slice(document, location, merged, entry)
    else:
        document.require_choice(location, "adapter", merged.get("adapter"), PRIMARY_METRIC)
        document.require_choice(location, "format", merged.get("format", "ours"), TASK_FORMATS)
        if merged.get("delimiter", "").strip():
            hint = 'write " ", or "" for languages without spaces; other text belongs to the context'
            raise document.make_error("is not white space", (*location, "delimiter"), hint)
    return to_plain_json(msgspec.convert(merged, type_))


def _fill_slice(document: YamlDocument, location: YamlPath, merged: dict[str, Any], entry: dict[str, Any]) -> None:
    # The entry's own text_field or text_template replaces the other one in the defaults.
    if merged.get("text_template") is None:
        merged["text_field"] = merged.get("text_field") or "text"
    elif entry.get("text_field") and entry.get("text_template"):
        raise document.make_error("has text_field and text_template", location, "keep one of the two")
    elif entry.get("text_field"):
        merged.pop("text_template")
    else:
        merged.pop("text_field", None)
        if not parse_template_fields(merged["text_template"]):
            hint = "write columns as {name}, braces as {{ and }}"
            raise document.make_error("names no column", (*location, "text_template"), hint)
    if merged.get("articles") is not None:
        document.require_choice(location, "articles", merged["articles"], ARTICLE_STYLES)


def parse_template_fields(template: str) -> list[str]:
    """The columns in a text_template, in order; empty for an invalid template."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:
        return []
    fields = [field for _, field, _, _ in parsed if field is not None]
    is_plain = all(field.isidentifier() for field in fields) and not any(spec or conversion for *_, spec, conversion in parsed)
    return fields if is_plain else []

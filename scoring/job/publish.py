"""Publishes tier files and rows, and archives what they replace."""

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scoring import SCORER_VERSION
from scoring.export.lm_eval import EXPORTERS
from scoring.runtime import parts
from scoring.runtime.parts import convert_write_errors
from scoring.tiers.base import RunInfo, ScoredItem
from scoring.tiers.registry import TIERS
from suites.common.atomic_files import write_atomically, write_json_atomically
from suites.common.documents import read_json_object
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import TIER_FILES, EvaluationPaths
from suites.contract.scoring_request import ScoringRequest, compute_tier_digests
from suites.contract.tier_files import TIER_SECTIONS, check_tier_file, get_fingerprint
from suites.definitions.local_data import compute_definition_digests

TIER_SCHEMA = 1


def refuse_unmanaged_results(request: ScoringRequest) -> None:
    """Raise UserError (cannot write) where results of another program would be overwritten."""
    for tier, (digest, names) in compute_tier_digests(request.suites).items():
        path = request.paths.tier_json(tier)
        verdict = check_tier_file(path, tier=tier, fingerprint=request.fingerprint, suite_digest=digest, names=names)
        if verdict.kind == "foreign":
            name = f" --name {request.directory}" if request.average else ""
            hint = f"run watcher retry {request.stage} {request.step}{name} --force, which moves it to superseded/"
            raise UserError("these are results of another program", location=path, hint=hint, code=ExitCode.CANNOT_WRITE)


def build_head(request: ScoringRequest, tier: str, run_info: RunInfo) -> dict[str, Any]:
    """Return the head of a tier file: what was scored, and how."""
    identity = run_info.identity
    return {
        "schema": TIER_SCHEMA,
        "tier": tier,
        "stage": request.stage,
        "step": request.step,
        "checkpoint": {
            "path": request.checkpoint,
            "source_stage": request.source_stage,
            "fingerprint": request.fingerprint,
            "tokens_seen": run_info.tokens_seen,
            **request.describe_average(),
        },
        "suite_digest": compute_tier_digests(request.suites)[tier].digest,
        "suites": [suite.name for suite in request.suites if suite.tier == tier],
        "requested": {
            name: data_mark
            for suite in request.suites
            if suite.tier == tier
            for name, data_mark in compute_definition_digests(suite).items()
        },
        "tokenizer": {key: value for key, value in run_info.tokenizer.items() if key != "notes"},
        "dtype": identity.dtype,
        "seq_len": identity.seq_len,
        "backend": identity.backend,
        "padded_vocab": identity.padded_vocab,
        "assume": identity.assume,
        "scorer_version": SCORER_VERSION,
        "run_id": request.run_id,
        "canary": run_info.canary,
        "notes": list(run_info.tokenizer["notes"]),
    }


def _build_document(head: dict[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """A tier file. Its notes are the tokenizer's, then the tier's own."""
    return {**head, **sections, "notes": [*head["notes"], *sections.get("notes", ())]}


def publish_command_scores(
    request: ScoringRequest, run_info: RunInfo, scores_by_tier: Mapping[str, Mapping[str, Any]], generations: bytes | None = None
) -> dict[str, dict[str, Any]]:
    """Publish the numbers of the user's command, and its answers. Returns tier -> summary."""
    overrides = {"scorer_version": None, "command": request.command}
    documents = {tier: {**build_head(request, tier, run_info), **overrides, **scores} for tier, scores in scores_by_tier.items()}

    def write_files() -> None:
        if generations is not None:
            write_atomically(request.paths.generations, generations)

    return _publish_documents(request, documents, write_files=write_files)


def publish_scored_items(
    request: ScoringRequest, run_info: RunInfo, scored_by_tier: Mapping[str, Sequence[ScoredItem]]
) -> dict[str, dict[str, Any]]:
    """Publish rows and exports, then the tier files. Returns tier -> summary.

    Idempotent: the same parts give the same files, so a run that was killed in here is simply repeated.
    """
    documents = {
        tier: _build_document(build_head(request, tier, run_info), TIERS[tier].build_sections(scored_items))
        for tier, scored_items in scored_by_tier.items()
    }

    # Before the tier files: whoever sees one finds its rows and exports.
    def write_files() -> None:
        for tier, scored_items in scored_by_tier.items():
            for path, content in TIERS[tier].encode_files(request.paths, scored_items):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)
        for export_name in request.exports:
            EXPORTERS[export_name](request, run_info, documents, scored_by_tier)

    return _publish_documents(request, documents, write_files=write_files)


def _publish_documents(
    request: ScoringRequest, documents: Mapping[str, dict[str, Any]], *, write_files: Callable[[], None]
) -> dict[str, dict[str, Any]]:
    """Archive what is replaced, write the other files, then the tier files.

    The tier files come last, since they mean success. Returns tier -> summary.
    """
    refuse_unmanaged_results(request)
    with convert_write_errors(request.paths.folder):
        archive_other_results(request.paths, request.fingerprint, replaced=documents)
        for tier, document in documents.items():
            archive_earlier_suite(request.paths, tier, document)
        write_files()
        for tier, document in documents.items():
            write_json_atomically(request.paths.tier_json(tier), document)
    return {tier: document["summary"] for tier, document in documents.items()}


def archive_other_results(paths: EvaluationPaths, fingerprint: str, *, replaced: Collection[str]) -> None:
    """Copy results of another content of the checkpoint to superseded/.

    Their rows and parts are copied, too. The tier files that are about to be ``replaced`` stay until then, so that there are
    results at any moment. The other tier files are removed: they are no scores of today's checkpoint.
    """
    for tier in TIER_FILES:
        path = paths.tier_json(tier)
        document = read_json_object(path)
        other_fingerprint = get_fingerprint(document)
        if other_fingerprint is None or other_fingerprint == fingerprint:
            continue
        # Everything that was made from the other content goes with its tier file. Generations are tier 4's alone.
        folder = paths.superseded_folder(other_fingerprint)
        names = document.get(TIER_SECTIONS[tier], {})
        archived = [path, paths.compare_json, *(paths.items_parquet(name) for name in names)]
        archived += [paths.run_json] if get_fingerprint(read_json_object(paths.run_json)) == other_fingerprint else []
        archived += [paths.generations] if tier == "tier4_sft_native" else []
        archived += sorted(paths.exports.rglob("*.json*"))
        _copy_files(paths, archived, folder)
        # Parts are keyed by the fingerprint: nobody can use these again.
        for part in parts.find_parts_by_fingerprint(paths, other_fingerprint):
            _copy_files(paths, [part], folder)
            part.unlink(missing_ok=True)
        # Exports cover all tiers of one content, so none of them is left valid.
        shutil.rmtree(paths.exports, ignore_errors=True)
        if tier not in replaced:
            path.unlink(missing_ok=True)


def archive_earlier_suite(paths: EvaluationPaths, tier: str, replacing: Mapping[str, Any]) -> None:
    """Copy a tier file of another suite definition to superseded/.

    The rows that change are copied, too.
    """
    document = read_json_object(paths.tier_json(tier))
    earlier_fingerprint, earlier_digest = get_fingerprint(document), document.get("suite_digest")
    is_same_checkpoint = earlier_fingerprint is not None and earlier_fingerprint == get_fingerprint(replacing)
    if not is_same_checkpoint or not isinstance(earlier_digest, str) or earlier_digest == replacing["suite_digest"]:
        return
    section = TIER_SECTIONS[tier]
    old_keys, new_keys = (_get_data_keys(tier_document.get(section, {})) for tier_document in (document, replacing))
    # Rows of an entry with the same data key are written again with the same content: they need no copy.
    changed_rows = [paths.items_parquet(name) for name, key in old_keys.items() if key != new_keys.get(name)]
    folder = paths.superseded_folder(str(earlier_fingerprint), earlier_digest)
    _copy_files(paths, [paths.tier_json(tier), paths.compare_json, *changed_rows], folder)


def _get_data_keys(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry.get("data_key") if isinstance(entry, dict) else None for name, entry in entries.items()}


def _copy_files(paths: EvaluationPaths, files: Iterable[Path], folder: Path) -> None:
    """Copy the files that exist to the same relative paths below ``folder``."""
    for file in files:
        if file.is_file():
            copy = folder / file.relative_to(paths.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(copy, file.read_bytes())

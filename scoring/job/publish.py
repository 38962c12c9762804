"""Published results: the tier files, the rows behind them, and what is kept of an earlier content of the checkpoint."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from scoring import SCORER_VERSION
from scoring.runtime import parts
from scoring.runtime.parts import convert_write_errors
from scoring.tiers.base import Exporter, RunInfo, ScoredItem
from scoring.tiers.registry import TIERS
from suites.common.atomic_files import read_json_object, write_atomically, write_json_atomically
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import TIER_FILES, EvaluationPaths
from suites.contract.scoring_request import ScoringRequest, compute_tier_digests
from suites.contract.tier_files import check_tier_file, get_fingerprint
from suites.definitions.local_data import compute_definition_digests

TIER_SCHEMA = 1


def refuse_unmanaged_results(request: ScoringRequest) -> None:
    """Problem (cannot write) where another program's results lie where ours belong: they are never overwritten."""
    for tier, (digest, names) in compute_tier_digests(request.suites).items():
        path = request.paths.tier_json(tier)
        verdict = check_tier_file(path, tier=tier, fingerprint=request.fingerprint, suite_digest=digest, names=names)
        if verdict.kind == "foreign":
            hint = f"watcher retry {request.stage} {request.step} --force sets it aside"
            raise UserError("results of another program", location=path, hint=hint, code=ExitCode.CANNOT_WRITE)


def build_head(request: ScoringRequest, tier: str, run_info: RunInfo) -> dict[str, Any]:
    """How every tier file begins."""
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
        },
        "suite_digest": compute_tier_digests(request.suites)[tier].digest,
        "suites": [suite.name for suite in request.suites if suite.tier == tier],
        "requested": {
            name: data_mark
            for suite in request.suites
            if suite.tier == tier
            for name, data_mark in compute_definition_digests(suite).items()
        },
        "tokenizer": {"id": run_info.tokenizer, "digest": identity.tokenizer},
        "dtype": identity.dtype,
        "seq_len": identity.seq_len,
        "backend": identity.backend,
        "padded_vocab": identity.padded_vocab,
        "scorer_version": SCORER_VERSION,
        "run_id": request.run_id,
        "canary": run_info.canary,
    }


def build_tier_document(
    request: ScoringRequest, tier: str, run_info: RunInfo, scored_items: Sequence[ScoredItem]
) -> dict[str, Any]:
    """One tier file: the head, the summary, and an entry for each name in the suite's order."""
    return {**build_head(request, tier, run_info), **TIERS[tier].build_sections(scored_items)}


def publish_external_results(request: ScoringRequest, documents: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Publish tier files whose numbers are another program's. Tier -> summary."""
    refuse_unmanaged_results(request)
    with convert_write_errors(request.paths.folder):
        archive_other_results(request.paths, request.fingerprint, replaced=documents)
        for tier, document in documents.items():
            archive_earlier_suite(request.paths, tier, document)
            write_json_atomically(request.paths.tier_json(tier), document)
    return {tier: document["summary"] for tier, document in documents.items()}


def publish_results(
    request: ScoringRequest,
    run_info: RunInfo,
    scored_by_tier: Mapping[str, Sequence[ScoredItem]],
    exporters: Sequence[Exporter] = (),
) -> dict[str, dict[str, Any]]:
    """Publish rows and exports, then tier files; the earlier results of another content are kept aside. Tier -> summary.

    Idempotent: the same parts give the same files, so a run that was killed here is simply repeated.
    """
    paths = request.paths
    documents = {
        tier: build_tier_document(request, tier, run_info, scored_items) for tier, scored_items in scored_by_tier.items()
    }
    refuse_unmanaged_results(request)
    with convert_write_errors(paths.folder):
        archive_other_results(paths, request.fingerprint, replaced=documents)
        for tier, document in documents.items():
            archive_earlier_suite(paths, tier, document)
        for tier, scored_items in scored_by_tier.items():
            for path, content in TIERS[tier].encode_files(paths, scored_items):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)
        for export in exporters:
            export(request, run_info, documents, scored_by_tier)
        for tier, document in documents.items():
            write_json_atomically(paths.tier_json(tier), document)
    return {tier: document["summary"] for tier, document in documents.items()}


def archive_other_results(paths: EvaluationPaths, fingerprint: str, *, replaced: Collection[str]) -> None:
    """Keep results of other contents of this step in ``paths.superseded_folder``, each with its rows and parts.

    They are copied, and the tier files that are about to be ``replaced`` stay until then, so that no moment is
    without results. Tiers that nobody scored again are taken away: they say nothing of what lies there now.
    """
    for tier in TIER_FILES:
        path = paths.tier_json(tier)
        document = read_json_object(path)
        other_fingerprint = get_fingerprint(document)
        if other_fingerprint is None or other_fingerprint == fingerprint:
            continue
        folder = paths.superseded_folder(other_fingerprint)
        names = document.get(TIERS[tier].section, {}) if tier in TIERS else {}
        archived = [path, paths.compare_json, *(paths.items_parquet(name) for name in names)]
        archived += [paths.run_json] if get_fingerprint(read_json_object(paths.run_json)) == other_fingerprint else []
        archived += [paths.generations] if tier == "tier4_sft_native" else []
        archived += sorted(paths.exports.rglob("*.json*"))
        for file in archived:
            _copy_if_exists(file, folder / file.relative_to(paths.folder))
        for part in parts.find_parts_by_fingerprint(paths, other_fingerprint):
            _copy_if_exists(part, folder / part.relative_to(paths.folder))
            part.unlink(missing_ok=True)
        shutil.rmtree(paths.exports, ignore_errors=True)
        if tier not in replaced:
            path.unlink(missing_ok=True)


def archive_earlier_suite(paths: EvaluationPaths, tier: str, replacing: Mapping[str, Any]) -> None:
    """Keep a copy of a tier file that another definition of its suite gave, and of the rows that are about to be others."""
    document = read_json_object(paths.tier_json(tier))
    earlier_fingerprint, earlier_digest = get_fingerprint(document), document.get("suite_digest")
    if (
        earlier_fingerprint is None
        or earlier_fingerprint != get_fingerprint(replacing)
        or not isinstance(earlier_digest, str)
        or earlier_digest == replacing["suite_digest"]
    ):
        return
    folder, section = paths.superseded_folder(earlier_fingerprint, earlier_digest), TIERS[tier].section
    new_entries = replacing.get(section, {})
    changed = [
        name for name, entry in document.get(section, {}).items() if _get_data_key(entry) != _get_data_key(new_entries.get(name))
    ]
    for file in (paths.tier_json(tier), paths.compare_json, *(paths.items_parquet(name) for name in changed)):
        _copy_if_exists(file, folder / file.relative_to(paths.folder))


def _get_data_key(entry: Any) -> Any:
    return entry.get("data_key") if isinstance(entry, dict) else None


def _copy_if_exists(file: Path, copy: Path) -> None:
    if file.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, file.read_bytes())

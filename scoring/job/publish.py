"""Published results: the tier files, the rows behind them, and what is kept of an earlier content of the checkpoint."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from scoring import SCORER_VERSION
from scoring.runtime import parts
from scoring.runtime.parts import writing
from scoring.tiers.base import About, Exporter, Scored
from scoring.tiers.registry import TIERS
from suites.common.atomic_files import publish, publish_json, read_json
from suites.common.errors import Exit, Problem
from suites.contract.paths import TIER_FILES, EvaluationPaths
from suites.contract.scoring_request import Request, tier_digests
from suites.contract.tier_files import judge_tier_file
from suites.definitions.local_data import asked_marks

SCHEMA = 1


def refuse_foreign(request: Request) -> None:
    """Problem (cannot write) where another program's results lie where ours belong: they are never overwritten."""
    for tier, (digest, names) in tier_digests(request.suites).items():
        path = request.paths.tier(tier)
        verdict = judge_tier_file(path, tier=tier, fingerprint=request.fingerprint, suite_digest=digest, names=names)
        if verdict.kind == "foreign":
            todo = f"watcher retry {request.stage} {request.step} --force sets it aside"
            raise Problem("results of another program", where=path, todo=todo, code=Exit.CANNOT_WRITE)


def head(request: Request, tier: str, about: About) -> dict[str, Any]:
    """How every tier file begins."""
    identity = about.identity
    return {
        "schema": SCHEMA,
        "tier": tier,
        "stage": request.stage,
        "step": request.step,
        "checkpoint": {
            "path": request.checkpoint,
            "source_stage": request.source_stage,
            "fingerprint": request.fingerprint,
            "tokens_seen": about.tokens_seen,
        },
        "suite_digest": tier_digests(request.suites)[tier].digest,
        "suites": [suite.name for suite in request.suites if suite.tier == tier],
        "asked": {name: mark for suite in request.suites if suite.tier == tier for name, mark in asked_marks(suite).items()},
        "tokenizer": {"id": about.tokenizer, "digest": identity.tokenizer},
        "dtype": identity.dtype,
        "seq_len": identity.seq_len,
        "backend": identity.backend,
        "padded_vocab": identity.padded_vocab,
        "scorer_version": SCORER_VERSION,
        "run_id": request.run_id,
        "canary": about.canary,
    }


def tier_document(request: Request, tier: str, about: About, scored: Sequence[Scored]) -> dict[str, Any]:
    """One tier file: the head, the summary, and an entry for each name in the suite's order."""
    return {**head(request, tier, about), **TIERS[tier].assemble(scored)}


def publish_foreign(request: Request, documents: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Publish tier files whose numbers are another program's. Tier -> summary."""
    refuse_foreign(request)
    with writing(request.paths.folder):
        set_aside_others(request.paths, request.fingerprint, replaced=documents)
        for tier, document in documents.items():
            keep_earlier_suite(request.paths, tier, document)
            publish_json(request.paths.tier(tier), document)
    return {tier: document["summary"] for tier, document in documents.items()}


def publish_results(
    request: Request, about: About, scored: Mapping[str, Sequence[Scored]], exporters: Sequence[Exporter] = ()
) -> dict[str, dict[str, Any]]:
    """Publish rows and exports, then tier files; the earlier results of another content are kept aside. Tier -> summary.

    Idempotent: the same parts give the same files, so a run that was killed here is simply repeated.
    """
    paths = request.paths
    documents = {tier: tier_document(request, tier, about, each) for tier, each in scored.items()}
    refuse_foreign(request)
    with writing(paths.folder):
        set_aside_others(paths, request.fingerprint, replaced=documents)
        for tier, document in documents.items():
            keep_earlier_suite(paths, tier, document)
        for tier, each in scored.items():
            for path, content in TIERS[tier].files(paths, each):
                path.parent.mkdir(parents=True, exist_ok=True)
                publish(path, content)
        for export in exporters:
            export(request, about, documents, scored)
        for tier, document in documents.items():
            publish_json(paths.tier(tier), document)
    return {tier: document["summary"] for tier, document in documents.items()}


def set_aside_others(paths: EvaluationPaths, fingerprint: str, *, replaced: Collection[str]) -> None:
    """Keep results of other contents of this step in ``paths.set_aside``, each with its rows and parts.

    They are copied, and the tier files that are about to be ``replaced`` stay until then, so that no moment is
    without results. Tiers that nobody scored again are taken away: they say nothing of what lies there now.
    """
    for tier in TIER_FILES:
        path = paths.tier(tier)
        document = _document(path)
        old = _fingerprint(document)
        if old is None or old == fingerprint:
            continue
        folder = paths.set_aside(old)
        names = document.get(TIERS[tier].section, {}) if tier in TIERS else {}
        kept = [path, paths.compare, *(paths.items(name) for name in names)]
        kept += [paths.run] if _fingerprint(_document(paths.run)) == old else []
        kept += [paths.generations] if tier == "tier4_sft_native" else []
        kept += sorted(paths.exports.rglob("*.json*"))
        for file in kept:
            _keep(file, folder / file.relative_to(paths.folder))
        for part in parts.of_fingerprint(paths, old):
            _keep(part, folder / part.relative_to(paths.folder))
            part.unlink(missing_ok=True)
        shutil.rmtree(paths.exports, ignore_errors=True)
        if tier not in replaced:
            path.unlink(missing_ok=True)


def keep_earlier_suite(paths: EvaluationPaths, tier: str, replacing: Mapping[str, Any]) -> None:
    """Keep a copy of a tier file that another definition of its suite gave, and of the rows that are about to be others."""
    document = _document(paths.tier(tier))
    old, suite = _fingerprint(document), document.get("suite_digest")
    if old is None or old != _fingerprint(replacing) or not isinstance(suite, str) or suite == replacing["suite_digest"]:
        return
    folder, section = paths.set_aside(old, suite), TIERS[tier].section
    after = replacing.get(section, {})
    changed = [name for name, entry in document.get(section, {}).items() if _data_key(entry) != _data_key(after.get(name))]
    for file in (paths.tier(tier), paths.compare, *(paths.items(name) for name in changed)):
        _keep(file, folder / file.relative_to(paths.folder))


def _data_key(entry: Any) -> Any:
    return entry.get("data_key") if isinstance(entry, dict) else None


def _document(path: Path) -> dict[str, Any]:
    """What there is to be read; a file that is no JSON is nobody's and is published over."""
    try:
        document = read_json(path)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _fingerprint(document: Mapping[str, Any]) -> str | None:
    head = document.get("checkpoint")
    found = head.get("fingerprint") if isinstance(head, dict) else None
    return found if isinstance(found, str) else None


def _keep(file: Path, copy: Path) -> None:
    if file.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        publish(copy, file.read_bytes())

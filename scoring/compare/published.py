"""The published results of one evaluation, read for a comparison or an export."""

from pathlib import Path
from typing import Annotated, Any

import msgspec

from scoring.compare.rows import raise_if_passing
from suites.common.documents import DamagedDocument, read_json
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error
from suites.contract.comparison import EvaluationInfo, EvaluationRef
from suites.contract.objectives import TIER4_RATES, TIER_BY_SHORT_NAME
from suites.contract.paths import EvaluationPaths
from suites.contract.tier_files import find_entry_damage, find_total_damage

SECTION_BY_TIER = {"tier2_ppl": "slices", "tier3_cf": "tasks", "tier4_sft_native": "summary"}


class NoScoresError(UserError):
    """The evaluation has no tier file."""


class _MemberHead(msgspec.Struct):
    """What is read of a member of an average."""

    step: int
    weight: float


class _CheckpointHead(msgspec.Struct):
    """What is read of a tier file's ``checkpoint``."""

    path: str
    source_stage: str
    fingerprint: str
    tokens_seen: int | None = None
    average: list[_MemberHead] = []


class _TierFile(msgspec.Struct):
    """What is read of a tier file, whoever wrote or edited it."""

    stage: str
    step: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    suite_digest: str
    checkpoint: _CheckpointHead
    summary: dict[str, Any]
    slices: dict[str, dict[str, Any]] = {}
    tasks: dict[str, dict[str, Any]] = {}
    prompts: dict[str, dict[str, Any]] = {}
    assume: dict[str, str] = {}


class PublishedEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The published tier files of one evaluation."""

    paths: EvaluationPaths
    info: EvaluationInfo
    documents: dict[str, dict[str, Any]]
    """Tier -> its file, in the order of the tiers."""
    damage: dict[str, dict[str, str]]
    """Tier -> name of an entry whose figures cannot be used -> why not."""

    def get_entries(self, tier: str) -> dict[str, dict[str, Any]]:
        """Name -> usable entry of a scored tier; tier 4: ``{"rate": share}``."""
        return {name: entry for name, entry in _list_entries(tier, self.documents[tier]).items() if name not in self.damage[tier]}

    def list_names(self, tier: str) -> tuple[str, ...]:
        """Names of a scored tier's entries, usable or not."""
        return tuple(_list_entries(tier, self.documents[tier]))

    def list_scored_names(self) -> dict[str, tuple[str, ...]]:
        """Tier -> names of its entries."""
        return {tier: self.list_names(tier) for tier in self.documents}

    def list_total_members(self, tier: str) -> tuple[str, ...]:
        """The entries that a tier's total is made of."""
        return TIER4_RATES[:1] if tier == TIER_BY_SHORT_NAME["tier4"] else self.list_names(tier)

    def find_total_damage(self, tier: str) -> str | None:
        """Why the tier's totals cannot be used, with the file; None where they can."""
        reason = find_total_damage(self.documents[tier]["summary"])
        return None if reason is None else f"{self.paths.tier_json(tier)}: {reason}"

    def get_total(self, tier: str, metric: str) -> float | None:
        """A total of the tier's summary; None where it is unknown or damaged."""
        return None if self.find_total_damage(tier) else self.documents[tier]["summary"].get(metric)


def _list_entries(tier: str, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    section: dict[str, Any] = document[SECTION_BY_TIER[tier]]
    if tier == TIER_BY_SHORT_NAME["tier4"]:
        return {name: {"rate": section[name]} for name in TIER4_RATES if section.get(name) is not None}
    return section


def list_evaluations(results: Path) -> list[EvaluationRef]:
    """The folders of evaluations below a results folder, or below one stage's."""
    # A stage with a folder of results of its own has by_checkpoint directly in it.
    roots = [path.parent for pattern in ("by_checkpoint", "*/by_checkpoint") for path in sorted(results.glob(pattern))]
    return [
        EvaluationRef(results=str(root), stage=root.name, directory=folder.name)
        for root in roots
        for folder in sorted((root / "by_checkpoint").iterdir())
        if folder.is_dir()
    ]


def open_evaluation(ref: EvaluationRef) -> PublishedEvaluation:
    """Read the tier files of an evaluation.

    Raises NoScoresError where there is none, and UserError (data missing) where one is damaged or they are of another
    checkpoint content than the reference.
    """
    paths, documents = ref.paths, {}
    for tier in TIER_BY_SHORT_NAME.values():
        try:
            document = read_json(paths.tier_json(tier))
            # A file without our head or without the tier's section is another program's.
            if isinstance(document, dict) and isinstance(document.get("checkpoint"), dict) and SECTION_BY_TIER[tier] in document:
                msgspec.convert(document, _TierFile)
                documents[tier] = document
        except OSError as error:
            raise_if_passing(paths.tier_json(tier), error)
            raise _make_damage_error(f"cannot be read ({error.strerror})", paths.tier_json(tier)) from error
        except ValueError as error:  # msgspec's, too
            reason = error.reason if isinstance(error, DamagedDocument) else describe_error(error)
            raise _make_damage_error(reason, paths.tier_json(tier)) from error
    if not documents:
        raise NoScoresError("no scores", location=paths.folder, hint="score it first", code=ExitCode.DATA_MISSING)
    # All tiers must be of one content, the one that the request names if it names one.
    first = next(iter(documents.values()))
    fingerprints = {document["checkpoint"].get("fingerprint") for document in documents.values()}
    if fingerprints != {ref.fingerprint or first["checkpoint"]["fingerprint"]}:
        message = "scores of another content of this checkpoint"
        raise UserError(message, location=paths.folder, hint="wait until it is scored again", code=ExitCode.DATA_MISSING)
    info = EvaluationInfo(
        stage=first["stage"],
        source_stage=first["checkpoint"]["source_stage"],
        step=first["step"],
        directory=paths.directory,
        checkpoint=first["checkpoint"]["path"],
        fingerprint=first["checkpoint"]["fingerprint"],
        tokens_seen=first["checkpoint"].get("tokens_seen"),
        suites={tier: document["suite_digest"] for tier, document in documents.items()},
    )
    damage = {
        tier: {
            name: f"{paths.tier_json(tier)}: {entry_damage}"
            for name, entry in _list_entries(tier, document).items()
            if (entry_damage := find_entry_damage(tier, entry)) is not None
        }
        for tier, document in documents.items()
    }
    return PublishedEvaluation(paths=paths, info=info, documents=documents, damage=damage)


def describe_unread(ref: EvaluationRef, problem: UserError) -> str:
    """Why ``open_evaluation`` raised, with the file where one is damaged. Raises what may pass by itself again."""
    if problem.code is ExitCode.TEMPORARY:
        raise problem
    return problem.message if problem.location == str(ref.paths.folder) else f"{problem.location}: {problem.message}"


def _make_damage_error(message: str, path: Path) -> UserError:
    return UserError(message, location=path, hint="score it again: watcher retry --force", code=ExitCode.DATA_MISSING)

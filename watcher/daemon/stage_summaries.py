"""Which stages' stage.json are due, and what those that exist say to the status."""

from collections.abc import Callable, Mapping
from pathlib import Path

from suites.common.errors import UserError
from suites.contract.stage_summary import StageDocument, StageRequest, read_stage_document, stage_summary_path

SUMMARY_SUFFIX = ", its noise and what it forgot"
"""Behind a stage: the child that writes its stage.json."""

FileStamp = tuple[int, int, int]


class StageSummaries:
    """The summaries of all stages; a file is read again only after it changed."""

    def __init__(self, read_stamp: Callable[[Path], FileStamp]) -> None:
        self._read_stamp = read_stamp
        self._cache: dict[str, tuple[FileStamp, StageDocument | None]] = {}
        self.due: dict[str, StageRequest] = {}
        """Name of the child -> its request."""

    def refresh(self, requests: Mapping[str, StageRequest]) -> str:
        """Look at all files; returns what the page depends on."""
        for stage, request in requests.items():
            stamp = self._read_stamp(stage_summary_path(Path(request.results)))
            if stage not in self._cache or self._cache[stage][0] != stamp:
                self._cache[stage] = (stamp, _read_summary(request))
        self._cache = {stage: self._cache[stage] for stage in requests}
        self.due = {
            f"{stage}{SUMMARY_SUFFIX}": request
            for stage, request in requests.items()
            if not _answers(self._cache[stage][1], request)
        }
        return "".join(f"\n{stage} {stamp} {requests[stage].noise_within}" for stage, (stamp, _) in self._cache.items())

    def is_unanswered(self, name: str) -> bool:
        """Whether the child of that name left no answer to its request."""
        return name in self.due and not _answers(_read_summary(self.due[name]), self.due[name])

    @property
    def notes(self) -> dict[str, str]:
        """Stage -> which evaluations its noise still needs."""
        return {stage: document.wanted for stage, (_, document) in self._cache.items() if document and document.wanted}


def _read_summary(request: StageRequest) -> StageDocument | None:
    """The stage's stage.json; None where it is missing or damaged."""
    try:
        return read_stage_document(stage_summary_path(Path(request.results)))
    except UserError:
        return None


def _answers(document: StageDocument | None, request: StageRequest) -> bool:
    return document is not None and document.request == request

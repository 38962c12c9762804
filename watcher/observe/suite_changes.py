"""What the current suites changed for scored evaluations. Reads only."""

from collections.abc import Iterable, Mapping

from suites.common.documents import read_json_object_if_readable
from suites.common.formatting import format_names
from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import SuiteInRequest
from suites.definitions.local_data import compute_definition_digests
from watcher.config.settings import Config
from watcher.core.evaluation import EvaluationState
from watcher.core.result_paths import get_evaluation_paths
from watcher.core.snapshot import StageRequirements, find_outdated_tiers
from watcher.journal.replay import JournalState


class SuiteChangesCache:
    """Remembers descriptions until journal or requirements change."""

    def __init__(self) -> None:
        self._event_count = -1
        self._requirements: Mapping[str, StageRequirements] = {}
        self._descriptions: dict[str, str] = {}

    def describe_changed_records(
        self, config: Config, journal_state: JournalState, requirements: Mapping[str, StageRequirements]
    ) -> Mapping[str, str]:
        """Scored evaluation -> what the current suites changed."""
        # Tier files serve only a text here, so they are not read at every poll.
        unchanged = self._requirements.keys() == requirements.keys() and all(
            requirements[name] is stage_requirements for name, stage_requirements in self._requirements.items()
        )
        if unchanged and self._event_count == journal_state.event_count:
            return self._descriptions
        descriptions = {}
        for record in journal_state.records.values():
            stage_requirements = requirements.get(record.stage)
            if record.state is not EvaluationState.SCORED or stage_requirements is None or stage_requirements.error:
                continue
            changed = find_outdated_tiers(record, stage_requirements)
            if changed:
                cached = self._descriptions.get(record.key) if unchanged else None
                descriptions[record.key] = cached or describe_changes(
                    get_evaluation_paths(config, record), stage_requirements.suites, changed
                )
        self._event_count, self._requirements, self._descriptions = journal_state.event_count, requirements, descriptions
        return descriptions


def describe_changes(paths: EvaluationPaths, suites: Iterable[SuiteInRequest], tiers: Iterable[str]) -> str:
    """What changed, such as ``tier3_cf: ours has other data``.

    Published tier files say what was requested.
    """
    suites = tuple(suites)
    descriptions = []
    for tier in tiers:
        current_digests = {
            name: digest for suite in suites if suite.tier == tier for name, digest in compute_definition_digests(suite).items()
        }
        published_digests = read_json_object_if_readable(paths.tier_json(tier)).get("requested")
        if isinstance(published_digests, dict):
            descriptions.append(f"{tier}: {_describe_differences(published_digests, current_digests)}")
        else:
            descriptions.append(f"{tier}: its suites changed")
    return "; ".join(descriptions)


def _describe_differences(published_digests: Mapping[str, str], current_digests: Mapping[str, str]) -> str:
    kinds: dict[str, list[str]] = {}
    for name, digest in current_digests.items():
        published_digest = str(published_digests.get(name, ""))
        if published_digest == digest:
            continue
        same_definition = published_digest.partition(".")[0] == digest.partition(".")[0]
        kind = "new" if not published_digest else "on other data" if same_definition else "defined otherwise"
        kinds.setdefault(kind, []).append(name)
    removed = [name for name in published_digests if name not in current_digests]
    if removed:
        kinds["no longer requested"] = removed
    return (
        ", ".join(f"{format_names(names)} {'is' if len(names) == 1 else 'are'} {kind}" for kind, names in kinds.items())
        or "in another order"
    )

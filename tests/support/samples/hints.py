"""Comparisons with hints and a chosen best, for whoever shows them."""

import msgspec

from suites.common.atomic_files import write_atomically
from suites.contract.comparison import read_comparison_document
from suites.contract.encoding import encode_json

CHOICE = (
    "step 10 has the best total of tier2 among 2 earlier steps. Part of that is luck: its scores are inflated by the choice, so "
    "the changes beside it lean towards worse."
)


def show_hint(sample, stage, step):
    """The totals of one evaluation become hints, and its best has a choice."""
    path = sample.get_paths(stage, step).compare_json
    document = read_comparison_document(path)
    comparisons = tuple(hint_at(comparison) for comparison in document.comparisons)
    write_atomically(path, encode_json(msgspec.structs.replace(document, comparisons=comparisons)))


def hint_at(comparison):
    totals = []
    for total in comparison.totals:
        effects = {
            key: msgspec.structs.replace(effect, verdict="hint", hint=look_of(effect)) for key, effect in total.effects.items()
        }
        totals.append(msgspec.structs.replace(total, effects=effects))
    choice = CHOICE if comparison.role == "best" else None
    return msgspec.structs.replace(comparison, totals=tuple(totals), choice=choice, total_level=0.00064, entry_level=0.00032)


def look_of(effect):
    return "better" if (effect.delta < 0) == (effect.better_when == "lower") else "worse"

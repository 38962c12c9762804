"""Stages of checkpoints without a model: arrays of documents and items, correlated between checkpoints.

    stage = SimulatedStage(rng, 25, slices={"web": SliceShape(1000, 1.0)}, tasks={"quiz": 500})
    comparison = stage.compare("bridge", 1)

Nothing is read or written: pairs and tier documents are built as the comparison has them after reading.
"""

from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np

from scoring.compare.best import choose_best
from scoring.compare.compare import judge_pairs
from scoring.compare.entries import PairedEntry, count_totals
from scoring.compare.look import Look
from scoring.compare.pairing import PairedBits, PairedOutcomes, PairedRows
from scoring.compare.published import PublishedEvaluation
from suites.contract.comparison import EvaluationInfo
from suites.contract.looks import compute_planned_level
from suites.contract.objectives import Objectives
from suites.contract.paths import EvaluationPaths

TOTALS = ("tier2", "tier3", "tier3.bpb")
"""The totals that share a look's level, as objectives name them."""

OBJECTIVES = Objectives(improve=TOTALS, hold=TOTALS)

DOCUMENT_SPREAD, TOKEN_SPREAD = 0.03, 1.0
"""Nats by which checkpoints differ on a document's mean, and on each token of it."""

ITEM_CORRELATION = 0.8
"""Of the latent scores of one item at two checkpoints."""

ITEM_BITS_SPREAD = 0.1
"""Median over items of the bits a byte by which checkpoints differ; items vary in it by a factor of two, lognormally."""


class SliceShape(NamedTuple):
    """A slice: documents of lognormal lengths."""

    documents: int
    sigma: float


class SimulatedStage:
    """The bridge and the steps of one stage; row 0 is the bridge.

    Args:
        rng: draws everything.
        steps: number of evaluations.
        slices: name -> shape.
        tasks: name -> number of items.
        nats: [steps + 1] nats a token that each checkpoint is worse by than nothing planted.
        points: [steps + 1] share of items that each checkpoint is worse by.
        bits: [steps + 1] bits a byte of the gold answers that each checkpoint is worse by.
    """

    def __init__(self, rng, steps, *, slices, tasks, nats=None, points=None, bits=None):
        self.step_count = steps
        self.level = compute_planned_level(steps)
        nats, points, bits = (np.zeros(steps + 1) if planted is None else np.asarray(planted) for planted in (nats, points, bits))
        self.rows = {name: self._draw_slice(rng, shape, nats) for name, shape in slices.items()}
        self.items = {name: self._draw_task(rng, count, points) for name, count in tasks.items()}
        self.bits = {name: self._draw_bits(rng, count, bits) for name, count in tasks.items()}
        self.published = [self._publish(index) for index in range(steps + 1)]

    @staticmethod
    def _draw_slice(rng, shape, nats):
        """Tokens [D], and nats [steps + 1, D]."""
        tokens = np.maximum(np.rint(rng.lognormal(6.0, shape.sigma, shape.documents)), 1.0)  # [D]
        mean = rng.normal(3.0, 0.4, shape.documents)  # [D]
        deviation = rng.normal(size=(len(nats), shape.documents)) * np.sqrt(DOCUMENT_SPREAD**2 + TOKEN_SPREAD**2 / tokens)
        return tokens, tokens * (mean + deviation + nats[:, None])

    @staticmethod
    def _draw_task(rng, count, points):
        """Right answers [steps + 1, n], 60 % of them at the bridge."""
        item = rng.normal(size=count)  # [n]
        latent = np.sqrt(ITEM_CORRELATION) * item + np.sqrt(1 - ITEM_CORRELATION) * rng.normal(size=(len(points), count))
        thresholds = np.asarray([NormalDist().inv_cdf(0.6 - loss) for loss in points])  # [steps + 1]
        return latent < thresholds[:, None]

    @staticmethod
    def _draw_bits(rng, count, bits):
        """Bits a byte [steps + 1, n]. Independent of the accuracies, which is the worst case of levels that add up."""
        item, spread = rng.lognormal(0.0, 0.5, count), ITEM_BITS_SPREAD * rng.lognormal(0.0, np.log(2), count)  # [n] each
        return item + spread * rng.normal(size=(len(bits), count)) + bits[:, None]

    def _publish(self, index):
        slices = {
            name: {"nll_per_token": float(nll[index].sum() / tokens.sum()), "tokens": int(tokens.sum()), "data_key": name}
            for name, (tokens, nll) in self.rows.items()
        }
        tasks = {
            name: {key: float(right[index].mean()) for key in ("primary", "acc")}
            | {"bpb": float(self.bits[name][index].mean()), "data_key": name}
            for name, right in self.items.items()
        }
        documents = {"tier2_ppl": {"slices": slices}} if slices else {}
        documents |= {"tier3_cf": {"tasks": tasks}} if tasks else {}
        about = EvaluationInfo(
            stage="s", source_stage="s", step=index, directory=f"step_{index}", checkpoint=f"/c/{index}", fingerprint=str(index)
        )
        return PublishedEvaluation(
            paths=EvaluationPaths(Path("/r"), f"step_{index}"),
            info=about,
            documents=documents,
            damage={tier: {} for tier in documents},
        )

    def pair(self, baseline, candidate):
        """The pairs of two checkpoints, as the comparison has them after reading."""
        for name, (tokens, nll) in self.rows.items():
            rows = PairedRows(baseline=nll[baseline], candidate=nll[candidate], tokens=tokens, unit="document")
            yield PairedEntry(tier="tier2_ppl", name=name, rows=rows)
        for name, right in self.items.items():
            outcomes = PairedOutcomes(baseline=right[baseline], candidate=right[candidate])
            bits = PairedBits(baseline=self.bits[name][baseline], candidate=self.bits[name][candidate])
            by_metric = {"acc_per_char": outcomes, "acc": outcomes}
            yield PairedEntry(tier="tier3_cf", name=name, outcomes=by_metric, bits=bits, primary="acc_per_char")

    def choose(self, candidate, objectives=OBJECTIVES):
        """How the best of the steps before ``candidate`` is chosen."""
        return choose_best(self.published[1:candidate], self.published[candidate], objectives)

    def compare(self, role, candidate, *, objectives=OBJECTIVES, single=False):
        """The comparison of a step (from 1) with its baseline, as the product makes it."""
        baseline, choice = {"bridge": 0, "previous": candidate - 1}.get(role), None
        if baseline is None:
            choice = self.choose(candidate, objectives)
            baseline = 1 + choice.position
        paired = list(self.pair(baseline, candidate))
        look = Look(level=None if single else self.level, tier_count=count_totals(paired, self.published[candidate]))
        if choice is not None:
            look = msgspec.structs.replace(look, candidate_count=choice.candidate_count, ranked_by=choice.target.tier)
        return judge_pairs(
            role,
            paired,
            look,
            baseline=self.published[baseline],
            candidate=self.published[candidate],
            objectives=objectives if role == "bridge" else Objectives(),
        )

    def iter_comparisons(self):
        """Every comparison of the stage."""
        for candidate in range(1, self.step_count + 1):
            for role in ("bridge", "previous", "best") if candidate > 1 else ("bridge",):
                yield self.compare(role, candidate)

"""A finished run on disk without scores behind it, for whoever shows results: config, journal, tier files, comparisons, answers.

    sample = ReportSample(root)          # the four stages: 22 checkpoints and 3 bridges
    sample.write()

Every figure follows a curve of its own, so that differences, intervals and verdicts hang together.
"""

import hashlib
import json
import math
import random
import time
from pathlib import Path
from unittest.mock import patch

import yaml

from suites.common.atomic_files import write_atomically, write_json_atomically
from suites.contract.comparison import ComparedEntry, Comparison, ComparisonDocument, Refusal, TierTotal
from suites.contract.encoding import encode_json
from suites.contract.objectives import TIER4_RATES
from suites.contract.paths import EvaluationPaths
from suites.contract.stage_summary import FigureNoise, ForgottenFigure, StageDocument, stage_summary_path
from support.samples.comparison import (
    BRIDGES,
    OBJECTIVES,
    STAGE_STEPS,
    judge_objective,
    list_slices,
    make_effect,
    make_evaluation_scores,
)
from watcher.config.loader import load_config
from watcher.core import events
from watcher.core.evaluation import Attempt
from watcher.core.snapshot import StageFolder
from watcher.journal.journal import Journal
from watcher.reconcile.baselines import build_comparison_requests
from watcher.reconcile.looks import make_look_events
from watcher.reconcile.stage_requests import build_stage_requests

CATEGORIES = ("bulleted_list", "strict_json", "python_code", "safety", "concise_answer")
TOKENS_PER_STEP = 2_097_152
TIER_SECTIONS = {"tier2_ppl": "slices", "tier3_cf": "tasks", "tier4_sft_native": "by_category"}


class ReportSample:
    """Everything that `watcher report` reads, under ``root``."""

    def __init__(self, root, *, steps=STAGE_STEPS, of=list_slices, bridges=BRIDGES, prompts=24, now=None):
        self.root, self.steps, self.checkpoint_counts, self.bridges, self.prompts = Path(root), steps, of, bridges, prompts
        self.now = time.time() if now is None else now
        self.results = self.root / "results"
        self.config_file = self.root / "watcher.yaml"
        self.values: dict[tuple[str, str, int, str], tuple[float, float]] = {}
        """(stage, source, step, name) -> (figure, standard error): nats a token of slices, shares of the others."""

    def write_sample(self):
        with patch("os.fsync"):  # no power is cut here
            self._write()
        return self

    def _write(self):
        self.root.mkdir(parents=True, exist_ok=True)
        stages = {}
        for stage in self.steps:
            stages[stage] = {"checkpoints": str(self.root / "ckpts" / stage), "steps": list(self.steps[stage])}
            stages[stage]["suites"] = [f"{stage}_ppl_slices", f"{stage}_cf_core"]
            if stage in self.bridges:
                stages[stage]["bridge"] = {"from": self.bridges[stage][0], "step": self.bridges[stage][1]}
            objectives = OBJECTIVES.get(stage)
            if objectives is not None and objectives.improve:
                stages[stage]["objectives"] = {"improve": list(objectives.improve), "hold": list(objectives.hold)}
                stages[stage]["objectives"] |= {"groups": {name: list(each) for name, each in objectives.groups.items()}}
        config = {"scratch": str(self.root), "results": str(self.results), "python": "python3", "stages": stages}
        self.config_file.write_text(yaml.safe_dump(config, sort_keys=False))
        self.config = load_config(self.config_file, {})
        self.config.paths.state.mkdir(parents=True)
        self._journal()
        for stage in self.steps:
            for source, step in self.list_evaluations(stage):
                self._results(stage, source, step)
        for key, request in build_comparison_requests(self.config, self.journal_state).items():
            record = self.journal_state.records[key]
            write_atomically(request.candidate.paths.compare_json, encode_json(self._compared(record, request)))
        # A stage that was cut to a few steps has a summary of its own, too.
        for request in build_stage_requests(self.config, self.journal_state).values():
            write_atomically(stage_summary_path(Path(request.results)), encode_json(self._summary(request)))
        self._status()

    def list_evaluations(self, stage):
        return [*([self.bridges[stage]] if stage in self.bridges else []), *((stage, step) for step in self.steps[stage])]

    def get_paths(self, stage, step):
        return EvaluationPaths(self.results / stage, f"step_{step}")

    def make_figure(self, stage, source, step, name):
        """(value, standard error) of one slice, task, rate or category."""
        key = (stage, source, step, name)
        if key not in self.values:
            order = list(self.steps)
            depth = order.index(source) + (self.steps[source].index(step) + 1) / len(self.steps[source])
            draw = random.Random(f"{name}")
            noise = random.Random(f"{source} {step} {name}").gauss(0, 1)
            learnt = 1 - math.exp(-(1.2 + draw.random()) * depth)
            fades = draw.random() < 0.25 and depth > 2
            tiers = dict(zip(("slice", "task", "rate"), self.checkpoint_counts(stage), strict=True))
            if name in tiers["slice"]:
                start = 2.6 + draw.random()
                value, error = start - 1.3 * learnt + (0.06 * (depth - 2) if fades else 0) + 0.003 * noise, 0.006
            else:
                start = 0.22 + 0.15 * draw.random()
                error = 0.04 if name not in tiers["task"] else 0.004 if name in {"mmlu", "hellaswag"} else 0.012
                value = start + 0.4 * learnt - (0.05 * (depth - 2) if fades else 0) + 0.4 * error * noise
            self.values[key] = (value, error)
        return self.values[key]

    def _journal(self):
        journal = Journal.open(self.config.paths)
        at = self.now - 86400.0
        for stage in self.steps:
            for source, step in self.list_evaluations(stage):
                key = f"{stage}/step_{step}"
                about = make_evaluation_scores(stage, source, step, f"step_{step}")
                created = events.Created(
                    evaluation=key,
                    stage=stage,
                    source=source,
                    step=step,
                    directory=f"step_{step}",
                    origin="schedule" if source == stage else "bridge",
                    checkpoint=about.checkpoint,
                )
                journal.append(created, t=at)
                run_id = f"eval-{stage}-{step}-0a1b2c3d"
                content = {"fingerprint": about.fingerprint, "suites": about.suites}
                attempt = Attempt(run_id=run_id, number=1, intended=at, **content)
                of_attempt = {"evaluation": key, "run_id": run_id, "attempt": attempt}
                journal.append(events.Intended(**of_attempt), t=at + 60)
                job_id = str(4_100_000 + len(journal.state.records))
                journal.append(events.Submitted(**of_attempt, job_id=job_id), t=at + 61)
                journal.append(events.Scored(evaluation=key, **content), t=at + 900)
                at += 1200
        folders = {name: StageFolder(steps={}) for name in self.config.stages}
        for event in make_look_events(folders, journal.state, self.config):
            journal.append(event, t=at)
        self.journal_state = journal.state
        journal.close()

    def _results(self, stage, source, step):
        paths = self.get_paths(stage, step)
        paths.folder.mkdir(parents=True)
        slices, tasks, rates = self.checkpoint_counts(stage)
        entries = {"tier2_ppl": {}, "tier3_cf": {}, "tier4_sft_native": {}}
        for name in slices:
            nll, error = self.make_figure(stage, source, step, name)
            sums = {"nll_per_token": nll, "nll_per_token_stderr": error, "nll_sum": nll * 5e6, "tokens": 5_000_000}
            entries["tier2_ppl"][name] = {"ppl": math.exp(nll), **sums, "bits_per_byte": nll / 3, "bytes": 21_000_000}
        for name in tasks:
            value, error = self.make_figure(stage, source, step, name)
            entry = {"primary": value, "primary_metric": "acc_per_char", "acc_per_char": value, "acc_per_char_stderr": error}
            entry |= {"acc": value - 0.02, "acc_stderr": error, "acc_norm": value, "examples": 1500}
            bits = {"bpb": 2 - value, "bpb_stderr": error, "bpb_uncond": 1.9, "at_chance": name == tasks[0]}
            entries["tier3_cf"][name] = entry | bits
        for name in CATEGORIES if rates else ():
            value, _ = self.make_figure(stage, source, step, name)
            entries["tier4_sft_native"][name] = {"prompts": 24, "pass": value, "format": min(1, value + 0.1), "clean": 1.0}
        for tier, found in entries.items():
            for name, entry in found.items():
                entry["data_key"] = hashlib.sha256(name.encode()).hexdigest()
            if found:
                write_json_atomically(paths.tier_json(tier), self._tier_file(tier, stage, source, step, found))
        run = {"schema": 1, "run_id": f"eval-{stage}-{step}-0a1b2c3d", "outcome": "scored", "scorer_version": 1}
        run |= {
            "device": {"type": "cuda", "name": "NVIDIA H100 80GB HBM3", "host": f"node{step % 7}"},
            "timings": {"load": 21.4, "scoring": 512.9},
        }
        run |= {"versions": {"python": "3.11.9", "torch": "2.13.0", "numpy": "2.3.4"}, "git_commit": "3f" * 20}
        write_json_atomically(paths.run_json, run)
        if rates:
            self._answers(paths, stage, source, step)

    def _tier_file(self, tier, stage, source, step, entries):
        about = make_evaluation_scores(stage, source, step, f"step_{step}")
        mean = {
            key: sum(entry[key] for entry in entries.values()) / len(entries)
            for key in next(iter(entries.values()))
            if key in {"primary", "acc", "acc_norm", "nll_per_token", "bits_per_byte"}
        }
        summary = mean | (
            {"ppl": math.exp(mean["nll_per_token"]), "tokens": 5_000_000 * len(entries)} if tier == "tier2_ppl" else {}
        )
        if tier == "tier4_sft_native":
            summary = {rate: self.make_figure(stage, source, step, rate)[0] for rate in TIER4_RATES}
        return {
            "schema": 1,
            "tier": tier,
            "stage": stage,
            "step": step,
            "checkpoint": {
                "path": about.checkpoint,
                "source_stage": source,
                "fingerprint": about.fingerprint,
                "tokens_seen": about.tokens_seen,
            },
            "suite_digest": about.suites[tier],
            "suites": [f"{stage}_{tier}"],
            "tokenizer": {"id": "org/tokenizer", "digest": "77" * 32},
            "dtype": "bfloat16",
            "seq_len": 4096,
            "backend": "direct",
            "summary": summary,
            TIER_SECTIONS[tier]: entries,
        }

    def _answers(self, paths, stage, source, step):
        draw = random.Random(f"{source} {step}")
        share = self.make_figure(stage, source, step, TIER4_RATES[0])[0]
        lines = []
        for number in range(self.prompts):
            good = draw.random() < share
            items = ["flour", "warm water", "salt", "yeast"][: 4 if good else 3]
            answer = (
                "\n".join(f"- {item}" for item in items)
                if source == stage
                else f"Bread needs {', '.join(items)}, and so on and so on."
            )
            checks = [
                {"check": "bulleted_list", "kind": "format", "passed": good, "evidence": f"{len(items)} items"},
                {"check": "ends_by_itself", "kind": "clean", "passed": source == stage, "evidence": ""},
            ]
            lines.append(
                {
                    "name": f"bullets_{number}",
                    "category": CATEGORIES[number % len(CATEGORIES)],
                    "messages": [
                        {
                            "role": "user",
                            "content": f"List {len(items)} things that bread number {number} is made of, as bullet points.",
                        }
                    ],
                    "answer": answer,
                    "finish": "stop_token" if source == stage else "length",
                    "checks": checks,
                }
            )
        write_atomically(paths.generations, "".join(json.dumps(line) + "\n" for line in lines))

    def _compared(self, record, request):
        slices, tasks, rates = self.checkpoint_counts(record.stage)
        here = make_evaluation_scores(record.stage, record.source, record.step, record.directory)
        comparisons = []
        baselines = [("bridge", request.bridge)] + (
            [("previous", request.earlier[-1]), ("best", request.earlier[0])] if request.earlier else []
        )
        for role, place in baselines:
            if place is None:
                continue
            other = self.journal_state.records[f"{place.stage}/{place.directory}"]
            entries = [
                self._entry(kind, name, record, other, slices + tasks + rates)
                for kind, found in (("slice", slices), ("task", tasks), ("rate", rates))
                for name in found
            ]
            totals = [
                _total(tier, [entry for entry in entries if entry.tier == tier])
                for tier in dict.fromkeys(entry.tier for entry in entries)
            ]
            judged = tuple(_judged(OBJECTIVES.get(record.stage), entries, totals)) if role == "bridge" else ()
            outcomes = {one.outcome for one in judged}
            comparisons.append(
                Comparison(
                    role=role,
                    baseline=make_evaluation_scores(record.stage, other.source, other.step, other.directory),
                    entries=tuple(entries),
                    totals=tuple(totals),
                    objectives=judged,
                    outcome=next((word for word in ("fail", "inconclusive", "pass") if word in outcomes), None),
                    refusals=(Refusal(name="qasc", reason="data_key differs", tier="tier3_cf"),)
                    if record.stage == "stage3"
                    else (),
                )
            )
        return ComparisonDocument(candidate=here, request=request, comparisons=tuple(comparisons))

    def _entry(self, kind, name, record, other, family):
        value, error = self.make_figure(record.stage, record.source, record.step, name)
        base, _ = self.make_figure(record.stage, other.source, other.step, name)
        paired = error / 3
        if kind == "slice":
            effects = {
                "nll_per_token": make_effect("nll_per_token", base, value - base, paired, 5200, lower=True, family=len(family))
            }
            effects["ppl"] = make_effect(
                "ppl", math.exp(base), math.exp(value) - math.exp(base), paired * math.exp(base), 5200, lower=True
            )
            tier, judged, unit = "tier2_ppl", "nll_per_token", "document"
        elif kind == "task":
            effects = {"primary": make_effect("acc_per_char", base, value - base, paired, 1500, family=len(family))}
            tier, judged, unit = "tier3_cf", "primary", "item"
        else:
            effects = {"rate": make_effect("rate", base, value - base, paired, 120, family=len(family))}
            tier, judged, unit = "tier4_sft_native", "rate", "prompt"
        lower = kind == "slice"
        plain = (value <= base) if lower else (value >= base)
        return ComparedEntry(tier=tier, kind=kind, name=name, effects=effects, judged_by=judged, plain=plain, unit=unit)

    def _summary(self, request):
        stage, end = request.stage, self.steps[request.stage][-1]
        slices, tasks, _ = self.checkpoint_counts(stage)
        kinds = [("tier2_ppl", "nll_per_token", slices), ("tier3_cf", "primary", tasks)]
        noise, forgetting = [], []
        for tier, metric, names in kinds:
            for number, name in enumerate(names):
                newest, error = self.make_figure(stage, stage, end, name)
                figure = {"tier": tier, "name": name, "metric": metric, "newest": newest}
                bands = {"noise": error, "low": error / 2, "high": 2 * error, "within_noise": 2.77 * error, "signal": 9 * error}
                noise.append(FigureNoise(**figure, **bands, snr=9.0 - number, says_something=number < 4))
                for earlier in request.earlier_ends:
                    if name not in {each for found in self.checkpoint_counts(earlier.stage) for each in found}:
                        continue
                    before, _ = self.make_figure(earlier.stage, earlier.stage, self.steps[earlier.stage][-1], name)
                    effect = make_effect(metric, before, newest - before, error / 3, 1500, lower=tier == "tier2_ppl", family=100)
                    loss = math.exp(newest) - math.exp(before) if tier == "tier2_ppl" else before - newest
                    lost = {"lost": 3, "gained": 1, "never_known": 0.2} if tier == "tier3_cf" else {}
                    forgotten = effect.verdict == "worse"
                    forgetting.append(
                        ForgottenFigure(
                            tier=tier,
                            name=name,
                            metric=metric,
                            earlier_stage=earlier.stage,
                            earlier_directory=earlier.directory,
                            effect=effect,
                            earlier_value=math.exp(before) if tier == "tier2_ppl" else before,
                            loss=loss,
                            forgotten=forgotten,
                            lost_items=("q17", "q18") if forgotten and lost else (),
                            **lost,
                        )
                    )
        steps = tuple(self.steps[stage])
        return StageDocument(request=request, window=steps, noise=tuple(noise), forgetting=tuple(forgetting))

    def _status(self):
        counts = {"scored": len(self.journal_state.records)}
        status = {
            "schema": 1,
            "heartbeat": self.now,
            "poll": 60.0,
            "host": "login1",
            "pid": 4242,
            "counts": counts,
            "warnings": [],
            "executor": "slurm",
        }
        status |= {
            "queue": {"at": self.now, "jobs": 1, "error": "", "since": None},
            "skipped": [],
            "skipped_count": 0,
            "stages": {},
        }
        status |= {"latencies": {"complete_to_scored": {"p50": 912.0, "p95": 1460.0, "n": len(self.journal_state.records)}}}
        write_json_atomically(self.config.paths.status_json, status)


def _total(tier, entries):
    keys = list(entries[0].effects)
    effects = {}
    used = entries[:1] if tier == "tier4_sft_native" else entries
    for key in keys:
        of = [entry.effects[key] for entry in used]
        base, delta = (sum(getattr(one, field) for one in of) / len(of) for field in ("baseline", "delta"))
        error = math.sqrt(sum(one.stderr**2 for one in of)) / len(of)
        effects[key] = make_effect(of[0].metric, base, delta, error, sum(one.n for one in of), lower=of[0].better_when == "lower")
    judged = entries[0].judged_by
    plain = (effects[judged].delta <= 0) == (effects[judged].better_when == "lower")
    return TierTotal(tier=tier, effects=effects, judged_by=judged, plain=plain, names=tuple(entry.name for entry in entries))


def _judged(objectives, entries, totals):
    tiers = {"tier2": "tier2_ppl", "tier3": "tier3_cf", "tier4": "tier4_sft_native"}
    for kind in ("improve", "hold") if objectives is not None else ():
        for name in getattr(objectives, kind):
            members = [entry for entry in entries if entry.name in objectives.groups.get(name, (name,))]
            total = next((total for total in totals if total.tier == tiers.get(name)), None) or (
                _total(members[0].tier, members) if members else None
            )
            yield judge_objective(kind, name, total)

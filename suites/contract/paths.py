"""Every path that crosses a process boundary. Nothing else in the project joins these names."""

import hashlib
from pathlib import Path

import msgspec

from suites.common.errors import UserError

TIER_FILES = {
    "tier2_ppl": "tier2_ppl.json",
    "tier3_cf": "tier3_cf.json",
    "tier4_sft_native": "tier4_sft_native.json",
}
"""Tier name -> the file that holds its published scores."""


class EvaluationPaths(msgspec.Struct, frozen=True):
    """Every file of one evaluation's published results."""

    results: Path
    stage: str
    directory: str

    @property
    def folder(self) -> Path:
        """${results}/<stage>/by_checkpoint/<directory>."""
        return self.results / self.stage / "by_checkpoint" / self.directory

    def tier_json(self, tier: str) -> Path:
        """The published scores of one tier. KeyError for an unknown tier."""
        return self.folder / TIER_FILES[tier]

    @property
    def generations(self) -> Path:
        """Tier 4's answers, a JSON line each."""
        return self.folder / "tier4_sft_native_generations.jsonl"

    def items_parquet(self, name: str) -> Path:
        """Per-item (or per-row) rows of one task or slice."""
        return self.folder / "items" / f"{name}.parquet"

    @property
    def parts(self) -> Path:
        """Finished parts, one file each, and their leases."""
        return self.folder / "parts"

    @property
    def run_json(self) -> Path:
        """Provenance of the newest run, or why it could not be scored."""
        return self.folder / "run.json"

    @property
    def fence_json(self) -> Path:
        """Which run may publish."""
        return self.folder / "fence.json"

    def task_fence_json(self, task: str) -> Path:
        """Which restart of one task of an array may go on."""
        return self.folder / f"fence.{task}.json"

    @property
    def progress_json(self) -> Path:
        """How far the running job is, with all its tasks and processes."""
        return self.folder / "progress.json"

    def task_progress_json(self, task: str) -> Path:
        """The same of one task of an array."""
        return self.parts / f"progress.{task}.json"

    def list_task_progress(self) -> list[Path]:
        """The same of each task of an array that has come to say it, of whatever run."""
        return sorted(self.parts.glob("progress.*.json"))

    def worker_json(self, number: int, task: str | None) -> Path:
        """The same of one of several processes that share a job; after it, what that process says of its run."""
        return self.parts / ".".join(filter(None, ("worker", task, str(number), "json")))

    @property
    def compare_json(self) -> Path:
        """Comparison with the bridge and other baselines."""
        return self.folder / "compare.json"

    @property
    def exports(self) -> Path:
        """Results in other programs' forms, a folder each, such as ``lm-eval``."""
        return self.folder / "exports"

    def external_folder(self, run_name: str) -> Path:
        """Where a foreign scorer works in one run: what it left stays there until the next."""
        return self.folder / "foreign" / run_name

    def superseded_folder(self, fingerprint: str, suite_digest: str = "") -> Path:
        """Where results of an earlier content of the same step are kept, or of the same content by an earlier suite."""
        return self.folder / "superseded" / ".".join(filter(None, (fingerprint[:12], suite_digest[:12])))


class DataPaths(msgspec.Struct, frozen=True):
    """The data cache that all jobs share."""

    eval_data: Path

    def slice_entry(self, name: str, key: str) -> Path:
        """Holds packed_tokens.pt and meta.json."""
        return self.eval_data / "ppl_slices" / name / key

    def task_entry(self, name: str, key: str) -> Path:
        """Holds examples.jsonl, meta.json and the tokenised requests."""
        return self.eval_data / "cf_tasks" / name / key

    def tokenizer(self, digest: str) -> Path:
        """A private copy of a tokenizer's files."""
        return self.eval_data / "tokenizers" / digest

    def tokenizer_pointer(self, identifier: str) -> Path:
        """Holds the digest that a tokenizer id or path was resolved to."""
        safe_name = "".join(character if character.isalnum() or character in "-_." else "_" for character in identifier)[-80:]
        return (
            self.eval_data / "tokenizers" / "by_id" / f"{safe_name}.{hashlib.sha256(identifier.encode()).hexdigest()[:12]}.json"
        )


class StatePaths(msgspec.Struct, frozen=True):
    """The watcher's own files."""

    state: Path

    @property
    def journal(self) -> Path:
        """One file per epoch."""
        return self.state / "journal"

    def epoch_journal(self, number: int) -> Path:
        """The journal file of one take-over."""
        return self.journal / f"{number:08d}.jsonl"

    @property
    def status_json(self) -> Path:
        """Machine-readable status with the heartbeat."""
        return self.state / "status.json"

    @property
    def status_text(self) -> Path:
        """The same for people."""
        return self.state / "status.txt"

    @property
    def requests(self) -> Path:
        """What the command line asks of the daemon, one file each."""
        return self.state / "requests"

    @property
    def lock(self) -> Path:
        """Who runs."""
        return self.state / "daemon.lock"

    @property
    def log(self) -> Path:
        """The daemon's rotating log."""
        return self.state / "watcher.log"

    @property
    def once_json(self) -> Path:
        """When `watcher once` ran last: how far apart its runs are."""
        return self.state / "once.json"

    @property
    def clock_file(self) -> Path:
        """Touched to read the file server's clock."""
        return self.state / "clock"

    @property
    def comparison_requests(self) -> Path:
        """What is asked of `python -m scoring compare`, a request an evaluation."""
        return self.state / "comparisons"

    def comparison_request(self, stage: str, directory: str) -> Path:
        """The request whose answer is an evaluation's compare.json."""
        return self.comparison_requests / f"{stage}.{directory}.json"

    @property
    def children_log(self) -> Path:
        """What the daemon's short processes say: comparisons and the report."""
        return self.state / "children.log"

    @property
    def contents_json(self) -> Path:
        """What local files of suites hold, so that they are hashed once; may be deleted at any time."""
        return self.state / "contents.json"

    @property
    def reported_json(self) -> Path:
        """What the report was last made of, and which comparisons failed; may be deleted at any time."""
        return self.state / "reported.json"

    @property
    def pins(self) -> Path:
        """Hard links of checkpoints that are owed a score."""
        return self.state / "pins"

    @property
    def setup_script(self) -> Path:
        """The config's ``setup_script`` lines, sourced by the batch scripts."""
        return self.state / "setup.sh"

    def compare_request(self, stage: str, directory: str) -> Path:
        """What the child that compares one evaluation is asked."""
        return self.state / "compare" / stage / f"{directory}.json"

    @property
    def attempts(self) -> Path:
        """A folder for each attempt, named after its run."""
        return self.state / "attempts"

    def manual_prefill(self, run_id: str) -> "AttemptPaths":
        """Folder of a prefill job that a person asked for, and that no journal follows."""
        return AttemptPaths(self.state / "prefills" / run_id)

    def attempt(self, run_id: str) -> "AttemptPaths":
        """Folder of one attempt: request.json, claim, exit.<restart>.json."""
        return AttemptPaths(self.attempts / run_id)


class AttemptPaths(msgspec.Struct, frozen=True):
    """What lies in the folder of one attempt. The batch scripts spell these names, too."""

    folder: Path

    @property
    def request(self) -> Path:
        """What the job is asked to do."""
        return self.folder / "request.json"

    @property
    def claim(self) -> Path:
        """Who may run it; made once, never replaced."""
        return self.folder / "claim"

    @property
    def expected_files(self) -> Path:
        """Files that a success must have left, a path a line."""
        return self.folder / "expected.txt"

    @property
    def prefill_json(self) -> Path:
        """What a prefill job says of how it ended."""
        return self.folder / "prefill.json"

    @property
    def spawned_json(self) -> Path:
        """The process that the local executor made."""
        return self.folder / "spawned.json"

    @property
    def cancelled_json(self) -> Path:
        """Somebody asked the local executor to end it."""
        return self.folder / "cancelled.json"

    def failure_reason_json(self, task: int | None) -> Path:
        """Why the newest run of the attempt, or of one task of it, did not score: the disk of the results may be full."""
        return self.folder / ("why.json" if task is None else f"why.{task}.json")

    def list_exit_files(self) -> list[Path]:
        """``exit.<restart>.json``, or ``exit.<task>.<restart>.json`` of an array: how each run of it ended."""
        return list(self.folder.glob("exit.*.json"))


def report_html_path(results: Path) -> Path:
    """The report for a browser."""
    return results / "report.html"


def attempt_log_paths(results: Path, stage: str, step: int, job_id: str) -> tuple[Path, Path]:
    """The (out, err) logs of one job; ``job_id`` may be Slurm's %j."""
    folder = results / stage / "eval_logs" / "slurm"
    return folder / f"eval_{stage}_{step}_{job_id}.out", folder / f"eval_{stage}_{step}_{job_id}.err"


def list_attempt_log_paths(results: Path, stage: str, step: int, job_id: str, task_count: int) -> list[tuple[Path, Path]]:
    """``attempt_log_paths`` of a job, or of each task of an array, whose ``job_id`` may be Slurm's %A."""
    job_ids = [job_id] if task_count <= 1 else [f"{job_id}_{task}" for task in range(task_count)]
    return [attempt_log_paths(results, stage, step, task_job_id) for task_job_id in job_ids]


def prefill_log_paths(results: Path, stage: str, job_id: str) -> tuple[Path, Path]:
    """The (out, err) logs of one prefill job; ``job_id`` may be Slurm's %j."""
    folder = results / stage / "eval_logs" / "slurm"
    return folder / f"prefill_{stage}_{job_id}.out", folder / f"prefill_{stage}_{job_id}.err"


def find_shipped_file(name: str) -> Path:
    """A file that comes with the project: ``slurm/score.sbatch``, ``systemd/watcher.service``, ``suites/x.yaml``.

    Looks in the source tree first, then in the installed wheel, where slurm/ and systemd/ lie under watcher/.
    """
    root = Path(__file__).resolve().parents[2]
    for candidate in (root / name, root / "watcher" / "shipped" / name):
        if candidate.is_file():
            return candidate
    raise UserError("not found in this installation", location=name, hint="install checkpoint-watcher again")

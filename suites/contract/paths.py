"""Every path that several processes use, but logs. Only this module joins these names."""

import hashlib
from pathlib import Path

import msgspec

TIER_FILES = {
    "tier2_ppl": "tier2_ppl.json",
    "tier3_cf": "tier3_cf.json",
    "tier4_sft_native": "tier4_sft_native.json",
}
"""Tier -> file of its published scores."""


def format_step_directory(step: int, source: str | None = None, *, average: str = "") -> str:
    """The name of an evaluation's folder of results, whatever its checkpoint is called.

    ``source``: the stage of a checkpoint that shares its step with one of the stage's own. ``average``: an average's name.
    """
    return "_".join(filter(None, (f"step_{step}", average, source and f"from_{source}")))


def format_reference_directory(name: str) -> str:
    """The same of a reference, on any stage's suites."""
    return f"reference_{name}"


class EvaluationPaths(msgspec.Struct, frozen=True):
    """Files of one evaluation's published results."""

    root: Path
    """The stage's folder of results, with ``by_checkpoint`` and ``eval_logs`` in it."""
    directory: str

    @property
    def folder(self) -> Path:
        """The folder ``<root>/by_checkpoint/<directory>``."""
        return self.root / "by_checkpoint" / self.directory

    def tier_json(self, tier: str) -> Path:
        """Published scores of one tier. Raises KeyError for an unknown tier."""
        return self.folder / TIER_FILES[tier]

    @property
    def generations(self) -> Path:
        """Tier 4's answers, one JSON line each."""
        return self.folder / "tier4_sft_native_generations.jsonl"

    def items_parquet(self, name: str) -> Path:
        """Rows of one task (per item) or slice (per document or window)."""
        return self.folder / "items" / f"{name}.parquet"

    @property
    def parts(self) -> Path:
        """Folder of finished parts, one file each, and of their leases."""
        return self.folder / "parts"

    @property
    def run_json(self) -> Path:
        """Provenance of the newest run, or the reason of its failure."""
        return self.folder / "run.json"

    @property
    def fence_json(self) -> Path:
        """The run that may publish."""
        return self.folder / "fence.json"

    def task_fence_json(self, task: str) -> Path:
        """The restart of one array task that may continue."""
        return self.folder / f"fence.{task}.json"

    @property
    def progress_json(self) -> Path:
        """Progress of the running job, over all its tasks and processes."""
        return self.folder / "progress.json"

    def task_progress_json(self, task: str) -> Path:
        """Progress of one array task."""
        return self.parts / f"progress.{task}.json"

    def list_task_progress(self) -> list[Path]:
        """Progress files of all array tasks, of any run."""
        return sorted(self.parts.glob("progress.*.json"))

    def worker_json(self, number: int, task: str | None) -> Path:
        """Progress of one worker process; after its end, its report."""
        return self.parts / ".".join(filter(None, ("worker", task, str(number), "json")))

    @property
    def compare_json(self) -> Path:
        """Comparisons with the bridge and other baselines."""
        return self.folder / "compare.json"

    @property
    def exports(self) -> Path:
        """Results in other programs' formats, a folder each, such as ``lm-eval``."""
        return self.folder / "exports"

    def external_folder(self, run_name: str) -> Path:
        """Work folder of an external scorer in one run.

        Its files stay until the next run.
        """
        return self.folder / "foreign" / run_name

    def superseded_folder(self, fingerprint: str, suite_digest: str = "") -> Path:
        """Folder of results of an earlier content or suite."""
        return self.folder / "superseded" / ".".join(filter(None, (fingerprint[:12], suite_digest[:12])))

    def underived_folder(self, fingerprint: str, digest: str) -> Path:
        """Folder of what ``python -m scoring derive`` replaced; ``digest`` is its tier file's."""
        return self.folder / "superseded" / f"{fingerprint[:12]}.underived.{digest[:12]}"


class DataPaths(msgspec.Struct, frozen=True):
    """Files of the data cache that all jobs share."""

    eval_data: Path

    def entry(self, kind: str, name: str, key: str) -> Path:
        """Folder of one entry; ``kind`` is ``slice``, ``task`` or ``prompts``.

        A slice has packed_tokens.pt and meta.json; a task examples.jsonl, meta.json and the tokenized requests; the prompts of
        a suite prompts.jsonl and meta.json.
        """
        return self.eval_data / {"slice": "ppl_slices", "task": "cf_tasks", "prompts": "sft_prompts"}[kind] / name / key

    def model(self, identifier: str) -> Path:
        """Folder of a model of the hub, ``OWNER/NAME@REVISION``, with its tokenizer."""
        digest = hashlib.sha256(identifier.encode()).hexdigest()[:12]  # two identifiers may have one safe name
        return self.eval_data / "models" / f"{_make_safe_name(identifier)}.{digest}"

    def tokenizer(self, digest: str) -> Path:
        """Folder with a copy of a tokenizer's files, and their reading."""
        return self.eval_data / "tokenizers" / digest

    def tokenizer_pointer(self, identifier: str, *, use_fast: bool = True) -> Path:
        """File with the digest of a tokenizer id or path."""
        marked = identifier if use_fast else f"{identifier}\0slow"  # the same files may be read in two ways
        digest = hashlib.sha256(marked.encode()).hexdigest()[:12]  # two identifiers may have one safe name
        return self.eval_data / "tokenizers" / "by_id" / f"{_make_safe_name(identifier)}.{digest}.json"


def _make_safe_name(identifier: str) -> str:
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in identifier)[-80:]


class StatePaths(msgspec.Struct, frozen=True):
    """Files of the watcher."""

    state: Path

    @property
    def journal(self) -> Path:
        """Folder of the journal, one file per epoch."""
        return self.state / "journal"

    def epoch_journal(self, number: int) -> Path:
        """Journal file of one epoch."""
        return self.journal / f"{number:08d}.jsonl"

    @property
    def status_json(self) -> Path:
        """Machine-readable status with the heartbeat."""
        return self.state / "status.json"

    @property
    def status_text(self) -> Path:
        """Status as text for people."""
        return self.state / "status.txt"

    @property
    def requests(self) -> Path:
        """Folder of the command line's requests, one file each."""
        return self.state / "requests"

    @property
    def lock(self) -> Path:
        """Lock file that names the running watcher."""
        return self.state / "daemon.lock"

    @property
    def owner_json(self) -> Path:
        """The user whose watchers look after this folder."""
        return self.state / "owner.json"

    @property
    def log(self) -> Path:
        """The daemon's rotating log."""
        return self.state / "watcher.log"

    @property
    def once_json(self) -> Path:
        """Times of the last runs of ``watcher once``."""
        return self.state / "once.json"

    @property
    def clock_file(self) -> Path:
        """File that is touched to read the file server's clock."""
        return self.state / "clock"

    def comparison_request(self, stage: str, directory: str) -> Path:
        """Request for an evaluation's compare.json."""
        return self.state / "comparisons" / f"{stage}.{directory}.json"

    def summary_request(self, stage: str) -> Path:
        """Request for a stage's stage.json."""
        return self.state / "comparisons" / f"{stage}.json"

    @property
    def children_log(self) -> Path:
        """Log of the daemon's child processes: comparisons and the report."""
        return self.state / "children.log"

    @property
    def contents_json(self) -> Path:
        """Hashes of the suites' local files; may be deleted at any time."""
        return self.state / "contents.json"

    @property
    def runs_json(self) -> Path:
        """Names of stages that run folders got; without it, runs whose folders are gone lose theirs."""
        return self.state / "runs.json"

    @property
    def reported_json(self) -> Path:
        """Inputs of the last report; may be deleted at any time."""
        return self.state / "reported.json"

    @property
    def pins(self) -> Path:
        """Folder of hard links to checkpoints that wait for scores."""
        return self.state / "pins"

    @property
    def setup_script(self) -> Path:
        """Setup lines of the config, which the batch scripts source."""
        return self.state / "setup.sh"

    @property
    def attempts(self) -> Path:
        """Folder of all attempts, a folder each, named after its run id."""
        return self.state / "attempts"

    def manual_prefill(self, run_id: str) -> "AttemptPaths":
        """Folder of a ``watcher prefill`` job, which no journal follows."""
        return AttemptPaths(self.state / "prefills" / run_id)

    def attempt(self, run_id: str) -> "AttemptPaths":
        """Folder of one attempt: request.json, claim, exit.<restart>.json."""
        return AttemptPaths(self.attempts / run_id)


class AttemptPaths(msgspec.Struct, frozen=True):
    """Files of one attempt. The batch scripts use the same names."""

    folder: Path

    @property
    def request(self) -> Path:
        """The job's request."""
        return self.folder / "request.json"

    @property
    def claim(self) -> Path:
        """The owner that may run the attempt; created once, never replaced."""
        return self.folder / "claim"

    @property
    def expected_files(self) -> Path:
        """Paths, one per line, of files that a successful job leaves."""
        return self.folder / "expected.txt"

    @property
    def prefill_json(self) -> Path:
        """Outcome of a prefill job."""
        return self.folder / "prefill.json"

    @property
    def spawned_json(self) -> Path:
        """The process that the local executor started."""
        return self.folder / "spawned.json"

    @property
    def cancelled_json(self) -> Path:
        """Marks an attempt that the local executor was told to cancel."""
        return self.folder / "cancelled.json"

    def failure_reason_json(self, task: int | None) -> Path:
        """Reason why the newest run or array task failed.

        It lies here because the disk of the results may be full.
        """
        return self.folder / ("why.json" if task is None else f"why.{task}.json")

    def list_exit_files(self) -> list[Path]:
        """Exit records ``exit.<restart>.json``, or ``exit.<task>.<restart>.json`` of an array."""
        return list(self.folder.glob("exit.*.json"))


def report_html_path(results: Path) -> Path:
    """File of the report for a browser."""
    return results / "report.html"

"""`make demo`: a small model is trained while the watcher has its checkpoints scored and compared. Writes only under .demo/.

Three processes: the trainer, `watcher run`, and the scoring jobs that the watcher starts (with --slurm: that a real
slurmctld starts). Interrupted at any moment, the same command goes on from there.
"""

import argparse
import collections
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from rich.console import Console

from demo import corpus
from demo.show import ExpectedEvaluation, ProgressBoard, read_scores
from suites.common.errors import UserError
from suites.contract.comparison import CompareRequest, read_comparison_document
from suites.contract.paths import report_html_path
from suites.definitions.suite import SHIPPED_SUITES_FOLDER
from support.models.hf_checkpoint import write_hf_folder
from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.slurm_cluster.cluster import SlurmCluster
from support.slurm_cluster.install import install_slurm
from watcher.config.loader import load_config
from watcher.config.settings import Config
from watcher.journal.journal import read_journal
from watcher.reconcile.baselines import build_comparison_requests

ROOT = Path(__file__).resolve().parents[2]
SCHEDULE = {"stage1": (100, 200, 400, 600), "stage2": (700, 900)}
EXPECTED = [
    *(ExpectedEvaluation("stage1", "stage1", step) for step in SCHEDULE["stage1"]),
    ExpectedEvaluation("stage2", "stage1", SCHEDULE["stage1"][-1]),
    *(ExpectedEvaluation("stage2", "stage2", step) for step in SCHEDULE["stage2"]),
]
STUCK_SECONDS = 300.0
"""Seconds without any news before the demo gives up."""
FAILED_STATES = {"blocked", "cancelled", "lost"}
REPORT_SECONDS = 180.0
"""Seconds after the last score that the last comparisons and the page may take."""


class DemoFailed(Exception):  # noqa: N818  it is shown as a sentence
    """The demo did not come to its end; the message says where to look."""


def write_config(folder: Path, executor: str) -> Path:
    """watcher.yaml, as a person would write it."""
    stages = {
        stage: {
            "checkpoints": str(folder / "ckpts" / stage),
            "steps": list(steps),
            "suites": [f"suites/demo_{stage}_{tier}.yaml" for tier in ("ppl", "cf")],
        }
        for stage, steps in SCHEDULE.items()
    }
    stages["stage2"]["bridge"] = {"from": "stage1"}
    config = {
        "scratch": str(folder),
        "results": str(folder / "results"),
        "python": sys.executable,
        "executor": executor,
        "poll": "1s",
        "settle": "2s",
        "limits": {"max_running": 1, "slurm_calls_per_minute": 300},
        "slurm": {"gres": None, "cpus_per_task": 1, "time": "00:10:00"},
        "references": {"tiny": {"checkpoint": str(write_reference(folder)), "tokens": "1M"}},
        "stages": stages,
    }
    write_suites(folder)
    path = folder / "watcher.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def write_reference(folder: Path) -> Path:
    """A Hugging Face model of almost no size, whose tokens are bytes: something to be better than."""
    model = folder / "models" / "tiny"
    if not model.exists():
        temporary = model.with_name("tiny.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_hf_folder(temporary, tokenizer=False, config={"max_position_embeddings": 256})
        for path in filter(Path.is_file, BYTE_TOKENIZER.iterdir()):
            shutil.copyfile(path, temporary / path.name)
        temporary.rename(model)
    return model


def write_suites(folder: Path) -> None:
    """The demo's suites with the place of its data: `watcher` on the demo's config then needs no variable."""
    data = str(folder / "data")
    (folder / "suites").mkdir(exist_ok=True)
    for path in SHIPPED_SUITES_FOLDER.glob("demo_*.yaml"):
        suite = yaml.safe_load(path.read_text(encoding="utf-8"))
        for entry in (suite.get("slices") or suite.get("tasks") or {}).values():
            entry["data_files"] = [file.replace("${DEMO_DATA}", data) for file in entry["data_files"]]
        if "extends" in suite:  # a shipped name would be the shipped suite
            suite["extends"] = f"./{suite['extends']}.yaml"
        (folder / "suites" / path.name).write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")


def make_process_environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """For all three kinds of processes: no network, one thread each, caches under .demo."""
    return {
        **os.environ,
        **more,
        "PYTHONPATH": str(ROOT / "tests"),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }


class DemoProcess:
    """A process of the demo, with its log, ended with the demo."""

    def __init__(self, name: str, command: list[str], folder: Path, environ: Mapping[str, str]) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        self.messages: collections.deque[dict[str, object]] = collections.deque()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environ, cwd=folder, text=True
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """JSON lines are news; anything else goes to the log."""
        assert self.process.stdout is not None
        with self.log.open("a", encoding="utf-8") as log:
            for line in self.process.stdout:
                log.write(line)
                with contextlib.suppress(ValueError):
                    self.messages.append(json.loads(line))

    def has_failed(self) -> bool:
        """Whether it is over, and should not be."""
        return self.process.poll() not in {None, 0}

    def read_log_tail(self) -> str:
        """Where to look, and the end of it."""
        text = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "\n".join([f"{self.name} ended with {self.process.poll()}; the end of {self.log}:", *text[-15:]])

    def stop(self) -> None:
        """Ask, wait, insist."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def end_leftover_watcher(pid_file: Path, config: Path) -> None:
    """A demo that was killed hard leaves its watcher running: end that one, and no other."""
    try:
        pid = int(pid_file.read_text(encoding="utf-8"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return
    if str(config).encode() not in command:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 20
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < end:
        time.sleep(0.1)


@contextlib.contextmanager
def start_demo_slurm(folder: Path, *, with_slurm: bool) -> Iterator[dict[str, str]]:
    """The environment in which sbatch reaches a Slurm of the demo's own; empty where none is wanted."""
    if not with_slurm:
        yield {}
        return
    reason = install_slurm()
    if reason:
        raise DemoFailed(f"a Slurm of its own cannot be had here: {reason}; make demo runs without")
    cluster = SlurmCluster(folder / "cluster")
    cluster.start(nodes=1)
    try:
        yield cluster.environment()
    finally:
        cluster.halt()


def read_states(results: Path) -> dict[str, tuple[str, str]]:
    """Evaluation -> (state, reason), from the watcher's status.json."""
    try:
        document = json.loads((results / ".watcher" / "status.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    entries = [entry for stage in document["stages"].values() for entry in stage["evaluations"]]
    return {entry["evaluation"]: (entry["state"], entry.get("reason") or "") for entry in entries}


def follow_progress(board: ProgressBoard, folder: Path, trainer: DemoProcess, watcher: DemoProcess) -> None:
    """Until everything expected is scored. Raises Failed where that cannot be any more."""
    heard = time.monotonic()
    while True:
        before = (board.training.get("step"), dict(board.states), len(board.scores))
        while trainer.messages:
            board.training |= trainer.messages.popleft()
        board.states = read_states(folder / "results")
        for expected in EXPECTED:
            scores = read_scores(folder / "results", expected)
            if scores and board.states.get(expected.name, ("",))[0] == "scored":
                board.scores[expected.name] = scores
        board.refresh()
        if len(board.scores) == len(EXPECTED) and trainer.process.poll() == 0:
            return
        for child in (trainer, watcher):
            if child.has_failed() or (child is watcher and child.process.poll() is not None):
                raise DemoFailed(child.read_log_tail())
        bad = [f"{name} is {state}: {reason}" for name, (state, reason) in board.states.items() if state in FAILED_STATES]
        if bad:
            raise DemoFailed("\n".join([*bad, f"the jobs' logs are in {folder}/results/STAGE/eval_logs/slurm"]))
        if before != (board.training.get("step"), dict(board.states), len(board.scores)):
            heard = time.monotonic()
        elif time.monotonic() - heard > STUCK_SECONDS:
            raise DemoFailed(f"nothing new for {STUCK_SECONDS:.0f} s; see {trainer.log} and {watcher.log}")
        time.sleep(0.25)


def describe_missing_report(config: Config) -> str:
    """What is missing of comparisons and page; empty where both are up to date."""
    requests = build_comparison_requests(config, read_journal(config.paths))
    missing = [key for key, request in requests.items() if not _is_up_to_date(request)]
    if missing:
        return f"the comparison of {', '.join(missing)}"
    page = report_html_path(config.results)
    newest = max((request.candidate.paths.compare_json.stat().st_mtime_ns for request in requests.values()), default=0)
    return "" if page.exists() and page.stat().st_mtime_ns > newest else f"a newer {page}"


def _is_up_to_date(request: CompareRequest) -> bool:
    try:
        document = read_comparison_document(request.candidate.paths.compare_json)
    except UserError:
        return False
    return document is not None and document.request == request


def wait_for_report(config: Config, watcher: DemoProcess, seconds: float = REPORT_SECONDS) -> Path:
    """Wait for the last comparisons and the page, and give its path. DemoFailed after ``seconds``."""
    end = time.monotonic() + seconds
    while missing := describe_missing_report(config):
        if watcher.process.poll() is not None:
            raise DemoFailed(watcher.read_log_tail())
        if time.monotonic() > end:
            log = config.paths.children_log
            raise DemoFailed(f"all is scored, but {missing} was not made within {seconds:.0f} s; see {log} and {watcher.log}")
        time.sleep(0.25)
    return report_html_path(config.results)


def summarize_scores(board: ProgressBoard) -> str:
    """The sentence at the end. Raises Failed where training did not show in the scores."""
    first, last = (board.scores[EXPECTED[index].name] for index in (0, len(SCHEDULE["stage1"]) - 1))
    words = (
        f"stage1, step {SCHEDULE['stage1'][0]} to {SCHEDULE['stage1'][-1]}: perplexity {first.mean_ppl:.1f} to "
        f"{last.mean_ppl:.1f}, accuracy {first.mean_acc:.3f} to {last.mean_acc:.3f}"
    )
    if not (last.mean_ppl < first.mean_ppl and last.mean_acc > first.mean_acc):
        raise DemoFailed(f"{words}: the last checkpoint should beat the first on both")
    return words


def run_demo(folder: Path, console: Console, *, on_slurm: bool) -> None:
    """Everything, from the corpus to the table."""
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    console.print("text, tokenizer and cloze items from the standard library of this Python", highlight=False)
    corpus.build_corpus(folder)
    config = write_config(folder, "slurm" if on_slurm else "local")
    pid_file = folder / "watcher.pid"
    end_leftover_watcher(pid_file, config)
    with start_demo_slurm(folder, with_slurm=on_slurm) as more, contextlib.ExitStack() as stack:
        environ = make_process_environment(folder, more)
        watch = [str(Path(sys.executable).with_name("watcher")), "run", "--config", str(config)]
        watcher = DemoProcess("watcher", watch, folder, environ)
        stack.callback(watcher.stop)
        pid_file.write_text(str(watcher.process.pid), encoding="utf-8")
        trainer = DemoProcess("trainer", [sys.executable, str(ROOT / "tests/demo/train.py"), str(folder)], folder, environ)
        stack.callback(trainer.stop)
        console.print(f"training and watching; logs and results: {folder}", highlight=False, soft_wrap=True)
        with ProgressBoard(EXPECTED, console) as board:
            follow_progress(board, folder, trainer, watcher)
            board.print_news("all is scored; the last comparisons and the page are being made")
            page = wait_for_report(load_config(config, environ), watcher)
    console.print(board.render_table())
    console.print(summarize_scores(board), highlight=False)
    here = Path.cwd()
    places = [folder / "results", config, page]
    results, watcher_yaml, report = (path.relative_to(here) if path.is_relative_to(here) else path for path in places)
    console.print(f"{time.monotonic() - began:.0f} s. Results are in {results}. Look around:", highlight=False, soft_wrap=True)
    console.print(f"  {report}  (curves, comparisons and answers: open it in a browser)", highlight=False, soft_wrap=True)
    for words in ("status", f"why stage2 {SCHEDULE['stage1'][-1]}"):
        console.print(f"  .venv/bin/watcher {words} --config {watcher_yaml}", highlight=False, soft_wrap=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a small model and watch its checkpoints being scored.")
    parser.add_argument("--slurm", action="store_true", help="on a real Slurm, started for this (Debian, root)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo")
    given = parser.parse_args()
    folder = given.folder.resolve() / ("on_slurm" if given.slurm else "")
    console = Console()
    try:
        run_demo(folder, console, on_slurm=given.slurm)
    except KeyboardInterrupt:
        console.print("\ninterrupted; run it again and it goes on from here")
        return 130
    except DemoFailed as error:
        console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

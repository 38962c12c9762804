"""`watcher diff`: the paired comparison of two evaluations, in the terminal."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from suites.common.errors import ExitCode, UserError
from suites.common.yaml_reader import suggest_name
from suites.contract.paths import EvaluationPaths, StatePaths, format_reference_directory
from watcher.cli.options import config_option, copy_environment, echo_text
from watcher.config.settings import DEFAULT_PYTHON, REFERENCE_PREFIX, Config
from watcher.core.evaluation import EvaluationRecord, EvaluationState

_FORMS = "give STAGE/STEP, STAGE/DIRECTORY, an evaluation's folder of results, or FOLDER:STAGE/STEP"


class KnownEvaluation(NamedTuple):
    """An evaluation that A or B may mean."""

    stage: str
    step: int
    paths: EvaluationPaths
    record: EvaluationRecord | None = None
    """The journal's; None where it was found on disk."""

    @property
    def is_plain(self) -> bool:
        """Whether STAGE/STEP may mean it: a checkpoint's own evaluation or a bridge, no average and no other one."""
        if self.record is not None:
            return not (self.record.average or self.record.custom_directory or self.record.is_reference)
        return re.fullmatch(r"step_\d+(_from_.+)?", self.paths.directory) is not None

    @property
    def key(self) -> str:
        """``stage1/step_2000``."""
        return f"{self.stage}/{self.paths.directory}"


@click.command()
@click.argument("baseline", metavar="A")
@click.argument("candidate", metavar="B")
@click.option("--items", is_flag=True, help="Also the items and prompts that only one side got right.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
def diff(baseline: str, candidate: str, *, items: bool, as_json: bool, config: Path | None) -> None:
    """Compare B with A in pairs: over the same documents, items and prompts.

    A and B are STAGE/STEP, STAGE/DIRECTORY, or an evaluation's folder of results. FOLDER:STAGE/STEP is one of another state or
    results folder. Two such FOLDERs alone: of each stage the newest evaluation that both have.

    It is a single look: each total, and all entries together, at 5 %.
    """
    python, known = _load_known((baseline, candidate), config)
    documents: list[str] = []
    codes: list[int] = []
    for before, after in _find_pairs(baseline, candidate, known):
        outcome = _run_comparison(python, before, after, items=items, as_json=as_json)
        codes.append(outcome.returncode)
        documents += [outcome.stdout.decode().rstrip()] if as_json and outcome.returncode == 0 else []
    if documents:
        click.echo(documents[0] if len(codes) == 1 else f"[{','.join(documents)}]")
    sys.exit(next((code for code in codes if code), 0))


def _run_comparison(
    python: str, baseline: Path, candidate: Path, *, items: bool, as_json: bool
) -> "subprocess.CompletedProcess[bytes]":
    """``python -m scoring compare``, as the daemon starts it: only that interpreter has numpy. UserError."""
    from suites.common.python_path import drop_other_packages  # noqa: PLC0415

    argv = [python, "-P", "-m", "scoring", "compare", "--baseline", str(baseline), "--candidate", str(candidate)]
    argv += ["--items"] * items + ["--json"] * as_json
    stdout = subprocess.PIPE if as_json else None
    try:
        return subprocess.run(argv, env=drop_other_packages(copy_environment()), check=False, stdout=stdout)
    except OSError as error:
        hint = "set python: in the config to an interpreter with the scorer"
        raise UserError(f"cannot be started ({error.strerror})", location=python, hint=hint) from error


def _load_known(names: Sequence[str], config: Path | None) -> tuple[str, list[KnownEvaluation]]:
    """The scorer's interpreter, and the config's evaluations.

    Two folders need no config: without one the default interpreter compares them.
    """
    from watcher.config.loader import load_config  # noqa: PLC0415
    from watcher.journal.journal import read_journal  # noqa: PLC0415

    try:
        loaded = load_config(config, copy_environment())
    except UserError:
        if config is not None or not all(_split_folder(name) for name in names):
            raise
        echo_text(f"No config is used: {DEFAULT_PYTHON} compares", err=True)
        return DEFAULT_PYTHON, []
    known = _list_journaled(read_journal(loaded.paths).records.values(), loaded)
    roots = {name: stage.root for name, stage in loaded.stages.items()}
    return loaded.python, _sort_by_step([*known, *_list_folders(roots.items(), {each.paths.folder for each in known})])


def _list_journaled(records: Iterable[EvaluationRecord], config: Config) -> list[KnownEvaluation]:
    from watcher.core.result_paths import get_evaluation_paths  # noqa: PLC0415

    return [KnownEvaluation(each.stage, each.step, get_evaluation_paths(config, each), each) for each in records]


def _list_folders(roots: Iterable[tuple[str, Path]], known_folders: Iterable[Path] = ()) -> list[KnownEvaluation]:
    """Evaluations on disk below (stage, folder of results) pairs."""
    skipped = set(known_folders)
    found = []
    for stage, root in roots:
        for folder in (root / "by_checkpoint").glob("*"):
            if folder.is_dir() and folder not in skipped:
                step = re.match(r"step_(\d+)", folder.name)
                found.append(KnownEvaluation(stage, int(step[1]) if step else 0, EvaluationPaths(root, folder.name)))
    return found


def _sort_by_step(known: Iterable[KnownEvaluation]) -> list[KnownEvaluation]:
    return sorted(known, key=lambda each: (each.step, each.paths.directory))


def _split_folder(name: str) -> tuple[Path, str] | None:
    """The folder and the evaluation in it (empty: none is named); None where ``name`` begins with no folder."""
    for colon in reversed([match.start() for match in re.finditer(":", name)]):  # reference:NAME has one too
        folder, key = name[:colon], name[colon + 1 :]
        if "/" in folder and Path(folder).expanduser().is_dir():
            return Path(os.path.abspath(Path(folder).expanduser())), key  # noqa: PTH100  resolve() would follow links
    path = Path(name).expanduser()
    is_folder = path.is_dir() and (
        path.is_absolute() or name.startswith(("./", "../", "~")) or path.parent.name == "by_checkpoint"
    )
    return (Path(os.path.abspath(path)), "") if is_folder else None  # noqa: PTH100  as above


def _list_foreign(folder: Path) -> list[KnownEvaluation]:
    """The evaluations of another state or results folder. UserError where it is neither."""
    from suites.common.documents import read_json  # noqa: PLC0415
    from watcher.journal.journal import read_journal  # noqa: PLC0415

    state = StatePaths(folder)
    if state.journal.is_dir():
        try:
            status = read_json(state.status_json)
        except (OSError, ValueError):
            status = None
        results = Path(str(status["results"])) if isinstance(status, dict) and status.get("results") else folder.parent
        known = []
        for record in read_journal(state).records.values():
            attempted = "" if record.attempt is None else record.attempt.results
            root = Path(record.results or attempted or results / record.stage)
            known.append(KnownEvaluation(record.stage, record.step, EvaluationPaths(root, record.directory), record))
        return _sort_by_step(known)
    # A stage with a folder of results of its own has by_checkpoint directly in it.
    roots = [path.parent for pattern in ("by_checkpoint", "*/by_checkpoint") for path in sorted(folder.glob(pattern))]
    if not roots:
        raise UserError("is neither a state folder nor a folder of results", location=folder, hint=_FORMS)
    return _sort_by_step(_list_folders((root.name, root) for root in roots))


def _find_pairs(baseline: str, candidate: str, known: Sequence[KnownEvaluation]) -> list[tuple[Path, Path]]:
    """Results folders of the two, or of each stage's newest evaluation in two whole folders. UserError."""
    sides = [_split_folder(name) for name in (baseline, candidate)]
    is_whole = [side is not None and not side[1] and side[0].parent.name != "by_checkpoint" for side in sides]
    if all(is_whole):
        return _pair_newest(*(side[0] for side in sides if side is not None))
    folders = []
    for name, side, is_foreign in zip((baseline, candidate), sides, is_whole, strict=True):
        if is_foreign:
            raise UserError("names no evaluation", location=name, hint="give FOLDER:STAGE/STEP, or two folders")
        if side is not None and not side[1]:
            folders.append(side[0])
        else:
            folders.append(_select(name if side is None else side[1], known if side is None else _list_foreign(side[0])))
    return [(folders[0], folders[1])]


def _pair_newest(before: Path, after: Path) -> list[tuple[Path, Path]]:
    """The newest evaluation of each stage with scores in both folders."""
    sides = [{each.key: each for each in _list_foreign(folder) if _has_scores(each)} for folder in (before, after)]
    newest = {each.stage: key for key, each in sides[1].items() if key in sides[0]}
    if not newest:
        message = f"has no scored evaluation in common with {before}"
        raise UserError(message, location=after, hint="give FOLDER:STAGE/STEP on each side", code=ExitCode.DATA_MISSING)
    common = sum(key in sides[0] for key in sides[1])
    echo_text(
        f"Both have {common} scored evaluations; of each stage the newest is compared: {', '.join(newest.values())}", err=True
    )
    return [(sides[0][key].paths.folder, sides[1][key].paths.folder) for key in newest.values()]


def _has_scores(evaluation: KnownEvaluation) -> bool:
    return any(evaluation.paths.folder.glob("tier*.json"))


def _select(name: str, known: Sequence[KnownEvaluation]) -> Path:
    """The results folder of STAGE/DIRECTORY, STAGE/STEP, or STAGE/reference:NAME. UserError, also where it has no scores."""
    stage, slash, wanted = name.rpartition("/")
    wanted = wanted.removeprefix(REFERENCE_PREFIX)
    keys = [f"{stage}/{directory}" for directory in (wanted, f"step_{wanted}", format_reference_directory(wanted))]
    matching = next((found for key in keys if (found := [each for each in known if each.key == key])), [])
    same_step = [each for each in known if wanted.isdecimal() and (each.stage, each.step) == (stage, int(wanted))]
    matching = matching or [each for each in same_step if each.is_plain]
    if not slash or not matching:
        raise UserError("is no evaluation", location=name, hint=_hint_names(name, same_step, known))
    if len(matching) > 1:
        hint = f"give one of {', '.join(each.key for each in matching)}"
        raise UserError("may be several evaluations", location=name, hint=hint)
    _check_scores(name, matching[0])
    return matching[0].paths.folder


def _hint_names(name: str, same_step: Sequence[KnownEvaluation], known: Sequence[KnownEvaluation]) -> str:
    if same_step:  # an average is another evaluation than its last step
        return f"that step has {', '.join(each.key for each in same_step)}: give such a name"
    suggestion = suggest_name(name, [each.key for each in known]) if known else ""
    return f"{suggestion}{'' if suggestion.endswith('?') else '.'} {_FORMS}" if suggestion else _FORMS


def _check_scores(name: str, evaluation: KnownEvaluation) -> None:
    """UserError with the journal's reason where there is nothing to compare."""
    if _has_scores(evaluation):
        return
    record = evaluation.record
    if record is None or record.state is EvaluationState.SCORED:
        message, hint = "has no scores", f"its results folder would be {evaluation.paths.folder}"
    else:
        message = f"is {record.state.value}{': ' if record.full_reason else ''}{record.full_reason}"
        hint = f"see `watcher why {record.stage} {record.directory}`"
    raise UserError(message, location=name, hint=hint, code=ExitCode.DATA_MISSING)

"""Jobs among anything else that a command writes: names with any characters, headings, banners, half an output."""

import pytest

from support.fakes.slurm_rows import MARKS, accounting_row, queue_row, read_accounting, read_queue
from watcher.core.executor import AnswerDoubtful, ExecutorUnreachable
from watcher.executors.slurm import SlurmExecutor
from watcher.executors.slurm_commands import CommandResult
from watcher.executors.slurm_parsers import parse_accounting, parse_queue
from watcher.executors.slurm_records import RecordMarks

HEADINGS = ["CLUSTER: lab", "", "*** Maintenance on Monday ***", "JOBID|STATE", "squeue: warning: 3 | 4", "eval-2", "7"]
ODD_NAMES = [
    "a\nb",
    "\n",
    "a|b,c;d",
    "ünïcode \u2028\u0085 name",
    "\x1e\x1f\x1d",
    "CLUSTER: x",
    "eval-1\x1f",
    "%j%k",
    "'; rm -rf $(HOME) \\",
]


@pytest.mark.parametrize("heading", HEADINGS)
def test_lines_between_records_hide_no_job(heading):
    first, second = ({"%F": str(number), "%j": f"eval-{number}"} for number in (1, 2))
    assert list(read_queue(heading, queue_row(**first), heading, queue_row(**second), heading)) == ["eval-1", "eval-2"]
    rows = [accounting_row(JobID=str(number), JobName=f"eval-{number}") for number in (1, 2)]
    assert list(read_accounting(heading, rows[0], heading, rows[1], heading)) == ["eval-1", "eval-2"]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("field", ["name", "comment", "reason"])
def test_other_jobs_may_be_called_anything(name, field):
    other = {"name": "%j", "comment": "%k", "reason": "%r"}[field]
    jobs = read_queue(queue_row(**{"%F": "3", "%j": "other", other: name}), queue_row())
    assert (jobs["eval-1"].job_id, len(jobs)) == ("7", 2)
    if field != "reason":
        other = {"name": "JobName", "comment": "Comment"}[field]
        jobs = read_accounting(accounting_row(JobID="3", **{"JobName": "other", other: name}), accounting_row())
        assert (jobs["eval-1"].job_id, len(jobs)) == ("7", 2)


def test_a_name_that_copies_the_marks_of_another_process_hides_nothing():
    copied = RecordMarks("other").make_layout(["x"] * 8)
    assert list(read_queue(queue_row(**{"%F": "3", "%j": copied}), queue_row())) == [copied, "eval-1"]
    assert RecordMarks().separator != RecordMarks().separator


def test_an_odd_id_hides_no_job():
    assert read_accounting(accounting_row(JobID="12+0"))["eval-1"].job_id == "12+0"
    assert read_queue(queue_row(**{"%F": "?"}))["eval-1"].job_id == "?"


@pytest.mark.parametrize("kept", range(1, 40))
def test_half_an_output_is_never_an_answer(kept):
    whole = queue_row() + "\n" + queue_row(**{"%F": "8", "%j": "eval-2"})
    assert parse_queue(whole[: -kept - 1], MARKS).damage
    whole = accounting_row() + "\n" + accounting_row(JobID="8", JobName="eval-2")
    cut = whole[: -min(kept, 8) - 6]
    assert parse_accounting(cut, MARKS).damage


def test_half_an_output_is_unreachable():
    def run(command, *_):
        layout = next(option for option in command if option.startswith("--format=")).removeprefix("--format=")
        return CommandResult(0, f"{layout}\n{layout[:-20]}", "")

    with pytest.raises(ExecutorUnreachable, match="squeue: cannot be read: the output is cut off at ") as caught:
        SlurmExecutor(run=run).query_queue()
    assert not isinstance(caught.value, AnswerDoubtful)

"""Rows as squeue and sacct write them for the watcher."""

from watcher.executors.slurm_parsers import ACCOUNTING_FIELDS, QUEUE_FIELDS, parse_accounting, parse_queue
from watcher.executors.slurm_records import RecordMarks

MARKS = RecordMarks("t")

_QUEUE_VALUES = ("7", "RUNNING", "100", "200", "300", "None", "eval-1", "watcher:x")
_ACCOUNTING_VALUES = ("7", "COMPLETED", "0:0", "100", "200", "eval-1", "", "node1", "100", "cpu=8,gres/gpu=1,node=1", "300")


def queue_row(**changed):
    """A line of squeue; ``changed``: field -> value."""
    return MARKS.make_layout(tuple((dict(zip(QUEUE_FIELDS, _QUEUE_VALUES, strict=True)) | changed).values()))


def accounting_row(**changed):
    """A line of sacct, likewise."""
    return MARKS.separator.join((dict(zip(ACCOUNTING_FIELDS, _ACCOUNTING_VALUES, strict=True)) | changed).values())


def read_queue(*lines):
    """The jobs of these lines, all of which can be read."""
    parsed = parse_queue("\n".join(lines), MARKS)
    assert not parsed.damage
    return parsed.jobs


def read_accounting(*lines):
    """The same of sacct."""
    parsed = parse_accounting("\n".join(lines), MARKS)
    assert not parsed.damage
    return parsed.jobs

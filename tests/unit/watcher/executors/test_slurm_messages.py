"""Empty is empty, unreadable is unreadable: the lines beside an answer without a record, one a row."""

import re

import pytest

from watcher.core.executor import AnswerDoubtful, ExecutorUnreachable, PartitionLimits
from watcher.executors.slurm import SlurmExecutor
from watcher.executors.slurm_commands import CommandResult
from watcher.executors.slurm_messages import HARMLESS_LINES, NO_ANSWER_WORDS, Meaning, judge_line, judge_output

HARMLESS = [
    "squeue: error: Ignoring ControlMachine since SlurmctldHost is set.",
    "squeue: error: Ignoring BackupController since SlurmctldHost is set.",
    "squeue: error: Ignoring obsolete FastSchedule=1 option. Please remove from your configuration.",
    'squeue: error: The option "CacheGroups" is defunct, see man slurm.conf.',
    "sacct: error: Parsing error at unrecognized key: JobContainerBasePath",
    "sinfo: error: _parse_next_key: Parsing error at unrecognized key: Foo",
    "squeue: error: SelectType 1 specified more than once, latest value used",
    "squeue: error: SbcastParameters has been renamed to BcastParameters. Please update your configuration.",
    "squeue: error: KeepAliveTime parameter has moved to CommunicationParameters. Please update your config.",
    "squeue: error: NodeNames=n[1-4] CPUs=0 is invalid, reset to 1",
    "squeue: error: NodeNames=n1 CPUs=8 match no Sockets, Sockets*CoresPerSocket. Resetting CPUs.",
    "squeue: error: DefMemPerCPU ignored, since it's mutually exclusive with DefMemPerNode",
    'squeue: error: Bad value "x" for PriorityDecayHalfLife',
    "squeue: error: Bad TaskPluginParam: sockets",
    'squeue: error: Parse error in file /etc/slurm/slurm.conf line 12: "x"',
    "squeue: error: DebugFlags invalid: foo",
    "squeue: error: PreemptType and PreemptMode values incompatible",
    "squeue: error: Normalizing debug level from 11 to 9",
    "squeue: error: Duplicated NodeHostName n1 in the config file",
    "squeue: error: PriorityWeight values too high, job priority value may overflow",
    "squeue: error: MessageTimeout is too high for effective fault-tolerance",
    "squeue: error: mpi/pmix_v4: init: (null) [0]: mpi_pmix.c:193: pmi/pmix: can not load PMIx library",
    "squeue: error: spank: /etc/slurm/plugstack.conf:3: Failed to resolve plugin x.so",
    "squeue: error: cli_filter/lua: Could not load script",
    "squeue: error: plugin_load_from_file: dlopen(auth_foo.so): cannot open shared object file",
    "squeue: error: Couldn't find the specified plugin name for cli_filter/x looking at all files",
    "sinfo: error: Unable to open /var/log/slurm/client.log: Permission denied",
    "squeue: error: gres.conf: no file",
    "Shared connection to login01.hpc.example closed.",
    "Warning: Permanently added 'login01' (ED25519) to the list of known hosts.",
    "bash: warning: setlocale: LC_ALL: cannot change locale (en_US.UTF-8)",
    "stdin: is not a tty",
    "Note: your session will time out after 30 minutes",
    "",
    "Welcome to the cluster!",
    "squeue: warning: this command is a wrapper of the site",
]

NO_ANSWERS = [
    "squeue: error: Invalid user: x",
    "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
    "slurm_load_jobs error: Invalid job id specified",
    "slurm_load_partitions: slurm_load_partitions error: Slurm backup controller in standby mode",
    'squeue: error: Munge encode failed: Failed to access "/run/munge.sock": No such file or directory',
    "sacct: error: Problem talking to the database: Connection refused",
    "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to db:6819: Connection refused",
    "squeue: error: s_p_parse_file: cannot stat file /etc/slurm/slurm.conf: No such file or directory, retrying",
    "squeue: error: Protocol authentication error",
    "squeue: error: Socket timed out on send/recv operation",
    "squeue: error: Request timeout",
    "squeue: error: Zero Bytes were transmitted or received",
    "squeue: error: If munged is up, restart with --num-threads=10",
    "squeue: error: Incompatible versions of client and server code",
    "squeue: error: Invalid authentication credential",
    "squeue: error: Rate limit exceeded, please retry momentarily",
    "squeue: error: resolve_ctls_from_dns_srv: res_nsearch error: Could not resolve host",
    "squeue: error: Unable to establish controller machine: slurmctld is away",
]

DOUBTFUL = [
    "squeue: error: the site says no",
    "squeue: fatal: something new",
    "slurm_get_something: odd",
    "error: 17",
    "Permission denied (publickey).",
    "Killed",
    "bash: fork: retry: Resource temporarily unavailable",
    "/opt/slurm/bin/squeue: Input/output error",
    "sudo: a password is required",
    "bash: line 1: squeue: command not found",
    "cannot execute binary file",
]


@pytest.mark.parametrize("line", HARMLESS)
def test_a_harmless_line_is_nothing(line):
    assert judge_line(line) is Meaning.NOTHING
    assert SlurmExecutor(run=lambda *_: CommandResult(0, "", f"{line}\n")).query_queue() == {}


@pytest.mark.parametrize("line", NO_ANSWERS)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_words_of_no_answer_are_none(line, stream):
    assert judge_line(line) is Meaning.NO_ANSWER
    if stream == "stdout" and "error" not in line:
        return
    answer = CommandResult(0, f"{line}\n", "") if stream == "stdout" else CommandResult(0, "", f"welcome\n{line}\n")
    executor = SlurmExecutor(run=lambda *_: answer)
    for query in (
        executor.query_queue,
        lambda: executor.query_accounting(["eval-1"], 0),
        lambda: executor.query_partition_limits("a"),
    ):
        with pytest.raises(ExecutorUnreachable) as caught:
            query()
        assert line in str(caught.value)
        assert not isinstance(caught.value, AnswerDoubtful)


@pytest.mark.parametrize("line", DOUBTFUL)
def test_any_other_complaint_is_a_doubt(line):
    executor = SlurmExecutor(run=lambda *_: CommandResult(0, "", f"{line}\n"))
    with pytest.raises(AnswerDoubtful, match="squeue: "):
        executor.query_queue()
    with pytest.raises(AnswerDoubtful, match="sacct: "):
        executor.query_accounting(["eval-1"], 0)


def test_each_pattern_of_the_tables_has_a_row_here():
    for patterns, rows in ((HARMLESS_LINES, HARMLESS), (NO_ANSWER_WORDS, NO_ANSWERS)):
        lines = [re.sub(r"^(?:\w+: )?(?:(?:error|warning): )?", "", row) for row in rows]
        assert [pattern for pattern in patterns if not any(re.search(pattern, line, re.IGNORECASE) for line in lines)] == []


def test_the_gravest_line_counts():
    assert judge_output("", f"{DOUBTFUL[0]}\n{NO_ANSWERS[0]}\n{HARMLESS[0]}").line == NO_ANSWERS[0]
    assert judge_output("", f"{HARMLESS[0]}\n{DOUBTFUL[0]}\n").line == DOUBTFUL[0]


@pytest.mark.parametrize("line", [*NO_ANSWERS, *DOUBTFUL])
def test_records_are_an_answer_whatever_stands_beside_them(line):
    def run(command, *_):
        layout = next(option for option in command if option.startswith("--format=")).removeprefix("--format=")
        return CommandResult(0, f"CLUSTER: lab\n{layout}\n", f"{line}\n")

    executor = SlurmExecutor(run=run)
    assert list(executor.query_queue()) == ["%j"]
    assert executor.query_partition_limits("a") == PartitionLimits(source="partition %P")


def test_a_failure_is_never_an_answer():
    for text in ("", HARMLESS[0]):
        with pytest.raises(ExecutorUnreachable) as caught:
            SlurmExecutor(run=lambda *_, text=text: CommandResult(1, "", text)).query_queue()
        assert not isinstance(caught.value, AnswerDoubtful)

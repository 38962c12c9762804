"""What lines beside an answer say about it: nothing, doubt, or that it is none. Pure.

Exit code 0 without a record is an empty answer, unless a line says otherwise. Lines are those of stderr, and of stdout
where a wrapper joins both.
"""

import enum
import re
from typing import NamedTuple

HARMLESS_LINES: tuple[str, ...] = (
    # Slurm's configuration, which every command reads
    r"ignoring ",
    r"\bignored\b",
    r"unrecognized key",
    r"specified more than once, latest value used",
    r"\b(?:defunct|deprecated|obsolete)\b",
    r"please update your config",
    r"has been renamed to|has moved to|parameter .* has moved",
    r"(?:is|are) invalid, (?:reset|ignored)|\breset(?:ting)? (?:to|boards|cpus|value)",
    r"^bad (?:value|slurmctldport|taskpluginparam|selecttypeparameter|propagate\w*|enforcepartlimits)",
    r"^(?:parsing|parse error in|unable to parse line|error parsing) ",
    r"^(?:\w+flags|accountingstorageenforce|preemptmode=\S+|preemptexempttime=\S+|debugflags) .*invalid",
    r"^preempttype and preemptmode values",
    r"^normalizing debug level",
    r"^duplicated? nodehostname",
    r"priorityweight values too high",
    r"^messagetimeout is too high|^minjobage must be|^maxdbdmsgs value|^maxarraysize value",
    r"mutually exclusive with defmempernode|mutually exclusive with maxmempernode",
    # plugins and files that only other commands need
    r"can ?not load pmix|mpi/pmix",
    r"^(?:spank|cli_filter|plugstack|plugin_load_from_file|job_container|lua)\b",
    r"couldn't find the specified plugin name",
    r"\b(?:gres|cgroup|topology|acct_gather|job_container|plugstack)\.(?:conf|yaml)\b",
    r"unable to (?:open|stat|read) .*(?:log|\.conf)\b",
    # shells, ssh and locales around a wrapper
    r"^(?:shared )?connection to \S+ closed",
    r"^(?:warning: )?permanently added ",
    r"setlocale: |cannot change locale|falling back to the standard locale",
    r"^(?:stdin: )?is not a tty|tcgetattr|no job control in this shell|cannot set terminal process group",
    r"session (?:\w+ ){0,4}time ?out",
)
"""Lines that say nothing about jobs, whatever else stands in them."""

NO_ANSWER_WORDS: tuple[str, ...] = (
    r"invalid user",
    r"slurm_load_\w+ error",
    r"\bconnect",
    r"\bauth(?:entica|oriza|_)",
    r"\bmunge",
    r"tim(?:ed|e)[- ]?out",
    r"\bsocket",
    r"unable to contact|cannot contact",
    r"zero bytes",
    r"\bcredential",
    r"\bslurmdbd\b|\bslurmctld\b|\bdatabase\b",
    r"incompatible versions|unexpected message|message (?:send|receive) failure|insane message length",
    r"standby mode|rate limit",
    r"cannot stat file|unable to process configuration file|failed to fetch config",
    r"could not resolve|name or service not known|no route to host|host is unreachable",
)
"""Words of a question that reached nobody, or whose answer was lost."""

_COMPLAINT = re.compile(
    r"\b(?:error|fatal):|\bslurm_\w+"
    # a wrapper's shell, sudo or ssh, or the system, may have kept the command from running
    r"|permission denied|operation not permitted|input/output error|stale file handle|no space left|transport endpoint"
    r"|cannot (?:fork|execute|allocate)|\bfork: |^killed\b|segmentation fault|out of memory|resource temporarily unavailable"
    r"|a password is required|host key verification|broken pipe|command not found|no such file or directory"
    r"|^(?:ssh|sudo|kex_\w+): ",
    re.IGNORECASE,
)

_PREFIX = re.compile(r"^(?:[\w./-]+: )?(?:(?:error|fatal|warning|info|debug\d?): ?)?", re.IGNORECASE)
"""``squeue: error: `` before a line's own words."""

_HARMLESS = re.compile("|".join(HARMLESS_LINES), re.IGNORECASE)

_NO_ANSWER = re.compile("|".join(NO_ANSWER_WORDS), re.IGNORECASE)


class Meaning(enum.IntEnum):
    """What a line means for an answer without a record; the gravest counts."""

    NOTHING = 0
    DOUBT = 1
    """A complaint that no table knows: the answer may be none."""
    NO_ANSWER = 2


class Verdict(NamedTuple):
    """The gravest line beside an answer."""

    meaning: Meaning
    line: str = ""


def judge_line(line: str) -> Meaning:
    """What one line says about an answer without a record."""
    if _HARMLESS.search(_PREFIX.sub("", line.strip())):
        return Meaning.NOTHING
    if _NO_ANSWER.search(line):
        return Meaning.NO_ANSWER
    return Meaning.DOUBT if _COMPLAINT.search(line) else Meaning.NOTHING


def judge_output(stdout: str, stderr: str) -> Verdict:
    """The gravest line beside an answer without a record; the first of equal ones."""
    # A wrapper may join both streams, but what else stands on stdout are headings and banners.
    lines = [*stderr.splitlines(), *(line for line in stdout.splitlines() if _COMPLAINT.search(line))]
    verdicts = [Verdict(judge_line(line), line.strip()) for line in lines]
    return max(verdicts, key=lambda verdict: verdict.meaning, default=Verdict(Meaning.NOTHING))

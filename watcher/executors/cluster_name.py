"""Slurm's ClusterName, asked once an hour."""

import re
from collections.abc import Callable, Sequence

from watcher.core.executor import ExecutorUnreachable
from watcher.executors.slurm_commands import CommandResult

_MAX_AGE_SECONDS = 3600.0

_RETRY_SECONDS = 60.0
"""Seconds after a failed question, and before the next one."""

_CLUSTER_NAME = re.compile(r"^\s*ClusterName\s*=\s*(\S+)\s*$", re.MULTILINE | re.IGNORECASE)


def parse_cluster_name(text: str) -> str:
    """The ClusterName in ``scontrol show config``; empty where it is missing."""
    names = {match[1] for match in _CLUSTER_NAME.finditer(text)}
    return names.pop() if len(names) == 1 and "(null)" not in names else ""


class ClusterName:
    """The name of the cluster that Slurm's commands talk to.

    ``query`` runs a command; ``clock`` gives seconds. A name that was known stays known while Slurm does not answer.
    """

    def __init__(self, query: Callable[[Sequence[str]], CommandResult], clock: Callable[[], float]) -> None:
        self._query, self._clock = query, clock
        self._name, self._next_query = "", float("-inf")

    def get(self) -> str:
        """The name; empty where no question was answered yet."""
        now = self._clock()
        if now >= self._next_query:
            name = self._ask()
            self._name, self._next_query = name or self._name, now + (_MAX_AGE_SECONDS if name else _RETRY_SECONDS)
        return self._name

    def _ask(self) -> str:
        try:
            result = self._query(["scontrol", "show", "config"])
        except ExecutorUnreachable:
            return ""
        return parse_cluster_name(result.stdout) if result.exit_code == 0 else ""

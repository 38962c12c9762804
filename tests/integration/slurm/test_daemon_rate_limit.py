"""The limit of Slurm commands a minute, as it is shipped: it holds in every minute, and a burst of checkpoints gets through."""

import random
import re

from support.runs.watched_run import WatchedRun
from watcher.config.settings import LimitSettings
from watcher.core.executor import JobState
from watcher.daemon.polling import POLL_JITTER_FRACTION
from watcher.executors.slurm import SlurmExecutor
from watcher.executors.slurm_commands import CommandResult

STEPS = tuple(range(100, 2100, 100))


class Commands:
    """Answers Slurm's commands at once, and remembers when each was run."""

    def __init__(self, clock):
        self.clock = clock
        self.at = []
        self.jobs = {}
        """Id -> [name, comment, reason]."""

    def __call__(self, command, _environment, _timeout):
        self.at.append(self.clock())
        options = dict(word.split("=", 1) for word in command if "=" in word)
        if command[0] == "sbatch":
            number = str(len(self.jobs) + 1)
            self.jobs[number] = [options["--job-name"], options["--comment"], "JobHeldUser"]
            return CommandResult(0, f"{number}\n", "")
        if command[:3] == ["scontrol", "show", "config"]:
            return CommandResult(0, "ClusterName = lab\n", "")
        if command[0] == "scontrol":
            self.jobs[command[2]][2] = "Resources"
            return CommandResult(0, "", "")
        values = {"%T": "PENDING", "%V": "1700000000", "%S": "N/A", "%e": "N/A"}
        rows = [
            values | {"%F": number, "%r": reason, "%j": name, "%k": comment}
            for number, (name, comment, reason) in self.jobs.items()
        ]
        lines = [re.sub("%[A-Za-z]", lambda field, row=row: row[field[0]], options["--format"]) for row in rows]
        return CommandResult(0, "".join(f"{line}\n" for line in lines), "")

    def most_in_a_minute(self):
        """However the minute is laid."""
        return max(sum(begin <= at < begin + 60 for at in self.at) for begin in self.at)


def test_a_burst_of_twenty_is_submitted_in_minutes_within_ten_commands_a_minute(tmp_path, monkeypatch):
    draw = random.Random(0)
    watched = WatchedRun(tmp_path, monkeypatch, steps=STEPS)
    commands = Commands(watched.clock)
    watched.executor = SlurmExecutor(
        per_minute=LimitSettings().slurm_calls_per_minute, poll_seconds=60.0, environment={}, clock=watched.clock, run=commands
    )
    for step in STEPS:
        watched.write_checkpoint("stage1", step)
    began = watched.clock()
    ticks = 0
    while len(commands.jobs) < len(STEPS) or any(reason == "JobHeldUser" for _, _, reason in commands.jobs.values()):
        watched.tick(seconds=60.0 * draw.uniform(1, 1 + POLL_JITTER_FRACTION), jobs=False)
        ticks += 1
        assert ticks < 30
    minutes = (watched.clock() - began) / 60
    print(f"20 checkpoints in {minutes:.1f} min and {ticks} polls, at most {commands.most_in_a_minute()} commands in a minute")
    assert commands.most_in_a_minute() <= 10
    assert minutes < 6
    assert set(watched.list_states().values()) == {"queued"}
    assert all(job.state is JobState.PENDING for job in watched.executor.query_queue().values())
    waiting = [reason for reason in watched.list_reasons().values() if reason.startswith("submit limit: ")]
    assert waiting == [], "the limit is a reason to wait for the next poll, not for a refusal's"
    watched.daemon.close()

"""Several real daemons on one state folder, frozen and thawed at random, where locks hold, run out early, or do nothing."""

import contextlib
import random
import signal
import time
from collections import Counter

import pytest

from suites.common.errors import ExitCode
from support.fakes.slurm_daemon import FakeSlurmRun
from watcher.daemon.polling import SUPERSEDED_EXIT_CODE

ENDS = {int(ExitCode.TEMPORARY): "told that another one runs", SUPERSEDED_EXIT_CODE: "superseded"}


class Crowd:
    """``number`` daemons of one watch, each begun again when it ends because of another."""

    def __init__(self, watch, draw, *, number, locks):
        self.watch, self.draw, self.locks = watch, draw, locks
        self.counts = Counter()
        self.daemons = [self.begin() for _ in range(number)]
        self.thaw_at = {}

    def begin(self):
        self.counts["begun"] += 1
        return self.watch.start_another_daemon(locks=self.locks)

    @property
    def take_overs(self):
        """So far; one that journaled nothing leaves no file."""
        return len(list((self.watch.state / "journal").glob("*.jsonl")))

    def stir(self):
        """A moment passes; somebody may be frozen or thawed, and who ended comes again."""
        time.sleep(self.draw.uniform(0.02, 0.15))  # a random moment is the point
        now = time.monotonic()
        for place, daemon in enumerate(self.daemons):
            code = daemon.poll()
            if code is not None:
                assert code in ENDS, f"{code}\n{self.watch.read_log_tail()}"
                self.counts[ENDS[code]] += 1
                self.daemons[place] = self.begin()
                self.thaw_at.pop(daemon, None)
            elif self.thaw_at.get(daemon, now + 1) < now:
                daemon.send_signal(signal.SIGCONT)
                del self.thaw_at[daemon]
        daemon = self.draw.choice(self.daemons)
        if daemon not in self.thaw_at and self.draw.random() < 0.4:
            self.counts["frozen"] += 1
            daemon.send_signal(signal.SIGSTOP)
            self.thaw_at[daemon] = now + self.draw.uniform(0.05, 1.5)

    def end(self):
        """All are thawed and told to end."""
        for daemon in self.daemons:
            for number in (signal.SIGCONT, signal.SIGTERM):
                with contextlib.suppress(ProcessLookupError):
                    daemon.send_signal(number)
        for daemon in self.daemons:
            assert daemon.wait(timeout=90) in {0, -signal.SIGTERM, *ENDS}, (
                self.watch.read_log_tail()
            )  # it may not have got to listen yet


def play(root, draw, *, number, steps, locks):
    """Checkpoints appear while daemons are frozen and thawed; in the end one daemon alone. What happened, counted."""
    watch = FakeSlurmRun(root, steps={"base": list(range(10, 10 * steps + 1, 10)), "anneal": []}, job_seconds=0.3)
    crowd = Crowd(watch, draw, number=number, locks=locks)
    try:
        for step in watch.steps["base"]:
            watch.write_checkpoint("base", step)
            wanted = crowd.take_overs + 2
            end = time.monotonic() + 120
            while crowd.take_overs < wanted:
                assert time.monotonic() < end, watch.read_log_tail()
                crowd.stir()
    finally:
        crowd.end()
    last = watch.start_another_daemon()
    watch.wait_until(lambda: last.poll() is not None or (watch.is_status_of(last) and watch.is_settled()))
    assert watch.end_daemon(last) == 0, watch.read_log_tail()
    watch.check_invariants()
    return crowd.counts | {"take-overs": crowd.take_overs}


@pytest.mark.parametrize("locks", ["lease is short", "do nothing"])
@pytest.mark.parametrize(
    ("number", "steps", "seeds"),
    [(3, 2, 1), pytest.param(5, 12, 3, marks=pytest.mark.slow)],
    ids=["three daemons", "five daemons"],
)
def test_daemons_frozen_and_thawed_run_each_evaluation_once(tmp_path, locks, number, steps, seeds):
    for seed in range(seeds):
        counts = play(tmp_path / str(seed), random.Random(seed), number=number, steps=steps, locks=locks)
        print(f"{number} daemons, {steps + 1} evaluations, locks: {locks}, seed {seed}: {dict(counts)}, 0 duplicates, 0 lost")

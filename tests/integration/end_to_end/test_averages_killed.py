"""A real daemon is SIGKILLed while it pins the members of an average, submits it and releases them: scored once, nothing left."""

import os
import shutil
import signal

import pytest
import yaml

from support.fakes.slurm_daemon import FakeSlurmRun

KILLS = 40


class AveragedRun(FakeSlurmRun):
    """Three checkpoints, of which the last is scheduled, and their average."""

    def __init__(self, root):
        super().__init__(root, steps={"base": [30]})
        config = yaml.safe_load(self.config.read_text())
        config["stages"]["base"]["average"] = {"last": 3, "every": 30}
        self.config.write_text(yaml.safe_dump(config))

    @property
    def expected_evaluations(self):
        return {"base/step_30", "base/step_30_avg3"}

    def is_settled(self):
        # A pin may be released a tick after the scores: a tick takes half a poll at most.
        return super().is_settled() and not any(files for _, _, files in os.walk(self.state / "pins"))


def life(root, kill_at):
    """One run whose first daemon is killed at an effect: whether it was, and the number of effects."""
    watch = AveragedRun(root)
    for step in (10, 20, 30):
        watch.write_checkpoint("base", step)
    first = watch.start_another_daemon(kill_at=kill_at)
    watch.wait_until(lambda: first.poll() is not None or watch.is_settled())
    if first.poll() is None:
        watch.end_daemon(first)
    assert first.returncode in {0, -signal.SIGKILL}, watch.read_log_tail()
    number = int(watch.last_effect.partition(" ")[0])
    if first.returncode:
        second = watch.start_another_daemon()
        watch.wait_until(lambda: second.poll() is not None or (watch.is_status_of(second) and watch.is_settled()))
        assert watch.end_daemon(second) == 0, watch.read_log_tail()
    watch.check_invariants()
    shutil.rmtree(root)
    return bool(first.returncode), number


@pytest.mark.slow
def test_an_average_is_scored_once_whatever_effect_is_the_last(tmp_path):
    was_killed, effects = life(tmp_path / "whole", None)
    assert not was_killed
    places = [effects * number // KILLS for number in range(KILLS)]
    kills = sum(life(tmp_path / str(place), place)[0] for place in places)
    assert kills >= KILLS - 5, "a quicker life has fewer idle polls, and may be over before the last of them"
    print(f"{kills} kills after effects {places} of {effects}: 0 duplicates, 0 lost, 0 pins left")

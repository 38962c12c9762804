"""A real daemon over Slurm's commands as executables is SIGKILLed after each of its effects in turn, and started again."""

import json
import signal

import pytest

from support.fakes.slurm_daemon import FakeSlurmRun

STEPS = {"base": [10], "anneal": []}
"""A checkpoint of the first stage, which is the second one's bridge."""


def life(root, kill_at):
    """One run whose first daemon is killed at an effect, and followed by a second: the first one's last effect, and its number.

    The effect is "" where all was scored, and the daemon had ended, before that one.
    """
    watch = FakeSlurmRun(
        root, steps=STEPS, settings={"pin": True, "mirror": str(root / "mirror"), "notify": f"cat >>{root}/told"}
    )
    watch.write_checkpoint("base", 10)
    first = watch.start_another_daemon(kill_at=kill_at)
    watch.wait_until(lambda: first.poll() is not None or watch.is_settled())
    if first.poll() is None:
        watch.end_daemon(first)  # it may be killed while it ends
    assert first.returncode in {0, -signal.SIGKILL}, watch.read_log_tail()
    number, _, last = watch.last_effect.partition(" ")
    if first.returncode:
        second = watch.start_another_daemon()
        watch.wait_until(lambda: second.poll() is not None or (watch.is_status_of(second) and watch.is_settled()))
        assert watch.end_daemon(second) == 0, watch.read_log_tail()
    watch.check_invariants()
    told = (root / "told").read_text().splitlines() if (root / "told").exists() else []
    news = [json.loads(line)["id"] for line in told]
    assert len(news) == len(set(news)), f"told twice: {news}"
    return (last if first.returncode else ""), int(number)


def tell(kills, seen):
    print(f"{kills} kills after {seen}: 0 duplicates, 0 lost, 0 held jobs left, 0 files that cannot be read")


def test_killed_after_effects_spread_over_its_life_everything_is_scored_once(tmp_path):
    last, effects = life(tmp_path / "whole", None)
    assert last == ""
    assert effects > 100
    chosen = [effects * place // 8 + 3 for place in range(0, 7, 2)]
    kills = sum(life(tmp_path / str(kill_at), kill_at)[0] != "" for kill_at in chosen)
    assert kills >= 2, "a quicker life has fewer idle polls, and may be over before the last of them"
    tell(kills, f"effects {chosen} of {effects}")


@pytest.mark.slow
def test_killed_after_every_effect_everything_is_scored_once(tmp_path):
    kill_at = 0
    while life(tmp_path / str(kill_at), kill_at)[0]:
        kill_at += 1
    assert kill_at > 100
    tell(kill_at, "every effect")

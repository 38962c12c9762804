from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.config.settings import Stage


def stage(**schedule):
    return Stage(name="s", checkpoints=Path("/c"), results=Path("/r"), **schedule)


@pytest.mark.parametrize(
    ("schedule", "wanted", "last"),
    [
        ({"steps": (100, 300)}, [100, 300], 300),
        ({"steps": (0,)}, [0], 0),
        ({}, [], None),
        ({"every": 100}, [100, 200, 300, 400, 500], None),
        ({"every": 100, "start": 50}, [50, 150, 250, 350, 450], None),
        ({"every": 100, "start": 0, "to": 250}, [0, 100, 200], 200),
        ({"every": 100, "to": 300}, [100, 200, 300], 300),
        ({"every": 200, "steps": (50, 500), "to": 450}, [50, 200, 400, 500], 500),
        ({"every": 200, "steps": (50,), "to": 450}, [50, 200, 400], 400),
        ({"steps": (100,), "final": True}, [100], None),
    ],
)
def test_a_schedule_wants_its_steps_and_knows_its_last(schedule, wanted, last):
    at = stage(**schedule)
    assert [step for step in range(501) if at.is_scheduled(step)] == wanted
    assert at.last_step == last


@given(
    steps=st.lists(st.integers(0, 50), max_size=3),
    every=st.none() | st.integers(1, 20),
    start=st.none() | st.integers(0, 30),
    to=st.none() | st.integers(0, 60),
    step=st.integers(-1, 60),
)
def test_the_next_step_is_the_first_one_wanted_after(steps, every, start, to, step):
    at = stage(steps=tuple(steps), every=every, start=start if every else None, to=to if every else None)
    assert at.find_next_step(step) == next((later for later in range(step + 1, 200) if at.is_scheduled(later)), None)
    if at.last_step is not None:
        assert at.is_scheduled(at.last_step)
        assert at.find_next_step(at.last_step) is None

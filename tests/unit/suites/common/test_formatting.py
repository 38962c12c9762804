"""Durations, times and sizes as people read them."""

import pytest

from suites.common.formatting import format_bytes, format_duration, format_local_time, format_utc


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (0.25, "0.2 s"),
        (1.2, "1 s"),
        (89, "89 s"),
        (90, "1 min"),
        (3599, "59 min"),
        (3599.9999, "1 h"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (86400, "1 d"),
        (200000, "2 d"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (5e12, "5000.0 GB")]
)
def test_sizes(size_bytes, text):
    assert format_bytes(size_bytes) == text


def test_times():
    assert format_utc(0) == "1970-01-01 00:00:00Z"
    assert len(format_local_time(0)) == len("1970-01-01 00:00:00")

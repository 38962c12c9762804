"""How far prefill is: bars for who looks on, and a line now and then in a log."""

import io

import pytest
from rich.console import Console

from scoring.data import prefill_progress as prefill_shown
from scoring.data.cache_entries import EntryProgress
from scoring.data.prefill_progress import PrefillDisplay

pytestmark = pytest.mark.scoring


def test_a_bar_says_documents_tokens_bytes_and_the_time_left(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        prefill_shown, "Console", lambda **_: Console(file=screen, force_terminal=True, width=140, legacy_windows=False)
    )
    with PrefillDisplay(2, interactive=True) as shown:
        for step in range(1, 6):
            shown.update(EntryProgress("general_web", 1_000_000 * step, 5_000_000, 700 * step, 4_400_000 * step))
            assert shown._bars is not None
            shown._bars.refresh()
            (task,) = shown._bars.tasks
            assert (task.completed, task.total, task.visible) == (1_000_000 * step, 5_000_000, step < 5)
    text = screen.getvalue()
    assert "general_web" in text
    assert "4,000,000/5,000,000" in text
    assert "2,800 documents, 17.6 MB" in text
    assert "0:00:0" in text, "an estimate of the time left"


def test_a_log_gets_the_same_in_a_line_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(prefill_shown.time, "monotonic", lambda: now[0])
    with PrefillDisplay(2, interactive=False) as shown:
        shown.update(EntryProgress("code", 0, 5_000_000, 0, 0))
        for second in range(1, 31):
            now[0] = second
            shown.update(EntryProgress("code", 100_000 * second, 5_000_000, 70 * second, 440_000 * second))
        shown.print_result("code: done")
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "code: 1,000,000 of 5,000,000, 700 documents, 4.4 MB, 40 s left (0 of 2 entries done)"
    assert len(err) == 3

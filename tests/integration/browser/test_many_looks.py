"""Hints are drawn neutrally, the best says how it was chosen, and the page says what is controlled."""

import pytest

from suites.contract.looks import CONTROL_SENTENCES
from support.samples.comparison import STAGE_STEPS
from support.samples.hints import CHOICE, show_hint
from support.samples.report import ReportSample


@pytest.fixture(scope="module")
def hinted(tmp_path_factory, render):
    sample = ReportSample(tmp_path_factory.mktemp("hints")).write_sample()
    show_hint(sample, "stage2", STAGE_STEPS["stage2"][-1])
    return render(sample)


def test_a_hint_has_its_own_sign_and_no_colour_of_better_or_worse(chromium, hinted):
    chromium.open_file(hinted)
    script = """
      const cells = [...document.querySelectorAll('.delta')].filter(each => each.title.startsWith('hint: '));
      const plain = getComputedStyle(document.querySelector('.delta:not(.good):not(.bad)')).color;
      return cells.map(each => [each.className.trim(), each.title, each.textContent, getComputedStyle(each).color === plain]);
    """
    cells = chromium.run(script)
    assert len(cells) >= 2
    for classes, title, text, is_plain in cells:
        assert classes == "delta"
        assert title.startswith(("hint: better at a single look only", "hint: worse at a single look only"))
        assert text.startswith("~ ")
        assert "at a single look only" in text
        assert is_plain


def test_the_page_says_in_four_sentences_what_is_controlled(chromium, hinted):
    chromium.open_file(hinted)
    text = chromium.run("return document.getElementById('foot').textContent")
    assert len(CONTROL_SENTENCES) == 4
    for sentence in CONTROL_SENTENCES:
        assert sentence in text


def test_the_best_says_how_it_was_chosen_and_that_this_inflates_it(chromium, hinted):
    chromium.open_file(hinted)
    script = "return [...document.querySelectorAll('#stage-1 .choice')].map(each => each.textContent)"
    assert chromium.run(script) == []
    chromium.run("document.querySelector('input[value=best]').click()")
    assert chromium.run(script) == [f"step {STAGE_STEPS['stage2'][-1]}: {CHOICE}"]

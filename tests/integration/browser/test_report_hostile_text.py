"""Hostile text in names, reasons and answers, broken results, and a page of the largest run: nothing breaks it."""

import json
import re
import shutil
import time

import pytest

from support import browser
from support.samples.report import ReportSample

EVIL = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'><!--\u2028\x1b[31m\x07\ud800&amp;\u202e"


@pytest.fixture(scope="module")
def evil(tmp_path_factory, render):
    sample = ReportSample(tmp_path_factory.mktemp("evil"), prompts=6).write_sample()
    path = sample.get_paths("stage4", 5000)
    lines = [json.loads(line) for line in path.generations.read_text().splitlines()]
    lines[0] |= {"name": EVIL, "category": EVIL, "answer": EVIL, "finish": EVIL, "messages": [{"role": EVIL, "content": EVIL}]}
    lines[1] |= {"answer": "a" * 1_000_000}
    lines[2] |= {"checks": [{"check": EVIL, "passed": False, "evidence": EVIL}]}
    path.generations.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tier3 = path.tier_json("tier3_cf")
    document = json.loads(tier3.read_text())
    document["tasks"][EVIL] = document["tasks"]["sciq"]
    tier3.write_text(json.dumps(document))
    run = json.loads(path.run_json.read_text())
    path.run_json.write_text(json.dumps(run | {"git_commit": EVIL}))
    status = json.loads(sample.config.paths.status_json.read_text())
    status |= {"warnings": [EVIL], "host": EVIL, "skipped": [{"evaluation": EVIL, "reason": EVIL}], "skipped_count": 1}
    sample.config.paths.status_json.write_text(json.dumps(status))
    sample.get_paths("stage2", 2000).tier_json("tier2_ppl").write_text("{ not json")
    shutil.rmtree(sample.get_paths("stage2", 6000).folder)
    sample.get_paths("stage2", 10000).tier_json("tier2_ppl").write_text('{"results": {"ppl": 3}}')
    sample.get_paths("stage2", 14000).compare_json.write_text("[]")
    sample.get_paths("stage2", 18000).tier_json("tier3_cf").write_text(
        json.dumps({"schema": 1, "checkpoint": {}, "tasks": {"x": [1e999, None]}})
    )
    return render(sample)


def test_hostile_text_is_shown_and_never_run(chromium, evil):
    chromium.open_file(evil)
    chromium.run("window.report.drawAll(); document.querySelectorAll('details').forEach(each => { each.open = true; });")
    assert chromium.run("return document.documentElement.dataset.ready") == "true"
    assert chromium.run("return window.broken") is None
    assert chromium.run("return document.querySelectorAll('script').length") == 3
    assert chromium.run("return document.querySelectorAll('img').length") == 0
    assert chromium.run("return document.body.innerText.includes('<img src=x onerror=')")
    console, asked = chromium.take_console_and_requests()
    assert console == []
    assert browser.list_outside_requests(asked, evil) == []


PLANTED = """<!doctype html><title>planted</title><img src='data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA='>
<img src='http://127.0.0.1:9/image'><img src='https://example.invalid/image'><img src='other.png'>
<img src='chrome://resources/images/add.svg'><iframe srcdoc="<img src='http://127.0.0.1:9/in-a-frame'>"></iframe>
<script>
fetch('http://127.0.0.1:9/fetch').catch(() => {});
navigator.sendBeacon('http://127.0.0.1:9/beacon', 'told');
new WebSocket('ws://127.0.0.1:9/socket');
</script>"""


def test_every_request_that_a_page_makes_is_seen(chromium, tmp_path):
    page = tmp_path / "planted.html"
    page.write_text(PLANTED)
    chromium.open_file(page)
    expected = {f"http://127.0.0.1:9/{name}" for name in ("image", "in-a-frame", "fetch", "beacon")}
    expected |= {"https://example.invalid/image", (tmp_path / "other.png").resolve().as_uri(), "ws://127.0.0.1:9/socket"}
    expected |= {"chrome://resources/images/add.svg"}
    seen, end = set(), time.monotonic() + 30
    while seen != expected and time.monotonic() < end:
        seen.update(browser.list_outside_requests(chromium.take_console_and_requests()[1], page))
        time.sleep(0.1)
    assert seen == expected


def test_what_the_browsers_own_pages_ask_for_is_not_the_pages(chromium, tmp_path):
    page = tmp_path / "quiet.html"
    page.write_text("<!doctype html><title>quiet</title><link rel=icon href='data:,'>")
    chromium.driver.get("chrome://new-tab-page/")
    chromium.driver.get(page.as_uri())  # while that is still loading; without ``open_file``, which begins anew
    console, asked = chromium.take_console_and_requests()
    assert console == []
    assert browser.list_outside_requests(asked, page) == []


def test_the_pages_policy_stops_a_script_that_got_in_all_the_same(chromium, evil):
    chromium.open_file(evil)
    script = """
      const script = document.createElement('script'); script.textContent = 'window.broken = 3'; document.body.append(script);
      const image = document.createElement('img'); image.src = 'https://example.invalid/x.png'; document.body.append(image);
      return fetch('https://example.invalid/').then(() => 'out', () => 'refused').then(said => [said, window.broken ?? null]);
    """
    assert chromium.run(script) == ["refused", None]
    console, _ = chromium.take_console_and_requests()
    assert sum("Content Security Policy" in message for message in console) >= 2


def test_broken_results_are_said_and_the_rest_is_shown(chromium, evil):
    said = chromium.open_file(evil).run("return document.querySelector('#stage-1').innerText")
    for words in (
        "tier2_ppl.json: not JSON",
        "tier2_ppl.json: missing",
        "written by another program",
        "compare.json: not a comparison",
    ):
        assert words in said
    points = (
        "window.report.drawAll(); return window.report.plots.find(plot => plot.key === 'stage2/tier2_ppl/code').chart.data[0]"
    )
    assert chromium.run(points) == [14000, 18000, 22000]


def test_a_megabyte_of_one_letter_makes_no_large_page(evil):
    assert evil.stat().st_size < 600_000
    assert "998800 more characters" in evil.read_text() or '"' + "a" * 1200 + '",998800' in evil.read_text()


def test_the_file_is_plain_ascii_json_inside_and_says_who_may_run(evil):
    text = evil.read_text(encoding="utf-8")
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1]
    assert data.isascii()
    assert not set("<>&") & set(data)
    assert json.loads(data)["answers"]["stage4"]["prompts"][-1]
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_two_hundred_evaluations_of_thirty_figures_stay_under_three_megabytes(chromium, tmp_path_factory, render):
    steps = {"stage1": tuple(range(1000, 1000 + 100 * 1000, 1000)), "stage2": tuple(range(500, 500 + 99 * 500, 500))}
    names = tuple(f"slice_number_{number}" for number in range(16)), tuple(f"task_number_{number}" for number in range(14)), ()
    sample = ReportSample(
        tmp_path_factory.mktemp("large"), steps=steps, of=lambda _stage: names, bridges={"stage2": ("stage1", 100_000)}
    )
    page = render(sample.write_sample())
    assert page.stat().st_size < 3_000_000
    chromium.open_file(page)
    assert chromium.run("return document.documentElement.dataset.ready") == "true"
    # Of each stage: slices, tasks, and the totals of perplexity, accuracy and bits per byte.
    assert chromium.run("return window.report.plots.length") == 2 * (16 + 14 + 3)
    assert chromium.run("return window.report.data.stages.reduce((sum, stage) => sum + stage.evaluations.length, 0)") == 200


def test_an_empty_run_says_so(chromium, tmp_path_factory, render):
    sample = ReportSample(
        tmp_path_factory.mktemp("empty"), steps={"stage1": (10,)}, bridges={}, of=lambda _stage: (("code",), (), ())
    ).write_sample()
    for path in (*sample.config.paths.journal.iterdir(), sample.config.paths.status_json):
        path.unlink()
    shutil.rmtree(sample.results / "stage1")
    said = chromium.open_file(render(sample)).run("return document.body.innerText")
    assert "Nothing is scored yet." in said
    assert "no watcher was running" in said
    console, _ = chromium.take_console_and_requests()
    assert console == []


def test_the_vendored_chart_library_is_npms():
    package = browser.find_npm_package("uplot")
    if package is None:
        pytest.skip("uplot was not fetched from npm (make browser)")
    for name, path in browser.VENDORED.items():
        assert (browser.VENDOR / name).read_bytes() == (package / path).read_bytes()
    assert (browser.VENDOR / "VERSION").read_text().strip() == browser.NPM_VERSIONS["uplot"]

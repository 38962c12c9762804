"""The page in a real browser: what it shows is what is on disk, nothing leaves it, and everybody can use it."""

import json

import pytest

from support import browser

RUN_AXE = (
    "const done = arguments[arguments.length - 1]; axe.run(document, {resultTypes: ['violations']}).then(found => done(found));"
)
POINTS = """
window.report.drawAll();
return window.report.plots.map(plot => ({key: plot.key, xs: plot.chart.data[0], ys: plot.chart.data[1], high: plot.chart.data[2],
  low: plot.chart.data[3], bridge: plot.chart.data[4]}));
"""


def findings(chromium):
    package = browser.find_npm_package("axe-core")
    if package is None:
        pytest.skip("axe-core was not fetched (make browser)")
    chromium.run((package / "axe.min.js").read_text(encoding="utf-8") + "; window.axe = axe;")
    found = chromium.driver.execute_async_script(RUN_AXE)
    return [(one["id"], one["impact"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found["violations"]]


def test_no_message_on_the_console_and_no_request_leaves_the_page(chromium, page):
    chromium.open_file(page)
    chromium.run("window.report.drawAll(); document.querySelectorAll('details').forEach(each => { each.open = true; });")
    assert chromium.run("return document.documentElement.dataset.ready") == "true"
    console, asked = chromium.take_console_and_requests()
    assert console == []
    assert [address for address in asked if address != page.resolve().as_uri() and not address.startswith("data:")] == []


def test_the_curves_are_what_the_tier_files_say(chromium, page, sample):
    found = {one["key"]: one for one in chromium.open_file(page).run(POINTS)}
    checked = 0
    for stage in sample.steps:
        slices, tasks, _ = sample.checkpoint_counts(stage)
        for tier, names, metric in (("tier2_ppl", slices, "ppl"), ("tier3_cf", tasks, "primary")):
            section = "slices" if tier == "tier2_ppl" else "tasks"
            files = [json.loads(sample.get_paths(stage, step).tier_json(tier).read_text()) for step in sample.steps[stage]]
            for name in names:
                curve = found[f"{stage}/{tier}/{name}"]
                entries = [file[section][name] for file in files]
                errors = [
                    entry["nll_per_token_stderr"] * entry["ppl"] if metric == "ppl" else entry["acc_per_char_stderr"]
                    for entry in entries
                ]
                assert curve["xs"] == list(sample.steps[stage])
                assert curve["ys"] == pytest.approx([entry[metric] for entry in entries], rel=1e-6)
                assert curve["high"] == pytest.approx(
                    [entry[metric] + error for entry, error in zip(entries, errors, strict=True)], rel=1e-6
                )
                assert curve["low"] == pytest.approx(
                    [entry[metric] - error for entry, error in zip(entries, errors, strict=True)], rel=1e-6
                )
                checked += 1
            totals = found[f"{stage}/{tier}/"]
            assert totals["ys"] == pytest.approx([file["summary"][metric] for file in files], rel=1e-6)
    assert checked == 90


def test_a_task_at_chance_has_its_bits_per_byte_beside_those_without_the_question(chromium, page, sample):
    chromium.open_file(page)
    _, tasks, _ = sample.checkpoint_counts("stage1")
    key = f"stage1/tier3_cf/{tasks[0]}/bpb"
    drawn = "const plot = window.report.plots.find(each => each.key === arguments[0]); if (!plot.chart) window.report.drawAll();"
    series = chromium.run(f"{drawn} return plot.chart.data;", key)
    files = [json.loads(sample.get_paths("stage1", step).tier_json("tier3_cf").read_text()) for step in sample.steps["stage1"]]
    assert series[1] == pytest.approx([file["tasks"][tasks[0]]["bpb"] for file in files], rel=1e-6)
    assert series[5] == [1.9] * len(files)
    assert "without the question 1.900" in chromium.run(
        "return document.querySelector(`[data-plot='${arguments[0]}']`).textContent", key
    )
    others = [f"stage1/tier3_cf/{name}/bpb" for name in tasks[1:]]
    assert chromium.run("return window.report.plots.filter(each => arguments[0].includes(each.key)).length", others) == 0


def test_the_bridge_is_a_line_at_its_own_score(chromium, page, sample):
    found = {one["key"]: one for one in chromium.open_file(page).run(POINTS)}
    bridge = json.loads(sample.get_paths("stage3", 22000).tier_json("tier2_ppl").read_text())
    line = found["stage3/tier2_ppl/code"]["bridge"]
    assert line == pytest.approx([bridge["slices"]["code"]["ppl"]] * 6, rel=1e-6)
    assert set(found["stage1/tier2_ppl/code"]["bridge"]) == {None}


def test_tokens_and_other_baselines_are_a_click_away(chromium, page, sample):
    chromium.open_file(page)
    before = chromium.run("return document.querySelector('#stage-2 .plots .now').textContent")
    chromium.run(
        "document.querySelector('input[value=tokens]').click(); document.querySelector('input[value=previous]').click();"
    )
    curve = next(one for one in chromium.run(POINTS) if one["key"] == "stage3/tier3_cf/sciq")
    file = json.loads(sample.get_paths("stage3", 12000).tier_json("tier3_cf").read_text())
    assert curve["xs"][-1] == file["checkpoint"]["tokens_seen"]
    assert chromium.run("return document.querySelector('#stage-2 .plots .now').textContent") != before


def test_a_table_sorts_by_any_column_up_and_down(chromium, page):
    chromium.open_file(page)
    script = """
      const table = [...document.querySelectorAll('#stage-1 table')].find(each => each.textContent.includes('objectives'));
      const button = [...table.querySelectorAll('thead button')].find(each => each.textContent === 'Perplexity');
      const read = () => [...table.querySelectorAll('tbody tr')].map(row => parseFloat(row.children[2].textContent));
      button.click(); const up = read(); button.click(); return [up, read(), button.closest('th').getAttribute('aria-sort')];
    """
    up, down, said = chromium.run(script)
    assert up == sorted(up)
    assert down == up[::-1]
    assert len(up) == 7
    assert said == "descending"


def test_a_chart_is_read_with_the_arrow_keys(chromium, page):
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415

    chromium.open_file(page)
    plot = chromium.driver.find_element("css selector", "#stage-2 .plots .plot")
    plot.send_keys(Keys.ARROW_RIGHT)
    plot.send_keys(Keys.ARROW_RIGHT)
    assert chromium.run("return document.getElementById('spoken').textContent").startswith("Perplexity: step 4000: ")
    plot.send_keys(Keys.ARROW_DOWN)
    assert chromium.run("return document.activeElement.getAttribute('aria-label')").startswith(
        "Accuracy, stage3, 6 checkpoints: "
    )


def test_answers_stand_side_by_side_with_the_bridges_and_differences_are_marked(chromium, page):
    chromium.open_file(page)
    script = """
      const box = document.querySelector('#answers details.prompt'); box.open = true;
      return new Promise(done => requestAnimationFrame(() => setTimeout(() => done([
        [...box.querySelectorAll('.pair h4')].map(each => each.textContent), box.querySelectorAll('del').length,
        [...box.querySelectorAll('ins')].map(each => each.textContent).join(' ')]), 50)));
    """
    heads, gone, new = chromium.run(script)
    assert heads[0].startswith("bridge, stage4/step_12000")
    assert heads[1].startswith("stage4/step_5000")
    assert gone > 0
    assert "- flour" in new


def test_provenance_opens_on_demand_and_closes_with_escape(chromium, page):
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415

    chromium.open_file(page)
    chromium.run("document.querySelector('#stage-1 tbody button.plain').click()")
    said = chromium.run("return document.querySelector('dialog').textContent")
    assert "NVIDIA H100" in said
    assert '"torch": "2.13.0"' in said
    chromium.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    is_closed = """
      return new Promise(done => {
        const isClosed = () => document.querySelector('dialog') === null;
        const check = tries => isClosed() || !tries ? done(isClosed()) : setTimeout(() => check(tries - 1), 100);
        check(100);
      });
    """
    assert chromium.run(is_closed)


def test_links_to_logs_are_relative_and_stay_in_the_results(chromium, page, sample):
    chromium.open_file(page)
    links = chromium.run("return [...document.querySelectorAll('section a[href]')].map(each => each.getAttribute('href'))")
    logs = [link for link in links if link.endswith(".out")]
    assert "./stage2/eval_logs/slurm/eval_stage2_22000_4100013.out" in logs
    assert all(link.startswith("./stage") for link in links if not link.startswith("#"))
    assert len(logs) == sum(len(sample.list_evaluations(stage)) for stage in sample.steps)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(chromium, page, dark):
    chromium.open_file(page, dark=dark)
    chromium.run(
        "window.report.drawAll(); document.querySelectorAll('details').forEach((each, i) => { each.open = i % 9 === 0; });"
    )
    serious = [one for one in findings(chromium) if one[1] in {"serious", "critical"}]
    assert serious == []


@pytest.mark.parametrize("width", [360, 800])
def test_a_narrow_window_scrolls_only_down(chromium, page, width):
    chromium.open_file(page, width=width, height=780)
    wide = "return [document.documentElement.scrollWidth, window.innerWidth]"
    content, window = chromium.run(wide)
    assert content <= window


def test_dark_follows_the_reader_and_print_is_light(chromium, page):
    chromium.open_file(page, dark=True)
    paper = "return getComputedStyle(document.documentElement).getPropertyValue('--paper').trim()"
    assert chromium.run(paper) == "#12161c"
    chromium.run("window.dispatchEvent(new Event('beforeprint'))")
    assert chromium.run(paper) == "#ffffff"
    assert chromium.run("return window.report.plots.every(plot => plot.chart)")
    chromium.run("window.dispatchEvent(new Event('afterprint'))")
    assert chromium.run(paper) == "#12161c"

"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const TIERS = {tier2_ppl: "Perplexity", tier3_cf: "Accuracy", tier4_sft_native: "Instructions"};
const PARTS = {tier2_ppl: "Slices", tier3_cf: "Tasks", tier4_sft_native: "Rates and categories"};
const SENSE = {tier2_ppl: "perplexity, lower is better", tier3_cf: "primary accuracy, higher is better", tier4_sft_native: "share of prompts, higher is better"};
const ROLES = {bridge: "the bridge", previous: "the step before", best: "the best so far"};
const WORDS = {better: ["good", "▲", "better"], worse: ["bad", "▼", "worse"], no_change_seen: ["", "=", "no change seen"], too_few_items: ["", "?", "too few items"]};
const ENDS = {pass: ["good", "✓", "pass"], fail: ["bad", "✗", "fail"], inconclusive: ["", "~", "inconclusive"]};
const view = {x: "steps", role: "bridge"};
const plots = [];
const redraw = [];

// ---------------------------------------------------------------- elements: text reaches the page as text only

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(3).filter(child => child !== null && child !== undefined && child !== "").map(child => child instanceof Node ? child : String(child)));
  return element;
}
const unseen = text => h("span", {class: "unseen"}, text);
const badge = ([tone, sign, word]) => h("span", {class: `badge ${tone}`}, h("span", {"aria-hidden": "true"}, sign), word);
const speak = text => { document.getElementById("spoken").textContent = text; };

// ---------------------------------------------------------------- numbers

const known = value => value !== null && value !== undefined;
const percent = figure => figure.tier !== "tier2_ppl";
function short(value, figure) {
  if (!known(value)) return "";
  if (percent(figure)) return `${(100 * value).toFixed(1)} %`;
  return value >= 1e6 ? value.toExponential(2) : value >= 1000 ? value.toFixed(0) : value.toPrecision(4);
}
function signed(value, figure) {
  const number = percent(figure) ? 100 * value : value;
  const size = Math.abs(number);
  const text = percent(figure) ? size.toFixed(1) : size >= 100 ? size.toFixed(0) : size >= 1 ? size.toFixed(2) : size.toPrecision(2);
  return `${number < 0 ? "−" : number > 0 ? "+" : "±"}${text}`;
}
function plain(value, figure) {
  const number = percent(figure) ? 100 * value : value;
  return percent(figure) ? number.toFixed(1) : Math.abs(number) >= 1 ? number.toFixed(2) : number.toPrecision(2);
}
function big(value) {
  if (!known(value)) return "";
  for (const [size, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]])
    if (Math.abs(value) >= size) return `${+(value / (unit === "k" ? 1e3 : size)).toPrecision(4)}${unit}`;
  return String(value);
}
function ago(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  if (whole < 5400) return `${Math.round(whole / 60)} min`;
  if (whole < 172800) return `${Math.round(whole / 3600)} h`;
  return `${Math.round(whole / 86400)} days`;
}
const day = at => new Date(1000 * at).toLocaleString(undefined, {dateStyle: "medium", timeStyle: "short"});
const label = (stage, one) => one.source === stage.name ? `step ${one.step}` : `${one.source} step ${one.step}`;

function change(found, figure, {interval = false} = {}) {
  if (!found) return null;
  const [delta, low, high, p, verdict] = found;
  const [tone, sign, word] = WORDS[data.verdicts[verdict]];
  const unit = percent(figure) ? " pts" : "";
  const range = interval && known(low) && known(high) ? ` [${signed(low, figure)}, ${signed(high, figure)}]` : "";
  const more = `${word}${known(low) ? `; 95 % interval ${plain(low, figure)} to ${plain(high, figure)}` : ""}${known(p) ? `; p = ${p < 0.0005 ? p.toExponential(1) : p.toFixed(3)}` : ""}`;
  return h("span", {class: `delta ${tone}`, title: more}, h("span", {"aria-hidden": "true"}, `${sign} `), `${signed(delta, figure)}${unit}${range}`, unseen(` ${word}`));
}
const newest = stage => { const own = stage.evaluations.map((one, i) => [one, i]).filter(([one, i]) => one.role === "own" && stage.figures.some(f => known(f.v[i]))); return own.length ? own[own.length - 1][1] : null; };
const changed = (stage, index, figure, role = view.role) => stage.changes[role][index]?.[stage.figures.indexOf(figure)] || null;
const name = figure => figure.name || TIERS[figure.tier] || figure.tier;
const result = (stage, index) => index === null ? null : stage.evaluations[index].against.bridge?.outcome;

// ---------------------------------------------------------------- charts

const colour = token => getComputedStyle(document.documentElement).getPropertyValue(token).trim();

function points(stage, figure) {
  const found = stage.evaluations.map((one, i) => ({one, i, x: view.x === "steps" ? one.step : one.tokens, y: figure.v[i], e: figure.e[i]}));
  return found.filter(point => point.one.role === "own" && known(point.x) && known(point.y)).sort((a, b) => a.x - b.x);
}
function evenly(values) {
  const most = Math.max(...values.filter(known).map(Math.abs));
  const [size, unit] = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]].find(([size, unit]) => most >= (unit === "k" ? 1e4 : size)) || [1, ""];
  return values.map(value => known(value) ? `${+(value / size).toPrecision(4)}${value ? unit : ""}` : "");
}
function ticks(value, figure, gap) {
  if (!percent(figure) && Math.abs(value) >= 1e5) return value.toExponential(1);
  const step = percent(figure) ? 100 * gap : gap;
  let digits = 0;
  while (digits < 5 && Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) > 1e-6) digits++;
  return percent(figure) ? `${(100 * value).toFixed(digits)} %` : value.toFixed(digits);
}
function draw(plot) {
  const {place, stage, figure, small} = plot;
  plot.chart?.destroy();
  const found = points(stage, figure), base = stage.bridge === null ? null : figure.v[stage.bridge];
  plot.points = found;
  const xs = found.map(point => point.x), ys = found.map(point => point.y);
  const high = found.map(point => point.y + (point.e ?? 0)), low = found.map(point => point.y - (point.e ?? 0));
  const line = xs.map(() => base);
  const seen = [...high, ...low, ...(known(base) ? [base] : [])];
  const least = Math.min(...seen), most = Math.max(...seen), pad = (most - least) * 0.08 || Math.abs(most) * 0.02 || 0.01;
  const span = xs.length ? xs[xs.length - 1] - xs[0] : 0, edge = span * 0.03 || (xs[0] || 1) * 0.1;
  const ink = colour("--soft"), grid = colour("--line"), font = `${small ? 10.5 : 12}px system-ui, sans-serif`;
  const axis = {stroke: ink, font, grid: {stroke: grid, width: 1, dash: small ? [2, 3] : []}, ticks: {show: false}};
  plot.chart = new uPlot({
    width: Math.max(120, place.clientWidth), height: place.clientHeight || (small ? 122 : 232),
    padding: [8, 10, 0, 0], legend: {show: false},
    cursor: {y: false, drag: {x: false, y: false}, sync: {key: stage.name, setSeries: false}, points: {size: 7}},
    scales: {x: {time: false, range: xs.length ? [xs[0] - edge, xs[xs.length - 1] + edge] : [0, 1]}, y: {range: seen.length ? [least - pad, most + pad] : [0, 1]}},
    series: [
      {},
      {stroke: colour("--own"), width: 2, points: {show: true, size: small ? 4 : 6, fill: colour("--own")}},
      {stroke: "transparent", width: 0, points: {show: false}},
      {stroke: "transparent", width: 0, points: {show: false}},
      {stroke: colour("--bridge"), width: 1.5, dash: [6, 4], points: {show: false}},
    ],
    bands: [{series: [2, 3], fill: colour("--band")}],
    axes: [
      {...axis, size: small ? 22 : 28, gap: 3, space: small ? 52 : 64, values: (_, values) => evenly(values)},
      {...axis, size: small ? 46 : 54, gap: 4, space: small ? 26 : 34, values: (_, values, __, ___, gap) => values.map(value => ticks(value, figure, gap))},
    ],
    hooks: {setCursor: [chart => follow(plot, chart.cursor.idx)]},
  }, [xs, ys, high, low, line], place);
  plot.base = base;
}
function follow(plot, index) {
  const point = index === null || index === undefined ? null : plot.points[index];
  plot.now.replaceChildren(...(point ? [reading(plot, point)] : resting(plot)));
}
const reading = (plot, point) => `${view.x === "steps" ? `step ${big(point.x)}` : `${big(point.x)} tokens`}: ${short(point.y, plot.figure)}${known(point.e) ? ` ± ${plain(point.e, plot.figure)}` : ""}`;
function resting({stage, figure}) {
  const last = points(stage, figure).pop();
  if (!last) return ["not scored yet"];
  const found = change(changed(stage, last.i, figure), figure);
  return [h("b", null, short(last.y, figure)), ...(found ? [" ", found] : [])];
}
function summary({stage, figure}) {
  const found = points(stage, figure);
  if (!found.length) return `${name(figure)}, ${stage.name}: not scored yet`;
  const first = found[0], last = found[found.length - 1], base = stage.bridge === null ? null : figure.v[stage.bridge];
  return `${name(figure)}, ${stage.name}, ${found.length} checkpoints: ${short(first.y, figure)} at step ${first.one.step}, ${short(last.y, figure)} at step ${last.one.step}` + (known(base) ? `; the bridge has ${short(base, figure)}` : "") + ". Left and right arrow keys read the points, up and down go to the other charts.";
}
const sight = "IntersectionObserver" in window ? new IntersectionObserver(seen => { for (const one of seen) if (one.isIntersecting) { const plot = plots.find(each => each.place === one.target); if (plot && !plot.chart) draw(plot); } }, {rootMargin: "400px"}) : null;

function chart(stage, figure, small, first) {
  const now = h("span", {class: "now"});
  const place = h("div", {class: "plot", role: "img", tabindex: first ? "0" : "-1"});
  const plot = {place, stage, figure, small, now, at: -1, key: `${stage.name}/${figure.tier}/${figure.name}`};
  place.addEventListener("keydown", event => steer(plot, event));
  place.addEventListener("blur", () => { plot.at = -1; plot.chart?.setCursor({left: -10, top: -10}); });
  plots.push(plot);
  return h("figure", {"data-plot": plot.key}, h("figcaption", null, h("span", {class: "name", title: name(figure)}, name(figure)), now), place);
}
function steer(plot, event) {
  const step = {ArrowLeft: -1, ArrowRight: 1}[event.key], hop = {ArrowUp: -1, ArrowDown: 1}[event.key];
  if (!step && !hop) return;
  event.preventDefault();
  if (hop) {
    const all = [...plot.place.closest(".plots").querySelectorAll(".plot")], next = all[all.indexOf(plot.place) + hop];
    if (next) { plot.place.tabIndex = -1; next.tabIndex = 0; next.focus(); }
    return;
  }
  if (!plot.chart) draw(plot);
  plot.at = Math.min(plot.points.length - 1, Math.max(0, plot.at + step));
  const point = plot.points[plot.at];
  if (!point) return;
  plot.chart.setCursor({left: plot.chart.valToPos(point.x, "x"), top: 10});
  speak(`${name(plot.figure)}: ${reading(plot, point)}`);
}
function refresh() {
  for (const plot of plots) {
    plot.place.setAttribute("aria-label", summary(plot));
    plot.now.replaceChildren(...resting(plot));
    if (plot.chart) draw(plot); else sight ? sight.observe(plot.place) : draw(plot);
  }
  for (const again of redraw) again();
}
const drawAll = () => { for (const plot of plots) draw(plot); };

// ---------------------------------------------------------------- the parts of the page

function switches() {
  const one = (legend, key, choices, apply) => h("fieldset", null, h("legend", null, legend), h("span", {class: "choice"}, Object.entries(choices).map(([value, text]) =>
    h("label", null, h("input", {type: "radio", name: key, value, checked: view[key] === value, onchange: () => { view[key] = value; apply(); }}), text))));
  return h("div", {class: "switches"}, one("Over", "x", {steps: "steps", tokens: "tokens"}, refresh), one("Against", "role", {bridge: "bridge", previous: "step before", best: "best so far"}, refresh));
}
function theme(wanted) {
  document.documentElement.dataset.theme = wanted;
  for (const plot of plots) if (plot.chart) draw(plot);
}
const dark = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;

function top() {
  const daemon = data.daemon, alive = daemon.verdict === "alive";
  const age = () => `Written ${ago(Date.now() / 1000 - data.at)} ago, ${day(data.at)}`;
  const written = h("span", {id: "written"}, age());
  setInterval(() => { written.textContent = age(); }, 30000);
  document.getElementById("top").append(h("div", {class: "head"},
    h("div", null, h("h1", null, "Checkpoints"), h("p", null, written, " · ", h("span", {class: "path"}, data.results)),
      h("p", null, badge(alive ? ["good", "●", "the watcher was alive then"] : ["bad", "●", ({stale: "the watcher had stopped", stopped: "the watcher had been told to end"})[daemon.verdict] ?? "no watcher was running"]), " ", h("a", {href: "#health"}, "queue and health"))),
    h("button", {type: "button", id: "theme", onclick: () => { chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; theme(chosen); }}, "Light or dark")));
  const links = [["#glance", "At a glance"], ["#matrix", "What was forgotten"], ...data.stages.map((stage, i) => [`#stage-${i}`, stage.name]), ...(Object.keys(data.answers).length ? [["#answers", "Answers"]] : []), ["#health", "Health"]];
  document.getElementById("top").after(h("div", {class: "bar"}, h("div", null, h("nav", {"aria-label": "Parts of the report"}, h("ul", null, links.map(([href, text]) => h("li", null, h("a", {href}, text))))), switches())));
}

function card(stage, number) {
  const last = newest(stage), scored = stage.evaluations.filter(one => one.role === "own" && ["scored", "on disk"].includes(one.state)).length;
  const all = stage.evaluations.filter(one => one.role === "own").length, ended = result(stage, last);
  const place = h("div", {class: "card"});
  const fill = () => {
    const totals = stage.figures.filter(figure => !figure.name);
    place.replaceChildren(h("h2", null, h("a", {href: `#stage-${number}`}, stage.name), ended ? badge(ENDS[ended]) : null),
      h("p", {class: "of"}, `${scored} of ${all} scored${last === null ? "" : `; newest: ${label(stage, stage.evaluations[last])}`}`),
      h("dl", null, totals.map(figure => [h("dt", null, TIERS[figure.tier]), h("dd", {class: "value"}, last === null ? "–" : short(figure.v[last], figure) || "–"), h("dd", null, last === null ? null : change(changed(stage, last, figure), figure))])));
  };
  redraw.push(fill);
  return place;
}

function matrixPart() {
  const {stages, at, rows} = data.matrix;
  const lost = rows.filter(row => row.name).flatMap(row => row.cells.filter(cell => cell?.forgotten)).length;
  const body = [];
  let tier = null;
  for (const row of rows) {
    if (row.tier !== tier) { tier = row.tier; body.push(h("tr", {class: "group"}, h("th", {colspan: stages.length + 1, scope: "colgroup"}, `${TIERS[tier]} `, h("span", {class: "soft small"}, SENSE[tier])))); }
    body.push(h("tr", {class: row.name ? null : "total"}, h("th", {scope: "row", class: "name"}, row.name || "total"), row.cells.map(cell => {
      if (!cell) return h("td", {class: "soft"}, h("span", {"aria-hidden": "true"}, "·"), unseen("not in this stage"));
      const gone = cell.forgotten;
      return h("td", {class: gone ? "lost" : null}, short(cell.v, row), change(cell.change, row), gone ? h("span", {class: "lost"}, `${plain(gone[2], row)}${percent(row) ? " pts" : ""} worse than ${gone[0]}`) : null);
    })));
  }
  return h("section", {id: "matrix"}, h("h2", null, "What was forgotten"),
    h("p", {class: "meta"}, lost ? `${lost} ${lost === 1 ? "figure is" : "figures are"} worse than at the end of an earlier stage, by more than two standard errors.` : "No figure is worse than at the end of an earlier stage by more than two standard errors."),
    h("p", {class: "meta"}, "Each stage's newest checkpoint on its suites; below each figure its paired change since the stage's bridge."),
    h("div", {class: "wide", tabindex: "0", role: "region", "aria-label": "Stages by suites"}, h("table", {class: "matrix"}, h("thead", null, h("tr", null, h("th", {scope: "col"}, "Suite"), stages.map((stage, i) => h("th", {scope: "col"}, stage, h("br"), h("span", {class: "soft small"}, at[i] ? at[i].slice(stage.length + 1) : "nothing yet"))))), h("tbody", null, body))));
}

function goals(stage, index) {
  const found = index === null ? null : stage.evaluations[index].against.bridge;
  if (!found || !found.objectives.length) return null;
  return h("ul", {class: "goals", "aria-label": "Objectives"}, found.objectives.map(one => {
    const slices = one.metric === "nll_per_token";
    const size = value => slices ? `${value < 0 ? "−" : "+"}${Math.abs(value).toPrecision(3)}` : `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(1)}`;
    const unit = slices ? " nats a token" : " pts";
    const margin = one.kind === "hold" ? `, margin ${slices ? one.margin : (100 * one.margin).toFixed(1)}` : "";
    return h("li", null, badge(ENDS[one.outcome]), `${one.kind} ${one.name}`, h("span", {class: "soft"}, known(one.delta) ? `${size(one.delta)}${known(one.low) ? ` [${size(one.low)}, ${size(one.high)}]` : ""}${unit}${margin}` : one.why || "", known(one.plain) ? ` · plain rule: ${one.plain ? "kept" : "broken"}` : ""));
  }));
}

function sortable(heads, rows, caption) {
  const body = h("tbody");
  const order = {column: null, up: true};
  const show = () => {
    const sorted = [...rows];
    if (order.column !== null) sorted.sort((a, b) => {
      const [x, y] = [a.keys[order.column], b.keys[order.column]];
      if (!known(x) || !known(y)) return known(x) ? -1 : known(y) ? 1 : 0;
      return (x < y ? -1 : x > y ? 1 : 0) * (order.up ? 1 : -1);
    });
    body.replaceChildren(...sorted.map(row => row.element));
  };
  const columns = heads.map((head, i) => h("th", {scope: "col", class: head.n ? "n" : null}, head.fixed ? head.text : h("button", {type: "button", onclick: event => {
    order.up = order.column === i ? !order.up : true;
    order.column = i;
    for (const each of columns) each.removeAttribute("aria-sort");
    event.target.closest("th").setAttribute("aria-sort", order.up ? "ascending" : "descending");
    show();
  }}, head.text)));
  show();
  return h("div", {class: "wide", tabindex: "0", role: "region", "aria-label": caption}, h("table", null, h("caption", {class: "unseen"}, caption), h("thead", null, h("tr", null, columns)), body));
}

function stateOf(one) {
  const bad = ["blocked", "failed", "lost"].includes(one.state);
  return [one.state === "scored" ? null : badge([bad ? "bad" : "", bad ? "!" : "…", one.state]), one.reason && one.state !== "scored" ? ` ${one.reason}` : null,
    one.suspicious ? badge(["bad", "!", "suspicious"]) : null, one.outdated ? h("span", {class: "soft"}, " compared before its baselines changed") : null,
    one.errors.map(text => h("div", {class: "delta bad name"}, text)),
    one.refused.map(([role, why]) => h("div", {class: "soft"}, `not compared with ${ROLES[role] || role}: ${why}`))];
}

function table(stage) {
  const totals = stage.figures.filter(figure => !figure.name), place = h("div");
  const fill = () => {
    const heads = [{text: "step", n: true}, {text: "tokens", n: true}, ...totals.flatMap(figure => [{text: TIERS[figure.tier], n: true}, {text: "change [95 %]"}]), {text: "objectives"}, {text: "state", fixed: false}, {text: "more", fixed: true}];
    const rows = stage.evaluations.map((one, i) => ({
      keys: [one.step, one.tokens, ...totals.flatMap(figure => [figure.v[i], changed(stage, i, figure)?.[0]]), result(stage, i) || null, one.state],
      element: h("tr", {class: i === stage.bridge ? "base" : null},
        h("th", {scope: "row", class: "n"}, one.source === stage.name ? one.step : [h("span", {class: "soft"}, `${one.source} `), one.step], i === stage.bridge ? h("div", {class: "soft small"}, "bridge") : one.role === "other" ? h("div", {class: "soft small name"}, one.directory) : null),
        h("td", {class: "n"}, big(one.tokens)),
        totals.flatMap(figure => [h("td", {class: "n"}, short(figure.v[i], figure), known(figure.e[i]) ? h("span", {class: "soft"}, ` ± ${plain(figure.e[i], figure)}`) : null), h("td", null, change(changed(stage, i, figure), figure, {interval: true}))]),
        h("td", null, result(stage, i) ? badge(ENDS[result(stage, i)]) : null), h("td", null, stateOf(one)),
        h("td", {class: "small"}, one.links.map(([text, href]) => [h("a", {href, "aria-label": `${text} of ${label(stage, one)}`}, text), " "]), h("button", {type: "button", class: "plain", "aria-label": `provenance of ${label(stage, one)}`, onclick: () => provenance(stage, one)}, "provenance"))),
    }));
    place.replaceChildren(sortable(heads, rows, `Evaluations of ${stage.name}, changes against ${ROLES[view.role]}`));
  };
  redraw.push(fill);
  return place;
}

function provenance(stage, one) {
  const close = () => dialog.close();
  const facts = Object.assign({evaluation: one.key, checkpoint: one.checkpoint}, ...one.provenance.map(i => data.provenance[i]));
  const compared = Object.entries(one.against).map(([role, found]) => h("li", null, `${ROLES[role]}: ${found.key} (${found.source} step ${found.step})`, found.note ? `; ${found.note}` : "", found.refusals.length ? h("ul", null, found.refusals.map(([what, why]) => h("li", null, `${what} not compared: ${why}`))) : null));
  const dialog = h("dialog", {"aria-labelledby": "from"}, h("div", {class: "head"}, h("h2", {id: "from"}, `${stage.name}, ${label(stage, one)}`), h("button", {type: "button", onclick: close}, "Close")),
    compared.length ? [h("h3", null, "Compared with"), h("ul", {class: "small"}, compared)] : null, h("h3", null, "Provenance"), h("pre", null, JSON.stringify(facts, null, 2)));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function everything(stage) {
  const box = h("details", null, h("summary", null, `All figures of ${stage.name} as a table`));
  const fill = () => {
    if (!box.open) return;
    const shown = stage.evaluations.map((one, i) => i).filter(i => stage.figures.some(figure => known(figure.v[i])));
    const rows = stage.figures.map(figure => h("tr", null, h("th", {scope: "row", class: "name"}, figure.name || `${TIERS[figure.tier]}, total`), shown.map(i => h("td", {class: "n"}, short(figure.v[i], figure), change(changed(stage, i, figure), figure)))));
    box.replaceChildren(box.firstChild, h("div", {class: "wide", tabindex: "0", role: "region", "aria-label": `All figures of ${stage.name}`}, h("table", null, h("thead", null, h("tr", null, h("th", {scope: "col"}, "figure"), shown.map(i => h("th", {scope: "col", class: "n"}, label(stage, stage.evaluations[i]))))), h("tbody", null, rows))));
  };
  box.addEventListener("toggle", fill);
  redraw.push(fill);
  return box;
}

function stagePart(stage, number) {
  const last = newest(stage), ended = result(stage, last), base = stage.bridge === null ? null : stage.evaluations[stage.bridge];
  const totals = stage.figures.filter(figure => !figure.name), groups = [...new Set(stage.figures.map(figure => figure.tier))];
  return h("section", {id: `stage-${number}`}, h("div", {class: "title"}, h("h2", null, stage.name), ended ? badge(ENDS[ended]) : null),
    h("p", {class: "meta"}, base ? `Bridge: ${base.source} step ${base.step}. ` : stage.awaited ? `Bridge: ${stage.awaited}, not scored yet. ` : "No bridge. ", h("span", {class: "path"}, stage.checkpoints)),
    stage.notes.map(text => h("p", {class: "note"}, text)), goals(stage, last),
    totals.length ? [h("h3", null, "Totals"), h("div", {class: "plots"}, totals.map((figure, i) => chart(stage, figure, false, i === 0))),
      h("p", {class: "key"}, h("span", null, "checkpoints of this stage"), h("span", {class: "error"}, "± one standard error"), base ? h("span", {class: "bridge"}, "the bridge") : null)] : h("p", {class: "soft"}, "Nothing is scored yet."),
    groups.map(tier => { const figures = stage.figures.filter(figure => figure.tier === tier && figure.name); return figures.length ? [h("h3", null, PARTS[tier], h("small", null, SENSE[tier])), h("div", {class: "plots many"}, figures.map((figure, i) => chart(stage, figure, true, i === 0)))] : null; }),
    h("h3", null, "Evaluations"), table(stage), stage.figures.length ? everything(stage) : null);
}

// ---------------------------------------------------------------- answers

function differences(before, after) {
  const split = text => text.split(/(\s+)/).slice(0, 700);
  const a = split(before), b = split(after), long = Array.from({length: a.length + 1}, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) long[i][j] = a[i] === b[j] ? long[i + 1][j + 1] + 1 : Math.max(long[i + 1][j], long[i][j + 1]);
  const left = [], right = [];
  const put = (list, kind, text) => { const end = list[list.length - 1]; if (end && end.kind === kind) end.text += text; else list.push({kind, text}); };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { put(left, "", a[i++]); put(right, "", b[j++]); }
    else if (j >= b.length || (i < a.length && long[i + 1][j] >= long[i][j + 1])) put(left, "del", a[i++]);
    else put(right, "ins", b[j++]);
  }
  return [left, right].map(list => list.map(({kind, text}) => kind && text.trim() ? h(kind, null, text) : text));
}
const mark = answer => !answer ? "" : answer[3] === true ? "✓" : answer[3] === false ? "✗" : "·";
const passed = answer => !answer ? "no answer" : answer[3] === true ? "passed" : answer[3] === false ? "failed" : "not judged";
function side(title, answer, text) {
  if (!answer) return h("div", null, h("h4", null, title), h("p", {class: "soft"}, "no answer"));
  return h("div", null, h("h4", null, `${title} · ${passed(answer)}${answer[2] ? ` · ended by ${answer[2]}` : ""}`), h("p", {class: "text", tabindex: "0"}, text, answer[1] ? h("span", {class: "soft"}, ` … ${answer[1]} characters more`) : null),
    h("ul", {class: "checks"}, answer[4].map(([check, ok, evidence]) => h("li", null, h("span", {class: `delta ${ok === true ? "good" : ok === false ? "bad" : ""}`}, `${ok === true ? "✓" : ok === false ? "✗" : "·"} ${check}`), evidence ? h("span", {class: "soft"}, ` ${evidence}`) : null))));
}
function answersPart() {
  const stages = Object.keys(data.answers);
  if (!stages.length) return null;
  const state = {stage: stages[stages.length - 1], key: null, show: "differ"};
  const list = h("div"), count = h("p", {class: "meta", role: "status"}), pick = h("select", {"aria-label": "Whose answers"}), note = h("div");
  const options = () => {
    const found = data.answers[state.stage];
    state.key = found.evaluations[0] || found.bridge;
    pick.replaceChildren(...found.evaluations.map(key => h("option", {value: key}, key)));
    note.replaceChildren(...found.left_out.map(text => h("p", {class: "note"}, `Not shown: ${text}`)));
  };
  const fill = () => {
    const found = data.answers[state.stage];
    const both = found.prompts.map(prompt => ({prompt, was: found.bridge ? prompt.answers[found.bridge] : null, is: prompt.answers[state.key]}));
    const tests = {all: () => true, differ: ({was, is}) => !found.bridge || was?.[0] !== is?.[0], worse: ({was, is}) => was?.[3] === true && is?.[3] === false, better: ({was, is}) => was?.[3] === false && is?.[3] === true, failed: ({is}) => is?.[3] === false};
    const shown = both.filter(tests[state.show]);
    count.textContent = `${shown.length} of ${both.length} prompts. ${both.filter(tests.better).length} that failed at the bridge pass now, ${both.filter(tests.worse).length} that passed fail now.`;
    list.replaceChildren(...shown.map(({prompt, was, is}) => {
      const box = h("details", {class: "prompt"}, h("summary", null, h("span", {class: "name"}, prompt.name), h("span", {class: "soft"}, prompt.category),
        h("span", {class: "delta"}, found.bridge ? [`bridge `, h("span", {"aria-hidden": "true"}, mark(was)), unseen(passed(was)), " → "] : null, h("span", {"aria-hidden": "true", class: `delta ${is?.[3] === true ? "good" : is?.[3] === false ? "bad" : ""}`}, mark(is)), unseen(passed(is)))));
      box.addEventListener("toggle", () => {
        if (!box.open || box.children.length > 1) return;
        const [left, right] = was && is ? differences(was[0], is[0]) : [was?.[0] ?? "", is?.[0] ?? ""];
        box.append(h("p", {class: "text"}, prompt.text), h("div", {class: "pair"}, found.bridge ? side(`bridge, ${found.bridge}`, was, left) : null, side(state.key, is, right)));
      });
      return box;
    }));
  };
  pick.addEventListener("change", () => { state.key = pick.value; fill(); });
  const choose = h("select", {"aria-label": "Which stage", onchange: event => { state.stage = event.target.value; options(); fill(); }}, stages.map(stage => h("option", {value: stage, selected: stage === state.stage}, stage)));
  const filter = h("select", {"aria-label": "Which prompts", onchange: event => { state.show = event.target.value; fill(); }}, Object.entries({differ: "answers that differ", all: "all", better: "failed before, pass now", worse: "passed before, fail now", failed: "fail now"}).map(([value, text]) => h("option", {value}, text)));
  options();
  fill();
  return h("section", {id: "answers"}, h("h2", null, "Answers"), h("p", {class: "meta"}, "Side by side with the bridge's; what only one of the two says is marked."), h("p", {class: "filters"}, stages.length > 1 ? choose : null, " ", pick, " ", filter), count, note, list);
}

// ---------------------------------------------------------------- health

function healthPart() {
  const waiting = data.stages.flatMap(stage => stage.evaluations.filter(one => !["scored", "on disk"].includes(one.state)).map(one => ({stage, one})));
  const latency = data.latencies.complete_to_scored;
  const rows = waiting.map(({stage, one}) => ({keys: [stage.name, one.step, one.state, one.since], element: h("tr", null, h("td", null, stage.name), h("th", {scope: "row", class: "n"}, label(stage, one)), h("td", null, badge([["blocked", "failed", "lost"].includes(one.state) ? "bad" : "", "", one.state])), h("td", {class: "n"}, known(one.since) ? ago(data.at - one.since) : ""), h("td", {class: "name"}, one.reason), h("td", {class: "small"}, one.links.filter(([text]) => text !== "results").map(([text, href]) => [h("a", {href, "aria-label": `${text} of ${stage.name} ${label(stage, one)}`}, text), " "])))}));
  const queue = data.queue;
  return h("section", {id: "health"}, h("h2", null, "Queue and health"), h("p", null, data.daemon.line), h("p", {class: "meta"}, Object.entries(data.counts).map(([state, count]) => `${count} ${state}`).join(", "),
    latency ? `. From complete to scored: ${ago(latency.p50)} (median), ${ago(latency.p95)} (95th percentile), over ${latency.n}` : "", known(queue.jobs) ? `. ${queue.jobs} jobs of ours in the queue` : queue.error ? `. ${data.daemon.executor} could not be asked: ${queue.error}` : "", "."),
    data.warnings.map(text => h("p", {class: "note"}, text)),
    rows.length ? sortable([{text: "stage"}, {text: "step", n: true}, {text: "state"}, {text: "for", n: true}, {text: "why"}, {text: "logs", fixed: true}].map((head, i) => i > 3 ? {...head, fixed: true} : head), rows, "Evaluations that are not scored") : h("p", {class: "soft"}, "Nothing waits."),
    data.skipped.length ? h("details", null, h("summary", null, `Not looked after or not due: ${data.skipped_count}`), h("ul", {class: "small"}, data.skipped.map(skip => h("li", {class: "name"}, `${skip.evaluation}: ${skip.reason}`)))) : null);
}

function foot() {
  const said = [["Change", "Candidate minus baseline on the same items, rows or prompts: paired. The brackets hold its 95 % interval."], ["better, worse", "The paired test's verdict, after Holm's correction over the slices and tasks of one comparison. no change seen: the difference is not told from noise. too few items: no test could be made."],
    ["pass, fail, inconclusive", "improve: the named total must be better than the bridge's, by a one-sided test. hold: it must not be worse by more than the margin. The plain rule asks only for the sign."],
    ["Forgotten", "A stage's newest figure is worse than the best of the earlier stages' newest on the same data by more than twice the standard error of the difference, taken as independent."], ["±", "One standard error: clustered by document for perplexities; totals from those of their slices or tasks."]];
  document.getElementById("foot").append(h("h2", null, "How to read this"), h("dl", null, said.map(([word, text]) => [h("dt", null, word), h("dd", null, text)])), h("p", null, `checkpoint watcher ${data.version}; config: ${data.config}`));
}

document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
dark.addEventListener("change", () => { if (chosen === null) theme(dark.matches ? "dark" : "light"); });
top();
document.getElementById("main").append(...[h("div", {id: "glance", class: "cards"}, data.stages.map(card)), data.matrix.rows.length ? matrixPart() : null, data.stages.map(stagePart), answersPart(), healthPart()].flat().filter(Boolean));
foot();
refresh();
let resizing = null;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => { for (const plot of plots) if (plot.chart && plot.place.clientWidth) plot.chart.setSize({width: Math.max(120, plot.place.clientWidth), height: plot.place.clientHeight}); }, 120); });
let screen = null;
addEventListener("beforeprint", () => { screen = document.documentElement.dataset.theme; document.documentElement.dataset.theme = "light"; drawAll(); });
addEventListener("afterprint", () => { theme(screen); });
window.report = {data, plots, drawAll, view};
document.documentElement.dataset.ready = "true";
})();

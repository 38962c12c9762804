"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const TIERS = {tier2_ppl: "Perplexity", tier3_cf: "Accuracy", tier4_sft_native: "Instructions"};
const ENTRY_TITLES = {tier2_ppl: "Slices", tier3_cf: "Tasks", tier4_sft_native: "Rates and categories"};
const TIER_DESCRIPTIONS = {tier2_ppl: "perplexity, lower is better", tier3_cf: "primary accuracy, higher is better", tier4_sft_native: "share of prompts, higher is better"};
const REFERENCE_TOKENS = ["--reference-1", "--reference-2", "--reference-3"];
const BASELINE_NAMES = {bridge: "the bridge", previous: "the step before", best: "the best so far", last_member: "its last member", previous_average: "the average before"};
const VERDICT_BADGES = {better: ["good", "▲", "better"], worse: ["bad", "▼", "worse"], hint: ["", "~", "hint"], no_change_seen: ["", "=", "no change seen"], too_few_items: ["", "?", "too few items"]};
const OUTCOME_BADGES = {pass: ["good", "✓", "pass"], fail: ["bad", "✗", "fail"], inconclusive: ["", "~", "inconclusive"]};
const view = {x: "steps", role: "bridge"};
const plots = [];
const refreshers = [];

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
const hiddenText = text => h("span", {class: "visually-hidden"}, text);
const badge = ([tone, sign, word]) => h("span", {class: `badge ${tone}`}, h("span", {"aria-hidden": "true"}, sign), word);
const announce = text => { document.getElementById("spoken").textContent = text; };

// ---------------------------------------------------------------- numbers

const isKnown = value => value !== null && value !== undefined;
const isShare = figure => figure.tier !== "tier2_ppl" && !figure.measure;
function formatValue(value, figure) {
  if (!isKnown(value)) return "";
  if (isShare(figure)) return `${(100 * value).toFixed(1)} %`;
  return value >= 1e6 ? value.toExponential(2) : value >= 1000 ? value.toFixed(0) : value.toPrecision(4);
}
function formatSigned(value, figure) {
  const number = isShare(figure) ? 100 * value : value;
  const size = Math.abs(number);
  const text = isShare(figure) ? size.toFixed(1) : size >= 100 ? size.toFixed(0) : size >= 1 ? size.toFixed(2) : size.toPrecision(2);
  return `${number < 0 ? "−" : number > 0 ? "+" : "±"}${text}`;
}
function formatSize(value, figure) {
  const number = isShare(figure) ? 100 * value : value;
  return isShare(figure) ? number.toFixed(1) : Math.abs(number) >= 1 ? number.toFixed(2) : number.toPrecision(2);
}
function formatCount(value) {
  if (!isKnown(value)) return "";
  for (const [size, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]])
    if (Math.abs(value) >= size) return `${+(value / (unit === "k" ? 1e3 : size)).toPrecision(4)}${unit}`;
  return String(value);
}
function formatAge(seconds) {
  const total = Math.max(0, Math.round(seconds));
  if (total < 90) return `${total} s`;
  if (total < 5400) return `${Math.round(total / 60)} min`;
  if (total < 172800) return `${Math.round(total / 3600)} h`;
  return `${Math.round(total / 86400)} days`;
}
const formatDate = at => new Date(1000 * at).toLocaleString(undefined, {dateStyle: "medium", timeStyle: "short"});
const stepLabel = (stage, evaluation) => `${evaluation.role === "average" ? "average at " : ""}${evaluation.source === stage.name ? "" : `${evaluation.source} `}step ${evaluation.step}`;

function renderChange(change, figure, {interval = false} = {}) {
  if (!change) return null;
  const [delta, low, high, p, verdict, withinNoise] = change;
  const [tone, sign, badgeWord] = VERDICT_BADGES[data.verdicts[verdict]];
  const word = data.verdicts[verdict] === "hint" ? `hint: ${(delta < 0) === figure.lower ? "better" : "worse"} at a single look only` : badgeWord;
  const unit = isShare(figure) ? " pts" : "";
  const range = interval && isKnown(low) && isKnown(high) ? ` [${formatSigned(low, figure)}, ${formatSigned(high, figure)}]` : "";
  const title = `${word}${isKnown(low) ? `; 95 % interval ${formatSize(low, figure)} to ${formatSize(high, figure)}` : ""}${isKnown(p) ? `; p = ${p < 0.0005 ? p.toExponential(1) : p.toFixed(3)}` : ""}`;
  return h("span", {class: `delta ${tone}`, title}, h("span", {"aria-hidden": "true"}, `${sign} `), `${formatSigned(delta, figure)}${unit}${range}`, hiddenText(` ${word}`), withinNoise ? h("span", {class: "soft", title: "within the run's noise"}, h("span", {"aria-hidden": "true"}, " ≈"), hiddenText(" within the run's noise")) : null);
}
const findNewestIndex = stage => { const ownEvaluations = stage.evaluations.map((evaluation, i) => [evaluation, i]).filter(([evaluation, i]) => evaluation.role === "own" && stage.figures.some(f => isKnown(f.v[i]))); return ownEvaluations.length ? ownEvaluations[ownEvaluations.length - 1][1] : null; };
// An average has one baseline of its own, whatever the steps are compared with.
const getRole = evaluation => evaluation.role === "average" ? (evaluation.against.last_member ? "last_member" : "previous_average") : view.role;
const getChange = (stage, index, figure, role = getRole(stage.evaluations[index])) => stage.changes[role][index]?.[stage.figures.indexOf(figure)] || null;
const figureName = figure => figure.measure === "bits_per_byte" ? "Text, bits per byte" : figure.measure ? `${figure.name || "Gold answers"}, bits per byte` : figure.name || TIERS[figure.tier] || figure.tier;
const getOutcome = (stage, index) => index === null ? null : stage.evaluations[index].against.bridge?.outcome;

// ---------------------------------------------------------------- charts

const getColour = token => getComputedStyle(document.documentElement).getPropertyValue(token).trim();

function listPoints(stage, figure, role = "own") {
  const allPoints = stage.evaluations.map((evaluation, i) => ({evaluation, i, x: view.x === "steps" ? evaluation.step : evaluation.tokens, y: figure.v[i], e: figure.e[i], u: figure.u?.[i]}));
  return allPoints.filter(point => point.evaluation.role === role && isKnown(point.x) && isKnown(point.y)).sort((a, b) => a.x - b.x);
}
// The steps of both lines in one order: uPlot draws over one axis. A point without a step of its own has no ``y``.
function mergePoints(points, averages) {
  const merged = points.map(point => ({...point, average: averages.find(average => average.x === point.x)}));
  const alone = averages.filter(average => !points.some(point => point.x === average.x)).map(average => ({evaluation: average.evaluation, i: average.i, x: average.x, y: null, average}));
  return [...merged, ...alone].sort((a, b) => a.x - b.x);
}
// The points at which another training run begins: one curve must not mix two runs unseen.
const listRunChanges = points => points.filter((point, i) => i && point.evaluation.run && points[i - 1].evaluation.run && point.evaluation.run !== points[i - 1].evaluation.run);
function drawRunChanges(chart, points) {
  const {ctx, bbox} = chart;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = getColour("--soft");
  ctx.setLineDash([3, 3]);
  for (const point of listRunChanges(points)) {
    const x = chart.valToPos(point.x, "x", true);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.fillText(point.evaluation.run, x + 4, bbox.top + 12);
  }
  ctx.restore();
}
// Other models are level lines with their names: they have no steps.
function drawReferenceNames(chart, figure) {
  const {ctx, bbox} = chart;
  ctx.save();
  ctx.textAlign = "right";
  (figure.r || []).forEach(([name, value], i) => {
    ctx.fillStyle = getColour(REFERENCE_TOKENS[i % REFERENCE_TOKENS.length]);
    ctx.fillText(name, bbox.left + bbox.width - 4, chart.valToPos(value, "y", true) - 4);
  });
  ctx.restore();
}
function formatAxisCounts(values) {
  const largest = Math.max(...values.filter(isKnown).map(Math.abs));
  const [size, unit] = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]].find(([size, unit]) => largest >= (unit === "k" ? 1e4 : size)) || [1, ""];
  return values.map(value => isKnown(value) ? `${+(value / size).toPrecision(4)}${value ? unit : ""}` : "");
}
function formatTick(value, figure, gap) {
  if (!isShare(figure) && Math.abs(value) >= 1e5) return value.toExponential(1);
  const step = isShare(figure) ? 100 * gap : gap;
  let digits = 0;
  while (digits < 5 && Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) > 1e-6) digits++;
  return isShare(figure) ? `${(100 * value).toFixed(digits)} %` : value.toFixed(digits);
}
function drawPlot(plot) {
  const {element, stage, figure, small} = plot;
  plot.chart?.destroy();
  const points = mergePoints(listPoints(stage, figure), listPoints(stage, figure, "average")), bridgeValue = stage.bridge === null ? null : figure.v[stage.bridge];
  plot.points = points;
  const xs = points.map(point => point.x), ys = points.map(point => point.y), averageLine = points.map(point => point.average?.y ?? null);
  const high = points.map(point => point.y === null ? null : point.y + (point.e ?? 0)), low = points.map(point => point.y === null ? null : point.y - (point.e ?? 0));
  const bridgeLine = xs.map(() => bridgeValue), choiceAlone = points.map(point => point.u ?? null), references = figure.r || [];
  const shownValues = [...references.map(([, value]) => value), ...[...high, ...low, ...averageLine].filter(isKnown), ...choiceAlone.filter(isKnown), ...(isKnown(bridgeValue) ? [bridgeValue] : [])];
  const minimum = Math.min(...shownValues), maximum = Math.max(...shownValues), pad = (maximum - minimum) * 0.08 || Math.abs(maximum) * 0.02 || 0.01;
  const span = xs.length ? xs[xs.length - 1] - xs[0] : 0, edge = span * 0.03 || (xs[0] || 1) * 0.1;
  const axisColour = getColour("--soft"), gridColour = getColour("--line"), font = `${small ? 10.5 : 12}px system-ui, sans-serif`;
  const axis = {stroke: axisColour, font, grid: {stroke: gridColour, width: 1, dash: small ? [2, 3] : []}, ticks: {show: false}};
  plot.chart = new uPlot({
    width: Math.max(120, element.clientWidth), height: element.clientHeight || (small ? 122 : 232),
    padding: [8, 10, 0, 0], legend: {show: false},
    cursor: {y: false, drag: {x: false, y: false}, sync: {key: stage.name, setSeries: false}, points: {size: 7}},
    scales: {x: {time: false, range: xs.length ? [xs[0] - edge, xs[xs.length - 1] + edge] : [0, 1]}, y: {range: shownValues.length ? [minimum - pad, maximum + pad] : [0, 1]}},
    series: [
      {},
      {stroke: getColour("--own"), width: 2, spanGaps: true, points: {show: true, size: small ? 4 : 6, fill: getColour("--own")}},
      {stroke: "transparent", width: 0, spanGaps: true, points: {show: false}},
      {stroke: "transparent", width: 0, spanGaps: true, points: {show: false}},
      {stroke: getColour("--bridge"), width: 1.5, dash: [6, 4], points: {show: false}},
      {stroke: getColour("--soft"), width: 1.5, dash: [2, 3], points: {show: false}},
      {stroke: getColour("--average"), width: 2, spanGaps: true, points: {show: true, size: small ? 4 : 6, fill: getColour("--average")}},
      ...references.map((_, i) => ({stroke: getColour(REFERENCE_TOKENS[i % REFERENCE_TOKENS.length]), width: 1.5, points: {show: false}})),
    ],
    bands: [{series: [2, 3], fill: getColour("--band")}],
    axes: [
      {...axis, size: small ? 22 : 28, gap: 3, space: small ? 52 : 64, values: (_, values) => formatAxisCounts(values)},
      {...axis, size: small ? 46 : 54, gap: 4, space: small ? 26 : 34, values: (_, values, __, ___, gap) => values.map(value => formatTick(value, figure, gap))},
    ],
    hooks: {setCursor: [chart => showReading(plot, chart.cursor.idx)], draw: [chart => drawRunChanges(chart, points), chart => drawReferenceNames(chart, figure)]},
  }, [xs, ys, high, low, bridgeLine, choiceAlone, averageLine, ...references.map(([, value]) => xs.map(() => value))], element);
  plot.base = bridgeValue;
}
function showReading(plot, index) {
  const point = index === null || index === undefined ? null : plot.points[index];
  plot.reading.replaceChildren(...(point ? [describePoint(plot, point)] : describeNewest(plot)));
}
const describePoint = (plot, point) => `${view.x === "steps" ? `step ${formatCount(point.x)}` : `${formatCount(point.x)} tokens`}: ${[isKnown(point.y) ? `${formatValue(point.y, plot.figure)}${isKnown(point.e) ? ` ± ${formatSize(point.e, plot.figure)}` : ""}` : null, point.average ? describeAverage(point.average, plot.figure) : null].filter(text => text).join("; ")}${describeChoiceAlone(point, plot.figure)}`;
const describeAverage = (point, figure) => `average of ${point.evaluation.members.length}: ${formatValue(point.y, figure)}`;
const describeChoiceAlone = (point, figure) => isKnown(point.u) ? `; without the question ${formatValue(point.u, figure)}` : "";
function describeNewest({stage, figure}) {
  const last = listPoints(stage, figure).pop();
  if (!last) return ["not scored yet"];
  const change = renderChange(getChange(stage, last.i, figure), figure);
  return [h("b", null, formatValue(last.y, figure)), ...(change ? [" ", change] : []), describeChoiceAlone(last, figure)];
}
function describePlot({stage, figure}) {
  const points = listPoints(stage, figure), newestAverage = listPoints(stage, figure, "average").pop();
  const averageText = newestAverage ? `; ${describeAverage(newestAverage, figure)} at step ${newestAverage.evaluation.step}` : "";
  if (!points.length && newestAverage) return `${figureName(figure)}, ${stage.name}${averageText}.`;
  if (!points.length) return `${figureName(figure)}, ${stage.name}: not scored yet`;
  const first = points[0], last = points[points.length - 1], bridgeValue = stage.bridge === null ? null : figure.v[stage.bridge];
  return `${figureName(figure)}, ${stage.name}, ${points.length} checkpoints: ${formatValue(first.y, figure)} at step ${first.evaluation.step}, ${formatValue(last.y, figure)} at step ${last.evaluation.step}` + (isKnown(bridgeValue) ? `; bridge: ${formatValue(bridgeValue, figure)}` : "") + averageText + (figure.r || []).map(([name, value]) => `; ${name}: ${formatValue(value, figure)}`).join("") + describeChoiceAlone(last, figure) + listRunChanges(points).map(point => `; run ${point.evaluation.run} from step ${point.evaluation.step} on`).join("") + ". Left and right arrow keys read the points, up and down go to the other charts.";
}
const visibilityObserver = "IntersectionObserver" in window ? new IntersectionObserver(entries => { for (const entry of entries) if (entry.isIntersecting) { const plot = plots.find(candidate => candidate.element === entry.target); if (plot && !plot.chart) drawPlot(plot); } }, {rootMargin: "400px"}) : null;

function makeChart(stage, figure, small, first) {
  const reading = h("span", {class: "now"});
  const element = h("div", {class: "plot", role: "img", tabindex: first ? "0" : "-1"});
  const plot = {element, stage, figure, small, reading, at: -1, key: `${stage.name}/${figure.tier}/${figure.name}${figure.measure ? `/${figure.measure}` : ""}`};
  element.addEventListener("keydown", event => handleArrowKey(plot, event));
  element.addEventListener("blur", () => { plot.at = -1; plot.chart?.setCursor({left: -10, top: -10}); });
  plots.push(plot);
  return h("figure", {"data-plot": plot.key}, h("figcaption", null, h("span", {class: "name", title: figureName(figure)}, figureName(figure)), reading), element);
}
function handleArrowKey(plot, event) {
  const step = {ArrowLeft: -1, ArrowRight: 1}[event.key], move = {ArrowUp: -1, ArrowDown: 1}[event.key];
  if (!step && !move) return;
  event.preventDefault();
  if (move) {
    const elements = [...plot.element.closest(".plots").querySelectorAll(".plot")], next = elements[elements.indexOf(plot.element) + move];
    if (next) { plot.element.tabIndex = -1; next.tabIndex = 0; next.focus(); }
    return;
  }
  if (!plot.chart) drawPlot(plot);
  plot.at = Math.min(plot.points.length - 1, Math.max(0, plot.at + step));
  const point = plot.points[plot.at];
  if (!point) return;
  plot.chart.setCursor({left: plot.chart.valToPos(point.x, "x"), top: 10});
  announce(`${figureName(plot.figure)}: ${describePoint(plot, point)}`);
}
function refreshPage() {
  for (const plot of plots) {
    plot.element.setAttribute("aria-label", describePlot(plot));
    plot.reading.replaceChildren(...describeNewest(plot));
    if (plot.chart) drawPlot(plot); else visibilityObserver ? visibilityObserver.observe(plot.element) : drawPlot(plot);
  }
  for (const refresh of refreshers) refresh();
}
const drawAll = () => { for (const plot of plots) drawPlot(plot); };

// ---------------------------------------------------------------- the parts of the page

function makeSwitches() {
  const makeChoice = (legend, key, choices, apply) => h("fieldset", null, h("legend", null, legend), h("span", {class: "choice"}, Object.entries(choices).map(([value, text]) =>
    h("label", null, h("input", {type: "radio", name: key, value, checked: view[key] === value, onchange: () => { view[key] = value; apply(); }}), text))));
  return h("div", {class: "switches"}, makeChoice("Over", "x", {steps: "steps", tokens: "tokens"}, refreshPage), makeChoice("Against", "role", {bridge: "bridge", previous: "step before", best: "best so far"}, refreshPage));
}
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  for (const plot of plots) if (plot.chart) drawPlot(plot);
}
const darkPreference = matchMedia("(prefers-color-scheme: dark)");
let chosenTheme = null;

function buildHeader() {
  const daemon = data.daemon, alive = daemon.verdict === "alive";
  const age = () => `Written ${formatAge(Date.now() / 1000 - data.at)} ago, ${formatDate(data.at)}`;
  const written = h("span", {id: "written"}, age());
  setInterval(() => { written.textContent = age(); }, 30000);
  document.getElementById("top").append(h("div", {class: "head"},
    h("div", null, h("h1", null, "Checkpoints"), h("p", null, written, " · ", h("span", {class: "path"}, data.results)),
      h("p", null, badge(alive ? ["good", "●", "the watcher was running"] : ["bad", "●", ({stale: "the watcher was not responding", stopped: "the watcher was stopped"})[daemon.verdict] ?? "no watcher was running"]), " ", h("a", {href: "#health"}, "queue and health"))),
    h("button", {type: "button", id: "theme", onclick: () => { chosenTheme = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; setTheme(chosenTheme); }}, "Light or dark")));
  const links = [["#glance", "Overview"], ["#matrix", "Forgotten figures"], ...data.stages.map((stage, i) => [`#stage-${i}`, stage.name]), ...(Object.keys(data.answers).length ? [["#answers", "Answers"]] : []), ["#health", "Health"]];
  document.getElementById("top").after(h("div", {class: "bar"}, h("div", null, h("nav", {"aria-label": "Parts of the report"}, h("ul", null, links.map(([href, text]) => h("li", null, h("a", {href}, text))))), makeSwitches())));
}

function buildCard(stage, number) {
  const last = findNewestIndex(stage), scored = stage.evaluations.filter(evaluation => evaluation.role === "own" && ["scored", "on disk"].includes(evaluation.state)).length;
  const total = stage.evaluations.filter(evaluation => evaluation.role === "own").length, outcome = getOutcome(stage, last);
  const element = h("div", {class: "card"});
  const fill = () => {
    const totals = stage.figures.filter(figure => !figure.name);
    element.replaceChildren(h("h2", null, h("a", {href: `#stage-${number}`}, stage.name), outcome ? badge(OUTCOME_BADGES[outcome]) : null),
      h("p", {class: "of"}, `${scored} of ${total} scored${last === null ? "" : `; newest: ${stepLabel(stage, stage.evaluations[last])}`}`),
      h("dl", null, totals.map(figure => [h("dt", null, figureName(figure)), h("dd", {class: "value"}, last === null ? "–" : formatValue(figure.v[last], figure) || "–"), h("dd", null, last === null ? null : renderChange(getChange(stage, last, figure), figure))])));
  };
  refreshers.push(fill);
  return element;
}

function buildMatrixSection() {
  const {stages, at, rows} = data.matrix;
  const forgottenCount = rows.filter(row => row.name).flatMap(row => row.cells.filter(cell => cell?.forgotten)).length;
  const body = [];
  let tier = null;
  for (const row of rows) {
    if (row.tier !== tier) { tier = row.tier; body.push(h("tr", {class: "group"}, h("th", {colspan: stages.length + 1, scope: "colgroup"}, `${TIERS[tier]} `, h("span", {class: "soft small"}, TIER_DESCRIPTIONS[tier])))); }
    body.push(h("tr", {class: row.name ? null : "total"}, h("th", {scope: "row", class: "name"}, row.measure ? figureName(row) : row.name || "total"), row.cells.map(cell => {
      if (!cell) return h("td", {class: "soft"}, h("span", {"aria-hidden": "true"}, "·"), hiddenText("not in this stage"));
      const forgotten = cell.forgotten;
      return h("td", {class: forgotten ? "lost" : null}, formatValue(cell.v, row), renderChange(cell.change, row), forgotten ? h("span", {class: "lost"}, `${formatSize(forgotten[2], row)}${isShare(row) ? " pts" : ""} worse than ${forgotten[0]}`) : null);
    })));
  }
  return h("section", {id: "matrix"}, h("h2", null, "Forgotten figures"),
    h("p", {class: "meta"}, forgottenCount ? `${forgottenCount} ${forgottenCount === 1 ? "figure is" : "figures are"} worse than at the end of an earlier stage, by paired tests that are corrected together.` : "No figure is shown to be worse than at the end of an earlier stage."),
    h("p", {class: "meta"}, "Each stage's newest checkpoint on its suites, with its paired change from the stage's bridge."),
    h("div", {class: "wide", tabindex: "0", role: "region", "aria-label": "Stages by suites"}, h("table", {class: "matrix"}, h("thead", null, h("tr", null, h("th", {scope: "col"}, "Suite"), stages.map((stage, i) => h("th", {scope: "col"}, stage, h("br"), h("span", {class: "soft small"}, at[i] ? at[i].slice(stage.length + 1) : "no evaluations yet"))))), h("tbody", null, body))));
}

function buildObjectives(stage, index) {
  const comparison = index === null ? null : stage.evaluations[index].against.bridge;
  if (!comparison || !comparison.objectives.length) return null;
  return h("ul", {class: "goals", "aria-label": "Objectives"}, comparison.objectives.map(objective => {
    const slices = ["nll_per_token", "bpb"].includes(objective.metric);
    const formatEffect = value => slices ? `${value < 0 ? "−" : "+"}${Math.abs(value).toPrecision(3)}` : `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(1)}`;
    const unit = objective.metric === "bpb" ? " bits a byte" : slices ? " nats a token" : " pts";
    const margin = objective.kind === "hold" ? `, margin ${slices ? objective.margin : (100 * objective.margin).toFixed(1)}` : "";
    return h("li", null, badge(OUTCOME_BADGES[objective.outcome]), `${objective.kind} ${objective.name}`, h("span", {class: "soft"}, isKnown(objective.delta) ? `${formatEffect(objective.delta)}${isKnown(objective.low) ? ` [${formatEffect(objective.low)}, ${formatEffect(objective.high)}]` : ""}${unit}${margin}` : objective.why || "", isKnown(objective.plain) ? ` · plain rule: ${objective.plain ? "kept" : "broken"}` : ""));
  }));
}

function makeSortableTable(heads, rows, caption) {
  const body = h("tbody");
  const order = {column: null, up: true};
  const showRows = () => {
    const sorted = [...rows];
    if (order.column !== null) sorted.sort((a, b) => {
      const [x, y] = [a.keys[order.column], b.keys[order.column]];
      if (!isKnown(x) || !isKnown(y)) return isKnown(x) ? -1 : isKnown(y) ? 1 : 0;
      return (x < y ? -1 : x > y ? 1 : 0) * (order.up ? 1 : -1);
    });
    body.replaceChildren(...sorted.map(row => row.element));
  };
  const columns = heads.map((head, i) => h("th", {scope: "col", class: head.n ? "n" : null}, head.fixed ? head.text : h("button", {type: "button", onclick: event => {
    order.up = order.column === i ? !order.up : true;
    order.column = i;
    for (const column of columns) column.removeAttribute("aria-sort");
    event.target.closest("th").setAttribute("aria-sort", order.up ? "ascending" : "descending");
    showRows();
  }}, head.text)));
  showRows();
  return h("div", {class: "wide", tabindex: "0", role: "region", "aria-label": caption}, h("table", null, h("caption", {class: "visually-hidden"}, caption), h("thead", null, h("tr", null, columns)), body));
}

function renderState(evaluation) {
  const isProblem = ["blocked", "failed", "lost"].includes(evaluation.state);
  return [evaluation.state === "scored" ? null : badge([isProblem ? "bad" : "", isProblem ? "!" : "…", evaluation.state]), evaluation.reason && evaluation.state !== "scored" ? ` ${evaluation.reason}` : null,
    evaluation.suspicious ? badge(["bad", "!", "suspicious"]) : null, evaluation.outdated ? h("span", {class: "soft"}, " comparison outdated") : null,
    evaluation.errors.map(text => h("div", {class: "delta bad name"}, text)),
    evaluation.refused.map(([role, reason]) => h("div", {class: "soft"}, `not compared with ${BASELINE_NAMES[role] || role}: ${reason}`))];
}

function buildEvaluationTable(stage) {
  const totals = stage.figures.filter(figure => !figure.name && !figure.measure), element = h("div");
  const fill = () => {
    const heads = [{text: "step", n: true}, {text: "tokens", n: true}, ...totals.flatMap(figure => [{text: TIERS[figure.tier], n: true}, {text: "change [95 %]"}]), {text: "objectives"}, {text: "state", fixed: false}, {text: "more", fixed: true}];
    // Another model's perplexity stands in no column beside ours.
    const rows = stage.evaluations.map((evaluation, i) => evaluation.role === "reference" ? null : ({
      keys: [evaluation.step, evaluation.tokens, ...totals.flatMap(figure => [figure.v[i], getChange(stage, i, figure)?.[0]]), getOutcome(stage, i) || null, evaluation.state],
      element: h("tr", {class: i === stage.bridge ? "base" : null},
        h("th", {scope: "row", class: "n"}, evaluation.source === stage.name ? evaluation.step : [h("span", {class: "soft"}, `${evaluation.source} `), evaluation.step], i === stage.bridge ? h("div", {class: "soft small"}, "bridge") : evaluation.role === "average" ? h("div", {class: "soft small"}, `average of ${evaluation.members.length}`) : evaluation.role === "other" ? h("div", {class: "soft small name"}, evaluation.directory) : null),
        h("td", {class: "n"}, formatCount(evaluation.tokens)),
        totals.flatMap(figure => [h("td", {class: "n"}, formatValue(figure.v[i], figure), isKnown(figure.e[i]) ? h("span", {class: "soft"}, ` ± ${formatSize(figure.e[i], figure)}`) : null), h("td", null, renderChange(getChange(stage, i, figure), figure, {interval: true}))]),
        h("td", null, getOutcome(stage, i) ? badge(OUTCOME_BADGES[getOutcome(stage, i)]) : null), h("td", null, renderState(evaluation)),
        h("td", {class: "small"}, evaluation.links.map(([text, href]) => [h("a", {href, "aria-label": `${text} of ${stepLabel(stage, evaluation)}`}, text), " "]), h("button", {type: "button", class: "plain", "aria-label": `provenance of ${stepLabel(stage, evaluation)}`, onclick: () => showProvenance(stage, evaluation)}, "provenance"))),
    })).filter(row => row);
    const newest = findNewestIndex(stage), choice = newest === null ? null : stage.evaluations[newest].against[view.role]?.choice;
    element.replaceChildren(makeSortableTable(heads, rows, `Evaluations of ${stage.name}, changes against ${BASELINE_NAMES[view.role]}; those of averages against their last member`), ...(choice ? [h("p", {class: "meta choice"}, `${stepLabel(stage, stage.evaluations[newest])}: ${choice}`)] : []));
  };
  refreshers.push(fill);
  return element;
}

function showProvenance(stage, evaluation) {
  const close = () => dialog.close();
  const facts = Object.assign({evaluation: evaluation.key, checkpoint: evaluation.checkpoint}, evaluation.members.length ? {"step and weight of its members": evaluation.members} : {}, ...evaluation.provenance.map(i => data.provenance[i]));
  const compared = Object.entries(evaluation.against).map(([role, comparison]) => h("li", null, `${BASELINE_NAMES[role]}: ${comparison.key} (${comparison.source} step ${comparison.step})`, comparison.note ? `; ${comparison.note}` : "", comparison.choice ? `; ${comparison.choice}` : "", `; ${comparison.levels}`, comparison.refusals.length ? h("ul", null, comparison.refusals.map(([name, reason]) => h("li", null, `${name} not compared: ${reason}`))) : null));
  const dialog = h("dialog", {"aria-labelledby": "from"}, h("div", {class: "head"}, h("h2", {id: "from"}, `${stage.name}, ${stepLabel(stage, evaluation)}`), h("button", {type: "button", onclick: close}, "Close")),
    compared.length ? [h("h3", null, "Compared with"), h("ul", {class: "small"}, compared)] : null, h("h3", null, "Provenance"), h("pre", null, JSON.stringify(facts, null, 2)));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function buildFigureTable(stage) {
  const details = h("details", null, h("summary", null, `All figures of ${stage.name} as a table`));
  const fill = () => {
    if (!details.open) return;
    const shown = stage.evaluations.map((evaluation, i) => i).filter(i => stage.figures.some(figure => isKnown(figure.v[i])));
    const rows = stage.figures.map(figure => h("tr", null, h("th", {scope: "row", class: "name"}, figure.name || figure.measure ? figureName(figure) : `${TIERS[figure.tier]}, total`), shown.map(i => h("td", {class: "n"}, formatValue(figure.v[i], figure), renderChange(getChange(stage, i, figure), figure)))));
    details.replaceChildren(details.firstChild, h("div", {class: "wide", tabindex: "0", role: "region", "aria-label": `All figures of ${stage.name}`}, h("table", null, h("thead", null, h("tr", null, h("th", {scope: "col"}, "figure"), shown.map(i => h("th", {scope: "col", class: "n"}, stepLabel(stage, stage.evaluations[i]))))), h("tbody", null, rows))));
  };
  details.addEventListener("toggle", fill);
  refreshers.push(fill);
  return details;
}

function buildBitsCharts(stage) {
  const figures = stage.figures.filter(figure => figure.measure && figure.name);
  if (!figures.length) return null;
  return [h("h3", null, "Tasks at chance", h("small", null, "bits per byte of the gold answers, lower is better; their accuracy is no better than guesses")),
    h("div", {class: "plots many"}, figures.map((figure, i) => makeChart(stage, figure, true, i === 0))),
    h("p", {class: "meta"}, "Dotted: the same answers without their questions, which is plain language modelling. The gap is what the question adds.")];
}

function buildNoiseTable(stage) {
  const {noise} = stage;
  if (!noise) return null;
  const show = value => isKnown(value) ? String(+value.toPrecision(3)) : "";
  const rows = noise.rows.map(([name, metric, newest, sigma, low, high, signal, snr, says, atChance]) => ({keys: [name, metric, newest, sigma, signal, snr, says, atChance],
    element: h("tr", null, h("th", {scope: "row", class: "name"}, name), h("td", null, metric), h("td", {class: "n"}, show(newest)), h("td", {class: "n"}, isKnown(sigma) ? `${show(sigma)} [${show(low)}, ${show(high)}]` : ""), h("td", {class: "n"}, show(signal)), h("td", {class: "n"}, isKnown(snr) ? snr.toFixed(1) : ""), h("td", null, says), h("td", null, atChance === true ? "at chance" : ""))}));
  const heads = [{text: "figure"}, {text: "metric"}, {text: "newest", n: true}, {text: "noise [95 %]", n: true}, {text: "signal", n: true}, {text: "SNR", n: true}, {text: "says something"}, {text: "chance"}];
  return h("details", {class: "noise"}, h("summary", null, "Signal and noise: which figures say something yet"),
    h("p", {class: "meta"}, noise.window.length ? `The run's own noise between checkpoints, from steps ${noise.window[0]} to ${noise.window[noise.window.length - 1]} (${noise.window.length} evaluations). A change within it is remarked; verdicts do not change.` : `Not known yet: ${noise.wanted}`),
    makeSortableTable(heads, rows, `Signal and noise of ${stage.name}`));
}

function buildReferences(stage) {
  const references = stage.references;
  if (!references) return null;
  const cells = (row, cell, i) => cell === null ? [h("td"), h("td"), h("td")] : [
    h("td", {class: "n"}, formatValue(cell[0], row)),
    h("td", null, renderChange([cell[2], cell[3], cell[4], cell[5], cell[6], false], row, {interval: true})),
    h("td", {class: "small"}, row.crossings[i])];
  const tokens = value => isKnown(value) ? `${formatCount(value)} tokens` : "tokens unknown";
  return [h("h3", null, "Other models", h("small", null, "by text: what one tokenizer's tokens are worth says nothing of another's")),
    references.bits ? h("div", {class: "plots"}, makeChart(stage, references.bits, false, true)) : null,
    h("p", {class: "key"}, references.columns.map(([name], i) => h("span", {class: `reference-${i % REFERENCE_TOKENS.length + 1}`}, name))),
    h("div", {class: "wide", tabindex: "0", role: "region", "aria-label": `You against other models, ${stage.name}`}, h("table", {class: "references"},
      h("caption", {class: "soft"}, `You against them: step ${references.step}, ${tokens(references.tokens)}`),
      h("thead", null, h("tr", null, h("th", {scope: "col"}, "Figure"), h("th", {scope: "col"}, "you"), references.columns.map(([name, count]) => [h("th", {scope: "col"}, name, h("div", {class: "soft small"}, tokens(count))), h("th", {scope: "col"}, "you minus it [95 %]"), h("th", {scope: "col"}, "overtaken")]))),
      h("tbody", null, references.rows.map(row => h("tr", {class: row.name ? null : "total"}, h("th", {scope: "row", class: "name"}, row.label),
        h("td", {class: "n"}, formatValue((row.cells.find(cell => cell !== null) || [])[1], row)), row.cells.map((cell, i) => cells(row, cell, i))))))),
    h("p", {class: "meta"}, `${references.levels}. Intervals of a step are pointwise, by straight lines between evaluations.`),
    references.refused.map(text => h("p", {class: "meta"}, `not compared: ${text}`))];
}

function buildStageSection(stage, number) {
  const last = findNewestIndex(stage), outcome = getOutcome(stage, last), bridge = stage.bridge === null ? null : stage.evaluations[stage.bridge];
  const totals = stage.figures.filter(figure => !figure.name), groups = [...new Set(stage.figures.map(figure => figure.tier))];
  return h("section", {id: `stage-${number}`}, h("div", {class: "title"}, h("h2", null, stage.name), outcome ? badge(OUTCOME_BADGES[outcome]) : null),
    h("p", {class: "meta"}, bridge ? `Bridge: ${bridge.source} step ${bridge.step}. ` : stage.awaited ? `Bridge: ${stage.awaited}, not scored yet. ` : "No bridge. ", h("span", {class: "path"}, stage.checkpoints)),
    stage.notes.map(text => h("p", {class: "note"}, text)), buildObjectives(stage, last),
    totals.length ? [h("h3", null, "Totals"), h("div", {class: "plots"}, totals.map((figure, i) => makeChart(stage, figure, false, i === 0))),
      h("p", {class: "key"}, h("span", null, "checkpoints of this stage"), h("span", {class: "error"}, "± one standard error"), bridge ? h("span", {class: "bridge"}, "the bridge") : null, stage.evaluations.some(evaluation => evaluation.role === "average") ? h("span", {class: "average"}, "averages of checkpoints' weights") : null)] : h("p", {class: "soft"}, "Nothing is scored yet."),
    groups.map(tier => { const figures = stage.figures.filter(figure => figure.tier === tier && figure.name && !figure.measure); return figures.length ? [h("h3", null, ENTRY_TITLES[tier], h("small", null, TIER_DESCRIPTIONS[tier])), h("div", {class: "plots many"}, figures.map((figure, i) => makeChart(stage, figure, true, i === 0)))] : null; }),
    buildBitsCharts(stage), buildReferences(stage), buildNoiseTable(stage), h("h3", null, "Evaluations"), buildEvaluationTable(stage), stage.figures.length ? buildFigureTable(stage) : null);
}

// ---------------------------------------------------------------- answers

function diffWords(before, after) {
  const split = text => text.split(/(\s+)/).slice(0, 700);
  const a = split(before), b = split(after), lengths = Array.from({length: a.length + 1}, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
  const left = [], right = [];
  const put = (list, kind, text) => { const last = list[list.length - 1]; if (last && last.kind === kind) last.text += text; else list.push({kind, text}); };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { put(left, "", a[i++]); put(right, "", b[j++]); }
    else if (j >= b.length || (i < a.length && lengths[i + 1][j] >= lengths[i][j + 1])) put(left, "del", a[i++]);
    else put(right, "ins", b[j++]);
  }
  return [left, right].map(list => list.map(({kind, text}) => kind && text.trim() ? h(kind, null, text) : text));
}
const passMark = answer => !answer ? "" : answer[3] === true ? "✓" : answer[3] === false ? "✗" : "·";
const passText = answer => !answer ? "no answer" : answer[3] === true ? "passed" : answer[3] === false ? "failed" : "not checked";
function buildAnswer(title, answer, text) {
  if (!answer) return h("div", null, h("h4", null, title), h("p", {class: "soft"}, "no answer"));
  return h("div", null, h("h4", null, `${title} · ${passText(answer)}${answer[2] ? ` · finish reason: ${answer[2]}` : ""}`), h("p", {class: "text", tabindex: "0"}, text, answer[1] ? h("span", {class: "soft"}, ` … ${answer[1]} more characters`) : null),
    h("ul", {class: "checks"}, answer[4].map(([check, ok, evidence]) => h("li", null, h("span", {class: `delta ${ok === true ? "good" : ok === false ? "bad" : ""}`}, `${ok === true ? "✓" : ok === false ? "✗" : "·"} ${check}`), evidence ? h("span", {class: "soft"}, ` ${evidence}`) : null))));
}
function buildAnswersSection() {
  const stages = Object.keys(data.answers);
  if (!stages.length) return null;
  const state = {stage: stages[stages.length - 1], key: null, show: "differ"};
  const list = h("div"), count = h("p", {class: "meta", role: "status"}), evaluationSelect = h("select", {"aria-label": "Checkpoint"}), note = h("div");
  const options = () => {
    const answers = data.answers[state.stage];
    state.key = answers.evaluations[0] || answers.bridge;
    evaluationSelect.replaceChildren(...answers.evaluations.map(key => h("option", {value: key}, key)));
    note.replaceChildren(...answers.left_out.map(text => h("p", {class: "note"}, `Not shown: ${text}`)));
  };
  const fill = () => {
    const answers = data.answers[state.stage];
    const pairs = answers.prompts.map(prompt => ({prompt, before: answers.bridge ? prompt.answers[answers.bridge] : null, after: prompt.answers[state.key]}));
    const tests = {all: () => true, differ: ({before, after}) => !answers.bridge || before?.[0] !== after?.[0], worse: ({before, after}) => before?.[3] === true && after?.[3] === false, better: ({before, after}) => before?.[3] === false && after?.[3] === true, failed: ({after}) => after?.[3] === false};
    const shown = pairs.filter(tests[state.show]);
    count.textContent = `${shown.length} of ${pairs.length} prompts. ${pairs.filter(tests.better).length} failed at the bridge and pass now; ${pairs.filter(tests.worse).length} passed at the bridge and fail now.`;
    list.replaceChildren(...shown.map(({prompt, before, after}) => {
      const details = h("details", {class: "prompt"}, h("summary", null, h("span", {class: "name"}, prompt.name), h("span", {class: "soft"}, prompt.category),
        h("span", {class: "delta"}, answers.bridge ? [`bridge `, h("span", {"aria-hidden": "true"}, passMark(before)), hiddenText(passText(before)), " → "] : null, h("span", {"aria-hidden": "true", class: `delta ${after?.[3] === true ? "good" : after?.[3] === false ? "bad" : ""}`}, passMark(after)), hiddenText(passText(after)))));
      details.addEventListener("toggle", () => {
        if (!details.open || details.children.length > 1) return;
        const [left, right] = before && after ? diffWords(before[0], after[0]) : [before?.[0] ?? "", after?.[0] ?? ""];
        details.append(h("p", {class: "text"}, prompt.text), h("div", {class: "pair"}, answers.bridge ? buildAnswer(`bridge, ${answers.bridge}`, before, left) : null, buildAnswer(state.key, after, right)));
      });
      return details;
    }));
  };
  evaluationSelect.addEventListener("change", () => { state.key = evaluationSelect.value; fill(); });
  const stageSelect = h("select", {"aria-label": "Stage", onchange: event => { state.stage = event.target.value; options(); fill(); }}, stages.map(stage => h("option", {value: stage, selected: stage === state.stage}, stage)));
  const filterSelect = h("select", {"aria-label": "Prompts", onchange: event => { state.show = event.target.value; fill(); }}, Object.entries({differ: "answers that differ", all: "all", better: "failed before, pass now", worse: "passed before, fail now", failed: "fail now"}).map(([value, text]) => h("option", {value}, text)));
  options();
  fill();
  return h("section", {id: "answers"}, h("h2", null, "Answers"), h("p", {class: "meta"}, "Answers beside the bridge's, with differences marked."), h("p", {class: "filters"}, stages.length > 1 ? stageSelect : null, " ", evaluationSelect, " ", filterSelect), count, note, list);
}

// ---------------------------------------------------------------- health

function buildHealthSection() {
  const waiting = data.stages.flatMap(stage => stage.evaluations.filter(evaluation => !["scored", "on disk"].includes(evaluation.state)).map(evaluation => ({stage, evaluation})));
  const latency = data.latencies.complete_to_scored;
  const rows = waiting.map(({stage, evaluation}) => ({keys: [stage.name, evaluation.step, evaluation.state, evaluation.since], element: h("tr", null, h("td", null, stage.name), h("th", {scope: "row", class: "n"}, stepLabel(stage, evaluation)), h("td", null, badge([["blocked", "failed", "lost"].includes(evaluation.state) ? "bad" : "", "", evaluation.state])), h("td", {class: "n"}, isKnown(evaluation.since) ? formatAge(data.at - evaluation.since) : ""), h("td", {class: "name"}, evaluation.reason), h("td", {class: "small"}, evaluation.links.filter(([text]) => text !== "results").map(([text, href]) => [h("a", {href, "aria-label": `${text} of ${stage.name} ${stepLabel(stage, evaluation)}`}, text), " "])))}));
  const queue = data.queue;
  return h("section", {id: "health"}, h("h2", null, "Queue and health"), h("p", null, data.daemon.line), h("p", {class: "meta"}, Object.entries(data.counts).map(([state, count]) => `${count} ${state}`).join(", "),
    latency ? `. Time from complete checkpoint to scores: median ${formatAge(latency.p50)}, p95 ${formatAge(latency.p95)} (n=${latency.n})` : "", isKnown(queue.jobs) ? `. Jobs in the queue: ${queue.jobs}` : queue.error ? `. ${data.daemon.executor} did not answer: ${queue.error}` : "", "."),
    data.warnings.map(text => h("p", {class: "note"}, text)),
    rows.length ? makeSortableTable([{text: "stage"}, {text: "step", n: true}, {text: "state"}, {text: "for", n: true}, {text: "reason"}, {text: "logs", fixed: true}].map((head, i) => i > 3 ? {...head, fixed: true} : head), rows, "Evaluations that are not scored") : h("p", {class: "soft"}, "Nothing is pending."),
    data.skipped.length ? h("details", null, h("summary", null, `Not scheduled or not due: ${data.skipped_count}`), h("ul", {class: "small"}, data.skipped.map(skip => h("li", {class: "name"}, `${skip.evaluation}: ${skip.reason}`)))) : null);
}

function buildFooter() {
  const glossary = [["Change", "Candidate minus baseline on the same items, rows or prompts (paired). Brackets hold the 95 % confidence interval of a single look. The verdict also follows the look's level and Holm's correction, so an interval may leave out zero where the verdict is neutral."], ["better, worse", "Verdict of the paired test, after Holm's correction over the slices and tasks of one comparison. hint: significant if this were the stage's only look, so it is drawn neutrally. no change seen: the difference is not significant. too few items: no test is possible."], ["Many looks", data.controlled.join(" ")],
    ["pass, fail, inconclusive", "improve: the total must be better than the bridge's by a one-sided test. hold: it must not be worse by more than the margin. The plain rule checks only the sign."],
    ["≈", "The change is within the run's own noise: neighbouring checkpoints differ by as much. A remark; the verdict stands. A jump of 3 to 10 times the noise inside the window often goes unnoticed, and makes the noise up to twice as large: noise: {within: STEPS} keeps it out."], ["Forgotten", "A stage's newest figure is worse than an earlier stage's newest one on the same items or documents: McNemar's or a paired t test, corrected over all figures and stages (Holm, Bonferroni), at 5 %."], ["±", "One standard error. That of a perplexity is clustered by document; that of a total follows from its slices or tasks."]];
  document.getElementById("foot").append(h("h2", null, "How to read this"), h("dl", null, glossary.map(([term, text]) => [h("dt", null, term), h("dd", null, text)])), h("p", null, `checkpoint watcher ${data.version}; config: ${data.config}`));
}

document.documentElement.dataset.theme = darkPreference.matches ? "dark" : "light";
darkPreference.addEventListener("change", () => { if (chosenTheme === null) setTheme(darkPreference.matches ? "dark" : "light"); });
buildHeader();
document.getElementById("main").append(...[h("div", {id: "glance", class: "cards"}, data.stages.map(buildCard)), data.matrix.rows.length ? buildMatrixSection() : null, data.stages.map(buildStageSection), buildAnswersSection(), buildHealthSection()].flat().filter(Boolean));
buildFooter();
refreshPage();
let resizeTimer = null;
addEventListener("resize", () => { clearTimeout(resizeTimer); resizeTimer = setTimeout(() => { for (const plot of plots) if (plot.chart && plot.element.clientWidth) plot.chart.setSize({width: Math.max(120, plot.element.clientWidth), height: plot.element.clientHeight}); }, 120); });
let themeBeforePrint = null;
addEventListener("beforeprint", () => { themeBeforePrint = document.documentElement.dataset.theme; document.documentElement.dataset.theme = "light"; drawAll(); });
addEventListener("afterprint", () => { setTheme(themeBeforePrint); });
window.report = {data, plots, drawAll, view};
document.documentElement.dataset.ready = "true";
})();

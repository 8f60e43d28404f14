"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 20, SHOWN = 900;
const form = document.getElementById("filters"), list = document.getElementById("list"), found = document.getElementById("found");
const fields = ["benchmark", "group", "show", "run", "sort", "q"], several = data.runs.length > 1;
const SHOW = [
  ["all", "all items"], ["right", "right"], ["wrong", "wrong"], ["between", "neither right nor wrong"], ["unfinished", "cut by the length limit"],
  ["nothing", "nothing extracted"], ["flagged", "verdict to look at"], ["unscored", "no score"], ...(several ? [["differ", "runs differ"]] : []),
];
const SORT = [
  ["data", "as in the data"], ["low", "lowest score first"], ["high", "highest score first"], ["long", "most tokens first"],
  ...(several ? [["spread", "largest difference first"]] : []),
];
const text = place => data.texts[place || 0];
const el = (tag, content, name) => {
  const e = document.createElement(tag);
  if (content !== undefined) e.textContent = content;
  if (name) e.className = name;
  return e;
};
const benchmarkOf = name => data.benchmarks.find(b => b.name === name) || data.benchmarks[0];
let page = 0, matching = [];

// ---- what is chosen, kept in the address so that a view can be linked ----
function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, label]) => { const o = el("option", label); o.value = value; return o; }));
  select.value = pairs.some(([value]) => value === chosen) ? chosen : pairs[0][0];
}
function fillGroups(chosen) {
  const groups = [...new Set(benchmarkOf(form.benchmark.value).items.map(item => item.g).filter(g => g !== null))];
  options(form.group, [["", "all"], ...groups.map(g => [g, g])], chosen);
}
function fromAddress() {
  const state = new URLSearchParams(location.hash.slice(1));
  options(form.benchmark, data.benchmarks.map(b => [b.name, b.name]), state.get("benchmark"));
  fillGroups(state.get("group"));
  options(form.elements.show, SHOW, state.get("show"));
  options(form.run, [...(several ? [["", "any run"]] : []), ...data.runs.map((run, j) => [String(j), run])], state.get("run"));
  options(form.sort, SORT, state.get("sort"));
  form.q.value = state.get("q") || "";
  page = Math.max(0, (parseInt(state.get("page"), 10) || 1) - 1);
}
function toAddress() {
  const state = new URLSearchParams();
  for (const name of fields) if (form.elements[name].value && form.elements[name].selectedIndex !== 0) state.set(name, form.elements[name].value);
  if (page) state.set("page", page + 1);
  history.replaceState(null, "", "#" + state);
}

// ---- which items those are ----
function isShown(sample, show, unit) {
  if (show === "right") return unit === "percent" && sample.s === 1;
  if (show === "wrong") return unit === "percent" && sample.s === 0;
  if (show === "between") return sample.s !== null && !(unit === "percent" && (sample.s === 0 || sample.s === 1));
  if (show === "unfinished") return !!sample.u;
  if (show === "nothing") return !!sample.a && !(sample.x && text(sample.x).trim());
  if (show === "flagged") return !!sample.f;
  if (show === "unscored") return sample.s === null;
  return true;
}
function words(item) {
  const places = [...item.q, ...item.k.flatMap(([asked, given]) => [asked, ...given])];
  for (const samples of item.r) for (const sample of samples) places.push(...(sample.a || []), sample.x, sample.n, sample.v);
  return item.i + "\n" + places.map(text).join("\n");
}
function choose() {
  const benchmark = benchmarkOf(form.benchmark.value), show = form.elements.show.value, sort = form.sort.value;
  const group = form.group.selectedIndex > 0 ? form.group.value : null, run = form.run.value === "" ? -1 : +form.run.value;
  const wanted = form.q.value.trim().toLowerCase();
  matching = benchmark.items.filter(item => {
    if (group !== null && item.g !== group) return false;
    if (show === "differ" ? !(item.d > 0) : !item.r.some((samples, j) => (run < 0 || run === j) && samples.some(s => isShown(s, show, benchmark.unit)))) return false;
    return !wanted || words(item).toLowerCase().includes(wanted);
  });
  const scores = item => item.s.filter((s, j) => s !== null && s !== undefined && (run < 0 || run === j));
  const tokens = item => Math.max(0, ...item.r.flatMap((samples, j) => run < 0 || run === j ? samples.map(s => s.t || 0) : []));
  const keys = { low: i => Math.min(Infinity, ...scores(i)), high: i => -Math.max(-Infinity, ...scores(i)), long: i => -tokens(i), spread: i => -i.d };
  if (sort in keys) {
    const key = new Map(matching.map(item => [item, keys[sort](item)]));
    matching.sort((a, b) => key.get(a) === key.get(b) ? 0 : key.get(a) < key.get(b) ? -1 : 1);
  }
}

// ---- how an item looks ----
function cutText(place, name, limit = SHOWN) {
  const whole = text(place), box = el("div", undefined, name);
  if (whole.length <= limit * 1.2) { box.textContent = whole; return box; }
  const shown = el("span", whole.slice(0, limit) + " …"), more = el("button", "", "more");
  const label = open => open ? "show less" : "show all (" + (data.lengths[place] || whole.length).toLocaleString("en") + " characters" + (place in data.lengths ? ", cut" : "") + ")";
  more.type = "button"; more.textContent = label(false); more.setAttribute("aria-expanded", "false");
  more.addEventListener("click", () => {
    const open = more.getAttribute("aria-expanded") !== "true";
    shown.textContent = open ? whole : whole.slice(0, limit) + " …";
    more.setAttribute("aria-expanded", String(open)); more.textContent = label(open);
  });
  box.append(shown, document.createElement("br"), more);
  return box;
}
function scoreTag(score, unit) {
  if (score === null || score === undefined) return el("span", "no score", "tag even");
  if (unit !== "percent") return el("span", score.toFixed(unit === "rating" ? 2 : 3), "tag");
  if (score === 1) return el("span", "✓ right", "tag yes");
  if (score === 0) return el("span", "✗ wrong", "tag no");
  return el("span", (100 * score).toFixed(1), "tag even");
}
function field(label, content) {
  const line = el("div", undefined, "field");
  line.append(el("b", label + " "), content);
  return line;
}
function folded(label, ...content) {
  const box = el("details"), summary = el("summary", label);
  box.append(summary, ...content);
  return box;
}
function specialist(j) {
  const name = el("span", data.specialists[j]), dot = el("i", "", "dot");
  dot.style.setProperty("--c", data.colours[j]);
  name.prepend(dot);
  return name;
}
function weightsOf(weights) {
  const mix = el("div", undefined, "mix"), line = el("div", undefined, "field");
  weights.forEach((w, j) => {
    const part = el("i");
    part.style.setProperty("--c", data.colours[j]); part.style.flex = w + " 0 0";
    mix.append(part);
    const share = specialist(j);
    share.append(" " + (100 * w).toFixed(0) + "%"); share.className = "share";
    line.append(share);
  });
  mix.setAttribute("role", "img");
  mix.setAttribute("aria-label", "gate weights: " + weights.map((w, j) => data.specialists[j] + " " + (100 * w).toFixed(0) + "%").join(", "));
  return [mix, line];
}
function ownParts(asked) {
  const alike = pick => asked.every(one => pick(one) !== undefined && pick(one) === pick(asked[0]));
  let start = 0, end = 0;
  while (alike(one => one[start])) start++;
  while (end < Math.min(...asked.map(one => one.length)) - start && alike(one => one[one.length - 1 - end])) end++;
  return asked.map(one => one.slice(start, one.length - end).slice(0, 300));
}
function likelihoodsOf(item, rows) {
  const table = el("table"), box = el("div", undefined, "scroll");
  const own = rows.length > 1 ? ownParts(item.k.map(([asked]) => text(asked))) : [];
  rows.forEach((given, q) => given.forEach(([nats, tokens], c) => {
    const row = el("tr"), [, continuations] = item.k[q] || [0, []], cell = el("td");
    if (own[q]) cell.append(el("small", own[q]));
    cell.append(text(continuations[c]).slice(0, 300));
    row.append(cell, el("td", nats === null ? "–" : nats.toFixed(3)), el("td", String(tokens)));
    table.append(row);
  }));
  const head = el("tr");
  head.append(el("th", "continuation"), el("th", "nats"), el("th", "tokens"));
  table.prepend(head); box.append(table);
  return box;
}
function promptsOf(prompts) {
  return prompts.map(([j, parts]) => {
    const whole = el("pre"), box = el("div", undefined, "field");
    whole.textContent = parts.map(text).join("");
    box.append(specialist(j), whole);
    return box;
  });
}
function sampleCard(item, sample, title, unit) {
  const box = el("div", undefined, "one"), head = el("div", undefined, "head");
  head.append(el("b", title), scoreTag(sample.s, unit));
  if (sample.u) head.append(el("span", "cut off", "tag even"));
  if (sample.f) head.append(el("span", "look at this verdict", "tag even"));
  box.append(head);
  (sample.a || []).forEach((answer, turn) => {
    if (sample.a.length > 1) box.append(el("div", "turn " + (turn + 1), "turn"));
    box.append(text(answer) ? cutText(answer, "text") : el("div", "(empty)", "turn"));
  });
  if (sample.a && !(sample.a.length && sample.x === sample.a[sample.a.length - 1])) box.append(field("extracted", sample.x && text(sample.x).trim() ? cutText(sample.x, "text", 300) : "nothing"));
  if (sample.n) box.append(field("note", cutText(sample.n, "", 300)));
  const others = Object.entries(sample.o || {});
  if (others.length) box.append(field("also", others.map(([name, value]) => name + " " + (value === null ? "–" : +value.toPrecision(4))).join(", ")));
  if (sample.w) box.append(...weightsOf(sample.w));
  box.append(el("div", (sample.t || 0) + " tokens, " + (sample.c || 0).toFixed(2) + " s", "turn"));
  if (sample.l) box.append(folded(sample.l.length + (sample.l.length > 1 ? " queries" : " query"), likelihoodsOf(item, sample.l)));
  if (sample.p) box.append(folded(sample.p.length > 1 ? "what each specialist read" : "prompt", ...promptsOf(sample.p)));
  if (sample.v) box.append(folded("detail of the verdict", cutText(sample.v, "text", 4000)));
  return box;
}
function card(item, unit) {
  const box = el("article", undefined, "item"), head = el("div", undefined, "head"), said = el("div", undefined, "said");
  head.append(el("span", item.i, "id"));
  if (item.g !== null) head.append(el("span", item.g, "tag"));
  if (item.d === 1 && unit === "percent") head.append(el("span", "runs differ", "tag even"));
  const asked = item.q.length ? item.q : item.k.length ? [item.k[0][0]] : [];
  box.append(head, ...asked.map((place, turn) => {
    const line = cutText(place, "text ask");
    if (asked.length > 1) line.prepend(el("b", "turn " + (turn + 1) + ": "));
    if (!item.q.length && item.k.length > 1) line.prepend(el("b", "first of " + item.k.length + " queries: "));
    return line;
  }));
  item.r.forEach((samples, j) => {
    if (!samples.length && several) { const none = el("div", undefined, "one"); none.append(el("b", data.runs[j]), el("div", "does not have this item", "turn")); said.append(none); }
    samples.forEach((sample, s) => said.append(sampleCard(item, sample, (several ? data.runs[j] : "answer") + (samples.length > 1 ? ", sample " + (s + 1) : ""), unit)));
  });
  box.append(said);
  const kept = Math.max(...item.r.map(samples => samples.length));
  if (item.m > kept) box.append(el("div", kept + " of " + item.m + " samples are shown; the run's folder holds the others", "turn"));
  return box;
}
function draw() {
  const pages = Math.max(1, Math.ceil(matching.length / PAGE)), benchmark = benchmarkOf(form.benchmark.value);
  page = Math.min(page, pages - 1);
  list.replaceChildren(...matching.slice(page * PAGE, (page + 1) * PAGE).map(item => card(item, benchmark.unit)));
  if (!matching.length) list.append(el("p", "No item is like that.", "empty"));
  found.textContent = matching.length.toLocaleString("en") + " of " + benchmark.items.length.toLocaleString("en") + " items";
  document.getElementById("page").textContent = "page " + (page + 1) + " of " + pages;
  for (const button of document.querySelectorAll("[data-step]")) {
    const to = page + +button.dataset.step;
    button.disabled = to < 0 || to >= pages;
  }
  toAddress();
}
function again() { page = 0; choose(); draw(); }
function arrive() { fromAddress(); choose(); draw(); }

let waiting;
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("change", event => { if (event.target === form.benchmark) fillGroups(""); again(); });
form.q.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(again, 200); });
for (const button of document.querySelectorAll("[data-step]")) button.addEventListener("click", () => {
  page += +button.dataset.step; draw();
  document.getElementById("items").scrollIntoView();
});
addEventListener("hashchange", arrive);
if (data.benchmarks.length) arrive();

// The page: subscribes to the server's statistics, once for all tabs, and shows them as numbers, charts and tables.

import { subscribe } from "../../fanfare.js";
import { Chart, onPoint, pointWithKeys, seconds } from "./charts.js";
import { details } from "./details.js";
import { offerDisconnect } from "./disconnect.js";
import { $, element } from "./dom.js";
import { CHARTS, FIGURES, HOST_CHARTS, duration } from "./figures.js";
import { inspect } from "./inspector.js";
import { listTopics } from "./topics.js";

// Without a replay: the history has what was missed.
const STATISTICS = "events?topic=fanfare%3Astatistics&replay=none";
const RECALLS_MAX = 5;
const MISSED_MS = 2500;
const KEPT_MS = 15 * 60000;
const NOTICES_MAX = 3;

// ---- the operator's token: each tab has it for as long as it is open, and gives it to new ones ----

const bearer = (word) => (word ? { Authorization: `Bearer ${word}` } : undefined);
const headers = () => bearer(sessionStorage.getItem("operator"));
const tabs = new BroadcastChannel("fanfare operator");
tabs.onmessage = ({ data: { ask, word } }) => {
  if (ask && sessionStorage.getItem("operator")) tabs.postMessage({ word: sessionStorage.getItem("operator") });
  if (!word || sessionStorage.getItem("operator") === word) return;
  sessionStorage.setItem("operator", word);
  recall();
};
tabs.postMessage({ ask: true });

// ---- what is known ----

let shownMs = 5 * 60000;
let latest = null; // the last whole statistics
let totals = []; // what was counted by reason, once a minute
let samples = []; // `[time, sample]`, in the order of their times
const charts = CHARTS.map((chart) => new Chart($("charts"), chart));
const hostCharts = HOST_CHARTS.map((chart) => new Chart($("host-charts"), chart));
onPoint((text) => ($("pointed").textContent = text));
pointWithKeys($("charts"));

/** Adds what came just now, or what the server remembers of the time before and of times in between. */
function add(more) {
  const known = new Set(samples.map(([time]) => time));
  samples.push(...more.filter(([time]) => !known.has(time)));
  samples.sort(([one], [other]) => one - other);
  const from = (samples.at(-1)?.[0] ?? 0) - KEPT_MS;
  samples = samples.slice(Math.max(0, samples.findIndex(([time]) => time >= from)));
}

/** Rows of numbers as samples: a column's name is where the number is in the statistics. */
function samplesOf({ columns, rows }) {
  const places = columns.map((column) => column.split("."));
  return rows.map((row) => {
    const sample = {};
    places.forEach((place, i) => {
      const inside = place.slice(0, -1).reduce((object, name) => (object[name] ??= {}), sample);
      inside[place.at(-1)] = row[i];
    });
    return [sample.time_ms, sample];
  });
}

/** Fetches the last minutes; a server that is busy is asked again. */
async function recall(attempt = 1) {
  const response = await fetch("dashboard/history", { headers: headers() }).catch(() => null);
  const history = response?.ok ? await response.json().catch(() => null) : null;
  if (history) {
    add(samplesOf(history));
    totals = history.totals;
    redraw();
  } else if (response?.status === 401 || response?.status === 403) askForToken("The last minutes and the topics are for operators.");
  else if (attempt < RECALLS_MAX) setTimeout(() => recall(attempt + 1), 1000 * attempt);
}

/** What was counted by reason when the time that is shown began, or zeros if the server began later. */
function totalsBefore(sample) {
  const from = sample.time_ms - shownMs;
  const whole = samples.map(([, known]) => known).filter((known) => known.run);
  const known = [...totals, ...whole].filter(({ run }) => run === sample.run).sort((one, other) => one.time_ms - other.time_ms);
  const isYounger = sample.uptime_seconds * 1000 < shownMs;
  return known.findLast((one) => one.time_ms <= from) ?? (isYounger ? null : known[0]);
}

// ---- drawing: at most once a frame, and never while the page is hidden ----

const figures = FIGURES.map(([name, read, note, alert]) => {
  const [value, unit, below] = [element("span"), element("span", { class: "unit" }), element("dd", { class: "note" })];
  const whole = element("dd", { class: "value" }, value, unit);
  const box = element("div", { class: "card figure" }, element("dt", {}, name), whole, below);
  value.textContent = "–";
  $("figures").append(box);
  return (sample) => {
    ({ text: value.textContent, unit: unit.textContent } = read(sample));
    below.textContent = note(sample);
    box.classList.toggle("alert", Boolean(alert?.(sample)));
  };
});

let due = false;
function redraw() {
  if (due || document.hidden) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    draw();
  });
}
document.addEventListener("visibilitychange", redraw);

function draw() {
  const [to, newest] = samples.at(-1) ?? [];
  if (to) {
    const span = [to - shownMs, to];
    const shown = samples.filter(([time]) => time >= span[0]);
    charts.forEach((chart) => chart.show(shown, span));
    $("host").hidden = !newest.host?.memory_total_bytes;
    if (!$("host").hidden) hostCharts.forEach((chart) => chart.show(shown, span));
  }
  if (!latest) return;
  figures.forEach((show) => show(latest));
  $("server").textContent = `${latest.version} · up ${duration(latest.uptime_seconds)}`;
  details(latest, totalsBefore(latest), askToDisconnect);
  inspector.offer(latest.topics.busiest.map(({ topic }) => topic));
}

// ---- the connection ----

let state = { name: "connecting" };
let isLeaving = false; // a server that leaves says so first: its streams end as planned
const WORDS = { connecting: "Connecting", open: "Connected", waiting: "Connection lost", closed: "Ended by the server" };

function showState(next) {
  if (next.name === "open" && state.name !== "open") {
    isLeaving = false;
    $("token-form").hidden = true;
    document.body.removeAttribute("data-locked");
    recall();
  }
  state = next;
  document.body.dataset.state = !isLeaving || state.name === "refused" ? state.name : state.name === "open" ? "leaving" : "left";
  $("connection-text").textContent = words();
  $("retry").hidden = state.name !== "waiting" && state.name !== "closed";
  document.title = state.name === "open" ? "Fanfare" : `${words()} · Fanfare`;
  if (isLocked()) {
    document.body.setAttribute("data-locked", "");
    const rejected = state.status === 401 && sessionStorage.getItem("operator");
    askForToken(rejected ? "That token is not accepted." : `The server says: ${state.detail}.`);
  } else if (state.name === "refused") notify(`The server refuses the statistics (${state.status}): ${state.detail}`, "bad");
  else if (state.name === "waiting") document.body.removeAttribute("data-locked");
  countDown();
}

function askForToken(why) {
  $("token-why").textContent = why;
  $("token-form").hidden = false;
}

function words() {
  if (state.name === "refused") return isLocked() ? "Token needed" : "Refused";
  if (!isLeaving) return WORDS[state.name];
  return state.name === "open" ? "Server is leaving as planned" : "Server left as planned";
}

const isLocked = () => state.name === "refused" && (state.status === 401 || state.status === 403);

function countDown() {
  const left = Math.ceil((state.retryAt - Date.now()) / 1000);
  $("countdown").textContent = state.name === "waiting" && left > 0 ? `· reconnecting in ${left} s` : "";
}
setInterval(countDown, 250);

function notify(text, kind = "") {
  const button = element("button", { type: "button" }, "Dismiss");
  const notice = element("p", { class: `notice ${kind}` }, element("span", {}, `${seconds.format(Date.now())} ${text}`), button);
  button.onclick = () => notice.remove();
  $("notices").append(notice);
  while ($("notices").children.length > NOTICES_MAX) $("notices").firstChild.remove();
}

/** Takes the statistics of a second. */
function take(sample) {
  const before = latest;
  latest = sample;
  if (before && before.run !== sample.run) {
    notify(`The server was restarted${before.draining ? " as planned" : ""}; it has been up for ${duration(sample.uptime_seconds)}.`, before.draining ? "" : "bad");
  }
  if (sample.draining !== isLeaving) {
    isLeaving = sample.draining;
    showState(state);
  }
  // A second that did not come is in the history.
  if (before?.run === sample.run && sample.time_ms - before.time_ms > MISSED_MS) recall();
  add([[sample.time_ms, sample]]);
  redraw();
}

const statistics = subscribe(STATISTICS, {
  share: true,
  keep: 1,
  fetch: true,
  headers: headers(),
  onState: showState,
  onGap: () => recall(),
  onEvent: ({ data }) => take(data),
});

$("retry").onclick = () => statistics.reconnect();
$("token-form").onsubmit = (event) => {
  event.preventDefault();
  const word = $("operator-token").value.trim();
  sessionStorage.setItem("operator", word);
  tabs.postMessage({ word });
  statistics.reconnect({ headers: bearer(word) });
};
$("window").onchange = ({ target }) => {
  shownMs = Number(target.value) * 60000;
  redraw();
};

// ---- sections: on a narrow screen one at a time ----

const isNarrow = matchMedia("(max-width: 47.99rem)");

function openSection() {
  const name = location.hash.slice(1) || "live";
  const section = $(name)?.closest("main > section") ?? $("live");
  for (const one of document.querySelectorAll("main > section")) one.toggleAttribute("data-open", one === section);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${section.id}`) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  if (isNarrow.matches) scrollTo(0, 0);
}
addEventListener("hashchange", openSection);
openSection();

// The admin listener has no other streams and takes no events.
const list = { headers: { Accept: "application/json" } };
fetch("./", list).then((response) => response.json()).then(({ publish }) => document.body.toggleAttribute("data-admin", publish === null), () => {});

const askToDisconnect = offerDisconnect(headers, notify);
const inspector = inspect(headers);
const watch = (topic) => {
  location.hash = "inspector";
  openSection();
  $("inspector").focus();
  inspector.watch(topic);
};
listTopics({ headers, disconnect: askToDisconnect, watch });

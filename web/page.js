// The page: subscribes to the server's statistics, once for all tabs, and shows them as numbers, charts and tables.

import { subscribe } from "../../fanfare.js";
import { Chart, element, seconds } from "./charts.js";
import { CHARTS, FIGURES, HOST_CHARTS, bytes, count, duration, reason, say } from "./figures.js";
import { inspect } from "./inspector.js";

const STATISTICS = "events?topic=fanfare%3Astatistics&replay=all";
const KEPT_MS = 15 * 60000;
const KEPT = 900; // one a second
const NOTICES_MAX = 3;
const $ = (id) => document.getElementById(id);

/** Samples `[time, sample]`, and the charts that show them. */
class History {
  samples = [];

  constructor(parent, charts) {
    this.charts = charts.map((chart) => new Chart(parent, chart));
  }

  get last() {
    return this.samples.at(-1)?.[1];
  }

  add(sample) {
    const time = sample?.time_ms;
    // A replay repeats samples.
    if (!(time > (this.samples.at(-1)?.[0] ?? 0))) return;
    this.samples.push([time, sample]);
    while (this.samples[0][0] < time - KEPT_MS) this.samples.shift();
    redraw();
  }

  shown() {
    const to = this.samples.at(-1)[0];
    const from = to - shownMs;
    return { span: [from, to], samples: this.samples.filter(([time]) => time >= from) };
  }

  draw() {
    if (!this.last) return;
    const { span, samples } = this.shown();
    this.charts.forEach((chart) => chart.show(samples, span));
  }
}

let shownMs = 5 * 60000;
const live = new History($("charts"), CHARTS);
const host = new History($("host-charts"), HOST_CHARTS);
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

// ---- drawing: at most once a frame, and never while the page is hidden ----

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
  const sample = live.last;
  if (!sample) return;
  figures.forEach((show) => show(sample));
  live.draw();
  host.draw();
  $("server").textContent = `${sample.version} · up ${duration(sample.uptime_seconds)}${sample.draining ? " · leaving" : ""}`;
  drawTables(sample);
}

function drawTables(sample) {
  rows("sources", sample.sources, ({ name, up, received, reconnects, error, position, lag }) => {
    const state = up ? "up" : "down";
    const place = position ? ` · ${position}${lag ? `, lag ${lag}` : ""}` : "";
    return [name, element("span", { class: state, title: error ?? "" }, error ? `${state}: ${error}` : state + place), say(count(received)), say(count(reconnects))];
  }, "none");
  const first = live.shown().samples.find(([, { run }]) => run === sample.run)[1];
  const reasons = (id, groups) => {
    const all = groups.flatMap(([what, read]) => Object.entries(read(sample)).map(([name, total]) =>
      [reason(name, what), total - (read(first)[name] ?? 0), total]));
    rows(id, all, ([name, recent, total]) => [name, say(count(recent)), say(count(total))], "none so far");
  };
  reasons("closed", [["", (s) => s.connections.closed], ["refused: ", (s) => s.connections.refused]]);
  reasons("gaps", [["gap: ", (s) => s.events.gaps], ["dropped: ", (s) => s.events.dropped]]);
  const { topics } = sample;
  $("topic-count").textContent = topics.count > topics.busiest.length ? `${topics.busiest.length} of ${say(count(topics.count))}` : "";
  rows("topics", topics.busiest, ({ topic, subscribers, retained_events, retained_bytes }) =>
    [topic, say(count(subscribers)), say(count(retained_events)), say(bytes(retained_bytes))], "none");
  inspector.offer(topics.busiest.map(({ topic }) => topic).filter((topic) => !topic.startsWith("fanfare:")));
}

/** Fills a table's body; the last columns are numbers. */
function rows(id, items, cells, otherwise) {
  const body = $(id);
  const numbers = [...body.previousElementSibling.rows[0].cells].map((cell) => cell.className);
  const made = items.map((item) => element("tr", {}, ...cells(item).map((cell, i) => element("td", { class: numbers[i] }, cell))));
  if (!made.length) made.push(element("tr", {}, element("td", { colspan: numbers.length, class: "muted" }, otherwise)));
  body.replaceChildren(...made);
}

// ---- the connection ----

let state = { name: "connecting" };
const WORDS = { connecting: "Connecting", open: "Connected", waiting: "Connection lost", closed: "Ended by the server" };

function showState(next) {
  state = next;
  document.body.dataset.state = state.name;
  $("connection-text").textContent = WORDS[state.name] ?? (isLocked() ? "Token needed" : "Refused");
  $("retry").hidden = state.name !== "waiting" && state.name !== "closed";
  document.title = state.name === "open" ? "Fanfare" : `${$("connection-text").textContent} · Fanfare`;
  $("token-form").hidden = !isLocked();
  if (state.name === "refused") {
    const rejected = state.status === 401 && sessionStorage.getItem("operator");
    $("token-why").textContent = rejected ? "That token is not accepted." : `The server says: ${state.detail}.`;
    if (!isLocked()) notify(`The server refuses the statistics (${state.status}): ${state.detail}`);
  }
  countDown();
}

const isLocked = () => state.name === "refused" && (state.status === 401 || state.status === 403);

function countDown() {
  const left = Math.ceil((state.retryAt - Date.now()) / 1000);
  $("countdown").textContent = state.name === "waiting" && left > 0 ? `· reconnecting in ${left} s` : "";
}
setInterval(countDown, 250);

function notify(text) {
  const button = element("button", { type: "button" }, "Dismiss");
  const notice = element("p", { class: "notice" }, element("span", {}, `${seconds.format(Date.now())} ${text}`), button);
  button.onclick = () => notice.remove();
  $("notices").append(notice);
  while ($("notices").children.length > NOTICES_MAX) $("notices").firstChild.remove();
}

const GAPS = {
  unknown_id: "Events were missed: the server was restarted, or this page was away for too long.",
  evicted: "Events were missed: the server no longer has them.",
  source_lost: "Events may have been missed: a source was away.",
};
const onGap = ({ reason }) => notify(GAPS[reason] ?? `Events were missed (${reason}).`);

const bearer = (word) => (word ? { Authorization: `Bearer ${word}` } : undefined);
const headers = () => bearer(sessionStorage.getItem("operator"));
const statistics = subscribe(STATISTICS, {
  share: true,
  keep: KEPT,
  fetch: true,
  headers: headers(),
  onState: showState,
  onGap,
  onEvent({ data }) {
    live.add(data);
    if (data.sources?.some(({ name }) => name === "host")) watchHost();
  },
});

let hostStream;
function watchHost() {
  if (hostStream) return;
  $("host").hidden = false;
  const onEvent = ({ data }) => data?.cpu_count && host.add(data);
  hostStream = subscribe("dashboard/stream?replay=all", { share: true, keep: KEPT, fetch: true, headers: headers(), onEvent });
}

$("retry").onclick = () => statistics.reconnect();
$("token-form").onsubmit = (event) => {
  event.preventDefault();
  const word = $("operator-token").value.trim();
  sessionStorage.setItem("operator", word);
  statistics.reconnect({ headers: bearer(word) });
};
$("window").onchange = ({ target }) => {
  shownMs = Number(target.value) * 60000;
  redraw();
};

const inspector = inspect(headers);

// The stream inspector: watch topics as a subscriber sees them, resume from any id, publish a test event.

import { subscribe } from "../../fanfare.js";
import { element } from "./charts.js";

const SHOWN_MAX = 300;
const KEPT_MAX = 2000;
const LONG = 90; // characters of data that fit a line
const $ = (id) => document.getElementById(id);
const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
const STATES = {
  connecting: "Connecting", open: "Watching", waiting: "Connection lost, reconnecting", closed: "Ended by the server",
};

/** Starts it, with what gives the headers to watch with; `offer` names topics to pick from. */
export function inspect(headers) {
  const inspector = new Inspector(headers);
  publishing();
  for (const button of document.querySelectorAll("[data-copy]")) button.onclick = () => copy(button);
  return { offer: (topics) => inspector.offer(topics) };
}

class Inspector {
  #stream = null;
  #topics = [];
  #events = [];
  #held = null; // what arrives while paused
  #away = null; // the id to resume after when the tab is looked at again
  #offered = "";
  #headers;

  constructor(headers) {
    this.#headers = headers;
    $("watch-form").onsubmit = (event) => {
      event.preventDefault();
      if (this.#topics.length) this.#leave();
      else this.#watch();
    };
    $("pause").onclick = () => this.#pause(!this.#held);
    $("clear").onclick = () => {
      this.#events = [];
      this.#draw();
    };
    $("filter").oninput = () => this.#draw();
    $("resume-form").onsubmit = (event) => {
      event.preventDefault();
      this.#stream?.reconnect({ lastEventId: $("last-id").value.trim() });
    };
    for (const id of ["watch-topic", "replay", "last-id"]) $(id).addEventListener("input", () => this.#command());
    // Browsers allow six connections: a hidden tab gives its own back, and resumes without loss.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden && this.#stream) {
        this.#away = this.#stream.lastEventId;
        this.#stream.close();
        this.#stream = null;
      } else if (!document.hidden && this.#away !== null) this.#open(this.#away);
    });
    this.#draw();
    this.#command();
  }

  offer(topics) {
    const offered = topics.join("\n");
    if (offered === this.#offered) return;
    this.#offered = offered;
    $("topic-names").replaceChildren(...topics.map((topic) => element("option", { value: topic })));
    for (const id of ["watch-topic", "publish-topic"]) if (!$(id).value && !this.#topics.length) $(id).value = topics[0] ?? "";
    this.#command();
    $("publish-form").oninput();
  }

  #named() {
    return $("watch-topic").value.split(",").map((name) => name.trim()).filter(Boolean);
  }

  #url() {
    const query = new URLSearchParams(this.#named().map((name) => ["topic", name]));
    if ($("replay").value) query.set("replay", $("replay").value);
    return `events?${query}`;
  }

  #watch() {
    this.#topics = this.#named();
    if (!this.#topics.length) return $("watch-topic").focus();
    this.#enable(true);
    $("last-id").value = "";
    this.#open("");
  }

  #open(lastEventId) {
    this.#away = null;
    this.#stream = subscribe(this.#url(), {
      fetch: true,
      headers: this.#headers(),
      json: false,
      lastEventId,
      onEvent: (event) => this.#take(event),
      onState: (state) => this.#tell(state),
    });
  }

  #leave() {
    this.#stream?.close();
    this.#stream = null;
    this.#away = null;
    this.#topics = [];
    this.#pause(false);
    $("watch-state").textContent = "Not watching";
    this.#enable(false);
  }

  #enable(watching) {
    $("watch").textContent = watching ? "Stop" : "Watch";
    for (const id of ["pause", "resume"]) $(id).disabled = !watching;
    for (const id of ["watch-topic", "replay"]) $(id).disabled = watching;
  }

  #tell(state) {
    const names = this.#topics.join(", ");
    $("watch-state").textContent = state.name === "refused"
      ? `Refused (${state.status}): ${state.detail}`
      : `${STATES[state.name]}${state.name === "open" ? ` ${names}` : ""}`;
  }

  #take(event) {
    if (document.activeElement !== $("last-id")) $("last-id").value = event.id;
    const kept = this.#held ?? this.#events;
    kept.push(event);
    if (kept.length > KEPT_MAX) kept.shift();
    this.#due ??= setTimeout(() => this.#draw(), 60);
  }

  #due;

  #pause(paused) {
    if (!paused && this.#held) this.#events = this.#events.concat(this.#held).slice(-KEPT_MAX);
    this.#held = paused ? [] : null;
    $("pause").setAttribute("aria-pressed", paused);
    this.#draw();
  }

  #draw() {
    this.#due = clearTimeout(this.#due);
    const wanted = $("filter").value.toLowerCase();
    const fits = ({ id, type, text }) => !wanted || `${id}\n${type}\n${text}`.toLowerCase().includes(wanted);
    const fitting = this.#events.filter(fits);
    const shown = fitting.slice(-SHOWN_MAX).reverse();
    // Rows stay what they are, so that what is unfolded or selected stays so.
    const rows = shown.map((event) => (event.row ??= row(event)));
    if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: 4, class: "muted" }, this.#events.length ? "Nothing fits the filter." : "No events yet.")));
    reconcile($("events"), rows);
    const parts = [`${this.#events.length} events`];
    if (fitting.length !== shown.length || wanted) parts.push(`${shown.length} shown`);
    if (this.#held) parts.push(`paused, ${this.#held.length} waiting`);
    $("watch-count").textContent = parts.join(", ");
    this.#command();
  }

  #command() {
    const id = $("last-id").value.trim();
    const resume = id ? ` -H ${quoted(`Last-Event-ID: ${id}`)}` : "";
    $("watch-curl").textContent = `curl -N${resume} ${quoted(new URL(this.#url(), document.baseURI).href)}`;
  }
}

function row({ time: at, type, id, text }) {
  const data = element("td");
  if (text.length > LONG || text.includes("\n")) {
    data.append(element("details", {}, element("summary", {}, `${text.slice(0, LONG)}…`), element("pre", {}, pretty(text))));
  } else data.append(element("code", {}, text));
  const shownId = element("td", { class: "id", title: id }, id);
  return element("tr", { class: type === "gap" ? "gap" : "event" }, element("td", {}, time.format(at)), element("td", {}, type), shownId, data);
}

function reconcile(body, rows) {
  const keep = new Set(rows);
  for (const old of [...body.children]) if (!keep.has(old)) old.remove();
  rows.forEach((one, i) => {
    if (body.children[i] !== one) body.insertBefore(one, body.children[i] ?? null);
  });
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

// ---- publishing ----

function publishing() {
  const form = $("publish-form");
  const body = () => {
    const head = { topic: $("publish-topic").value.trim() };
    const type = $("publish-type").value.trim();
    if (type) head.event = type;
    return `${JSON.stringify(head).slice(0, -1)},"data":${asJson($("publish-data").value)}}`;
  };
  form.oninput = () => {
    const header = $("publish-token").value ? ' -H "Authorization: Bearer $TOKEN"' : "";
    $("publish-curl").textContent = `curl${header} ${quoted(new URL("publish", document.baseURI).href)} -d ${quoted(body())}`;
  };
  form.onsubmit = async (event) => {
    event.preventDefault();
    const headers = { "Content-Type": "application/json" };
    if ($("publish-token").value) headers.Authorization = `Bearer ${$("publish-token").value}`;
    $("published").textContent = "";
    $("published").textContent = await fetch("publish", { method: "POST", headers, body: body() }).then(outcome, () => "The server can’t be reached.");
  };
  form.oninput();
}

async function outcome(response) {
  const { id, detail } = await response.json().catch(() => ({}));
  return response.ok ? `Published as ${id}` : `Not published (${response.status}): ${detail ?? response.statusText}`;
}

/** JSON as it stands, number for number; anything else as a string. */
function asJson(text) {
  try {
    JSON.parse(text);
    return text;
  } catch {
    return JSON.stringify(text);
  }
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

async function copy(button) {
  const source = $(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Without https browsers keep the clipboard to themselves: selected, one key copies it.
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  const name = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = name), 1500);
}

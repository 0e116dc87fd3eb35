// The stream inspector: watch topics as a subscriber sees them, look into events, resume from any id.

import { subscribe } from "../../fanfare.js";
import { $, element } from "./dom.js";
import { EventList } from "./eventlist.js";
import { publishing, quoted } from "./publish.js";
import { tree } from "./tree.js";

const KEPT_MAX = 5000;
const DRAW_MS = 100;
const STATES = {
  connecting: "Connecting", open: "Watching", waiting: "Connection lost, reconnecting", closed: "Ended by the server",
};

/** Starts it, with what gives the headers to watch with. `offer` names topics to pick from, `watch` watches one. */
export function inspect(headers) {
  const inspector = new Inspector(headers);
  publishing();
  for (const button of document.querySelectorAll("[data-copy]")) button.onclick = () => copy(button, $(button.dataset.copy));
  return { offer: (topics) => inspector.offer(topics), watch: (topic) => inspector.watch(topic) };
}

class Inspector {
  #stream = null;
  #topics = [];
  #events = []; // the oldest first
  #held = null; // what arrives while paused
  #away = null; // the id to resume after when the tab is looked at again
  #offered = "";
  #picked = null;
  #headers;
  #list = new EventList((event) => this.#show(event));
  #number = 0;
  #due;
  #recent = []; // when the events of the last second came

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
      this.#list.select(null);
      this.#draw();
    };
    $("filter").oninput = () => this.#draw();
    $("resume-form").onsubmit = (event) => {
      event.preventDefault();
      this.#resume($("last-id").value.trim());
    };
    $("event-resume").onclick = () => this.#resume(this.#list.selected.id);
    $("event-close").onclick = () => this.#list.select(null);
    $("event-copy").onclick = () => copy($("event-copy"), $("event-text"));
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

  watch(topic) {
    this.#leave();
    this.#picked = topic;
    $("watch-topic").value = topic;
    $("replay").value = "all";
    this.#watch();
  }

  /** Topics by name; one that was picked may have a comma in it. */
  #named() {
    if ($("watch-topic").value === this.#picked) return [this.#picked];
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

  #resume(lastEventId) {
    this.#stream?.reconnect({ lastEventId });
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
    for (const id of ["pause", "resume", "event-resume"]) $(id).disabled = !watching;
    for (const id of ["watch-topic", "replay"]) $(id).disabled = watching;
  }

  #tell(state) {
    const names = this.#topics.join(", ");
    $("watch-state").textContent = state.name === "refused"
      ? `Refused (${state.status}): ${state.detail}`
      : `${STATES[state.name]}${state.name === "open" ? ` ${names}` : ""}`;
  }

  #take(event) {
    event.number = this.#number += 1;
    if (document.activeElement !== $("last-id")) $("last-id").value = event.id;
    const kept = this.#held ?? this.#events;
    kept.push(event);
    // In batches: one by one would move the whole array for each event.
    if (kept.length > KEPT_MAX * 1.1) kept.splice(0, kept.length - KEPT_MAX);
    this.#recent.push(event.time);
    this.#due ??= setTimeout(() => this.#draw(), DRAW_MS);
  }

  #pause(paused) {
    if (!paused && this.#held) this.#events = this.#events.concat(this.#held).slice(-KEPT_MAX);
    this.#held = paused ? [] : null;
    $("pause").setAttribute("aria-pressed", paused);
    this.#draw();
  }

  #draw() {
    this.#due = clearTimeout(this.#due);
    const wanted = $("filter").value.toLowerCase();
    const shown = (wanted ? this.#events.filter((event) => fits(event, wanted)) : this.#events).toReversed();
    this.#list.show(shown);
    this.#recent = this.#recent.slice(-KEPT_MAX).filter((time) => time > Date.now() - 1000);
    $("events-empty").textContent = shown.length ? "" : this.#events.length ? "Nothing fits the filter." : "No events yet.";
    const parts = [`${this.#events.length} events`];
    if (this.#recent.length > 1) parts.push(`${this.#recent.length}/s`);
    if (wanted) parts.push(`${shown.length} shown`);
    if (this.#held) parts.push(`paused, ${this.#held.length} waiting`);
    $("watch-count").textContent = parts.join(", ");
    this.#command();
  }

  /** Opens an event below the list; null closes it. */
  #show(event) {
    $("event").hidden = !event;
    if (!event) return;
    $("event-title").textContent = `${event.type} · ${event.id}`;
    $("event-text").textContent = event.text;
    const unfolded = tree(event.text);
    $("event-tree").replaceChildren(...(unfolded ? [unfolded] : []));
    $("event-text").hidden = Boolean(unfolded);
  }

  #command() {
    const id = $("last-id").value.trim();
    const resume = id ? ` -H ${quoted(`Last-Event-ID: ${id}`)}` : "";
    $("watch-curl").textContent = `curl -N${resume} ${quoted(new URL(this.#url(), document.baseURI).href)}`;
  }
}

/** Whether an event has the text, looked for once per text: a filter is applied ten times a second. */
function fits(event, wanted) {
  if (event.wanted !== wanted) {
    event.wanted = wanted;
    event.fits = `${event.id}\n${event.type}\n${event.text}`.toLowerCase().includes(wanted);
  }
  return event.fits;
}

async function copy(button, source) {
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

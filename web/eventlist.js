// A list of events, one per line, of which only the lines in sight are in the document: it keeps up with a thousand events a second.

import { $, element } from "./dom.js";

const SPARE = 6; // lines above and below what is in sight
const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });

export class EventList {
  #events = []; // the newest first
  #lines = new Map(); // those in the document, by event
  #selected = null;
  #onSelect;
  #height = 0;

  /** Shows events in `#events`; `onSelect` gets the event that is selected, or null. */
  constructor(onSelect) {
    this.#onSelect = onSelect;
    this.box = $("events");
    this.canvas = $("events-canvas");
    this.box.addEventListener("scroll", () => this.#draw());
    this.box.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#draw()).observe(this.box);
  }

  /** Shows these, the newest first. Who has scrolled down keeps the lines that are in sight. */
  show(events) {
    const top = this.#lineAt(this.box.scrollTop);
    const before = this.box.scrollTop > 0 ? this.#events[top] : null;
    this.#events = events;
    const now = before ? events.indexOf(before) : -1;
    this.canvas.style.height = `${events.length * this.#lineHeight()}px`;
    if (now > 0) this.box.scrollTop += (now - top) * this.#lineHeight();
    this.#draw();
  }

  select(event) {
    this.#selected = event;
    this.#onSelect(event);
    this.#draw();
  }

  get selected() {
    return this.#selected;
  }

  #lineHeight() {
    this.#height ||= parseFloat(getComputedStyle(this.box).getPropertyValue("--line-rems")) * parseFloat(getComputedStyle(document.documentElement).fontSize);
    return this.#height;
  }

  #lineAt(y) {
    return Math.floor(y / this.#lineHeight());
  }

  #draw() {
    const first = Math.max(0, this.#lineAt(this.box.scrollTop) - SPARE);
    const last = Math.min(this.#events.length, this.#lineAt(this.box.scrollTop + this.box.clientHeight) + SPARE + 1);
    const lines = new Map();
    for (let i = first; i < last; i += 1) {
      const event = this.#events[i];
      const line = this.#lines.get(event) ?? this.#line(event);
      line.style.top = `${i * this.#lineHeight()}px`;
      line.setAttribute("aria-selected", event === this.#selected);
      line.setAttribute("aria-posinset", i + 1);
      line.setAttribute("aria-setsize", this.#events.length);
      lines.set(event, line);
    }
    for (const [event, line] of this.#lines) if (!lines.has(event)) line.remove();
    for (const [event, line] of lines) if (!this.#lines.has(event)) this.canvas.append(line);
    this.#lines = lines;
    const chosen = lines.get(this.#selected);
    if (chosen) this.box.setAttribute("aria-activedescendant", chosen.id);
    else this.box.removeAttribute("aria-activedescendant");
  }

  #line(event) {
    const { time: at, type, id, text, number } = event;
    const cells = [["time", time.format(at)], ["type", type], ["id", id], ["data", text.slice(0, 500).replaceAll("\n", "⏎")]];
    const made = element("div", { class: type === "gap" ? "line gap" : "line event", role: "option", id: `event-${number}` },
      ...cells.map(([name, value]) => element("span", { class: name }, value)));
    made.onclick = () => this.select(this.#selected === event ? null : event);
    return made;
  }

  /** Arrows, Home, End and Escape, as in every list. */
  #key(event) {
    const at = this.#events.indexOf(this.#selected);
    const page = Math.max(1, this.#lineAt(this.box.clientHeight) - 1);
    const steps = { ArrowDown: at + 1, ArrowUp: Math.max(0, at - 1), Home: 0, End: this.#events.length - 1, PageDown: at + page, PageUp: at - page };
    if (event.key === "Escape") this.select(null);
    else if (event.key in steps && this.#events.length) {
      const to = Math.min(Math.max(0, steps[event.key]), this.#events.length - 1);
      const [y, height] = [to * this.#lineHeight(), this.#lineHeight()];
      if (y < this.box.scrollTop) this.box.scrollTop = y;
      else if (y + height > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = y + height - this.box.clientHeight;
      this.select(this.#events[to]);
    } else return;
    event.preventDefault();
  }
}

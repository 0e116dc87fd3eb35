// Line charts over time, as SVG: sharp on every screen, coloured by the page's style, sized by their place. All charts have the
// same axis of time, and one crosshair.

import { element } from "./dom.js";
import { bytes, bytesPerSecond, count, say } from "./figures.js";

const GAP_MS = 3500; // a longer silence breaks the line
const SPOKEN_MS = 10000; // how often the description for screen readers changes
const LIMIT_SEEN = 0.25; // a limit is drawn from this share of it on; below, it would flatten the line
const clock = (options) => new Intl.DateTimeFormat("en-GB", options);
const minutes = clock({ hour: "2-digit", minute: "2-digit" });
export const seconds = clock({ hour: "2-digit", minute: "2-digit", second: "2-digit" });

const all = [];

/** Moves the crosshair of all charts to a time, or takes it away. */
function point(time) {
  for (const chart of all) chart.point(time);
}

const svg = (name, attributes = {}) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

export class Chart {
  #samples = [];
  #series = [];
  #span = [0, 1];
  #pointed = null;
  #size = null;
  #spokenAt = 0;

  constructor(parent, { title, read, lines, top, limit }) {
    Object.assign(this, { title, read, lines, top, limit });
    this.values = lines.map(() => element("b"));
    const keys = lines.map(([name], i) =>
      element("span", { class: i ? "two" : "one" }, element("i"), `${name} `, this.values[i]));
    this.bound = element("span", { class: "bound" });
    this.svg = svg("svg", { role: "img", "aria-label": title });
    this.plot = svg("g");
    this.cursor = svg("line", { class: "cursor" });
    this.svg.append(this.plot, this.cursor);
    const legend = element("div", { class: "legend" }, ...keys, this.bound);
    parent.append(element("figure", { class: "card chart" },
      element("figcaption", {}, element("h3", {}, title), legend), this.svg));
    new ResizeObserver(([entry]) => {
      this.#size = entry.contentRect;
      this.#draw();
    }).observe(this.svg);
    this.svg.addEventListener("pointermove", ({ offsetX }) => point(this.#timeAt(offsetX)));
    this.svg.addEventListener("pointerleave", () => point(null));
    all.push(this);
  }

  /** Shows samples, each `[time, what the lines read]`, of a span of time. */
  show(samples, span) {
    this.#samples = samples;
    this.#span = span;
    this.#series = this.lines.map(([, read]) => samples.map(([time, sample]) => [time, read(sample) ?? null]));
    this.#draw();
  }

  /** Shows the values of a time; null: the newest. */
  point(time) {
    this.#pointed = time;
    this.#tell();
  }

  /** The time of the sample that is this many samples from the one that is pointed at, or from the newest. */
  timeBeside(steps) {
    const newest = this.#samples.length - 1;
    const at = this.#pointed === null ? newest : nearest(this.#samples, this.#pointed);
    return this.#samples[Math.min(Math.max(0, at + steps), newest)]?.[0] ?? null;
  }

  /** The time of the sample that is nearest to a place. */
  #timeAt(x) {
    if (!this.#size?.width || !this.#samples.length) return null;
    const [from, to] = this.#span;
    return this.#samples[nearest(this.#samples, from + (x / this.#size.width) * (to - from))][0];
  }

  #draw() {
    if (!this.#size?.width || !this.#samples.length) return;
    const { width, height } = this.#size;
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const highest = Math.max(0, ...this.#series.flat().map(([, value]) => value ?? 0));
    const limit = this.limit?.[1](this.#samples.at(-1)[1]) ?? null;
    const isLimitSeen = limit !== null && highest >= limit * LIMIT_SEEN;
    const ticks = scale(this.top ?? Math.max(highest, isLimitSeen ? limit : 0), this.read);
    const top = ticks.at(-1);
    const [bottom, head] = [height - rem * 1.2, rem * 1.05];
    const [from, to] = this.#span;
    const x = (time) => ((time - from) / (to - from)) * width;
    const y = (value) => bottom - (value / top) * (bottom - head);

    let marks = "";
    ticks.forEach((tick, i) => {
      const at = y(tick).toFixed(1);
      marks += `<line class="${i ? "grid" : "base"}" x1="0" x2="${width}" y1="${at}" y2="${at}"/>`;
    });
    for (const [time, label] of timeTicks(from, to, width / rem)) {
      const [at, half] = [x(time), label.length * rem * 0.21];
      if (at < half || at > width - half) continue; // it would be cut off
      marks += `<text x="${at.toFixed(1)}" y="${height - rem * 0.15}" text-anchor="middle">${label}</text>`;
    }
    if (this.#series.length === 1) marks += `<path class="area" d="${path(this.#series[0], x, y, bottom)}"/>`;
    this.#series.forEach((line, i) => (marks += `<path class="${i ? "two" : "one"}" d="${path(line, x, y)}"/>`));
    if (isLimitSeen || (limit !== null && this.top)) {
      const at = y(limit).toFixed(1);
      marks += `<line class="limit" x1="0" x2="${width}" y1="${at}" y2="${at}"/>`;
    }
    // Every second label where lines are close.
    const every = ticks.length > 2 && (bottom - head) / (ticks.length - 1) < rem * 1.6 ? 2 : 1;
    ticks.forEach((tick, i) => {
      if (i && (ticks.length - 1 - i) % every === 0) marks += `<text class="value" x="0" y="${(y(tick) - rem * 0.2).toFixed(1)}">${say(this.read(tick))}</text>`;
    });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.plot.innerHTML = marks; // numbers and our own labels only
    this.bound.textContent = limit === null ? "" : `${this.limit[0]} ${say(this.read(limit))}`;
    this.#tell();
    this.#speak(highest);
  }

  #tell() {
    if (!this.#size?.width || !this.#samples.length) return;
    const [from, to] = this.#span;
    const pointed = this.#pointed;
    const at = pointed === null ? this.#samples.length - 1 : nearest(this.#samples, pointed);
    this.#series.forEach((line, i) => (this.values[i].textContent = say(this.read(line[at][1]))));
    const x = pointed === null ? -9 : ((this.#samples[at][0] - from) / (to - from)) * this.#size.width;
    for (const [name, value] of Object.entries({ x1: x, x2: x, y1: 0, y2: this.#size.height })) this.cursor.setAttribute(name, value);
  }

  #speak(highest) {
    if (Date.now() - this.#spokenAt < SPOKEN_MS) return;
    this.#spokenAt = Date.now();
    const now = this.lines.map(([name], i) => `${name} ${say(this.read(this.#series[i].at(-1)[1]))}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title}: now ${now}; highest shown ${say(this.read(highest))}`);
  }
}

/** Moves the crosshair with the arrow keys, while `box` has the focus; Escape takes it away. */
export function pointWithKeys(box) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -15, PageDown: 15 };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return point(null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    point(all[0].timeBeside(steps[event.key]));
  });
  box.addEventListener("blur", () => point(null));
}

/** Tells the time that is pointed at, or an empty text. */
export function onPoint(tell) {
  all.push({ point: (time) => tell(time === null ? "" : `at ${seconds.format(time)}`) });
}

/** From 0 in two to five even steps that people can read. */
function scale(highest, read) {
  const unit = read === bytes || read === bytesPerSecond ? 1024 ** Math.max(0, Math.floor(Math.log2(highest || 1) / 10)) : 1;
  const rough = (highest / unit || 4) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const nice = [1, 2, 2.5, 5, 10].find((nice) => nice * power >= rough) * power;
  const step = read === count ? Math.ceil(nice) : nice; // there are no half connections
  const steps = Math.max(1, Math.ceil(highest / unit / step - 1e-9));
  return Array.from({ length: steps + 1 }, (_, i) => i * step * unit);
}

function timeTicks(from, to, widthRem) {
  const span = (to - from) / 60000;
  const [step, format] = span <= 1 ? [15000, seconds] : span <= 5 ? [60000, minutes] : [180000, minutes];
  const wide = widthRem / ((to - from) / step) > 3.4 ? step : step * 2;
  const ticks = [];
  for (let time = Math.ceil(from / wide) * wide; time < to; time += wide) ticks.push([time, format.format(time)]);
  return ticks;
}

/** The line through what was measured, broken where nothing was; or down to `floor`, the area below it. */
function path(line, x, y, floor) {
  let d = "";
  let run = [];
  const end = () => {
    if (run.length && floor !== undefined) {
      d += `M${run[0][0]},${floor}L${run.join("L")}L${run.at(-1)[0]},${floor}Z`;
    } else if (run.length) d += `M${run.join("L")}${run.length === 1 ? "h.01" : ""}`;
    run = [];
  };
  let last = -Infinity;
  for (const [time, value] of line) {
    if (time - last > GAP_MS) end();
    if (value === null) continue; // a second without deliveries says nothing about how long they take
    run.push([x(time).toFixed(1), y(value).toFixed(1)]);
    last = time;
  }
  end();
  return d;
}

/** The index of the sample that is nearest to a time; samples rise. */
function nearest(samples, time) {
  let [low, high] = [0, samples.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (samples[middle][0] < time) low = middle + 1;
    else high = middle;
  }
  return low > 0 && time - samples[low - 1][0] < samples[low][0] - time ? low - 1 : low;
}

// Line charts over time, as SVG: sharp on every screen, coloured by the page's style, sized by their place.

import { bytes, bytesPerSecond, count, say } from "./figures.js";

const GAP_MS = 3500; // a longer silence breaks the line
const SPOKEN_MS = 10000; // how often the description for screen readers changes
const clock = (options) => new Intl.DateTimeFormat("en-GB", options);
const minutes = clock({ hour: "2-digit", minute: "2-digit" });
export const seconds = clock({ hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** Creates an element with attributes and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export class Chart {
  #samples = [];
  #span = [0, 1];
  #pointer = null;
  #size = null;
  #spokenAt = 0;

  constructor(parent, [title, read, lines, top]) {
    Object.assign(this, { title, read, lines, top });
    this.values = lines.map(() => element("b"));
    const keys = lines.map(([name], i) =>
      element("span", { class: i ? "two" : "one" }, element("i"), `${name} `, this.values[i]));
    this.when = element("span");
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("role", "img");
    this.svg.setAttribute("aria-label", title);
    const legend = element("div", { class: "legend" }, ...keys, this.when);
    parent.append(element("figure", { class: "card chart" },
      element("figcaption", {}, element("h3", {}, title), legend), this.svg));
    new ResizeObserver(([entry]) => {
      this.#size = entry.contentRect;
      this.draw();
    }).observe(this.svg);
    this.svg.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.#point(null));
  }

  /** Shows samples, each `[time, what the lines read]`, of a span of time. */
  show(samples, span) {
    this.#samples = samples;
    this.#span = span;
    this.draw();
  }

  #point(x) {
    this.#pointer = x;
    this.draw();
  }

  draw() {
    if (!this.#size?.width || !this.#samples.length) return;
    const { width, height } = this.#size;
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const series = this.lines.map(([, read]) => this.#samples.map(([time, sample]) => [time, read(sample) ?? null]));
    const highest = Math.max(0, ...series.flat().map(([, value]) => value ?? 0));
    const ticks = scale(this.top ?? highest, this.read);
    const top = ticks.at(-1);
    const labels = ticks.map((tick) => say(this.read(tick)));
    const left = Math.max(...labels.map((label) => label.length)) * rem * 0.42 + rem * 0.5;
    const [bottom, head] = [height - rem * 1.4, rem * 0.5];
    const [from, to] = this.#span;
    const x = (time) => left + ((time - from) / (to - from)) * (width - left - 2);
    const y = (value) => bottom - (value / top) * (bottom - head);

    let marks = "";
    ticks.forEach((tick, i) => {
      const at = y(tick).toFixed(1);
      marks += `<line class="${i ? "grid" : "base"}" x1="${left}" x2="${width}" y1="${at}" y2="${at}"/>`;
      marks += `<text x="${left - rem * 0.4}" y="${at}" dy=".32em" text-anchor="end">${labels[i]}</text>`;
    });
    for (const [time, label] of timeTicks(from, to, width / rem)) {
      if (x(time) < left + rem * 1.4 || x(time) > width - rem * 1.3) continue;
      marks += `<text x="${x(time).toFixed(1)}" y="${height - rem * 0.25}" text-anchor="middle">${label}</text>`;
    }
    if (series.length === 1) marks += `<path class="area" d="${path(series[0], x, y, bottom)}"/>`;
    series.forEach((line, i) => (marks += `<path class="${i ? "two" : "one"}" d="${path(line, x, y)}"/>`));
    const at = this.#pointer === null ? this.#samples.length - 1 : nearest(this.#samples, x, this.#pointer);
    if (this.#pointer !== null) {
      const line = x(this.#samples[at][0]).toFixed(1);
      marks += `<line class="cursor" x1="${line}" x2="${line}" y1="${head}" y2="${bottom}"/>`;
    }
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.innerHTML = marks; // numbers and our own labels only
    this.#tell(series, at, highest);
  }

  #tell(series, at, highest) {
    series.forEach((line, i) => (this.values[i].textContent = say(this.read(line[at][1]))));
    this.when.textContent = this.#pointer === null ? "" : `at ${seconds.format(this.#samples[at][0])}`;
    if (Date.now() - this.#spokenAt < SPOKEN_MS) return;
    this.#spokenAt = Date.now();
    const now = this.lines.map(([name], i) => `${name} ${say(this.read(series[i].at(-1)[1]))}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title}: now ${now}; highest shown ${say(this.read(highest))}`);
  }
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

function nearest(samples, x, pointer) {
  let best = 0;
  samples.forEach(([time], i) => {
    if (Math.abs(x(time) - pointer) < Math.abs(x(samples[best][0]) - pointer)) best = i;
  });
  return best;
}

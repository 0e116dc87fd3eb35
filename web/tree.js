// JSON as a tree that unfolds: what is inside is built when it is opened first.

import { element } from "./dom.js";

const OPEN_MAX = 20; // members up to which an object or array is open at the beginning
const PART = 100; // members that are shown at once

/** The tree of a text, or nothing if the text is no JSON object or array. Numbers keep the digits they were sent with. */
export function tree(text) {
  let value;
  try {
    value = JSON.parse(text, exact);
  } catch {
    return null;
  }
  return value !== null && typeof value === "object" && !(value instanceof Exact) ? element("div", { class: "tree" }, node("", value, 0)) : null;
}

/** A number that a double can't hold as it was sent. */
class Exact {
  constructor(digits) {
    this.digits = digits;
  }
}

const exact = (_, value, context) =>
  typeof value === "number" && context?.source !== undefined && context.source !== String(value) ? new Exact(context.source) : value;

function node(key, value, depth) {
  const name = key === "" ? [] : [element("span", { class: "key" }, key), ": "];
  if (value === null || typeof value !== "object" || value instanceof Exact) {
    const kind = value === null ? "null" : value instanceof Exact ? "number" : typeof value;
    return element("div", { class: "leaf" }, ...name, element("span", { class: kind }, value instanceof Exact ? value.digits : JSON.stringify(value)));
  }
  const members = Object.entries(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const size = members.length === 1 ? "1 member" : `${members.length} members`;
  const made = element("details", {}, element("summary", {}, ...name, `${open}${members.length ? ` ${size} ` : ""}${close}`));
  let built = false;
  const build = () => {
    if (!made.open || built) return;
    built = true;
    append(made, members, 0, depth);
  };
  made.addEventListener("toggle", build);
  if (depth < 2 && members.length <= OPEN_MAX) {
    made.open = true;
    build();
  }
  return made;
}

function append(parent, members, from, depth) {
  parent.append(...members.slice(from, from + PART).map(([key, value]) => node(key, value, depth + 1)));
  const left = members.length - from - PART;
  if (left <= 0) return;
  const more = element("button", { type: "button", class: "small" }, `${left} more`);
  more.onclick = () => {
    more.remove();
    append(parent, members, from + PART, depth);
  };
  parent.append(more);
}

// The table of topics: searched by the server, sorted here, with the rate at which events come.

import { $, element, fill, shortened } from "./dom.js";
import { bytes, count, rate, say } from "./figures.js";

const PAGES_MAX = 4; // up to 500 topics each: more are found by a search
const SEARCHED_MAX = 50; // pages of a search, each of which looks at 4,096 topics
const TYPING_MS = 200;
const SHOWN_MAX = 100;
const INTERVAL_MS = 2000;
const INTERVAL_MANY_MS = 10000; // with more than one page

/** Keeps the table up to date while it can be seen. */
export function listTopics({ headers, disconnect, watch }) {
  let timer;
  let asking = new AbortController();
  let known = new Map(); // by name: how many events when, and at which rate
  let order = { column: "subscribers", falls: true };
  let list = { topics: [], count: 0, hasMore: false, pages: 0 };

  const isSeen = () => !document.hidden && $("topics").getClientRects().length > 0;

  async function load() {
    clearTimeout(timer);
    asking.abort(); // a newer search runs
    asking = new AbortController();
    const { signal } = asking;
    if (isSeen()) {
      const answer = await fetchTopics($("topic-search").value.trim(), headers(), signal).catch(() => ({ problem: "not shown: the server takes no requests" }));
      if (signal.aborted) return;
      if (answer.problem) tell(answer.problem);
      else {
        measure(answer.topics);
        list = answer;
        show();
      }
    }
    timer = setTimeout(load, list.pages > 1 ? INTERVAL_MANY_MS : INTERVAL_MS);
  }

  /** Only what is new, because screen readers read it. */
  function tell(text) {
    if ($("topic-count").textContent !== text) $("topic-count").textContent = text;
  }

  function measure(topics) {
    const now = performance.now();
    const rates = new Map();
    for (const topic of topics) {
      const before = known.get(topic.topic);
      const passed = before && (now - before.at) / 1000;
      topic.rate = before && passed > 0 ? Math.max(0, topic.published_events - before.events) / passed : null;
      rates.set(topic.topic, { at: now, events: topic.published_events });
    }
    known = rates;
  }

  function show() {
    const { column, falls } = order;
    const byName = (one, other) => one.topic.localeCompare(other.topic);
    const by = column === "topic" ? byName : (one, other) => (one[column] ?? -1) - (other[column] ?? -1);
    const compare = (one, other) => by(one, other) * (falls ? -1 : 1) || byName(one, other);
    const shown = list.topics.toSorted(compare).slice(0, SHOWN_MAX);
    fill($("topic-rows"), shown, (topic) => [
      shortened(topic.topic),
      say(count(topic.subscribers)),
      topic.rate === null ? "–" : say(rate(topic.rate)),
      say(count(topic.retained_events)),
      say(bytes(topic.retained_bytes)),
      buttons(topic.topic),
    ], !$("topic-search").value ? "none" : list.hasMore ? "not found; not all topics were searched" : "no topic has this in its name");
    const found = `${say(count(list.topics.length))}${list.hasMore ? " or more" : ""}`;
    const part = list.topics.length > shown.length ? `${shown.length} shown of ` : "";
    const rest = list.hasMore || list.topics.length !== list.count ? `; ${say(count(list.count))} in all` : "";
    tell(`${part}${found}${rest}`);
  }

  function buttons(topic) {
    const button = (name, how, act) => {
      const made = element("button", { type: "button", class: `small ${how}`, "aria-label": `${name} ${topic}` }, name);
      made.onclick = act;
      return made;
    };
    return element("span", { class: "buttons" },
      button("Watch", "watch", () => watch(topic)), button("Disconnect", "end", () => disconnect("topic", topic)));
  }

  for (const head of $("topic-rows").previousElementSibling.querySelectorAll("button")) {
    head.onclick = () => {
      const { column } = head.dataset;
      order = { column, falls: order.column === column ? !order.falls : column !== "topic" };
      for (const cell of head.closest("tr").cells) cell.removeAttribute("aria-sort");
      head.closest("th").setAttribute("aria-sort", order.falls ? "descending" : "ascending");
      show();
    };
  }
  $("topic-search").oninput = () => {
    clearTimeout(timer);
    timer = setTimeout(load, TYPING_MS);
  };
  addEventListener("hashchange", load);
  document.addEventListener("visibilitychange", load);
  load();
}

/** The topics whose names contain a text, as far as a bounded number of pages holds them. */
async function fetchTopics(contains, headers, signal) {
  const pagesMax = contains ? SEARCHED_MAX : PAGES_MAX;
  let [topics, after, total, pages] = [[], undefined, 0, 0];
  while (pages < pagesMax && topics.length < 500 * PAGES_MAX) {
    pages += 1;
    const query = new URLSearchParams({ ...(contains && { contains }), ...(after !== undefined && { after }) });
    const response = await fetch(`topics?${query}`, { headers, signal });
    if (!response.ok) return { problem: `not shown (${response.status})` };
    const answer = await response.json();
    topics = topics.concat(answer.topics);
    [total, after] = [Math.max(total, answer.count), answer.next];
    if (after === undefined) break;
  }
  const own = topics.filter(({ topic }) => topic.startsWith("fanfare:")).length;
  return { topics: topics.filter(({ topic }) => !topic.startsWith("fanfare:")), count: total - own, hasMore: after !== undefined, pages };
}

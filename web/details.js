// The tables of details: sources, the bus, who is slow, why connections ended, and what was lost.

import { $, element, fill } from "./dom.js";
import { count, duration, reason, say } from "./figures.js";

/** Shows the details of a sample; what is recent is counted from `before` on, or from the server's start. */
export function details(sample, before, disconnect) {
  fill($("sources"), sample.sources, source, "none");
  $("bus").hidden = !sample.bus;
  if (sample.bus) bus(sample.bus);
  const behind = sample.subscribers.slow;
  fill($("slow"), behind, (client) => slow(client, disconnect), "none is behind");
  const recent = (groups) =>
    groups.flatMap(([what, read]) => {
      const earlier = (before && read(before)) ?? {};
      return Object.entries(read(sample)).map(([name, total]) => [reason(name, what), total - (earlier[name] ?? 0), total]);
    });
  const numbers = ([name, ...totals]) => [name, ...totals.map((total) => say(count(total)))];
  fill($("closed"), recent([["", (s) => s.connections.closed], ["refused: ", (s) => s.connections.refused]]), numbers, "none so far");
  fill($("gaps"), recent([["gap: ", (s) => s.events.gaps], ["dropped: ", (s) => s.events.dropped]]), numbers, "none so far");
}

function source({ name, up, received, reconnects, error }) {
  const state = element("span", { class: up ? "up" : "down" }, error ? `down: ${error}` : up ? "up" : "down");
  return [name, state, say(count(received)), say(count(reconnects))];
}

function bus({ up, error, leads, position, lag, forks, appended }) {
  const part = leads === null ? "" : leads ? ", leads" : ", stands by";
  const facts = [
    ["State", element("span", { class: up ? "up" : "down" }, `${error ? `down: ${error}` : up ? "up" : "down"}${part}`)],
    ["Read up to", position],
    ["Entries behind", say(count(lag))],
    ["Forks", say(count(forks))],
    ["Appended here", ["new", "duplicate", "failed"].map((result) => `${say(count(appended[result]))} ${result}`).join(", ")],
  ];
  $("bus-facts").replaceChildren(...facts.map(([what, value]) => element("div", {}, element("dt", {}, what), element("dd", {}, value))));
}

function slow({ address, streams, waiting_seconds }, disconnect) {
  const who = element("span", {}, address ?? "unix sockets");
  if (address) {
    const button = element("button", { type: "button", class: "small", "aria-label": `Disconnect ${address}` }, "Disconnect");
    button.onclick = () => disconnect("address", address);
    who.append(" ", button);
  }
  return [who, say(count(streams)), duration(waiting_seconds)];
}

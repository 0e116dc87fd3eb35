// What pages written in TypeScript rely on, checked by tsc and never run.

import { subscribe, type FanfareEvent, type Gap, type State, type Subscription } from "../../web/fanfare.js";

const prices: Subscription = subscribe("/events?topic=prices", {
  types: ["price"],
  headers: { Authorization: "Bearer word" },
  share: true,
  keep: 10,
  retryMax: 10_000,
  silenceMax: 60_000,
  lastEventId: "a-1",
  onEvent: ({ type, data, text, id, publisherId, time }: FanfareEvent) =>
    show(type, text, id, publisherId ?? "", time.toFixed(), JSON.stringify(data)),
  onGap: ({ reason, topics, last_id }: Gap, event) => show(reason, ...topics, last_id ?? "nowhere", event.id),
  onState: (state: State) => {
    if (state.name === "waiting" && state.retryAt !== undefined) show(new Date(state.retryAt).toISOString());
    if (state.name === "refused") show(`${state.status}: ${state.detail}`);
  },
});
prices.reconnect();
prices.reconnect({ headers: { Authorization: "Bearer other" }, lastEventId: prices.lastEventId });
prices.close();
subscribe(new URL("https://events.example.com/events"), { fetch: true, json: false, withCredentials: true });
subscribe("/events");

// @ts-expect-error: a stream has an address
subscribe();
// @ts-expect-error: a misspelt option is told
subscribe("/events", { topic: "prices" });
// @ts-expect-error: data is whatever was published; a page looks before it uses it
subscribe("/events", { onEvent: ({ data }) => show(data.price) });
// @ts-expect-error: there is no such state
subscribe("/events", { onState: ({ name }) => name === "disconnected" });
// @ts-expect-error: the last id is the stream's to say
prices.lastEventId = "a-2";

function show(...words: string[]): void {
  document.title = words.join(" ");
}

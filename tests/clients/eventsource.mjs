// The eventsource package as a program uses it: opened once, and left to itself.

import { EventSource } from "eventsource";
import { record } from "./record.mjs";
import { tell, untilStopped } from "./told.mjs";

// The package's own hook for headers; here it only looks at what the package sends.
function watchedFetch(url, init) {
  tell({ kind: "request", id: init.headers["Last-Event-ID"] });
  return fetch(url, init);
}

await untilStopped((url) => {
  const source = new EventSource(url, { fetch: watchedFetch });
  record(source, tell);
  return () => source.close();
});

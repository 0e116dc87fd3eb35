import * as Turbo from "@hotwired/turbo";

const status = document.getElementById("status");
const say = (text) => (status.textContent = text);

/** The application sets a new cookie, which EventSource shows to Fanfare when it reconnects. */
async function renew() {
  const answer = await fetch("/token", { method: "POST" }).catch(() => null);
  if (answer?.status === 401) location.reload(); // the session has ended: log in
}

/** Shows what the application has, with a stream that goes on from exactly there. */
async function refetch() {
  const headers = { Accept: "text/vnd.turbo-stream.html" };
  const answer = await fetch("/orders", { headers }).catch(() => null);
  if (answer?.status === 401) return location.reload();
  if (!answer?.ok) return setTimeout(refetch, 2000);
  Turbo.renderStreamMessage(await answer.text());
  status.dataset.refetches++;
}

/** Turbo shows the events. This is what Turbo leaves to the page: the status, gaps, and streams that are refused. */
function watch(source) {
  const events = source.streamSource;
  const url = new URL(source.src, location);
  let missing = false;
  // While Fanfare is away, nginx answers with a stream that ends at once.
  events.addEventListener("open", () => {
    setTimeout(() => events.readyState === EventSource.OPEN && !missing && say("live"), 200);
  });
  events.addEventListener("message", (event) => url.searchParams.set("last_event_id", event.lastEventId));
  events.addEventListener("gap", () => {
    if (missing) return;
    missing = true;
    say("reconnecting");
    setTimeout(refetch, Math.random() * 1000); // a restart gives all pages a gap: they spread their requests
  });
  events.addEventListener("error", async () => {
    say("reconnecting");
    if (events.readyState !== EventSource.CLOSED) return; // EventSource comes back by itself
    await renew(); // it was refused, as after a sleep longer than the token's life
    setTimeout(() => {
      const next = document.createElement("turbo-stream-source");
      next.setAttribute("src", url);
      source.replaceWith(next); // goes on from the last event
    }, 1000 + Math.random() * 1000);
  });
}

// Watches each source that comes into the page. An observer runs before the first event of a new EventSource does.
const watched = new WeakSet();
function watchNew() {
  for (const source of document.querySelectorAll("turbo-stream-source")) {
    if (!watched.has(source)) watch(source);
    watched.add(source);
  }
}
new MutationObserver(watchNew).observe(document.body, { childList: true, subtree: true });
watchNew();

document.addEventListener("turbo:submit-end", ({ target, detail }) => detail.success && target.reset());
setInterval(renew, status.dataset.tokenSeconds * 500); // when half of the token's life is over

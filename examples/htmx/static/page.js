// What htmx and its SSE extension leave to the page.

const say = (status) => (document.getElementById("status").textContent = status);

// The extension opens its streams with this.
htmx.createEventSource = (url) => {
  const source = new EventSource(url, { withCredentials: true }); // with the cookie that has the token
  source.addEventListener("open", () => {
    // Without a position, the section is fetched again first.
    if (url.includes("last_event_id=")) say("live");
  });
  source.addEventListener("error", (event) => {
    say("reconnecting");
    if (source.readyState === EventSource.CLOSED) {
      htmx.trigger("#token", "renew"); // Fanfare refused the token, and the extension will open another stream
    } else {
      event.stopImmediatePropagation(); // EventSource reconnects by itself; the extension would report an error
    }
  });
  return source;
};

document.addEventListener("htmx:sseBeforeMessage", ({ detail: event }) => {
  // An order that the state contains may come again: the new element replaces the old one.
  const { id } = document.createRange().createContextualFragment(event.data).firstElementChild;
  document.getElementById(id)?.remove();
});

document.addEventListener("htmx:sseMessage", ({ detail: event }) => {
  // Where the extension continues if it opens another stream.
  const section = document.getElementById("stream");
  const url = new URL(section.getAttribute("sse-connect"));
  url.searchParams.set("last_event_id", event.lastEventId);
  section.setAttribute("sse-connect", url);
});

document.addEventListener("htmx:beforeRequest", ({ target }) => {
  if (target.id === "stream") say("reconnecting");
});

document.addEventListener("htmx:afterRequest", ({ detail: { requestConfig, successful, xhr } }) => {
  if (xhr.status === 401) location.reload(); // the session has ended
  if (requestConfig.elt.id !== "stream") return;
  if (successful) document.body.dataset.refetches++;
  else setTimeout(() => htmx.trigger("#stream", "sse:gap"), 2000);
});

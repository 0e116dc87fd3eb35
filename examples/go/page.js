// Shows orders as they come, with the browser's own EventSource.

const { fanfareUrl, topic, position, tokenSeconds } = document.body.dataset;
const list = document.getElementById("orders");
const say = (text) => (document.getElementById("status").textContent = text);

// An order that the state has already may come again, and replaces itself.
function show({ id, item }) {
  const line = list.querySelector(`[data-order="${id}"]`) ?? list.appendChild(document.createElement("li"));
  line.dataset.order = id;
  line.textContent = item;
}

document.getElementById("order").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const answer = await fetch("/orders", { method: "POST", body: new URLSearchParams(new FormData(form)) });
  if (answer.ok) form.reset(); // the order itself comes with the stream
});

// ---- the stream ----

// Continues after `lastId`, up to which the list is complete; empty if Fanfare did not say it.
function open(lastId) {
  const query = new URLSearchParams({ topic, last_event_id: lastId });
  const events = new EventSource(`${fanfareUrl}/events?${query}`, { withCredentials: true }); // the cookie has the token
  events.onopen = () => (lastId ? say("live") : refetch(events));
  events.onmessage = (event) => {
    lastId = event.lastEventId;
    show(JSON.parse(event.data));
  };
  events.addEventListener("gap", () => refetch(events));
  events.onerror = async () => {
    say("reconnecting");
    if (events.readyState !== EventSource.CLOSED) return; // it reconnects by itself
    await renew(); // Fanfare refused the token, as after a sleep longer than the token's life
    await pause();
    open(lastId);
  };
}

// Shows the whole state, and continues at its position: what came meanwhile comes again.
async function refetch(events) {
  events.close();
  say("reconnecting");
  const answer = await fetch("/orders").catch(() => null);
  if (answer?.status === 401) return location.reload(); // to the login: the session has ended
  const state = answer?.ok ? await answer.json() : null;
  if (!state?.position) return pause().then(() => refetch(events));
  list.replaceChildren();
  state.orders.forEach(show);
  document.body.dataset.refetches++;
  open(state.position);
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 1000 + 1000 * Math.random()));

// ---- the token ----

async function renew() {
  const answer = await fetch("/token", { method: "POST" }).catch(() => null);
  if (answer?.status === 401) location.reload();
}

setInterval(renew, tokenSeconds * 500); // when half of its life is over
open(position);

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

let lastId = position; // empty if Fanfare did not answer when the page was rendered
let complete = true; // what the page shows and what the stream brings miss nothing

// Events wait while the state is fetched, so that it does not overwrite what is newer.
let work = Promise.resolve();
const then = (step) => (work = work.then(step));

function open() {
  if (lastId === "") complete = false;
  const query = new URLSearchParams({ topic, last_event_id: lastId });
  const events = new EventSource(`${fanfareUrl}/events?${query}`, { withCredentials: true });
  events.onopen = () => then(() => catchUp(events));
  events.onmessage = (event) => {
    lastId = event.lastEventId;
    then(() => show(JSON.parse(event.data)));
  };
  events.addEventListener("gap", (event) => {
    lastId = event.lastEventId;
    complete = false;
    say("reconnecting");
    then(() => catchUp(events));
  });
  events.onerror = async () => {
    say("reconnecting");
    if (events.readyState !== EventSource.CLOSED) return; // it reconnects by itself
    await renew(); // it was refused, as after a sleep longer than the token's life
    setTimeout(open, 1000 + 1000 * Math.random());
  };
}

async function catchUp(events) {
  if (!complete) {
    complete = true; // unless another gap comes meanwhile
    await refetch();
  }
  if (events.readyState === EventSource.OPEN) say("live");
}

async function refetch() {
  const answer = await fetch("/orders").catch(() => null);
  if (answer?.status === 401) return location.reload();
  if (!answer?.ok) return new Promise((resolve) => setTimeout(resolve, 1000)).then(refetch);
  const { orders } = await answer.json();
  list.replaceChildren();
  orders.forEach(show);
  document.body.dataset.refetches++;
}

// ---- the token ----

async function renew() {
  const answer = await fetch("/token", { method: "POST" }).catch(() => null);
  if (answer?.status === 401) location.reload(); // to the login: the session has ended
}

setInterval(renew, tokenSeconds * 500); // when half of its life is over
open();

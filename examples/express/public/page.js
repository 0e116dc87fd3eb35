// Shows orders as they come, with fanfare.js, which Fanfare serves.

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

let stream;

async function open() {
  const { subscribe } = await library();
  stream = subscribe(`${fanfareUrl}/events?${new URLSearchParams({ topic })}`, {
    withCredentials: true, // the cookie has the token
    lastEventId: position,
    onEvent: ({ data }) => show(data),
    onGap: refetch,
    onState({ name }) {
      // A page that was rendered while Fanfare was away has no position, and begins with its state.
      if (name === "open") stream.lastEventId ? say("live") : refetch();
      if (name === "waiting") {
        say("reconnecting");
        if (Date.now() > renewAt) renew(); // Fanfare refuses the token after a sleep longer than the token's life
      }
    },
  });
}

// Shows the whole state, and continues at its position: what came meanwhile comes again.
async function refetch() {
  say("reconnecting");
  const answer = await fetch("/orders").catch(() => null);
  if (answer?.status === 401) return location.reload(); // to the login: the session has ended
  const state = answer?.ok ? await answer.json() : null;
  if (!state?.position) return pause().then(refetch);
  list.replaceChildren();
  state.orders.forEach(show);
  document.body.dataset.refetches++;
  stream.reconnect({ lastEventId: state.position });
}

// The query is new for each attempt, because browsers remember a module that failed to load.
async function library(attempt = 0) {
  const module = `${fanfareUrl}/fanfare.js${attempt ? `?${attempt}` : ""}`;
  return import(module).catch(() => pause().then(() => library(attempt + 1)));
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 1000 + 1000 * Math.random()));

// ---- the token ----

const halfOfItsLife = tokenSeconds * 500;
let renewAt = Date.now() + halfOfItsLife;

async function renew() {
  const answer = await fetch("/token", { method: "POST" }).catch(() => null);
  if (answer?.status === 401) location.reload();
  if (answer?.ok) renewAt = Date.now() + halfOfItsLife;
}

setInterval(renew, halfOfItsLife);
open();

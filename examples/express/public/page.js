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
let complete = true; // what the page shows and what the stream brings miss nothing

// Events wait while the state is fetched, so that it does not overwrite what is newer.
let work = Promise.resolve();
const then = (step) => (work = work.then(step));

async function open() {
  const { subscribe } = await library();
  stream = subscribe(`${fanfareUrl}/events?${new URLSearchParams({ topic })}`, {
    withCredentials: true, // the cookie with the token
    lastEventId: position,
    onEvent: ({ data }) => then(() => show(data)),
    onGap() {
      complete = false;
      say("reconnecting");
      then(catchUp);
    },
    onState({ name }) {
      if (name === "open") then(catchUp);
      if (name === "waiting") {
        say("reconnecting");
        if (Date.now() > renewAt) renew(); // after a sleep: a stream with an expired token is refused
      }
    },
  });
}

async function catchUp() {
  // Without an id, from a page that was rendered without Fanfare, a stream begins with what comes next.
  if (!complete || stream.lastEventId === "") {
    complete = true; // unless another gap comes meanwhile
    await refetch();
  }
  if (stream.state.name === "open") say("live");
}

async function refetch() {
  const answer = await fetch("/orders").catch(() => null);
  if (answer?.status === 401) return location.reload();
  if (!answer?.ok) return sleep(1000).then(refetch);
  const { orders } = await answer.json();
  list.replaceChildren();
  orders.forEach(show);
  document.body.dataset.refetches++;
}

// The query is new for each attempt, because browsers remember a module that failed to load.
async function library(attempt = 0) {
  const url = `${fanfareUrl}/fanfare.js${attempt ? `?${attempt}` : ""}`;
  return import(url).catch(() => sleep(1000).then(() => library(attempt + 1)));
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// ---- the token ----

const halfOfItsLife = tokenSeconds * 500;
let renewAt = Date.now() + halfOfItsLife;

async function renew() {
  const answer = await fetch("/token", { method: "POST" }).catch(() => null);
  if (answer?.status === 401) location.reload(); // to the login: the session has ended
  if (answer?.ok) renewAt = Date.now() + halfOfItsLife;
}

setInterval(renew, halfOfItsLife);
open();

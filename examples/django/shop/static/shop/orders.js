const { fanfareUrl, topic, position, tokenSeconds } = document.body.dataset;
const list = document.getElementById("orders");
const form = document.getElementById("order");
const say = (status) => (document.getElementById("status").textContent = status);
const pause = () => new Promise((resolve) => setTimeout(resolve, 2000));
const post = (path, body) => fetch(path, { method: "POST", headers: { "X-CSRFToken": form.csrfmiddlewaretoken.value }, body });

// An order that is there already may come again, and replaces itself.
function show({ id, item }) {
  const line = list.querySelector(`[data-order="${id}"]`) ?? list.appendChild(document.createElement("li"));
  line.dataset.order = id;
  line.textContent = item;
}

// Opens a stream that continues after `lastId`, up to which the list is complete. It is empty if Fanfare gave no position.
function open(lastId) {
  const query = new URLSearchParams({ topic, last_event_id: lastId });
  const source = new EventSource(`${fanfareUrl}/events?${query}`, { withCredentials: true }); // with the cookie that has the token
  source.onopen = () => (lastId ? say("live") : refetch(source));
  source.addEventListener("order", (event) => {
    lastId = event.lastEventId;
    show(JSON.parse(event.data));
  });
  source.addEventListener("gap", () => refetch(source));
  source.onerror = async () => {
    say("reconnecting");
    if (source.readyState !== EventSource.CLOSED) return; // it reconnects by itself
    // Fanfare refused the token, because the device slept for longer than it lives.
    await pause();
    await renewToken();
    open(lastId);
  };
}

// Something is missing before this place: shows the whole state again, and continues at its position.
async function refetch(source) {
  source.close();
  say("reconnecting");
  const answer = await fetch("/orders").catch(() => null);
  if (answer?.status === 401) return location.reload(); // the session has ended
  const state = answer?.ok ? await answer.json() : null;
  if (state) {
    list.replaceChildren();
    state.orders.forEach(show);
    document.body.dataset.refetches++;
  }
  if (!state?.position) await pause();
  if (state) open(state.position ?? "");
  else refetch(source);
}

async function renewToken() {
  const answer = await post("/token").catch(() => null);
  if (answer?.status === 401) location.reload(); // the session has ended
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await post("/orders", new FormData(form));
  if (answer.ok) form.reset();
});

setInterval(renewToken, tokenSeconds * 500); // when half of its life is over
open(position);

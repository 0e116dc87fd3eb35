// The orders of one user, in a page that shows each new one at once, in all tabs.

import cookieSession from "cookie-session";
import express from "express";
import { FANFARE_URL, TOKEN_SECONDS, positionOf, publish, setToken, topicOf } from "./fanfare.js";

const { PORT, SESSION_SECRET } = process.env;

const orders = new Map(); // in place of a database
let lastOrder = 0;

/** Asks for the position first. So an order that comes in between is in the state and in the stream, and missing in neither. */
async function stateOf(user) {
  const position = await positionOf(user).catch((error) => console.error("no position from Fanfare:", error));
  return { orders: orders.get(user) ?? [], position: position ?? "" };
}

const app = express();
app.set("view engine", "ejs");
app.use(express.static("public"));
app.use(express.urlencoded());
app.use(cookieSession({ secret: SESSION_SECRET, httpOnly: true, sameSite: "lax" })); // in production: secure

// Protects against forged requests: what changes something comes from a page of this application.
app.use((request, response, next) => {
  const origin = request.get("Origin") ?? "";
  if (request.method === "GET" || origin.replace(/^https?:\/\//, "") === request.host) return next();
  response.sendStatus(403);
});

app.get("/", async (request, response) => {
  const { user } = request.session;
  response.set("Cache-Control", "no-store");
  if (!user) return response.render("login");
  setToken(response, user);
  response.render("orders", { user, ...(await stateOf(user)), topic: topicOf(user), FANFARE_URL, TOKEN_SECONDS });
});

app.post("/login", (request, response) => {
  const user = String(request.body?.user ?? "");
  if (!/^[a-z0-9-]{1,32}$/.test(user)) return response.status(400).render("login");
  request.session.user = user; // a real application asks for more than a name
  response.redirect("/");
});

// What follows needs a session.
app.use((request, response, next) => (request.session.user ? next() : response.sendStatus(401)));

app.get("/orders", async (request, response) => {
  response.set("Cache-Control", "no-store").json(await stateOf(request.session.user));
});

app.post("/orders", async (request, response) => {
  const { user } = request.session;
  const item = String(request.body?.item ?? "");
  if (!/^.{1,200}$/su.test(item)) return response.sendStatus(400);
  const order = { id: ++lastOrder, item };
  orders.set(user, [...(orders.get(user) ?? []), order]);
  // The order is safe without its event: pages then show it with their next state.
  await publish(topicOf(user), order).catch((error) => console.error(`order ${order.id} was not published to Fanfare:`, error));
  response.sendStatus(204);
});

app.post("/token", (request, response) => {
  setToken(response, request.session.user);
  response.sendStatus(204);
});

app.listen(PORT, "127.0.0.1");

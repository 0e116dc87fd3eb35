// What the application asks of Fanfare.

import jwt from "jsonwebtoken";

export const { FANFARE_URL } = process.env;
export const TOKEN_SECONDS = Number(process.env.TOKEN_SECONDS);
const { FANFARE_JWT_SECRET, FANFARE_PUBLISH_TOKEN } = process.env;
const TIMEOUT_MS = 2000; // Fanfare answers within milliseconds; when it does not, the request of the user goes on without it

export const topicOf = (user) => `user-${user}.orders`;

/** A token that allows its holder to subscribe to the topics of one user. */
function tokenOf(user) {
  const grants = { subscribe: [`user-${user}.*`] };
  return jwt.sign({ fanfare: grants }, FANFARE_JWT_SECRET, { subject: `user-${user}`, expiresIn: TOKEN_SECONDS });
}

/** Gives the browser a fresh token. The browser sends it to Fanfare as well, since cookies do not depend on the port. */
export function setToken(response, user) {
  response.cookie("fanfare_token", tokenOf(user), { httpOnly: true, sameSite: "lax" }); // in production: secure
}

/** The newest position of the user's stream, which then continues with what is published later. */
export async function positionOf(user) {
  const query = new URLSearchParams({ topic: topicOf(user) });
  return (await ask(`/dashboard/data?${query}`, tokenOf(user))).id;
}

export async function publish(topic, data) {
  await ask("/publish", FANFARE_PUBLISH_TOKEN, { method: "POST", body: JSON.stringify({ topic, data }) });
}

async function ask(target, token, options = {}) {
  const headers = { Authorization: `Bearer ${token}` };
  const answer = await fetch(FANFARE_URL + target, { headers, signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
  if (!answer.ok) throw new Error(`${target}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

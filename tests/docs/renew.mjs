// Runs the code of docs/how-to/renew-a-token.md in Chromium, where a device wakes with an expired cookie and the application is away:
// FANFARE_BIN=target/debug/fanfare node tests/docs/renew.mjs

import { strict as assert } from "node:assert";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { launch, open } from "../clients/browser.mjs";
import { BINARY, Server } from "../page/stage.mjs";

const PAGE = new URL("../../docs/how-to/renew-a-token.md", import.meta.url);
const WITH_A_COOKIE = /## With a cookie\n(.*?)\n## /s;
const TOPIC = "user-7.orders";

const secret = randomBytes(32).toString("hex");
const cookie = (expiresIn) => {
  const options = ["token", "--subscribe", TOPIC, "--publish", TOPIC, "--expires-in", expiresIn];
  return execFileSync(BINARY, options, { env: { FANFARE_JWT_SECRET: secret } }).toString().trim();
};

let answers; // the status of the application's answer to each request for a token; the last one stays
let asked = 0;
const application = createServer(async (request, response) => {
  if (request.url === "/") return response.setHeader("Content-Type", "text/html").end(await html());
  if (request.url !== "/fanfare-token") return response.writeHead(404).end(); // the icon
  const status = answers.length > 1 ? answers.shift() : answers[0];
  asked++;
  if (status === 200) response.setHeader("Set-Cookie", `fanfare_token=${cookie("1h")}; Path=/; HttpOnly; SameSite=Lax`);
  response.writeHead(status).end();
});
await new Promise((resolve) => application.listen(0, "127.0.0.1", resolve));
const origin = `http://localhost:${application.address().port}`;
const options = ["--cors-origin", origin];
const fanfare = await Server.start(options, { env: { FANFARE_JWT_SECRET: secret } });
const url = `http://localhost:${fanfare.port}`;
const headers = { Authorization: `Bearer ${cookie("1h")}` };

/** The code of the page, after what it takes for granted. Pauses are recorded, and shortened. */
async function html() {
  const blocks = [...WITH_A_COOKIE.exec(readFileSync(PAGE, "utf8"))[1].matchAll(/```js\n(.*?)```/gs)];
  const code = blocks.map((block) => block[1]).join("").replaceAll("https://events.example.com", url);
  const { id: position } = await (await fetch(`${url}/dashboard/data?topic=${TOPIC}`, { headers })).json();
  return `<!doctype html><title>Orders</title><script type="module">
    window.shown = [], window.said = [], window.pauses = [];
    const state = { position: ${JSON.stringify(position)} };
    const show = (data) => shown.push(data), say = (text) => said.push(text), refetch = () => say("refetched");
    const setTimeout = (then, ms) => (pauses.push(ms), window.setTimeout(then, ms / 20));
    ${code}
  </script>`;
}

const browser = await launch();

// The application answers 503 at first. What is published before the page has its token arrives all the same.
answers = [503, 503, 503, 503, 200];
const page = await open(browser, origin);
const body = JSON.stringify({ topic: TOPIC, data: { order: 17 } });
assert.equal((await fetch(`${url}/publish`, { method: "POST", headers, body })).status, 202);
await page.waitForFunction(() => window.shown.length > 0);
assert.deepEqual(await page.evaluate(() => [window.shown, window.said]), [[{ order: 17 }], []]);
const pauses = await page.evaluate(() => window.pauses);
assert.equal(pauses.length, 5);
pauses.forEach((pause, again) => assert.ok(pause >= 500 * 2 ** again && pause <= 1500 * 2 ** again, String(pauses)));

// A user who may have no token: the page says so, and asks no more.
const stranger = await browser.createBrowserContext();
[answers, asked] = [[403], 0];
const refused = await open(stranger, origin);
await refused.waitForFunction(() => window.said.length > 0);
assert.deepEqual(await refused.evaluate(() => [window.said, window.pauses]), [["no access"], []]);
assert.equal(asked, 1);

await browser.close();
await fanfare.stop();
application.close();
process.exit();

// Drives one example in Chromium as its users would, and checks what examples/README.md says of all of them:
// FANFARE_BIN=target/debug/fanfare node tests/examples/drive.mjs NAME

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:net";
import { strict as assert } from "node:assert";
import { setTimeout as sleep } from "node:timers/promises";
import { DEADLINE_MS, launch, open } from "../clients/browser.mjs";
import { BINARY, Server } from "../page/stage.mjs";

const TOKEN_SECONDS = 4; // a stream lives for 10 seconds more
const SECRETS = {
  FANFARE_JWT_SECRET: randomBytes(32).toString("hex"),
  FANFARE_PUBLISH_TOKEN: randomBytes(32).toString("hex"),
};
// An example may keep its database for the next run.
const RUN = randomBytes(4).toString("hex");
const ALICE = `alice-${RUN}`;
const BOB = `bob-${RUN}`;
const CAROL = `carol-${RUN}`;

// How Chromium, htmx and htmx's SSE extension complain of a request that failed.
const FAILED_REQUEST = /^(Failed to load resource: |htmx:(afterRequest|sendError), |\[object Event\]$)/;

const port = await freePort();
const ORIGIN = `http://localhost:${port}`;

async function main(name) {
  const browser = await launch();
  await ownFanfare(name, browser);
  await sharedFanfare(name, browser);
  await browser.close();
}

/** As a reader starts it: the script starts Fanfare as well. */
async function ownFanfare(name, browser) {
  step("the start script runs Fanfare and the application, and ends both");
  const application = await Application.start(name, { FANFARE: BINARY, FANFARE_LISTEN: "127.0.0.1:0" });
  const context = await browser.createBrowserContext();
  const tab = await Tab.logIn(context, CAROL);
  await tab.order("Alone");
  await tab.shows(["Alone"]);
  tab.hasNoComplaints();
  const { streamUrl } = tab;
  await context.close();
  await application.stop("SIGINT");
  await assert.rejects(fetch(streamUrl), "Fanfare has ended");
}

/** Next to a Fanfare that runs already, which then can be restarted. */
async function sharedFanfare(name, browser) {
  let fanfare = await startFanfare();
  const fanfareUrl = `http://localhost:${fanfare.port}`;
  const application = await Application.start(name, { ...SECRETS, FANFARE_URL: fanfareUrl, TOKEN_SECONDS });
  const [alice, bob] = [await browser.createBrowserContext(), await browser.createBrowserContext()];

  step("users log in, and see their own orders");
  await refusesStrangers(browser);
  const first = await Tab.logIn(alice, ALICE);
  const second = await Tab.open(alice, "alice's second tab");
  const slept = await Tab.logIn(bob, BOB, { asleep: true });
  await hasToken(alice, ALICE);
  await refusesOtherOrigins(bob);
  const items = [`<b>"Tea"</b> & <script>alert('milk')</script>`];
  await first.order(items[0]);
  for (const tab of [first, second]) await tab.shows(items);
  const itemsOfBob = ["Bob's own"];
  await slept.order(itemsOfBob[0]);
  await slept.shows(itemsOfBob);

  step("an order between the rendering of a page and its stream shows once, and so does one that is in both");
  const third = await Tab.open(alice, "alice's third tab", { rules: { "/events": "hold" } });
  await third.shows(items);
  await third.is("connecting");
  await third.holds("/events");
  items.push("Between");
  await first.order("Between");
  for (const tab of [first, second]) await tab.shows(items);
  // From a position before the orders that were rendered, as if they had come after the application asked for it.
  const earlier = new URL(second.streamUrl).searchParams.get("last_event_id");
  const later = new URL(third.streamUrl);
  assert.ok(earlier && later.searchParams.get("last_event_id"), "streams begin at the rendered position");
  later.searchParams.set("last_event_id", earlier);
  third.release("/events", { url: later.href });
  await third.receives("Between");
  await third.shows(items);
  await third.is("live");
  for (const tab of [first, second, third, slept]) tab.hasNoComplaints();

  step("tokens expire: pages that renew theirs continue, and so does one that slept, after a 401");
  slept.rules["/token"] = "fail"; // where something else than setInterval renews it
  const refused = slept.waits("is refused", () => slept.refusedStreams > 0);
  await waitFor("all streams end with their token", async () => (await expired(fanfare)) >= 4);
  await refused;
  await slept.isNot("live");
  slept.rules["/token"] = "hold";
  await slept.holds("/token");
  itemsOfBob.push("While asleep");
  await slept.order("While asleep");
  slept.release("/token");
  items.push("After expiry");
  await first.order("After expiry");
  for (const tab of [first, second, third]) await tab.shows(items);
  await slept.shows(itemsOfBob);
  for (const tab of [first, second, third, slept]) {
    await tab.is("live");
    assert.equal(await tab.refetches(), 0, `${tab.name}: nothing was missing`);
    assert.equal(tab.refusedStreams > 0, tab === slept, `${tab.name}: pages that do not sleep renew their token in time`);
    if (tab !== slept) tab.hasNoComplaints();
  }

  step("Fanfare restarts without its history: pages fetch their state");
  await fanfare.stop();
  for (const tab of [first, second, third, slept]) await tab.isNot("live");
  const fourth = await Tab.open(alice, "alice's tab without a position");
  const logged = application.log.length;
  items.push("While Fanfare is away");
  await first.order("While Fanfare is away");
  await waitFor("the application logs that it could not publish", () => /fanfare/i.test(application.log.slice(logged)));
  await fourth.isNot("live");
  third.answersLate = true;
  fanfare = await startFanfare(fanfare.port);
  await third.waits("fetches its state", () => third.late.length > 0);
  await Promise.all(third.late);
  items.push("While the state is fetched");
  await first.order("While the state is fetched");
  await third.receivesOrHasNoStream("While the state is fetched");
  third.releaseLate();
  for (const tab of [first, second, third, fourth]) {
    await tab.shows(items);
    await tab.is("live");
    assert.ok((await tab.refetches()) >= 1, `${tab.name} fetched its state`);
  }
  items.push("Live again");
  await second.order("Live again");
  for (const tab of [first, second, third, fourth]) await tab.shows(items);
  await slept.is("live");
  itemsOfBob.push("The end");
  await slept.order("The end");
  await slept.shows(itemsOfBob);
  for (const tab of [first, second, third, fourth, slept]) tab.hasNoComplaints(FAILED_REQUEST);

  await application.stop("SIGTERM");
  await fanfare.stop();
}

// ---- what runs ----

function startFanfare(port = 0) {
  return Server.start(["--cors-origin", ORIGIN, "--admin-listen", "127.0.0.1:0"], { port, env: SECRETS });
}

/** How many streams ended because their token expired. */
async function expired(fanfare) {
  const page = await (await fetch(`${fanfare.adminUrl}/metrics`)).text();
  return Number(/^fanfare_closed_total\{reason="token_expired"\} (\d+)$/m.exec(page)[1]);
}

/** What `examples/NAME/start` runs, with everything that it wrote to its standard error. */
class Application {
  log = "";

  static async start(name, settings) {
    const application = new Application();
    const file = new URL(`../../examples/${name}/start`, import.meta.url).pathname;
    const { FANFARE_BIN, ...inherited } = process.env; // to Fanfare it would be an unknown option
    const env = { ...inherited, PORT: port, ...settings };
    const child = spawn(file, [], { env, stdio: ["ignore", "pipe", "pipe"] });
    process.on("exit", () => child.kill("SIGTERM"));
    application.child = child;
    application.exited = once(child, "exit");
    let announced = "";
    child.stdout.on("data", (text) => (announced += text));
    child.stderr.on("data", (text) => {
      application.log += text;
      process.stderr.write(text);
    });
    const ended = () => assert.equal(child.exitCode, null, `examples/${name}/start ended`);
    await waitFor(`examples/${name}/start prints the address`, () => ended() || announced.includes("\n"), 10 * DEADLINE_MS);
    assert.equal(announced, `${ORIGIN}/\n`);
    return application;
  }

  async stop(signal) {
    this.child.kill(signal);
    await this.exited;
    await assert.rejects(fetch(ORIGIN), "the application has ended");
  }
}

/** A tab on the example's page. Its rules hold back or fail requests, by their path. One that is asleep does nothing at intervals. */
class Tab {
  held = [];
  late = [];
  received = "";
  streams = new Set();
  refusedStreams = 0;

  static async open(context, name, { rules = {}, asleep = false } = {}) {
    const tab = new Tab();
    Object.assign(tab, { context, name, rules });
    tab.page = await open(context, ORIGIN, async (page) => {
      if (asleep) await page.evaluateOnNewDocument(() => (window.setInterval = () => 0));
      const session = await page.createCDPSession();
      await session.send("Network.enable");
      session.on("Network.eventSourceMessageReceived", ({ data }) => (tab.received += data));
      await page.setRequestInterception(true);
      page.on("request", (request) => tab.#take(request));
      for (const end of ["requestfinished", "requestfailed"]) page.on(end, (request) => tab.streams.delete(request));
      page.on("response", (response) => {
        if (response.status() === 401 && pathOf(response) === "/events") tab.refusedStreams += 1;
      });
    });
    return tab;
  }

  static async logIn(context, user, options) {
    const tab = await Tab.open(context, user, options);
    await tab.page.type("#login [name=user]", user);
    await tab.page.click("#login :is(button, [type=submit])");
    await tab.page.waitForSelector("#orders");
    await tab.is("live");
    return tab;
  }

  #take(request) {
    if (pathOf(request) === "/events") {
      this.streamUrl = request.url();
      this.streams.add(request);
    }
    const rule = this.rules[pathOf(request)];
    const isFetch = request.method() === "GET" && ["fetch", "xhr"].includes(request.resourceType());
    if (rule === "hold") this.held.push(request);
    else if (this.answersLate && isFetch && new URL(request.url()).origin === ORIGIN) this.late.push(this.#answer(request));
    else (rule === "fail" ? request.abort() : request.continue()).catch(() => {}); // its tab may be gone
  }

  async holds(path) {
    await this.waits(`requests ${path}`, () => this.held.some((request) => pathOf(request) === path));
  }

  release(path, changes = {}) {
    delete this.rules[path];
    for (const request of this.held.filter((request) => pathOf(request) === path)) request.continue(changes).catch(() => {});
    this.held = this.held.filter((request) => pathOf(request) !== path);
  }

  /** Asks the application now, for an answer that the page gets later. */
  async #answer(request) {
    const answer = await fetch(request.url(), { headers: { ...request.headers(), Cookie: await cookiesOf(this.context) } });
    const { status } = answer;
    const contentType = answer.headers.get("content-type");
    const body = await answer.text();
    return () => request.respond({ status, contentType, body });
  }

  releaseLate() {
    this.answersLate = false;
    for (const answer of this.late) answer.then((respond) => respond());
  }

  /** Waits until its stream has brought this text, whatever the page makes of it. */
  async receives(text) {
    await this.waits(`receives ${text}`, () => this.received.includes(text));
  }

  /** As above, for a page that may close its stream while it fetches its state, and then open another one. */
  async receivesOrHasNoStream(text) {
    await this.waits(`receives ${text}`, () => this.received.includes(text) || this.streams.size === 0);
  }

  /** Places an order with the page's form, and waits until the application has answered. */
  async order(item) {
    const isOrder = (answer) => answer.request().method() === "POST" && pathOf(answer) === "/orders";
    const answered = this.page.waitForResponse(isOrder);
    await this.page.$eval(
      "#order",
      (form, item) => {
        form.querySelector("[name=item]").value = item;
        form.requestSubmit();
      },
      item,
    );
    const status = (await answered).status();
    assert.ok(status < 400, `${this.name}: POST /orders was answered with ${status}`);
  }

  /** Waits until the page shows these orders, each once, and no other. */
  async shows(items) {
    const read = (lines) => lines.map((line) => [line.dataset.order, line.textContent.trim()]);
    let shown;
    await this.waits(`shows ${JSON.stringify(items)}`, async () => {
      shown = await this.page.$$eval("#orders > li", read);
      const texts = shown.map(([, text]) => text);
      return JSON.stringify(texts.sort()) === JSON.stringify([...items].sort());
    }, () => JSON.stringify(shown));
    assert.equal(new Set(shown.map(([id]) => id)).size, shown.length, `${this.name}: ids are unique`);
  }

  async is(status) {
    await this.waits(`is ${status}`, async () => (await this.status()) === status, () => this.status());
  }

  async isNot(status) {
    await this.waits(`is not ${status}`, async () => (await this.status()) !== status);
  }

  status() {
    return this.page.$eval("#status", (element) => element.textContent.trim());
  }

  refetches() {
    return this.page.$eval("[data-refetches]", (element) => Number(element.dataset.refetches));
  }

  waits(what, isSo, instead) {
    return waitFor(`${this.name} ${what}`, isSo, DEADLINE_MS, instead);
  }

  hasNoComplaints(except = /^$/) {
    const complaints = this.page.complaints.filter((complaint) => !except.test(complaint));
    assert.deepEqual(complaints, [], this.name);
  }
}

// ---- who may do what ----

async function refusesStrangers(browser) {
  const answer = await fetch(`${ORIGIN}/token`, { method: "POST", headers: { Origin: ORIGIN } });
  assert.ok(answer.status >= 400, `POST /token without a session was answered with ${answer.status}`);
  assert.ok(!answer.headers.getSetCookie().some((cookie) => cookie.startsWith("fanfare_token=")));
  const context = await browser.createBrowserContext();
  const tab = await Tab.open(context, "a stranger");
  const answered = tab.page.waitForResponse((answer) => pathOf(answer) === "/login");
  await tab.page.$eval("#login", (form) => {
    form.querySelector("[name=user]").value = "user-7.orders *";
    form.noValidate = true;
    form.requestSubmit();
  });
  await answered;
  await tab.page.goto(ORIGIN);
  await tab.page.waitForSelector("#login");
  await context.close();
}

async function hasToken(context, user) {
  const cookie = (await context.cookies()).find((cookie) => cookie.name === "fanfare_token");
  const { httpOnly, sameSite, path } = cookie;
  assert.deepEqual({ httpOnly, sameSite, path }, { httpOnly: true, sameSite: "Lax", path: "/" });
  const claims = JSON.parse(Buffer.from(cookie.value.split(".")[1], "base64url"));
  assert.equal(claims.sub, `user-${user}`);
  assert.equal(claims.exp - claims.iat, TOKEN_SECONDS);
  assert.deepEqual(claims.fanfare, { subscribe: [`user-${user}.*`] });
}

/** A page of another origin of the same site, which SameSite does not exclude, can place no order. */
async function refusesOtherOrigins(context) {
  const headers = { Cookie: await cookiesOf(context), Origin: "http://localhost:1" };
  const answer = await fetch(`${ORIGIN}/orders`, { method: "POST", headers, body: new URLSearchParams({ item: "Forged" }) });
  assert.ok(answer.status >= 400, `a forged order was answered with ${answer.status}`);
}

// ---- the rest ----

async function cookiesOf(context) {
  return (await context.cookies()).map(({ name, value }) => `${name}=${value}`).join("; ");
}

function step(text) {
  console.log(text);
}

async function waitFor(what, isSo, deadlineMs = DEADLINE_MS, instead = () => "") {
  const end = Date.now() + deadlineMs;
  while (!(await isSo())) {
    if (Date.now() > end) throw new Error(`waited in vain: ${what} ${await instead()}`);
    await sleep(50);
  }
}

function pathOf(message) {
  return new URL(message.url()).pathname;
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

// What runs ends with this process.
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
await main(process.argv[2]);
process.exit();

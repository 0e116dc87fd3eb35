// What a person at the page sees, in Debian's Chromium against the real server.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { open as openTab, serve } from "../clients/browser.mjs";
import { BINARY, DEADLINE_MS, Server, figure, launch, open } from "./stage.mjs";

const AXE = new URL("../clients/node_modules/axe-core/axe.min.js", import.meta.url);
let browser;

before(async () => (browser = await launch()));
after(() => browser.close());

/** Runs a test on a server and tabs of its own, in a browser context of its own, and checks that no tab complained. */
function staged(name, options, run) {
  test(name, { timeout: 4 * DEADLINE_MS }, async () => {
    const server = await Server.start(options);
    const context = await browser.createBrowserContext();
    const tabs = [];
    const tab = async (path = "/dashboard", how = {}) => {
      const page = await open(context, new URL(path, how.base ?? server.url).href, how);
      tabs.push(page);
      return page;
    };
    try {
      await run(server, tab);
      for (const page of tabs) assert.deepEqual(page.complaints, []);
    } finally {
      await context.close();
      await server.stop();
    }
  });
}

const text = (page, selector) => page.$eval(selector, (element) => element.textContent.trim());
const waitForText = (page, selector, part) =>
  page.waitForFunction((selector, part) => document.querySelector(selector).textContent.includes(part), {}, selector, part);
const uptime = (page) => text(page, "#server");
const streaming = async (server) => (await (await fetch(`${server.url}/dashboard/debug`)).json()).connections.streaming;

/** Waits until a tab, looked at, shows something newer than it does. */
async function isLive(page) {
  await page.bringToFront();
  const shown = await uptime(page);
  await page.waitForFunction((shown) => document.querySelector("#server").textContent !== shown, {}, shown);
}

async function watch(page, topics, replay = "") {
  await page.$eval("#watch-topic", (input, topics) => (input.value = topics), topics);
  await page.select("#replay", replay);
  await page.click("#watch");
  await waitForText(page, "#watch-state", "Watching");
}

const shownEvents = (page) =>
  page.$$eval("#events .event, #events .gap", (rows) => rows.map((row) => [...row.cells].slice(1).map((cell) => cell.textContent)));
const waitForEvents = (page, count) =>
  page.waitForFunction((count) => document.querySelectorAll("#events .event, #events .gap").length === count, {}, count);

staged("the page is for browsers and shows numbers that follow the load", ["--dev"], async (server, tab) => {
  const page = await tab("/");
  await waitForText(page, "#connection-text", "Connected");
  const before = Number((await figure(page, "Open connections")).replace(",", ""));
  const leave = await server.subscribers("load", 40);
  await page.waitForFunction((least) => {
    const number = (name) => {
      const box = [...document.querySelectorAll(".figure")].find((box) => box.querySelector("dt").textContent === name);
      return Number(box.querySelector(".value span").textContent.replace(",", ""));
    };
    return number("Open connections") >= least;
  }, {}, before + 40);
  await server.publish("load", "x", 50);
  await page.waitForFunction(() => [...document.querySelectorAll("#topics tr")].some((row) => /^load4050/.test(row.textContent)));
  await page.waitForFunction(() => document.querySelectorAll("#charts .chart path").length >= 12);
  await page.waitForFunction(() => document.querySelectorAll("#host-charts .chart path").length >= 3);
  leave();
  await page.waitForFunction(() => document.querySelector("#closed").textContent.includes("by the client"));
});

staged("the inspector shows, pauses, filters, resumes and publishes", ["--dev"], async (server, tab) => {
  const page = await tab();
  await watch(page, "prices, orders");
  await page.$eval("#publish-topic", (input) => (input.value = "prices"));
  await page.type("#publish-type", "price");
  await page.$eval("#publish-data", (area) => {
    area.value = '{"a": 1.50}';
    area.dispatchEvent(new Event("input", { bubbles: true }));
  });
  await page.click("#publish-form .primary");
  await waitForText(page, "#published", "Published as ");
  const id = (await text(page, "#published")).replace("Published as ", "");
  await waitForEvents(page, 1);
  assert.deepEqual(await shownEvents(page), [["price", id, '{"a": 1.50}']], "its bytes are what was typed");

  await page.click("#pause");
  await server.publish("orders", "held");
  await waitForText(page, "#watch-count", "paused, 1 waiting");
  await page.click("#pause");
  await waitForEvents(page, 2);
  await page.type("#filter", "held");
  await waitForEvents(page, 1);
  await page.$eval("#filter", (input) => {
    input.value = "";
    input.dispatchEvent(new Event("input"));
  });

  await page.$eval("#last-id", (input, id) => (input.value = id), id);
  await page.click("#resume");
  await waitForEvents(page, 3);
  assert.deepEqual((await shownEvents(page)).map(([, , data]) => data), ["held", "held", '{"a": 1.50}'], "newest first, and again");
  const curl = await text(page, "#watch-curl");
  assert.match(curl, /^curl -N -H 'Last-Event-ID: \S+' 'http:\/\/127\.0\.0\.1:\d+\/events\?topic=prices&topic=orders'$/);
  assert.match(await text(page, "#publish-curl"), /^curl 'http.*\/publish' -d '\{"topic":"prices","event":"price","data":\{"a": 1\.50\}\}'$/);
  await page.click("#watch");
  assert.equal(await text(page, "#watch-state"), "Not watching");
});

test("a restarted server finds its page again", { timeout: 4 * DEADLINE_MS }, async () => {
  const first = await Server.start();
  const page = await open(browser, `${first.url}/dashboard`);
  await watch(page, "t");
  await first.stop();
  await waitForText(page, "#connection-text", "Connection lost");
  await waitForText(page, "#countdown", "reconnecting in");
  const second = await Server.start(["--dev"], { port: first.port });
  await waitForText(page, "#connection-text", "Connected");
  await waitForText(page, "#notices", "Events were missed");
  await isLive(page);
  await waitForText(page, "#watch-state", "Watching");
  await second.publish("t", "after");
  await page.waitForFunction(() => document.querySelector("#events").textContent.includes("after"));
  const unexpected = page.complaints.filter((complaint) => !complaint.includes("net::ERR_"));
  assert.deepEqual(unexpected, [], "a browser logs its refused connections, and that is all");
  await page.close();
  await second.stop();
});

for (const [how, prepare] of [
  ["with locks", () => {}],
  ["without locks, as on plain http", () => Object.defineProperty(Navigator.prototype, "locks", { value: undefined })],
]) {
  staged(`nine tabs stay live on one connection, ${how}`, ["--dev"], async (server, tab) => {
    const tabs = [];
    for (let i = 0; i < 9; i += 1) {
      tabs.push(await tab("/dashboard", { prepare }));
    }
    for (const page of tabs) await isLive(page);
    assert.equal(await streaming(server), 2, "one for the statistics, one for the host's");
    const charted = await tabs[8].$eval(".chart .one:not(span)", (path) => path.getAttribute("d").split("L").length);
    assert.ok(charted > 3, "a tab that joins is given the last minutes");

    await tabs[0].close();
    for (const page of tabs.slice(1)) await isLive(page);
    assert.equal(await streaming(server), 2, "another tab leads");
    assert.equal(await text(tabs[1], "#notices"), "", "and nothing was missed");
  });
}

const OPERATED = ["--admin-listen", "127.0.0.1:0"];
test("outside --dev the statistics are for operators", { timeout: 4 * DEADLINE_MS }, async () => {
  const env = { FANFARE_OPERATOR_TOKEN: "operators-own-token", FANFARE_PUBLISH_TOKEN: "publishers-own-token" };
  const server = await Server.start(OPERATED, { env });
  const context = await browser.createBrowserContext();
  const page = await open(context, `${server.url}/dashboard`, { ready: false });
  const enter = async (token) => {
    await page.$eval("#operator-token", (input) => (input.value = ""));
    await page.type("#operator-token", token);
    await page.click("#token-form button");
  };
  await page.waitForSelector("#token-form:not([hidden])");
  await enter("a-wrong-token");
  await waitForText(page, "#token-why", "not accepted");
  const second = await open(context, `${server.url}/dashboard`, { ready: false });
  await page.bringToFront();
  await enter("operators-own-token");
  await waitForText(page, "#connection-text", "Connected");
  await page.waitForSelector("#token-form[hidden]");
  await isLive(page);
  await isLive(second);
  await page.close();
  await isLive(second);
  assert.equal(await second.$eval("#host", (section) => section.hidden), true);

  await second.$eval("#publish-topic", (input) => (input.value = "t"));
  await second.click("#publish-form .primary");
  await waitForText(second, "#published", "Not published (401)");
  await second.type("#publish-token", "publishers-own-token");
  await second.click("#publish-form .primary");
  await waitForText(second, "#published", "Published as");

  const admin = await open(context, `${server.adminUrl}/dashboard`);
  await isLive(admin);
  assert.deepEqual(admin.complaints, []);
  await context.close();
  await server.stop();
});

test("with a key the page takes a JSON Web Token, which also watches and publishes", { timeout: 4 * DEADLINE_MS }, async () => {
  const env = { FANFARE_JWT_SECRET: "a-secret-of-the-page-test-that-is-long-enough" };
  const server = await Server.start(OPERATED, { env });
  const token = (...grants) => execFileSync(BINARY, ["token", ...grants], { env, encoding: "utf8" }).trim();
  const context = await browser.createBrowserContext();
  const page = await open(context, `${server.url}/dashboard`, { ready: false });
  await page.waitForSelector("#token-form:not([hidden])");
  await page.type("#operator-token", token("--operator", "--subscribe", "t"));
  await page.click("#token-form button");
  await waitForText(page, "#connection-text", "Connected");
  await isLive(page);
  await watch(page, "t");
  await page.$eval("#publish-topic", (input) => (input.value = "t"));
  await page.type("#publish-token", token("--publish", "t"));
  await page.click("#publish-form .primary");
  await waitForText(page, "#published", "Published as");
  await waitForEvents(page, 1);
  await context.close();
  await server.stop();
});

staged("fanfare.js works with EventSource and with fetch, and resumes what was missed", ["--dev"], async (server, tab) => {
  const page = await tab();
  await page.evaluate(async () => {
    const { subscribe } = await import("/fanfare.js");
    window.heard = { fetch: [], EventSource: [] };
    for (const [name, list] of Object.entries(heard)) {
      const onEvent = ({ type, data, publisherId }) => list.push([type, data, publisherId ?? "no id"]);
      const options = { fetch: name === "fetch", types: ["price"], onEvent };
      window[name + "Stream"] = subscribe("/events?topic=js", { ...options, onState: (state) => (list.state = state.name) });
    }
  });
  const both = (count) =>
    page.waitForFunction((count) => Object.values(heard).every((list) => list.state === "open" && list.length === count), {}, count);
  await both(0);
  await server.publish("js", { a: 1 });
  await server.publish("js", "no JSON\nin two lines");
  await both(2);
  await page.evaluate(() => [fetchStream, EventSourceStream].forEach((stream) => stream.close()));
  await server.publish("js", "missed", 1, "a~b");
  await page.evaluate(() => [fetchStream, EventSourceStream].forEach((stream) => stream.reconnect()));
  await both(3);
  const texts = [{ a: 1 }, "no JSON\nin two lines"].map((data) => ["message", data, "no id"]);
  const expected = [...texts, ["message", "missed", "a~b"]];
  assert.deepEqual(await page.evaluate(() => [[...heard.fetch], [...heard.EventSource]]), [expected, expected]);
});

staged("fanfare.js reports a gap when it can't know where it was", ["--dev"], async (server, tab) => {
  const page = await tab();
  const subscribe = (options) =>
    page.evaluate(async (options) => {
      const { subscribe } = await import("/fanfare.js");
      const heard = [];
      window.heard = heard;
      window.stream = subscribe("/events?topic=js", { ...options, onEvent: ({ data }) => heard.push(data.reason ?? data) });
    }, options);
  const isOpen = () => page.waitForFunction(() => stream.state.name === "open");
  // With fetch it knows the id at which the stream began.
  for (const [options, expected] of [[{}, ["unknown_id", "missed"]], [{ fetch: true }, ["missed"]]]) {
    await subscribe(options);
    await isOpen();
    await page.evaluate(() => stream.close());
    await server.publish("js", "missed");
    await page.evaluate(() => stream.reconnect());
    await page.waitForFunction((count) => heard.length === count, {}, expected.length);
    assert.deepEqual(await page.evaluate(() => heard), expected);
    await page.evaluate(() => stream.close());
  }
});

test("fanfare.js sends a cookie to another origin only with credentials", { timeout: 4 * DEADLINE_MS }, async () => {
  const origin = await serve("<!doctype html><title>a page of an application</title>");
  const env = { FANFARE_JWT_SECRET: "a-secret-of-the-page-test-that-is-long-enough" };
  const server = await Server.start(["--cors-origin", origin], { env });
  const token = execFileSync(BINARY, ["token", "--subscribe", "js"], { env, encoding: "utf8" }).trim();
  const context = await browser.createBrowserContext();
  await context.setCookie({ name: "fanfare_token", value: token, domain: "localhost", path: "/", httpOnly: true });
  const page = await openTab(context, origin);
  const states = await page.evaluate(async (url) => {
    const { subscribe } = await import(`${url}/fanfare.js`);
    const settled = (options) =>
      new Promise((resolve) => {
        const onState = ({ name }) => name !== "connecting" && resolve(name);
        subscribe(`${url}/events?topic=js`, { ...options, onState });
      });
    const all = [];
    for (const fetch of [false, true]) for (const withCredentials of [false, true]) all.push(settled({ fetch, withCredentials }));
    return Promise.all(all);
  }, `http://localhost:${server.port}`);
  assert.deepEqual(states, ["waiting", "open", "refused", "open"]);
  await context.close();
  await server.stop();
});

/** A page of another origin, as docs/client.md shows it: what stands before its module names the hash that the client must have. */
const PINNED = {
  script: (url, hash) => `<script type="module" src="${url}" integrity="${hash}"></script>`,
  modulepreload: (url, hash) => `<link rel="modulepreload" href="${url}" integrity="${hash}">`,
  "import map": (url, hash) => `<script type="importmap">{"integrity": {"${url}": "${hash}"}}</script>`,
};

for (const [way, element] of Object.entries(PINNED)) {
  test(`a page that pins the client by ${way} runs it, and none with another hash`, { timeout: 4 * DEADLINE_MS }, async () => {
    const server = await Server.start(["--dev"]);
    const { client, client_integrity: right } = await (await fetch(server.url)).json();
    const url = server.url + client.find((path) => /^\/fanfare-[^/]*\.js$/.test(path));
    const script = Buffer.from(await (await fetch(url)).arrayBuffer());
    assert.equal(right, `sha384-${createHash("sha384").update(script).digest("base64")}`);
    const wrong = `sha384-${createHash("sha384").update("another script").digest("base64")}`;
    for (const [hash, outcome] of [[right, "function"], [wrong, "nothing"]]) {
      const origin = await serve(`<!doctype html><title>nothing</title>${element(url, hash)}<script type="module">
        import { subscribe } from "${url}";
        document.title = typeof subscribe;
      </script>`);
      const page = await openTab(browser, origin);
      assert.equal(await page.title(), outcome, hash);
      const isRefused = page.complaints.some((complaint) => complaint.includes("integrity"));
      assert.equal(isRefused, hash === wrong, page.complaints.join("\n"));
      await page.close();
    }
    await server.stop();
  });
}

for (const scheme of ["light", "dark"]) {
  for (const width of [360, 1280, 2560]) {
    staged(`no serious finding of axe, ${scheme}, ${width} pixels`, ["--dev"], async (server, tab) => {
      const page = await tab("/dashboard", { scheme, width });
      await watch(page, "prices", "all");
      await server.publish("prices", { text: "x".repeat(200) }, 3);
      await waitForEvents(page, 3);
      // The page's own policy lets no script in from elsewhere: the debugger evaluates it.
      await page.evaluate(await readFile(AXE, "utf8"));
      const { violations } = await page.evaluate(() => axe.run());
      const found = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map(({ html }) => html).join(" ")}`);
      assert.deepEqual(found.filter((finding) => /^(serious|critical)/.test(finding)), []);
      if (found.length) console.log(found);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(overflow <= 0, `${overflow} pixels too wide`);
    });
  }
}

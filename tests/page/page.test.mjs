// What a person at the page sees, in Debian's Chromium against the real server.

import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { open as openTab, serve } from "../clients/browser.mjs";
import { BINARY, DEADLINE_MS, Server, figure, launch, open } from "./stage.mjs";

const AXE = new URL("../clients/node_modules/axe-core/axe.min.js", import.meta.url);
const ADMINISTERED = ["--admin-listen", "127.0.0.1:0"];
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

const waitForFigure = (page, name, value) =>
  page.waitForFunction((name, value) => {
    const box = [...document.querySelectorAll(".figure")].find((box) => box.querySelector("dt").textContent === name);
    return box.querySelector(".value").textContent === value;
  }, {}, name, value);
const text = (page, selector) => page.$eval(selector, (element) => element.textContent.trim());
const waitForText = (page, selector, part) =>
  page.waitForFunction((selector, part) => document.querySelector(selector)?.textContent.includes(part), {}, selector, part);
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
  await press(page, "#watch");
  await waitForText(page, "#watch-state", "Watching");
}

/** The lines in the document, from the top: type, id and data. */
const shownEvents = (page) =>
  page.$$eval("#events .event, #events .gap", (lines) => {
    const byPlace = lines.toSorted((one, other) => one.getAttribute("aria-posinset") - other.getAttribute("aria-posinset"));
    return byPlace.map((line) => [...line.children].slice(1).map((cell) => cell.textContent));
  });
const waitForEvents = (page, count) =>
  page.waitForFunction((count) => document.querySelectorAll("#events .event, #events .gap").length === count, {}, count);

/** Clicks what is looked at, wherever it is on the page. */
const press = (page, selector) => page.$eval(selector, (element) => element.click());

staged("the page is for browsers and shows numbers that follow the load", ["--dev"], async (server, tab) => {
  const page = await tab("/");
  await waitForText(page, "#connection-text", "Connected");
  const leave = await server.subscribers("load", 40);
  await waitForFigure(page, "Subscribers", "40");
  await server.publish("load", "x", 50);
  await page.waitForFunction(() => [...document.querySelectorAll("#topic-rows tr")].some((row) => /^load40.*50/.test(row.textContent)));
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
  await press(page, "#publish-form .primary");
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
  await waitForText(page, "#notices .notice.bad", "The server was restarted");
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
    assert.equal(await streaming(server), 1, "with the statistics and the host's");
    const [charted, seconds] = await tabs[8].$eval(".chart .one:not(span)", (path) =>
      [path.getAttribute("d").split("L").length, performance.now() / 1000]);
    assert.ok(charted > seconds + 1.5, `a tab that joins has the time before: ${charted} points after ${seconds} s`);

    await tabs[0].close();
    for (const page of tabs.slice(1)) await isLive(page);
    assert.equal(await streaming(server), 1, "another tab leads");
    assert.equal(await text(tabs[1], "#notices"), "", "and nothing was missed");
  });
}

test("outside --dev the statistics are for operators", { timeout: 4 * DEADLINE_MS }, async () => {
  const env = { FANFARE_OPERATOR_TOKEN: "operators-own-token", FANFARE_PUBLISH_TOKEN: "publishers-own-token" };
  const server = await Server.start(ADMINISTERED, { env });
  const context = await browser.createBrowserContext();
  const page = await open(context, `${server.url}/dashboard`, { ready: false });
  const enter = async (token) => {
    await page.$eval("#operator-token", (input) => (input.value = ""));
    await page.type("#operator-token", token);
    await page.click("#token-form button");
  };
  await page.waitForSelector("#token-form:not([hidden])");
  const seen = () => page.$$eval("main, nav, footer", (parts) => parts.filter((part) => part.getClientRects().length).length);
  assert.equal(await seen(), 0, "only the form");
  await enter("a-wrong-token");
  await waitForText(page, "#token-why", "not accepted");
  const second = await open(context, `${server.url}/dashboard`, { ready: false });
  await page.bringToFront();
  await enter("operators-own-token");
  await waitForText(page, "#connection-text", "Connected");
  await page.waitForSelector("#token-form[hidden]");
  assert.equal(await seen(), 3);
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
  const server = await Server.start(ADMINISTERED, { env });
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
      // `onState` may use the subscription from its first call on.
      const stream = subscribe("/events?topic=js", { ...options, onState: () => (list.state = stream.state.name) });
      window[name + "Stream"] = stream;
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

staged("an idle server shows zero, whatever looks at it", ADMINISTERED, async (server, tab) => {
  const page = await tab("/dashboard", { base: server.adminUrl });
  await tab("/dashboard", { base: server.adminUrl });
  await page.bringToFront();
  await isLive(page);
  await isLive(page);
  for (const name of ["Subscribers", "Delivered", "Published", "Behind"]) {
    assert.match(await figure(page, name), /^0(\/s)?$/, name);
  }
  assert.equal(await figure(page, "Delivery latency p99"), "–");
});

staged("the page of the admin listener has no inspector, and ends streams with the operator's token", ADMINISTERED, async (server, tab) => {
  const page = await tab("/dashboard", { base: server.adminUrl });
  assert.equal(await page.$eval("#inspector", (section) => section.getClientRects().length), 0);
  await press(page, "#disconnect-open");
  await page.type("#disconnect-value", "192.0.2.7");
  await press(page, "#disconnect-form .primary");
  await waitForText(page, "#disconnect-result", "Not done (403)");
  assert.ok(await page.$("#disconnect-token-label:not([hidden])"));
  page.complaints.length = 0; // the browser logs the refusal
});

staged("charts begin with what the server remembers, on one axis and with one crosshair", ["--dev"], async (server, tab) => {
  await server.subscribers("load", 3);
  for (let round = 0; round < 5; round += 1) {
    await server.publish("load", "x", 10);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  const page = await tab();
  // More points than seconds have passed: those of the time before the page was opened.
  await page.waitForFunction(() => {
    const line = document.querySelector(".chart:nth-child(4) path.one")?.getAttribute("d") ?? "";
    return line.split("L").length >= performance.now() / 1000 + 3;
  });
  await page.waitForFunction(() => {
    const axes = [...document.querySelectorAll("#live .chart svg")].map((chart) => {
      const ticks = [...chart.querySelectorAll("text:not(.value)")];
      return ticks.map((tick) => `${(tick.getAttribute("x") / chart.clientWidth).toFixed(2)} ${tick.textContent}`).join(", ");
    });
    return axes.length === 15 && new Set(axes).size === 1 && axes[0] !== "";
  });
  const axes = await page.$$("#live .chart svg");
  const chart = await page.$(".chart:nth-child(2) svg");
  const box = await chart.boundingBox();
  await page.mouse.move(box.x + box.width - 20, box.y + box.height / 2);
  await waitForText(page, "#pointed", "at ");
  const cursors = await page.$$eval("#live .chart .cursor", (lines) => lines.filter((line) => line.getAttribute("x1") > 0).length);
  assert.equal(cursors, axes.length, "the crosshair is on all charts");
  await page.focus("#charts");
  const pointed = await text(page, "#pointed");
  await page.keyboard.press("ArrowRight");
  await page.waitForFunction((pointed) => !["", pointed].includes(document.querySelector("#pointed").textContent), {}, pointed);
});

test("a planned drain looks planned, and the page sees it until the end", { timeout: 4 * DEADLINE_MS }, async () => {
  const server = await Server.start(["--dev", "--drain", "3s"]);
  const page = await open(browser, `${server.url}/dashboard`);
  await server.subscribers("t", 20);
  await waitForFigure(page, "Subscribers", "20");
  server.child.kill("SIGTERM");
  await waitForText(page, "#connection-text", "Server is leaving as planned");
  // Its own stream closes last.
  await page.waitForFunction(() => {
    const box = document.querySelector(".figure");
    return Number(box.querySelector(".value").textContent) < 20 && document.querySelector("#connection-text").textContent.includes("is leaving");
  });
  await waitForText(page, "#connection-text", "Server left as planned");
  const second = await Server.start(["--dev"], { port: server.port });
  await waitForText(page, "#notices", "The server was restarted as planned");
  await waitForText(page, "#connection-text", "Connected");
  assert.equal(await page.$$eval(".notice.bad", (notices) => notices.length), 0);
  await page.close();
  await second.stop();
});

staged("a thousand topics are searched, sorted and shortened in their middle", ["--dev"], async (server, tab) => {
  const names = Array.from({ length: 1000 }, (_, n) => `sensors/of/a/building/with/a/long/name/floor-${Math.floor(n / 100)}/room-${n}`);
  for (let at = 0; at < names.length; at += 100) await server.publishAll(names.slice(at, at + 100).map((topic) => ({ topic, data: "x" })));
  await server.publish(names[7], "y", 50);
  await server.subscribers(encodeURIComponent(names[42]), 5);
  const page = await tab("/dashboard#topics");
  await page.waitForFunction((name) => document.querySelector("#topic-rows .name")?.title === name, {}, names[42]);
  await waitForText(page, "#topic-count", "100 shown of 1,0");
  await press(page, "[data-column=retained_events]");
  await page.waitForFunction((name) => document.querySelector("#topic-rows .name")?.title === name, {}, names[7]);
  const tail = await page.$eval("#topic-rows .name span:last-child", (span) => span.textContent);
  assert.ok(names[7].endsWith(tail) && tail.length > 5, tail);
  await page.type("#topic-search", "ROOM-99");
  await page.waitForFunction(() => document.querySelectorAll("#topic-rows .name").length === 11);
  await server.publish(names[99], "z", 20);
  await page.waitForFunction((name) => {
    const row = [...document.querySelectorAll("#topic-rows tr")].find((row) => row.querySelector(".name").title === name);
    return parseFloat(row.cells[2].textContent) > 0;
  }, {}, names[99]);
});

staged("streams are ended from the page, by topic and by address", ["--dev"], async (server, tab) => {
  const page = await tab("/dashboard");
  await server.subscribers("doomed", 3);
  await server.subscribers("other", 2);
  await page.waitForSelector('#topic-rows [aria-label="Disconnect doomed"]');
  await press(page, '#topic-rows [aria-label="Disconnect doomed"]');
  await press(page, "#disconnect-form .primary");
  await waitForText(page, "#notices", "3 streams ended: topic doomed");
  await waitForFigure(page, "Subscribers", "2");
  await press(page, "#disconnect-open");
  await page.type("#disconnect-value", "no address");
  await press(page, "#disconnect-form .primary");
  await waitForText(page, "#disconnect-result", "Not done (400)");
  page.complaints.length = 0; // the browser logs the refusal
  await press(page, "#disconnect-cancel");
});

staged("a client that reads nothing is listed by its address", ["--dev"], async (server, tab) => {
  const page = await tab("/dashboard");
  const client = connect(server.port, "127.0.0.1");
  client.pause();
  client.write("GET /events?topic=t HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await waitForFigure(page, "Subscribers", "1");
  const isListed = () => page.$eval("#slow", (body) => body.textContent.includes("127.0.0.1"));
  while (!(await isListed())) {
    // As fast as the server takes them.
    await server.publish("t", "x".repeat(200000)).catch(() => new Promise((resolve) => setTimeout(resolve, 50)));
  }
  await page.waitForSelector('#slow [aria-label="Disconnect 127.0.0.1"]');
  client.destroy();
});

staged("the inspector keeps up with a thousand events a second, and opens JSON as a tree", ["--dev", "--history-events", "10000"], async (server, tab) => {
  const page = await tab();
  await watch(page, "fast");
  const batch = (from) => server.publishAll(Array.from({ length: 100 }, (_, i) => ({ topic: "fast", data: { number: from + i, inside: { deep: [1, 2, { x: "y" }] } } })));
  for (let from = 0; from < 4000; from += 100) {
    await Promise.all([batch(from), new Promise((resolve) => setTimeout(resolve, 100))]);
  }
  await waitForText(page, "#watch-count", "4000 events");
  assert.match((await shownEvents(page))[0][2], /^\{"number":3999,/);
  const lines = await page.$$eval("#events .line", (lines) => lines.map((line) => line.getBoundingClientRect().height));
  assert.ok(lines.length < 60 && new Set(lines).size === 1, `${lines.length} lines in the document, ${[...new Set(lines)]} pixels high`);
  await page.focus("#events");
  await page.keyboard.press("End");
  await page.waitForFunction(() => document.querySelector("#event-tree .tree"));
  const tree = () => page.$eval("#event-tree", (tree) => tree.innerText);
  assert.match(await tree(), /number: 0/);
  assert.match(await tree(), /inside: \{ 1 member \}/);
  await page.waitForFunction(() => {
    for (const summary of document.querySelectorAll("#event-tree details:not([open]) > summary")) summary.click();
    return document.querySelector("#event-tree").innerText.includes('x: "y"');
  });
  await page.keyboard.press("Escape");
  assert.equal(await page.$eval("#event", (region) => region.hidden), true);
});

staged("numbers in a tree keep their digits", ["--dev"], async (server, tab) => {
  const page = await tab();
  await watch(page, "exact");
  await fetch(`${server.url}/publish`, { method: "POST", body: '{"topic":"exact","data":{"big":12345678901234567890,"price":1.50}}' });
  await waitForEvents(page, 1);
  await press(page, "#events .event");
  await waitForText(page, "#event-tree", "big: 12345678901234567890");
  await waitForText(page, "#event-tree", "price: 1.50");
});

staged("at 360 pixels no section is higher than four screens", ["--dev"], async (server, tab) => {
  await server.subscribers("load", 3);
  const page = await tab("/dashboard", { width: 360, height: 740 });
  await watch(page, "load");
  await server.publish("load", { some: "x".repeat(300) }, 30);
  for (const section of ["live", "details", "topics", "inspector"]) {
    await page.evaluate((section) => (location.hash = section), section);
    await page.waitForFunction((section) => document.getElementById(section).getClientRects().length, {}, section);
    const shown = await page.$$eval("main > section", (all) => all.filter((one) => one.getClientRects().length).map(({ id }) => id));
    assert.deepEqual(shown, [section]);
    const [height, width] = await page.evaluate(() => [document.documentElement.scrollHeight, document.documentElement.scrollWidth]);
    assert.ok(height <= 4 * 740, `${section}: ${height} pixels high`);
    assert.ok(width <= 360, `${section}: ${width} pixels wide`);
  }
});

staged("at 2560 pixels the width is filled", ["--dev"], async (server, tab) => {
  const page = await tab("/dashboard", { width: 2560, height: 1440 });
  const [live, topics] = await page.$$eval("#live, #topics", (parts) => parts.map((part) => part.getBoundingClientRect().toJSON()));
  assert.ok(live.left < 80 && topics.right > 2560 - 80 && topics.left - live.right < 80, JSON.stringify([live, topics]));
});

test("a report of fanfare load reads well on a telephone and on a desk", { timeout: 4 * DEADLINE_MS }, async () => {
  const server = await Server.start(["--dev"]);
  const folder = await mkdtemp(join(tmpdir(), "fanfare-report-"));
  const file = join(folder, "report.html");
  const args = ["load", `${server.url}/events?topic=t`, "-n", "20", "--publish-url", `${server.url}/publish`, "--publish-rate", "20"];
  await promisify(execFile)(BINARY, [...args, "--publish-count", "60", "--server-pid", server.child.pid, "--report", file]);
  for (const [width, shown] of [[360, "narrow"], [1280, "wide"]]) {
    const page = await open(browser, `file://${file}`, { width, height: 740, ready: false });
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `${overflow} pixels too wide at ${width}`);
    const classes = await page.$$eval("svg", (plots) => plots.filter((plot) => plot.getClientRects().length).map((plot) => plot.classList[0]));
    assert.deepEqual(classes, Array(4).fill(shown));
    // The summary is on the first screen.
    const bottom = await page.$eval("dl", (summary) => summary.getBoundingClientRect().bottom);
    assert.ok(bottom <= 740, `the summary ends at ${bottom}`);
    const text = await page.$eval("svg.wide text, svg.narrow text", (text) => text.getBoundingClientRect().height);
    assert.ok(width > 360 || text === 0 || text >= 10, `text of ${text} pixels`);
    if (process.env.SCREENSHOTS) await page.screenshot({ path: `${process.env.SCREENSHOTS}/report-${width}.png`, fullPage: true });
    await page.close();
  }
  await rm(folder, { recursive: true });
  await server.stop();
});

for (const scheme of ["light", "dark"]) {
  for (const width of [360, 1280, 2560]) {
    staged(`no finding of axe, ${scheme}, ${width} pixels`, ["--dev"], async (server, tab) => {
      const page = await tab("/dashboard", { scheme, width });
      await watch(page, "prices", "all");
      await server.publish("prices", { text: "x".repeat(200) }, 3);
      await waitForEvents(page, 3);
      await press(page, "#events .event");
      // The page's own policy lets no script in from elsewhere: the debugger evaluates it.
      await page.evaluate(await readFile(AXE, "utf8"));
      for (const section of ["live", "details", "topics", "inspector"]) {
        await page.evaluate((section) => (location.hash = section), section);
        const { violations } = await page.evaluate(() => axe.run());
        const found = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map(({ html }) => html).join(" ")}`);
        assert.deepEqual(found, [], section);
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(overflow <= 0, `${section}: ${overflow} pixels too wide`);
      }
    });
  }
}

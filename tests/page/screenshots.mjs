// Screenshots for people to look at, of every scene, width and colour scheme: node screenshots.mjs FOLDER [SECONDS of load]

import { mkdir } from "node:fs/promises";
import { Server, launch, open } from "./stage.mjs";

const [folder = "/tmp/screenshots", seconds = "60"] = process.argv.slice(2);
const SIZES = [[360, 740], [1280, 860], [2560, 1440]];
const SECTIONS = ["live", "details", "topics", "inspector"];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
await mkdir(folder, { recursive: true });
const browser = await launch();

/** One picture of the whole page for each size and scheme; on a narrow screen, one of each section. */
async function shoot(scene, url, prepare = async () => {}, how = {}) {
  for (const scheme of ["light", "dark"]) {
    for (const [width, height] of SIZES) {
      const page = await open(browser, url, { width, height, scheme, ...how });
      await prepare(page);
      await pause(1500);
      for (const section of width < 768 && !how.isLocked ? SECTIONS : [""]) {
        await page.evaluate((section) => (location.hash = section), section);
        await page.evaluate(() => scrollTo(0, 0));
        await pause(300);
        await page.screenshot({ path: `${folder}/${scene}-${width}-${scheme}${section && `-${section}`}.png`, fullPage: true });
      }
      if (scene === "load" && width === 1280) {
        // Small enough for the README.
        await page.screenshot({ path: `${folder}/${width}-${scheme}-top.webp`, quality: 85 });
      }
      console.log(scene, width, scheme, page.complaints);
      await page.close();
    }
  }
}

/** Puts some load on a server; what it returns ends the load. */
async function load(server) {
  await server.subscribers("prices", 300);
  await server.subscribers("orders", 120);
  const guests = [];
  let round = 0;
  const step = async () => {
    round += 1;
    const wave = 3 + 3 * Math.sin(round / 80);
    await server.publish("prices", { symbol: "FAN", price: Number((101.5 + Math.sin(round / 9)).toFixed(2)) }, 2 + Math.round(wave));
    if (round % 5 === 0) await server.publish("orders", { order: 7000 + round, items: [{ sku: "A-1", count: 2 }, { sku: "B-7", count: 1 }] });
    if (round % 7 === 0) guests.push(await server.subscribers("alerts", 1 + Math.round(wave)));
    if (guests.length > 20) guests.shift()();
  };
  const timer = setInterval(() => step().catch(() => {}), 100);
  await pause(seconds * 1000);
  return () => clearInterval(timer);
}

const watch = async (page) => {
  await page.$eval("#watch-topic", (input) => (input.value = "orders, prices"));
  await page.select("#replay", "all");
  await page.$eval("#watch", (button) => button.click());
  await page.waitForSelector("#events .event");
  await page.$eval("#events .event:nth-child(2)", (line) => line.click());
};

const idle = await Server.start(["--admin-listen", "127.0.0.1:0"]);
await pause(20000);
await shoot("idle", `${idle.adminUrl}/dashboard`);
await idle.stop();

const busy = await Server.start(["--dev", "--drain", "60s"]);
const stop = await load(busy);
await shoot("load", `${busy.url}/dashboard`, watch);
for (let from = 0; from < 1000; from += 100) {
  const name = (n) => `sensors/of/a/building/with/a/long/name/floor-${Math.floor(n / 100)}/room-${n}`;
  await busy.publishAll(Array.from({ length: 100 }, (_, i) => ({ topic: name(from + i), data: { celsius: 20 + (i % 7) } })));
}
await shoot("topics", `${busy.url}/dashboard`);
// Pages that are open already see the drain: nothing new is accepted.
const pages = [];
for (const scheme of ["light", "dark"]) {
  for (const [width, height] of SIZES) pages.push([await open(browser, `${busy.url}/dashboard`, { width, height, scheme }), `${width}-${scheme}`]);
}
stop();
busy.child.kill("SIGTERM");
await pause(10000);
for (const [page, name] of pages) {
  await page.bringToFront();
  await pause(1500);
  await page.screenshot({ path: `${folder}/drain-${name}.png`, fullPage: true });
}
// Not before: the tab that leads has the connection of all, and a new one is not accepted now.
for (const [page] of pages) await page.close();
await busy.stop();

const locked = await Server.start(["--admin-listen", "127.0.0.1:0"], { env: { FANFARE_OPERATOR_TOKEN: "operators-own-token" } });
await shoot("locked", `${locked.url}/dashboard`, (page) => page.waitForSelector("#token-form:not([hidden])"), { ready: false, isLocked: true });
await locked.stop();
await browser.close();
process.exit(0);

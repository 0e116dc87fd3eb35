// Screenshots of a server under some load, for people to look at: node screenshots.mjs FOLDER [SECONDS]

import { Server, launch, open } from "./stage.mjs";

const [folder = "/tmp/screenshots", seconds = "60"] = process.argv.slice(2);
const server = await Server.start();
await server.subscribers("prices", 300);
await server.subscribers("orders", 120);
const browser = await launch();
await open(browser, `${server.url}/dashboard`);

let guests = [];
async function load(round) {
  const wave = 3 + 3 * Math.sin(round / 80);
  await server.publish("prices", { symbol: "FAN", price: Number((101.5 + Math.sin(round / 9)).toFixed(2)) }, 2 + Math.round(wave));
  if (round % 5 === 0) await server.publish("orders", { order: 7000 + round, items: [{ sku: "A-1", count: 2 }, { sku: "B-7", count: 1 }] });
  if (round % 7 === 0) guests.push(await server.subscribers("alerts", 1 + Math.round(wave)));
  if (guests.length > 20) guests.shift()();
  setTimeout(load, 100, round + 1);
}
await load(0);
await new Promise((resolve) => setTimeout(resolve, seconds * 1000));

for (const scheme of ["light", "dark"]) {
  for (const [width, height] of [[360, 780], [1280, 860], [2560, 1440]]) {
    const page = await open(browser, `${server.url}/dashboard`, { width, height, scheme });
    await page.$eval("#watch-topic", (input) => (input.value = "orders, prices"));
    await page.select("#replay", "all");
    await page.click("#watch");
    await page.waitForSelector("#events .event");
    await page.waitForFunction(() => document.querySelectorAll(".chart path").length > 10);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await page.evaluate(() => scrollTo(0, 0));
    // Small enough for the README.
    await page.screenshot({ path: `${folder}/${width}-${scheme}-top.webp`, quality: 85 });
    await page.screenshot({ path: `${folder}/${width}-${scheme}.png`, fullPage: true });
    await page.$eval("#inspector", (section) => section.scrollIntoView({ behavior: "instant" }));
    await page.screenshot({ path: `${folder}/${width}-${scheme}-inspector.png` });
    console.log(width, scheme, page.complaints);
    await page.close();
  }
}
await browser.close();
process.exit(0);

// A page that is opened after ten minutes of load shows those ten minutes: node tests/acceptance/ten_minutes.mjs [MINUTES] [SCREENSHOT]
// Build with --release; FANFARE_BIN names another binary.

import { Server, launch, open } from "../page/stage.mjs";

const [minutes = "10", screenshot] = process.argv.slice(2);
const server = await Server.start(["--dev"]);
await server.subscribers("load", 100);
const until = Date.now() + minutes * 60000;
while (Date.now() < until) {
  await server.publish("load", "x", 10);
  await new Promise((resolve) => setTimeout(resolve, 500));
}
const browser = await launch();
const page = await open(browser, `${server.url}/dashboard`);
await page.$eval('#window input[value="15"]', (input) => input.click());
await page.waitForFunction(() => document.querySelector(".chart:nth-child(4) path.one"));
await new Promise((resolve) => setTimeout(resolve, 1500));
// Each second with deliveries is a point of the line; after a reload it is the same.
const points = () => page.$eval(".chart:nth-child(4) path.one", (path) => path.getAttribute("d").split("L").length);
const first = await points();
await page.reload();
await page.waitForFunction(() => document.querySelector(".chart:nth-child(4) path.one"));
await page.$eval('#window input[value="15"]', (input) => input.click());
await new Promise((resolve) => setTimeout(resolve, 1500));
const second = await points();
if (screenshot) await page.screenshot({ path: screenshot });
console.log(`${minutes} minutes: ${first} points, after a reload ${second}`);
const isShown = Math.min(first, second) >= minutes * 60 * 0.97;
await server.stop();
process.exit(isShown ? 0 : 1);

// Fanfare's page in Chromium, with the operator's token: its inspector watches a topic. Says "watching", and "shown" once it shows an
// event with the data.    OPERATOR_TOKEN=... node inspector.mjs URL TOPIC DATA

import { launch, open } from "../clients/browser.mjs";

const [url, topic, data] = process.argv.slice(2);
const browser = await launch();
const page = await open(browser, url);

await page.waitForSelector("#token-form:not([hidden])");
await page.type("#operator-token", process.env.OPERATOR_TOKEN);
await page.keyboard.press("Enter");
await page.waitForFunction(() => document.querySelector("#server").textContent !== "");

await page.type("#watch-topic", topic);
await page.keyboard.press("Enter");
await page.waitForFunction(() => /^watching/i.test(document.querySelector("#watch-state").textContent));
console.log("watching");

const rows = () => [...document.querySelectorAll("#events .line")].map((line) => line.lastElementChild.textContent);
await page.waitForFunction(`(${rows})().includes(${JSON.stringify(data)})`);
console.log("shown");
await browser.close();

// Debian's Chromium, and a page server to aim it at. Knows nothing of what the tests are about.
//
// The browser hangs on a pipe: when this process ends, however it ends, so does the browser.

import { createServer } from "node:http";
import puppeteer from "puppeteer-core";

export const DEADLINE_MS = 60_000;

const FLAGS = [
  "--no-sandbox", // Chromium refuses to sandbox itself as root, which is what containers run tests as
  "--disable-dev-shm-usage", // containers give /dev/shm 64 MB
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  // Tests send nothing but loopback traffic.
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** A headless Chromium with a profile of its own; `CHROMIUM` names another binary. */
export function launch(options = {}) {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  return puppeteer.launch({ executablePath, headless: true, pipe: true, args: FLAGS, timeout: DEADLINE_MS, ...options });
}

/** A tab at `url`. What it complains about (errors, warnings, CSP violations) collects in `page.complaints`. */
export async function open(browser, url, prepare = async () => {}) {
  const page = await browser.newPage();
  page.complaints = [];
  page.on("console", (message) => {
    if (["error", "warn", "assert"].includes(message.type())) page.complaints.push(message.text());
  });
  page.on("pageerror", (error) => page.complaints.push(String(error)));
  await page.evaluateOnNewDocument(() => {
    document.addEventListener("securitypolicyviolation", (violation) => {
      console.error(`CSP: ${violation.violatedDirective} ${violation.blockedURI}`);
    });
  });
  page.setDefaultTimeout(DEADLINE_MS);
  await prepare(page);
  await page.goto(url);
  return page;
}

/** Serves `html` on a free port of localhost, and gives the origin. */
export async function serve(html) {
  const server = createServer((request, response) => {
    response.writeHead(200, { "Content-Type": "text/html; charset=utf-8" }).end(html);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  server.unref();
  return `http://localhost:${server.address().port}`;
}

// What the tests stand on: the real binary on a free port, and tabs of Debian's Chromium.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { open as openTab } from "../clients/browser.mjs";

export { DEADLINE_MS, launch } from "../clients/browser.mjs";

export const BINARY = process.env.FANFARE_BIN ?? new URL("../../target/debug/fanfare", import.meta.url).pathname;

/** A running `fanfare serve`. */
export class Server {
  static async start(options = ["--dev"], { port = 0, env = {} } = {}) {
    const args = ["serve", "--listen", `127.0.0.1:${port}`, "--retry", "300ms", ...options, ...(options.includes("--drain") ? [] : ["--drain", "0s"])];
    const child = spawn(BINARY, args, { env, stdio: ["ignore", "pipe", "inherit"] });
    const server = new Server();
    server.child = child;
    process.on("exit", () => child.kill("SIGKILL"));
    for await (const line of createInterface({ input: child.stdout })) {
      const [, role, url] = line.match(/^(admin )?listening on (\S+)$/) ?? [];
      if (role) server.adminUrl = url;
      else if (url) server.url = url;
      if (server.url && (server.adminUrl || !options.includes("--admin-listen"))) break;
    }
    server.port = Number(new URL(server.url).port);
    return server;
  }

  async stop() {
    const exited = once(this.child, "exit");
    this.child.kill("SIGKILL");
    await exited;
  }

  publish(topic, data, count = 1, id = undefined) {
    return this.publishAll(Array.from({ length: count }, () => ({ topic, data, id })));
  }

  async publishAll(events) {
    const answer = await fetch(`${this.url}/publish`, { method: "POST", body: JSON.stringify(events) });
    if (answer.status !== 202) throw new Error(`${answer.status} ${await answer.text()}`);
  }

  /** Subscribers that read and forget; the result ends them. */
  async subscribers(topic, count) {
    const abort = new AbortController();
    const open = async () => {
      const { body } = await fetch(`${this.url}/events?topic=${topic}`, { signal: abort.signal });
      (async () => {
        for await (const _ of body);
      })().catch(() => {});
    };
    await Promise.all(Array.from({ length: count }, open));
    return () => abort.abort();
  }
}

/** A tab at `url`, looked at once it shows something. */
export async function open(browser, url, { width = 1280, height = 900, scheme = "light", ready = true, prepare } = {}) {
  const page = await openTab(browser, url, async (page) => {
    if (prepare) await page.evaluateOnNewDocument(prepare);
    await page.setViewport({ width, height });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  });
  if (ready) await page.waitForFunction(() => document.querySelector("#server").textContent !== "");
  return page;
}

/** The text of a figure, by its name. */
export const figure = (page, name) =>
  page.evaluate((name) => {
    const box = [...document.querySelectorAll(".figure")].find((box) => box.querySelector("dt").textContent === name);
    return box.querySelector(".value").textContent.trim();
  }, name);

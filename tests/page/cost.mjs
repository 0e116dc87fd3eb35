// What a watcher of the statistics costs a server with many subscribers: CPU per delivered event, with and without,
// in turns. Build with --release, on a quiet machine: FANFARE_BIN=../../target/release/fanfare node cost.mjs [SUBSCRIBERS]

import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { BINARY, Server } from "./stage.mjs";

const SUBSCRIBERS = Number(process.argv[2] ?? 10000);
const ROUNDS = 12; // with, without, without, with, ...
const EVENTS = 60;
const TICKS_PER_SECOND = 100; // of /proc/PID/stat, on every Linux

const server = await Server.start();
const address = `${server.url}/events?topic=cost`;
const crowd = spawn(BINARY, ["load", address, "-n", SUBSCRIBERS, "--duration", "30m", "-q"], { stdio: "ignore" });
process.on("exit", () => crowd.kill("SIGKILL"));

const metric = async (name) => {
  const page = await (await fetch(`${server.url}/metrics`)).text();
  return Number(page.split("\n").find((line) => line.startsWith(`${name} `)).split(" ")[1]);
};
const until = async (isSo) => {
  while (!(await isSo())) await new Promise((resolve) => setTimeout(resolve, 50));
};
const cpuSeconds = async () => {
  const fields = (await readFile(`/proc/${server.child.pid}/stat`, "utf8")).split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
};

async function watch() {
  const abort = new AbortController();
  const { body } = await fetch(`${server.url}/events?topic=fanfare:statistics`, { signal: abort.signal });
  const reader = body.getReader();
  (async () => {
    while (!(await reader.read()).done);
  })().catch(() => {});
  return () => abort.abort();
}

/** CPU microseconds per delivered event. */
async function round() {
  const [cpu, delivered] = [await cpuSeconds(), await metric("fanfare_delivered_events_total")];
  for (let event = 1; event <= EVENTS; event += 1) {
    await server.publish("cost", "x".repeat(100));
    await until(async () => (await metric("fanfare_delivered_events_total")) >= delivered + event * SUBSCRIBERS);
  }
  const events = (await metric("fanfare_delivered_events_total")) - delivered;
  return (1e6 * ((await cpuSeconds()) - cpu)) / events;
}

await until(async () => (await metric('fanfare_connections{kind="stream"}')) >= SUBSCRIBERS);
await round();
const costs = { watched: [], alone: [] };
for (let i = 0; i < ROUNDS; i += 1) {
  const watched = i % 4 === 0 || i % 4 === 3;
  const leave = watched ? await watch() : () => {};
  costs[watched ? "watched" : "alone"].push(await round());
  leave();
}
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
for (const [name, list] of Object.entries(costs)) {
  const all = list.map((cost) => cost.toFixed(3)).join(" ");
  console.log(`${name}: median ${median(list).toFixed(3)} µs of CPU per delivered event (${all})`);
}
console.log(`watched / alone: ${(median(costs.watched) / median(costs.alone)).toFixed(3)}`);
process.exit(0);

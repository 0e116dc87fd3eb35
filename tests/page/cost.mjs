// What an open page costs a server with many subscribers: CPU per delivered event with and without one,
// in turns, and CPU per second while nothing is published. Build with --release, on a quiet machine:
// FANFARE_BIN=../../target/release/fanfare node cost.mjs [SUBSCRIBERS]

import { spawn } from "node:child_process";
import { readFile, readdir } from "node:fs/promises";
import { BINARY, Server } from "./stage.mjs";

const SUBSCRIBERS = Number(process.argv[2] ?? 10000);
const FOURS = 20; // of rounds: with, without, without, with
const EVENTS = 8; // about a second, and so about one event of the statistics
const IDLE_FOURS = 6;
const IDLE_MS = 2000;

// A crowd's heartbeats fall together after a broadcast, and would drown what is looked for.
const server = await Server.start(["--dev", "--heartbeat", "1h"]);
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
const cpuMicroseconds = async () => {
  const tasks = `/proc/${server.child.pid}/task`;
  const schedules = (await readdir(tasks)).map((task) => readFile(`${tasks}/${task}/schedstat`, "utf8"));
  return (await Promise.all(schedules)).reduce((sum, schedule) => sum + Number(schedule.split(" ")[0]) / 1000, 0);
};

/** Asks for what a page asks for: the history, the statistics, and the topics every two seconds. */
async function watch() {
  const abort = new AbortController();
  await (await fetch(`${server.url}/dashboard/history`)).text();
  const topics = () => fetch(`${server.url}/topics`).then((answer) => answer.text());
  await topics();
  const timer = setInterval(topics, 2000);
  const { body } = await fetch(`${server.url}/events?topic=fanfare:statistics`, { signal: abort.signal });
  const reader = body.getReader();
  (async () => {
    while (!(await reader.read()).done);
  })().catch(() => {});
  return () => {
    clearInterval(timer);
    abort.abort();
  };
}

/** CPU microseconds per delivered event. */
async function delivering() {
  const [cpu, delivered] = [await cpuMicroseconds(), await metric("fanfare_delivered_events_total")];
  for (let event = 1; event <= EVENTS; event += 1) {
    await server.publish("cost", "x".repeat(100));
    await until(async () => (await metric("fanfare_delivered_events_total")) >= delivered + event * SUBSCRIBERS);
  }
  const events = (await metric("fanfare_delivered_events_total")) - delivered;
  return ((await cpuMicroseconds()) - cpu) / events;
}

/** CPU microseconds per second without events. */
async function idling() {
  const cpu = await cpuMicroseconds();
  await new Promise((resolve) => setTimeout(resolve, IDLE_MS));
  return (((await cpuMicroseconds()) - cpu) * 1000) / IDLE_MS;
}

/** What a round costs watched and alone, once for each four: neighbours in time share the machine's moods. */
async function compare(fours, round) {
  const pairs = [];
  for (let four = 0; four < fours; four += 1) {
    const sums = { true: 0, false: 0 };
    for (const isWatched of [true, false, false, true]) {
      const leave = isWatched ? await watch() : () => {};
      sums[isWatched] += await round();
      leave();
    }
    pairs.push({ watched: sums.true / 2, alone: sums.false / 2 });
  }
  return pairs;
}

/** The median, and the quartiles in brackets. */
function spread(values, digits) {
  const sorted = [...values].sort((a, b) => a - b);
  const [low, middle, high] = [0.25, 0.5, 0.75].map((part) => sorted[Math.round(part * (sorted.length - 1))].toFixed(digits));
  return `${middle} (${low} to ${high})`;
}

await until(async () => (await metric('fanfare_connections{kind="stream"}')) >= SUBSCRIBERS);
await delivering();
const events = await compare(FOURS, delivering);
console.log(`alone: ${spread(events.map(({ alone }) => alone), 3)} µs of CPU per delivered event`);
console.log(`watched: ${spread(events.map(({ watched }) => watched), 3)}`);
console.log(`watched / alone: ${spread(events.map(({ watched, alone }) => watched / alone), 3)}`);
const idle = await compare(IDLE_FOURS, idling);
console.log(`idle: ${spread(idle.map(({ alone }) => alone), 0)} µs of CPU per second without events`);
console.log(`a watcher adds: ${spread(idle.map(({ watched, alone }) => watched - alone), 0)}`);
process.exit(0);

// How the scripts here talk with tests/clients.rs: a line of JSON on standard output for everything that happens, a
// stream's URL on standard input to begin, and its end to stop.

import { createInterface } from "node:readline";

export const tell = (happened) => process.stdout.write(`${JSON.stringify(happened)}\n`);

/** Calls `begin` with the URL that is given; what it returns is called when the test is done. */
export async function untilStopped(begin) {
  let stop = () => {};
  for await (const url of createInterface({ input: process.stdin })) stop = await begin(url);
  await stop();
  process.exit(0);
}

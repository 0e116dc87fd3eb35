// Publishes as a Node service does, with the package ioredis: one message for each line of standard input.

import { createInterface } from "node:readline";
import { Redis } from "ioredis";

const client = new Redis(process.env.REDIS_URL);
for await (const line of createInterface({ input: process.stdin })) {
  await client.publish("dashboard_updates", JSON.stringify({ from: "ioredis", text: line, value: 1.5 }));
}
await client.quit();

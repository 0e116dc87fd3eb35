// Publishes as a Node service does, with the package redis: one message for each line of standard input.

import { createInterface } from "node:readline";
import { createClient } from "redis";

const client = createClient({ url: process.env.REDIS_URL });
await client.connect();
for await (const line of createInterface({ input: process.stdin })) {
  await client.publish("dashboard_updates", JSON.stringify({ from: "redis", text: line, value: 1.5 }));
}
await client.quit();

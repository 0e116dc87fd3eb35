// A server of the kind that Fanfare replaces: every stream of it carries what is published on one Redis channel, and
// nothing more. A path that ends in /stream is one, and every upgrade is granted, with one word. It listens on a free port, which it tells, until its
// standard input ends.

import { createServer } from "node:http";
import { Redis } from "ioredis";
import { tell } from "./told.mjs";

const streams = new Set();
const redis = new Redis(process.env.REDIS_URL);
redis.on("message", (channel, data) => {
  for (const stream of streams) stream.write(`data: ${data}\n\n`);
});
await redis.subscribe("dashboard_updates");

const server = createServer((request, response) => {
  if (!new URL(request.url, "http://old").pathname.endsWith("/stream")) return response.end("the old server\n");
  const origin = request.headers.origin ?? "*";
  response.writeHead(200, { "Content-Type": "text/event-stream", "Access-Control-Allow-Origin": origin });
  response.write("retry: 200\n\n");
  streams.add(response);
  response.on("close", () => streams.delete(response));
});
server.on("upgrade", (request, socket) => {
  socket.end(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${request.headers.upgrade}\r\n\r\nupgraded`);
});
server.listen(0, "127.0.0.1", () => tell({ kind: "ready", data: String(server.address().port) }));
process.stdin.on("end", () => process.exit(0)).resume();

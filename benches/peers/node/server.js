// An SSE server as one writes it with Node's own http module: a set of responses, and a write to each.
"use strict";
const http = require("node:http");

const subscribers = new Set();

const server = http.createServer((request, response) => {
  if (request.method === "GET" && request.url === "/events") {
    response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
    response.flushHeaders();
    subscribers.add(response);
    request.on("close", () => subscribers.delete(response));
    return;
  }
  if (request.method === "POST" && request.url === "/publish") {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const frame = Buffer.from(`data: ${Buffer.concat(chunks)}\n\n`);
      for (const subscriber of subscribers) subscriber.write(frame);
      response.writeHead(202).end();
    });
    return;
  }
  response.writeHead(404).end();
});

// Publishers are silent for longer than the five seconds that Node would wait for their next request.
server.keepAliveTimeout = 120_000;
server.listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 4096 }, () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});

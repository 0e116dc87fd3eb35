// A small SSE server at /, as an application has one: GET is the stream, POST publishes its body. Prints its port.
import { createServer } from "node:http";

const streams = new Set();
const history = []; // the last events, the newest last
let last = 0;

createServer(async (request, response) => {
  if (request.method === "POST") {
    let body = "";
    for await (const part of request) body += part;
    last += 1;
    const event = { id: last, frame: `id: ${last}\ndata: ${body}\n\n` };
    history.push(event);
    if (history.length > 1000) history.shift();
    for (const stream of streams) stream.write(event.frame);
    response.writeHead(202).end();
    return;
  }
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
  response.write("retry: 100\n\n");
  const after = request.headers["last-event-id"];
  if (after) for (const { id, frame } of history) if (id > Number(after)) response.write(frame);
  streams.add(response);
  request.socket.setNoDelay();
  response.on("close", () => streams.delete(response));
}).listen(0, "127.0.0.1", function () {
  console.log(this.address().port);
});
setInterval(() => streams.forEach((stream) => stream.write(":\n\n")), 1000);

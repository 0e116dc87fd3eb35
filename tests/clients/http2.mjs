// Streams as a program reads them over HTTP/2: all of them on one connection.

import { connect } from "node:http2";
import { tell, untilStopped } from "./told.mjs";

let session;

await untilStopped((url) => {
  const { origin, pathname, search } = new URL(url);
  session ??= connect(origin, { rejectUnauthorized: false }); // the certificates are the tests' own
  const stream = session.request({ ":path": pathname + search, accept: "text/event-stream" });
  stream.setEncoding("utf8");
  stream.on("response", (head) => tell({ kind: "open", data: `${session.alpnProtocol} ${head[":status"]}` }));
  let unread = "";
  stream.on("data", (text) => {
    const blocks = (unread + text).split("\n\n");
    unread = blocks.pop();
    for (const block of blocks) {
      const [, data] = block.match(/^data: (.*)$/m) ?? [];
      if (data !== undefined) tell({ kind: "message", data });
    }
  });
  stream.on("close", () => tell({ kind: "close" }));
  return () => session.destroy();
});

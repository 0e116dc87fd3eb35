// An SSE server as one writes it with Bun's own server, streams and Redis client: a set of controllers for each topic,
// and a write to each. It subscribes to the Redis channel of a topic with the topic's first subscriber: Bun's client
// takes no callback for patterns.
import { RedisClient } from "bun";

const topics = new Map();
const redis = process.env.REDIS_URL && new RedisClient(process.env.REDIS_URL);

// A `direct` stream hands its writes to the socket without a queue in between.
function subscribe(topic, signal) {
  return new ReadableStream({
    type: "direct",
    async pull(controller) {
      controller.write(":\n\n");
      controller.flush();
      join(topic, controller);
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      leave(topic, controller);
    },
  });
}

function join(topic, controller) {
  const subscribers = topics.get(topic);
  if (subscribers) return subscribers.add(controller);
  topics.set(topic, new Set([controller]));
  redis?.subscribe(topic, publishFrom);
}

function leave(topic, controller) {
  const subscribers = topics.get(topic);
  subscribers.delete(controller);
  if (subscribers.size > 0) return;
  topics.delete(topic);
  redis?.unsubscribe(topic);
}

const publishFrom = (data, channel) => publish(channel, data);

// What comes in one turn of the loop goes out together: a write for each message would be slower by far in a burst. To
// wait for the turn's end pays where there are several to write to.
const pending = new Map();

function publish(topic, data) {
  const subscribers = topics.get(topic);
  if (!subscribers) return;
  const frame = `data: ${data}\n\n`;
  if (subscribers.size === 1 && !pending.has(topic)) return send(subscribers, frame);
  if (pending.size === 0) setImmediate(deliver);
  pending.set(topic, (pending.get(topic) ?? "") + frame);
}

function deliver() {
  for (const [topic, frames] of pending) send(topics.get(topic) ?? [], Buffer.from(frames));
  pending.clear();
}

function send(subscribers, frames) {
  for (const subscriber of subscribers) {
    subscriber.write(frames);
    subscriber.flush();
  }
}

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.env.PORT),
  // Streams are silent for longer than the ten seconds after which Bun would close them.
  idleTimeout: 0,
  async fetch(request) {
    const { pathname, searchParams } = new URL(request.url);
    const topic = searchParams.get("topic") ?? "bench";
    if (request.method === "GET" && pathname === "/events") {
      const headers = { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" };
      return new Response(subscribe(topic, request.signal), { headers });
    }
    if (request.method === "POST" && pathname === "/publish") {
      publish(topic, await request.text());
      return new Response(null, { status: 202 });
    }
    return new Response(null, { status: 404 });
  },
});

console.log(`listening on http://127.0.0.1:${server.port}`);

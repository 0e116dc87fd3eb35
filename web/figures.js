// What is shown of the statistics: which numbers and lines, and how their values read. Pure; no document here.

const LOCALE = "en";
const whole = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
const BUSY_ALERT = 90; // percent
const three = new Intl.NumberFormat(LOCALE, { maximumSignificantDigits: 3 });

/** A reading: text and unit. Nothing measured is a dash. */
const none = { text: "–", unit: "" };

function scaled(value, steps) {
  if (value === null || value === undefined) return none;
  const [factor, unit] = steps.find(([least]) => Math.abs(value) >= least) ?? steps.at(-1);
  return { text: three.format(value / (factor || 1)), unit };
}

/** Every digit of what people can read at a glance, fractions only of few. */
const digits = (unit) => (value) =>
  value !== null && value < 100000
    ? { text: (value < 100 ? three : whole).format(value), unit }
    : scaled(value, [[1e9, `G${unit}`], [1e6, `M${unit}`], [1e3, `k${unit}`]]);
export const count = digits("");
export const rate = digits("/s");
export const bytes = (value) =>
  scaled(value, [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [1024, "KiB"], [0, "B"]]);
export const bytesPerSecond = (value) => {
  const { text, unit } = bytes(value);
  return { text, unit: unit && `${unit}/s` };
};
export const time = (us) => scaled(us, [[1e6, "s"], [1e3, "ms"], [0, "µs"]]);
export const percent = (value) => scaled(value, [[0, "%"]]);

export const say = ({ text, unit }) => (unit ? `${text} ${unit}`.replace(" /s", "/s") : text);

export function duration(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}


/** The numbers: name, reading, note, and whether it wants attention. */
export const FIGURES = [
  ["Subscribers", (s) => count(s.subscribers.count), (s) => `of ${say(count(s.connections.streams_max))} · ${say(count(s.connections.open))} connections`],
  ["Delivered", (s) => rate(s.events.delivered_per_second), (s) => `${say(bytesPerSecond(s.events.sent_bytes_per_second))} sent`],
  ["Published", (s) => rate(s.events.published_per_second), (s) => `${say(count(s.events.published))} in all${s.host ? "; 1/s is --dev" : ""}`],
  ["Delivery latency p99", (s) => time(s.delivery_us.p99), (s) => `p50 ${say(time(s.delivery_us.p50))}`],
  ["Broadcast latency p99", (s) => time(s.broadcast_us.p99), () => "to the last subscriber"],
  ["Behind", (s) => count(s.subscribers.lagging), (s) => `${whole.format(s.subscribers.catching_up)} catching up`, (s) => s.subscribers.lagging > 0],
  ["Loop lag p99", (s) => time(s.loop.turn_us.p99), (s) => `${say(percent(s.loop.busy_percent))} busy`, (s) => s.loop.busy_percent > BUSY_ALERT],
  ["Memory", (s) => bytes(s.memory.resident_bytes),
    (s) => (s.memory.per_connection_bytes ? `${say(bytes(s.memory.per_connection_bytes))} per connection` : `${say(bytes(s.memory.retained_bytes))} of events`)],
];

/** The charts: title, reading of a value, one or two lines, and the highest value or a limit, if there is one. */
export const CHARTS = [
  { title: "Subscribers", read: count, lines: [["now", (s) => s.subscribers.count]], limit: ["at most", (s) => s.connections?.streams_max] },
  { title: "Joined and left", read: rate, lines: [["joined", (s) => s.subscribers.joined_per_second], ["left", (s) => s.subscribers.left_per_second]] },
  { title: "Events published", read: rate, lines: [["published", (s) => s.events.published_per_second]] },
  { title: "Events delivered", read: rate, lines: [["delivered", (s) => s.events.delivered_per_second]] },
  { title: "Bytes sent", read: bytesPerSecond, lines: [["sent", (s) => s.events.sent_bytes_per_second]] },
  { title: "Delivery latency", read: time, lines: [["p50", (s) => s.delivery_us.p50], ["p99", (s) => s.delivery_us.p99]] },
  { title: "Broadcast latency", read: time, lines: [["p50", (s) => s.broadcast_us.p50], ["p99", (s) => s.broadcast_us.p99]] },
  { title: "Loop lag", read: time, lines: [["p50", (s) => s.loop.turn_us.p50], ["p99", (s) => s.loop.turn_us.p99]] },
  { title: "Loop busy", read: percent, lines: [["busy", (s) => s.loop.busy_percent]], top: 100, limit: ["too much:", () => BUSY_ALERT] },
  { title: "Behind", read: count, lines: [["subscribers", (s) => s.subscribers.lagging], ["messages for the loop", (s) => s.channel_messages]] },
  { title: "Memory", read: bytes, lines: [["process", (s) => s.memory.resident_bytes], ["event logs", (s) => s.memory.retained_bytes]], limit: ["logs at most", (s) => s.limits?.history_bytes] },
  { title: "Topics", read: count, lines: [["topics", (s) => s.topics.count]] },
];

/** The host's charts, of what `--dev` measures. */
export const HOST_CHARTS = [
  { title: "Processor", read: percent, lines: [["busy", (s) => s.host?.cpu_percent]], top: 100 },
  { title: "Memory of the host", read: bytes, lines: [["used", (s) => s.host?.memory_used_bytes]], limit: ["of", (s) => s.host?.memory_total_bytes] },
  { title: "Network", read: bytesPerSecond, lines: [["received", (s) => s.host?.network_received_bytes_per_second], ["sent", (s) => s.host?.network_sent_bytes_per_second]] },
];

/** Why connections end, where the name does not say it. */
const REASONS = {
  peer_closed: "closed by the client", reset: "reset by the client", timed_out: "client vanished",
  stalled: "took nothing for too long", evicted: "too slow: next event forgotten", memory_bound: "too slow: memory needed",
  answered: "request answered", refused: "told to come back", drained: "server leaving",
};
export const reason = (name, kind = "") => kind + ((!kind && REASONS[name]) || name.replaceAll("_", " "));

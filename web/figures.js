// What is shown of the statistics: which numbers and lines, and how their values read. Pure; no document here.

const LOCALE = "en";
const whole = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
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
  ["Open connections", (s) => count(s.connections.open), (s) => `${whole.format(s.connections.streams)} streams`],
  ["Delivered", (s) => rate(s.events.delivered_per_second), (s) => `${say(bytesPerSecond(s.events.sent_bytes_per_second))} sent`],
  ["Published", (s) => rate(s.events.published_per_second), (s) => `${say(count(s.events.published))} in all`],
  ["Delivery latency p99", (s) => time(s.delivery_us.p99), (s) => `p50 ${say(time(s.delivery_us.p50))}`],
  ["Broadcast latency p99", (s) => time(s.broadcast_us.p99), () => "to the last subscriber"],
  ["Lagging subscribers", (s) => count(s.subscribers.lagging), (s) => `${whole.format(s.subscribers.catching_up)} catching up`, (s) => s.subscribers.lagging > 0],
  ["Loop lag p99", (s) => time(s.loop.turn_us.p99), (s) => `${say(percent(s.loop.busy_percent))} busy`, (s) => s.loop.busy_percent > 90],
  ["Memory per connection", (s) => bytes(s.memory.per_connection_bytes),
    (s) => (s.memory.per_connection_bytes === null ? "from 1,000 connections on" : `${say(bytes(s.memory.resident_bytes))} in all`)],
];

/** The charts: title, reading of a value, and one or two lines. */
export const CHARTS = [
  ["Connections", count, [["open", (s) => s.connections.open], ["streams", (s) => s.connections.streams]]],
  ["Connects and disconnects", rate, [["connects", (s) => s.connections.accepted_per_second], ["disconnects", (s) => s.connections.closed_per_second]]],
  ["Events published", rate, [["published", (s) => s.events.published_per_second]]],
  ["Events delivered", rate, [["delivered", (s) => s.events.delivered_per_second]]],
  ["Bytes sent", bytesPerSecond, [["sent", (s) => s.events.sent_bytes_per_second]]],
  ["Delivery latency", time, [["p50", (s) => s.delivery_us.p50], ["p99", (s) => s.delivery_us.p99]]],
  ["Broadcast latency", time, [["p50", (s) => s.broadcast_us.p50], ["p99", (s) => s.broadcast_us.p99]]],
  ["Loop lag", time, [["p50", (s) => s.loop.turn_us.p50], ["p99", (s) => s.loop.turn_us.p99]]],
  ["Loop busy", percent, [["busy", (s) => s.loop.busy_percent]], 100],
  ["Behind", count, [["subscribers", (s) => s.subscribers.lagging], ["messages for the loop", (s) => s.channel_messages]]],
  ["Memory", bytes, [["resident", (s) => s.memory.resident_bytes], ["event logs", (s) => s.memory.retained_bytes]]],
  ["Topics", count, [["topics", (s) => s.topics.count]]],
];

/** The host's charts, of what `--dev` publishes. */
export const HOST_CHARTS = [
  ["Processor", percent, [["busy", (h) => h.cpu_percent]], 100],
  ["Memory of the host", bytes, [["used", (h) => h.memory_used_bytes], ["in all", (h) => h.memory_total_bytes]]],
  ["Network", bytesPerSecond, [["received", (h) => h.network_received_bytes_per_second], ["sent", (h) => h.network_sent_bytes_per_second]]],
];

/** Why connections end, where the name does not say it. */
const REASONS = {
  peer_closed: "closed by the client", reset: "reset by the client", timed_out: "client vanished",
  stalled: "took nothing for too long", evicted: "too slow: next event forgotten", memory_bound: "too slow: memory needed",
  answered: "request answered", refused: "told to come back", drained: "server leaving",
};
export const reason = (name, kind = "") => kind + ((!kind && REASONS[name]) || name.replaceAll("_", " "));

// A subscription to a Fanfare server that survives what happens to pages: deploys, limits, sleep, lost networks.
// It resumes after the last event it has (Last-Event-ID), reports gaps, and can be one connection for all tabs.
// No build and no dependency: <script type="module"> import { subscribe } from "https://HOST/fanfare.js"; </script>

const RETRY_MS = 3000; // until the server says otherwise
const RETRY_MS_MAX = 30000;
const SILENCE_MS_MAX = 90000; // the server sends a heartbeat after 30 s at most
// An id that no event has: the server answers with a gap. EventSource hides the id at which a stream begins, so before the first
// event nothing else tells where to resume.
const UNKNOWN_ID = "unknown";

/** Subscribes to a stream; see fanfare.d.ts for the options. */
export function subscribe(url, options = {}) {
  const target = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
  // With a durable bus, the last id keeps up in silence.
  target.searchParams.set("heartbeat", "position");
  const settings = { json: true, retryMax: RETRY_MS_MAX, silenceMax: SILENCE_MS_MAX, ...options };
  return settings.share && globalThis.document && globalThis.BroadcastChannel
    ? new SharedSubscription(target.href, settings)
    : new Subscription(target.href, settings);
}

class Subscription {
  #url;
  #options;
  #retry = RETRY_MS;
  #failures = 0;
  #wasOpen;
  #stop = () => {};
  #timer;

  constructor(url, options) {
    this.#url = url;
    this.#options = options;
    this.lastEventId = options.lastEventId ?? "";
    this.#wasOpen = options.wasOpen;
    globalThis.addEventListener?.("online", this.#wake); // node has none
    this.#connect();
  }

  /** Resumes at once on a new connection. */
  reconnect({ headers, lastEventId } = {}) {
    if (headers) this.#options.headers = headers;
    if (lastEventId !== undefined) this.lastEventId = lastEventId;
    this.#end();
    this.#failures = 0;
    this.#connect();
  }

  close() {
    this.#end();
    globalThis.removeEventListener?.("online", this.#wake);
    this.#tell({ name: "closed" });
  }

  #wake = () => this.state.name === "waiting" && this.reconnect();

  #end() {
    clearTimeout(this.#timer);
    this.#stop();
  }

  #connect() {
    this.#tell({ name: "connecting" });
    // Only fetch can send headers, and only it sees events of every type. Node has no EventSource by default.
    if (this.#options.headers || this.#options.fetch || !globalThis.EventSource) this.#fetch();
    else this.#listen();
  }

  #listen() {
    const url = new URL(this.#url);
    const after = this.lastEventId || (this.#wasOpen ? UNKNOWN_ID : "");
    if (after) url.searchParams.set("last_event_id", after);
    const source = new EventSource(url, { withCredentials: this.#options.withCredentials });
    this.#stop = () => source.close();
    source.onopen = () => this.#opened();
    for (const type of new Set(["message", "gap", ...(this.#options.types ?? [])])) {
      source.addEventListener(type, (event) => {
        this.lastEventId = event.lastEventId;
        this.#deliver(type, event.data);
      });
    }
    source.onerror = () => {
      // The browser reconnects by itself, unless it has given up.
      if (source.readyState === EventSource.CONNECTING) return this.#tell({ name: "waiting" });
      source.close();
      this.#wait();
    };
  }

  async #fetch() {
    const abort = new AbortController();
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(), this.#options.silenceMax);
    };
    let stopped = false;
    this.#stop = () => {
      stopped = true;
      abort.abort();
    };
    let after;
    try {
      heard();
      const headers = { Accept: "text/event-stream", ...this.#options.headers };
      if (this.lastEventId) headers["Last-Event-ID"] = this.lastEventId;
      const credentials = this.#options.withCredentials ? "include" : "same-origin";
      const response = await fetch(this.#url, { headers, credentials, signal: abort.signal, cache: "no-store" });
      if (response.status !== 200) after = await refusal(response);
      else {
        this.#opened();
        const parser = new Parser(this);
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let part; !(part = await reader.read()).done && !stopped; heard()) {
          parser.feed(part.value, (type, data) => this.#deliver(type, data), (ms) => (this.#retry = ms));
        }
      }
    } catch {
      // The network failed, or was silent for too long: reconnect.
    }
    clearTimeout(silence);
    if (stopped) return;
    if (after?.final) this.#tell(after.state);
    else this.#wait(after?.retryMs);
  }

  #opened() {
    this.#failures = 0;
    this.#wasOpen = true;
    this.#tell({ name: "open" });
  }

  #wait(retryMs) {
    // The server spreads its own times. After repeated failures, wait longer, with jitter.
    const again = this.#failures++;
    const longer = Math.min(this.#retry * 2 ** again, Math.max(this.#options.retryMax, this.#retry));
    const delay = retryMs ?? (again ? longer * (0.8 + 0.4 * Math.random()) : this.#retry);
    this.#tell({ name: "waiting", retryAt: Date.now() + delay });
    this.#timer = setTimeout(() => this.#connect(), delay);
  }

  #deliver(type, text) {
    deliver(this.#options, { type, text, id: this.lastEventId, time: Date.now() });
  }

  #tell(state) {
    this.state = state;
    this.#options.onState?.(state);
  }
}

/** What another status than 200 means: come back later, or never. */
async function refusal(response) {
  const { status } = response;
  const problem = await response.json().catch(() => ({}));
  if (status === 429 || status >= 500) {
    const seconds = Number(response.headers.get("Retry-After"));
    return { retryMs: seconds ? seconds * 1000 * (1 + 0.2 * Math.random()) : undefined };
  }
  const name = status === 204 ? "closed" : "refused";
  return { final: true, state: { name, status, detail: problem.detail ?? response.statusText } };
}

function deliver(options, { type, text, id, time }) {
  let data = text;
  if (options.json) {
    try {
      data = JSON.parse(text);
    } catch {
      // Text that is no JSON stays text.
    }
  }
  const event = { type, data, text, id, publisherId: /~(.*)/.exec(id)?.[1], time };
  if (type === "gap" && options.onGap) options.onGap(data, event);
  else options.onEvent?.(event);
}

/** The event stream format (WHATWG HTML 9.2.6), in pieces of any size. */
class Parser {
  #subscription;
  #rest = "";
  #data = [];
  #type = "";
  #id;

  constructor(subscription) {
    this.#subscription = subscription;
    this.#id = subscription.lastEventId;
  }

  feed(text, onEvent, onRetry) {
    // A carriage return at the very end may be half of a line end.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        this.#subscription.lastEventId = this.#id;
        if (this.#data.length) onEvent(this.#type || "message", this.#data.join("\n"));
        this.#data = [];
        this.#type = "";
        continue;
      }
      const colon = line.indexOf(":");
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
      if (field === "data") this.#data.push(value);
      else if (field === "event") this.#type = value;
      else if (field === "id" && !value.includes("\0")) this.#id = value;
      else if (field === "retry" && /^\d+$/.test(value)) onRetry(Number(value));
    }
  }
}

/** One connection for all tabs: one of them leads and passes on what it hears; when it goes, another resumes. */
class SharedSubscription {
  #url;
  #options;
  #channel;
  #own = null;
  #resign;
  #recent = [];
  #wasOpen = false;

  constructor(url, options) {
    this.#url = url;
    this.#options = { ...options };
    this.lastEventId = options.lastEventId ?? "";
    const name = `fanfare ${url}`;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#channel.postMessage({ hello: true });
    this.#tell({ name: "connecting" });
    const change = (leads) => (leads ? this.#lead() : this.#follow());
    // Browsers keep locks from plain http: other hosts than localhost get the vote.
    this.#resign = navigator.locks ? lock(name, change) : vote(name, change);
  }

  reconnect(changes = {}) {
    if (changes.headers) this.#options.headers = changes.headers;
    if (this.#own) this.#own.reconnect(changes);
    this.#channel.postMessage({ reconnect: changes });
  }

  close() {
    this.#follow();
    this.#resign();
    this.#channel.close();
    this.#tell({ name: "closed" });
  }

  #lead() {
    if (this.#own) return;
    const onState = (state) => {
      if (state.name === "closed" && !this.#own) return; // another tab leads on
      this.#tell({ ...state, leads: true });
      this.#channel.postMessage({ state });
    };
    const pass = (event) => {
      this.#take(event);
      this.#channel.postMessage({ event });
    };
    const { lastEventId } = this;
    const wasOpen = this.#wasOpen; // by another tab that led
    const onEvent = ({ type, text, id, time }) => pass({ type, text, id, time });
    this.#own = new Subscription(this.#url, {
      ...this.#options, json: false, lastEventId, wasOpen, onState, onEvent, onGap: undefined,
    });
  }

  #follow() {
    const own = this.#own;
    this.#own = null;
    own?.close();
  }

  #hear({ hello, welcome, event, state, reconnect }) {
    if (hello && this.#own) {
      const { headers } = this.#options;
      this.#channel.postMessage({ welcome: { recent: this.#recent, state: this.#own.state, headers } });
    }
    if (welcome && !this.#own && this.lastEventId === "") {
      this.#options.headers ??= welcome.headers;
      welcome.recent.forEach((event) => this.#take(event));
      this.#tell(welcome.state);
    }
    if (event && !this.#own) this.#take(event);
    if (state && !this.#own) this.#tell(state);
    if (reconnect) {
      this.#options.headers = reconnect.headers ?? this.#options.headers;
      this.#own?.reconnect(reconnect);
    }
  }

  #take(event) {
    this.lastEventId = event.id;
    this.#recent.push(event);
    if (this.#recent.length > (this.#options.keep ?? 0)) this.#recent.shift();
    deliver(this.#options, event);
  }

  #tell(state) {
    this.state = state;
    this.#wasOpen ||= state.name === "open";
    this.#options.onState?.(state);
  }
}

/** Leads while it holds the lock; the browser hands it on when a tab closes or crashes. */
function lock(name, change) {
  const abort = new AbortController();
  let release;
  const hold = () =>
    new Promise((resolve) => {
      release = resolve;
      // What the last leader said may still be on its way here.
      setTimeout(() => abort.signal.aborted || change(true), 50);
    });
  navigator.locks.request(name, { signal: abort.signal }, hold).catch(() => {});
  return () => {
    abort.abort();
    release?.();
  };
}

/** Without locks: a tab that receives nothing from a leader claims the lead; of two leaders the later one, by term, stays. */
function vote(name, change) {
  const channel = new BroadcastChannel(`${name} vote`);
  const me = Math.random();
  let term = 0;
  let leads = false;
  let heard = false;
  const say = (word) => channel.postMessage({ word, term, me });
  const lead = (now) => {
    if (leads !== now) change((leads = now));
  };
  channel.onmessage = ({ data }) => {
    if (data.word === "who" && leads) return say("me");
    if (data.word === "bye") return setTimeout(ask, 200 * Math.random());
    if (data.word !== "me") return;
    heard = true;
    if (leads && (data.term > term || (data.term === term && data.me > me))) lead(false);
    else if (leads) say("me");
    term = Math.max(term, data.term);
  };
  // Asked, not beaten out: hidden tabs' timers sleep, but they still answer.
  const ask = () => {
    if (leads) return;
    heard = false;
    say("who");
    setTimeout(() => {
      if (heard || leads) return;
      term += 1;
      lead(true);
      say("me");
    }, 300 + 200 * Math.random());
  };
  ask();
  const timer = setInterval(ask, 2000);
  const bye = () => leads && say("bye");
  addEventListener("pagehide", bye);
  return () => {
    clearInterval(timer);
    bye();
    removeEventListener("pagehide", bye);
    channel.close();
  };
}

/** Types of fanfare.js, the client of a Fanfare server for browsers and node. */

/** One event of a stream. */
export interface FanfareEvent {
  /** Its type; `message` if it has none. */
  type: string;
  /** Its data: parsed if it is JSON (and `json` is not false), else its text. */
  data: unknown;
  /** Its data as it came. */
  text: string;
  /** The id to resume after. */
  id: string;
  /** The publisher's own id, if it set one. */
  publisherId?: string;
  /** When it arrived, in ms since 1970. */
  time: number;
}

/** Something is missing before this place in the stream: fetch afresh what you show. */
export interface Gap {
  /** `unknown_id`, `evicted`, `source_lost` and others: docs/protocol.md has them all. */
  reason: string;
  /** The topics of which something is missing; `["*"]`: any. */
  topics: string[];
  /** The last id that is sure. */
  last_id: string | null;
}

export interface State {
  /** `waiting` comes back by itself; `refused` does not, and `status` and `detail` say why. */
  name: "connecting" | "open" | "waiting" | "refused" | "closed";
  /** When it comes back, where that is known, in ms since 1970. */
  retryAt?: number;
  status?: number;
  detail?: string;
  /** This tab holds the connection that all share. */
  leads?: boolean;
}

export interface Options {
  /** Every event; gaps too unless there is `onGap`. */
  onEvent?(event: FanfareEvent): void;
  onGap?(gap: Gap, event: FanfareEvent): void;
  /** Every state, the first one after `subscribe` has returned. */
  onState?(state: State): void;
  /** Types to listen for besides `message` and `gap`; with fetch every type comes. */
  types?: string[];
  /** Parse data that is JSON: the default. */
  json?: boolean;
  /** Sent with the request, such as `{ Authorization: "Bearer ..." }`; implies `fetch`. */
  headers?: Record<string, string>;
  /** Send cookies to another origin, too: its server must allow this page's origin by name. */
  withCredentials?: boolean;
  /** Use fetch instead of EventSource: the default where there is none, as in node. */
  fetch?: boolean;
  /** Resume after this id. */
  lastEventId?: string;
  /** One connection for all tabs of this origin that subscribe to this URL; without effect outside of pages. */
  share?: boolean;
  /** With `share`: how many past events a tab that joins is given. */
  keep?: number;
  /** The longest wait between two attempts, in ms; 30,000. */
  retryMax?: number;
  /** With fetch: silence that counts as a dead connection, in ms; 90,000. */
  silenceMax?: number;
}

export interface Subscription {
  readonly state: State;
  /** The id of the last event, after which it resumes. */
  readonly lastEventId: string;
  /** Resumes at once on a new connection; with other headers, or after another id. */
  reconnect(changes?: { headers?: Record<string, string>; lastEventId?: string }): void;
  close(): void;
}

/** Subscribes to the stream at `url`, which may be relative in a page or worker. */
export function subscribe(url: string | URL, options?: Options): Subscription;

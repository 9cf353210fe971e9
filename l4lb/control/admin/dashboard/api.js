// The admin API as the page uses it: the status again and again, changes of backends and bans, the stream of events.
// The token is kept in sessionStorage alone. Addresses are relative, so that the page works behind a proxy's prefix
// too.

const TOKEN = "l4lb-token";
const TIMEOUT_MS = 5000;
const POLL_MS = 1000;
const POLL_MS_MAX = 5000;
const SHARE = 20; // a status that takes long to make is asked for less often: at most 1/20 of the time
const RECENT = 200;
const RETRY_MS_MAX = 10000;

/** `status` is the HTTP one, 0 when there was no answer; the message is the API's own, made for people. */
export class ApiError extends Error {
  constructor(status, message, path = "") {
    super(message);
    this.status = status;
    this.path = path;
    this.token = ""; // that was refused
  }

  /** A 401 that names a header is about where the page came from: no token would help. */
  get wantsToken() {
    return this.status === 401 && !this.path;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

async function ask(path, options = {}) {
  const headers = {...options.headers};
  const used = token.get();
  if (used) headers.Authorization = `Bearer ${used}`;
  let response;
  try {
    response = await fetch(path, {...options, headers, cache: "no-store"});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const message = error.name === "TimeoutError" ? `no answer within ${TIMEOUT_MS / 1000} s` : "no connection to l4lb";
    throw new ApiError(0, message);
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  const error = new ApiError(response.status, said?.error?.message ?? `HTTP ${response.status}`, said?.error?.path);
  error.token = used;
  throw error;
}

async function change(method, path, body) {
  const headers = body === undefined ? {} : {"Content-Type": "application/json"};
  const signal = AbortSignal.timeout(TIMEOUT_MS * 2);
  return (await ask(path, {method, headers, body: JSON.stringify(body), signal})).json();
}

/** Set keys of a backend, by its id or address. Returns what the API then says of it. */
export const putBackend = (pool, backend, settings) =>
  change("PUT", `v1/pools/${encodeURIComponent(pool)}/backends/${encodeURIComponent(backend)}`, settings);

export const getFleet = async () => (await ask("v1/fleet", {signal: AbortSignal.timeout(TIMEOUT_MS)})).json();

export const listBans = async () => (await ask("v1/bans", {signal: AbortSignal.timeout(TIMEOUT_MS)})).json();

export const putBan = (cidr, settings) => change("PUT", `v1/bans/${encodeURIComponent(cidr)}`, settings);

/** `listener`: "" for the ban of all of them. */
export const removeBan = (cidr, listener) =>
  change("DELETE", `v1/bans/${encodeURIComponent(cidr)}?listener=${encodeURIComponent(listener)}`);

/** How far the server's clock is ahead of ours, in seconds; below what Date can say it is none. */
function skewOf(response) {
  const theirs = Date.parse(response.headers.get("Date") ?? "");
  const skew = (theirs - Date.now()) / 1000;
  return Math.abs(skew) > 3 ? skew : 0;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Asks for the status for as long as the page is open; `now()` asks at once. `heard` gets the status, the skew of
 * clocks and when it was asked for, by performance.now().
 */
export class Poller {
  #heard;
  #failed;
  #wake = () => {};

  constructor(heard, failed) {
    this.#heard = heard;
    this.#failed = failed;
  }

  now() {
    this.#wake();
  }

  async run() {
    for (;;) {
      const wait = await this.#once();
      await Promise.race([pause(wait), new Promise((resolve) => (this.#wake = resolve))]);
    }
  }

  /** Returns how long to wait until the next time. What `heard` throws is a defect of the page, and not caught. */
  async #once() {
    const began = performance.now();
    let response, status;
    try {
      response = await ask("v1/status", {signal: AbortSignal.timeout(TIMEOUT_MS)});
      status = await response.json();
    } catch (error) {
      this.#failed(error instanceof ApiError ? error : new ApiError(0, "the answer broke off"));
      return POLL_MS;
    }
    const took = performance.now() - began;
    this.#heard(status, skewOf(response), began);
    return Math.min(Math.max(POLL_MS, SHARE * took), POLL_MS_MAX);
  }
}

/** The events in `text`, which ends between two of them, as objects. */
function parsed(text) {
  const data = text.split("\n\n").map((block) => block.split("\n").find((line) => line.startsWith("data: ")));
  return data.filter(Boolean).map((line) => JSON.parse(line.slice(6)));
}

/**
 * The stream of events, opened again when it ends. EventSource cannot send a token, so it is read by hand. Each time
 * the latest events come first: those that were heard before are left out.
 */
export class EventStream {
  #heard;
  #state;
  #seen = new Set();
  #abort = null;

  constructor(heard, state) {
    this.#heard = heard;
    this.#state = state;
  }

  get open() {
    return this.#abort !== null;
  }

  close() {
    this.#abort?.abort();
    this.#abort = null;
  }

  async run() {
    if (this.open) return;
    const abort = (this.#abort = new AbortController());
    for (let wait = 1000; !abort.signal.aborted; wait = Math.min(2 * wait, RETRY_MS_MAX)) {
      try {
        await this.#read(abort.signal);
        wait = 1000;
        this.#state("no stream; trying again");
      } catch (error) {
        if (abort.signal.aborted) return;
        this.#state(error.status === 409 ? "too many readers: no live events here" : "no stream; trying again");
      }
      await pause(wait);
    }
  }

  async #read(signal) {
    const response = await ask(`v1/events?last=${RECENT}`, {signal});
    this.#state("");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const {done, value} = await reader.read();
      if (done) return;
      text += value;
      const end = text.lastIndexOf("\n\n");
      if (end < 0) continue;
      this.#tell(parsed(text.slice(0, end)));
      text = text.slice(end + 2);
    }
  }

  #tell(events) {
    const fresh = events.filter((event) => !this.#seen.has(JSON.stringify(event)));
    for (const event of fresh) this.#seen.add(JSON.stringify(event));
    if (this.#seen.size > 4 * RECENT) this.#seen = new Set([...this.#seen].slice(-2 * RECENT));
    if (fresh.length) this.#heard(fresh);
  }
}

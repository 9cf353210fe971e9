// The admin API as the page uses it: the status again and again, lists, changes. The token is kept in sessionStorage
// alone. Addresses are relative, so that the page works behind a proxy's prefix too.

const TOKEN = "l4lb-token";
const TIMEOUT_MS = 5000;
const POLL_MS = 1000;
const POLL_MS_MAX = 5000;
const SHARE = 20; // a status that takes long to make is asked for less often: at most 1/20 of the time

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

/** The answer, when it is a good one; an ApiError otherwise, or what aborted it. */
export async function ask(path, options = {}) {
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

const get = (path) => ask(path, {signal: AbortSignal.timeout(TIMEOUT_MS)});

const read = async (path) => (await get(path)).json();

async function change(method, path, body) {
  const headers = body === undefined ? {} : {"Content-Type": "application/json"};
  const signal = AbortSignal.timeout(TIMEOUT_MS * 2);
  return (await ask(path, {method, headers, body: JSON.stringify(body), signal})).json();
}

/** A list, and how many there are of what it has only some. */
async function counted(path) {
  const response = await get(path);
  return {list: await response.json(), total: Number(response.headers.get("X-Total-Count"))};
}

/** Of the `parameters` those that say something. */
function query(parameters) {
  const said = Object.entries(parameters).filter(([, value]) => value !== "" && value !== undefined);
  return said.length ? `?${new URLSearchParams(said)}` : "";
}

/** {by, read_only}: who asks, by the token that is in use. */
export const whoAmI = () => read("v1/whoami");

/** Set keys of a backend, by its id or address. Returns what the API then says of it. */
export const putBackend = (pool, backend, settings) =>
  change("PUT", `v1/pools/${encodeURIComponent(pool)}/backends/${encodeURIComponent(backend)}`, settings);

/** What was counted before the page was opened, of a pool, or of all together (""). */
export const getHistory = (pool) => read(`v1/history${query({pool})}`);

/** Its sessions have drain_timeout, by default, to end. */
export const drainListener = (listener) => change("POST", "v1/drain", {listener});

export const resumeListener = (listener) => change("DELETE", `v1/drain${query({listener})}`);

/** `wanted`: {pool, backend, source, listener}, each of which may be empty. */
export const listSessions = (wanted, limit) => counted(`v1/sessions${query({...wanted, limit})}`);

export const endSession = (id) => change("DELETE", `v1/sessions/${encodeURIComponent(id)}`);

export const endSessions = (wanted) => change("DELETE", `v1/sessions${query(wanted)}`);

/** `by`: sessions, rate or bytes. */
export const listSources = (by, limit) => counted(`v1/sources${query({by, limit})}`);

export const getConfig = () => read("v1/config");

/** {file, problems, total, differences: [{path, runs?, file?}]}; an ApiError with status 409 when there is no file. */
export const getDifferences = () => read("v1/config/diff");

export const getFleet = () => read("v1/fleet");

export const listBans = () => read("v1/bans");

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

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

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

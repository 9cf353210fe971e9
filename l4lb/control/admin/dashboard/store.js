// What the page remembers: counters as they were seen, so that totals become rates, for the last five minutes; at first
// those that the process has kept. Time is the server's uptime where a rate is taken, since answers come late, and ours
// where a plot is.

export const KEPT_S = 300;
const STEP_S = 5; // between the samples of a backend: its rates are of one or two of these
const STEPS = 13; // of them: failures are counted over a minute
const QUANTILE_S = 5; // connect times of so long make one point

/** Columns of numbers over time, the oldest first; what is older than KEPT_S goes. NaN is a gap. */
class Series {
  constructor(...names) {
    this.times = [];
    this.columns = Object.fromEntries(names.map((name) => [name, []]));
  }

  add(at, values) {
    this.times.push(at);
    for (const [name, column] of Object.entries(this.columns)) column.push(values[name] ?? NaN);
    while (this.times[0] < at - KEPT_S - 2) {
      this.times.shift();
      for (const column of Object.values(this.columns)) column.shift();
    }
  }

  /**
   * What was before the first sample: `times`, and columns by name; those that are missing are gaps. Returns how many
   * of them were before it.
   */
  prepend(times, columns) {
    const first = this.times[0] ?? Infinity;
    const end = times.findIndex((one) => one >= first);
    const number = end < 0 ? times.length : end;
    this.times.unshift(...times.slice(0, number));
    for (const [name, column] of Object.entries(this.columns)) {
      column.unshift(...Array.from({length: number}, (_, index) => columns[name]?.[index] ?? NaN));
    }
    return number;
  }

  last(name) {
    return this.columns[name].at(-1) ?? NaN;
  }
}

/** Growth a second from one sample to the next; a counter that fell belongs to another process. */
function perSecond(before, now, name) {
  const seconds = now.uptime - (before?.uptime ?? NaN);
  const growth = now[name] - (before?.[name] ?? NaN);
  return seconds > 0 && growth >= 0 ? growth / seconds : NaN;
}

/** The duration, in seconds, that `share` of the counted ones stay below: interpolated within its bucket. */
export function quantile(bounds, counts, share) {
  const total = counts.reduce((sum, one) => sum + one, 0);
  if (!(total > 0)) return NaN;
  let left = share * total;
  for (let bucket = 0; bucket < counts.length; bucket++) {
    if (counts[bucket] > 0 && left <= counts[bucket]) {
      const high = bounds[bucket] ?? bounds.at(-1) * 2;
      const low = bucket ? bounds[bucket - 1] : high / 2;
      return low + ((high - low) * left) / counts[bucket];
    }
    left -= counts[bucket];
  }
  return bounds.at(-1);
}

/** The latest samples of one backend: sparse, for there may be thousands. */
class Samples {
  #kept = [];

  add(sample) {
    if (this.#kept.length && sample.uptime < this.#kept.at(-1).uptime) this.#kept = [];
    if (this.#kept.length > 1 && sample.uptime - this.#kept.at(-2).uptime < STEP_S) this.#kept.pop();
    this.#kept.push(sample);
    if (this.#kept.length > STEPS) this.#kept.shift();
  }

  get uptime() {
    return this.#kept.at(-1).uptime;
  }

  rate(name) {
    return perSecond(this.#kept.at(-3) ?? this.#kept.at(-2), this.#kept.at(-1), name);
  }

  /** Over the last minute, or since the page was opened. */
  growth(name) {
    return (this.#kept.at(-1)[name] ?? 0) - (this.#kept[0][name] ?? 0);
  }
}

const FLOW = ["sessions", "rate", "up", "down", "packets"];

function counters(pool, uptime) {
  const {sessions_active, sessions_total, bytes_up, bytes_down, in_kernel} = pool;
  const packets = in_kernel ? in_kernel.packets_up + (in_kernel.packets_down ?? 0) : NaN;
  return {uptime, sessions: sessions_active, total: sessions_total, up: bytes_up, down: bytes_down, packets};
}

function summed(pools, uptime) {
  const sum = {uptime, sessions: 0, total: 0, up: 0, down: 0};
  for (const pool of pools) {
    sum.sessions += pool.sessions_active;
    sum.total += pool.sessions_total;
    sum.up += pool.bytes_up;
    sum.down += pool.bytes_down;
  }
  return sum;
}

function backendCounters(backend, uptime) {
  const {sessions_total, bytes_up, bytes_down, connect_failures, early_resets} = backend;
  return {uptime, total: sessions_total, up: bytes_up, down: bytes_down, failures: connect_failures + early_resets};
}

/** The counters in the answer of /v1/history, sample by sample. */
function pastSamples({uptime_s, sessions_total, bytes_up, bytes_down}) {
  return uptime_s.map((uptime, index) =>
    ({uptime, total: sessions_total[index] ?? NaN, up: bytes_up[index] ?? NaN, down: bytes_down[index] ?? NaN}));
}

/** What is plotted of them. The first sample has no rate. */
function pastColumns(samples, {sessions_active, connects, connect_bounds_s}) {
  const rates = (name) => samples.map((one, index) => perSecond(samples[index - 1], one, name));
  const grown = connects.map((counts, index) => counts.map((one, at) => one - (connects[index - 1]?.[at] ?? NaN)));
  const part = (share) => grown.map((counts) => quantile(connect_bounds_s, counts, share));
  return {sessions: sessions_active, rate: rates("total"), up: rates("up"), down: rates("down"), p50: part(0.5),
    p99: part(0.99)};
}

export class Store {
  #before = new Map(); // by scope: its counters in the last status
  #first = new Map(); // by scope: its counters in the first status
  #connects = []; // {uptime, counts} of the last seconds
  #backends = new Map();
  #listeners = new Map();
  #workers = new Map();
  scopes = new Map(); // "" is all pools, else by name: Series
  marks = []; // {at, level}: events worth a mark on the plots
  status = null;

  /** `at` is our clock in seconds. Returns whether another process answered than the last time. */
  add(status, at) {
    const replaced = this.status !== null && this.status.pid !== status.pid;
    if (replaced) this.#forget();
    this.status = status;
    const uptime = status.uptime_s;
    this.#addScope("", summed(status.pools, uptime), at, this.#quantiles(status.connect_time, uptime));
    for (const pool of status.pools) {
      this.#addScope(pool.name, counters(pool, uptime), at);
      for (const one of pool.backends) {
        this.#samples(this.#backends, `${pool.name}\n${one.id}`, backendCounters(one, uptime));
      }
    }
    for (const {name, sessions_total, closed, in_kernel} of status.listeners) {
      this.#samples(this.#listeners, name, {uptime, total: sessions_total, ...closed, ...in_kernel?.traffic});
    }
    for (const {worker, busy_s, accept_pauses} of status.workers) {
      this.#samples(this.#workers, worker, {uptime, busy: busy_s, pauses: accept_pauses});
    }
    this.marks = this.marks.filter((mark) => mark.at > at - KEPT_S);
    this.#prune(uptime, new Set(["", ...status.pools.map((pool) => pool.name)]));
    return replaced;
  }

  /** `history` is of /v1/history, `skew` how far the server's clock is ahead of ours. */
  addPast(history, skew) {
    const series = this.scopes.get(history.pool);
    const first = this.#first.get(history.pool);
    if (!series) return;
    const samples = pastSamples(history);
    const number = series.prepend(history.at.map((at) => at - skew), pastColumns(samples, history));
    if (!number || series.times.length === number) return;
    for (const [name, counter] of [["rate", "total"], ["up", "up"], ["down", "down"]]) {
      series.columns[name][number] = perSecond(samples[number - 1], first, counter); // it had none to compare with
    }
    for (const name of ["p50", "p99"]) {
      const column = series.columns[name];
      if (column && Number.isNaN(column[number])) column[number] = column[number - 1];
    }
  }

  backend(pool, id) {
    return this.#backends.get(`${pool}\n${id}`);
  }

  listener(name) {
    return this.#listeners.get(name);
  }

  worker(number) {
    return this.#workers.get(number);
  }

  #forget() {
    this.#before.clear();
    this.#connects = [];
    for (const samples of [this.#backends, this.#listeners, this.#workers]) samples.clear();
  }

  /** Of what is gone nothing is kept: the page may be open for months. */
  #prune(uptime, names) {
    for (const all of [this.#backends, this.#listeners, this.#workers]) {
      for (const [key, samples] of all) if (samples.uptime !== uptime) all.delete(key);
    }
    for (const all of [this.scopes, this.#before, this.#first]) {
      for (const name of all.keys()) if (!names.has(name)) all.delete(name);
    }
  }

  #samples(all, key, sample) {
    if (!all.has(key)) all.set(key, new Samples());
    all.get(key).add(sample);
  }

  #addScope(name, now, at, more = {}) {
    if (!this.scopes.has(name)) {
      this.scopes.set(name, name ? new Series(...FLOW) : new Series(...FLOW, "p50", "p99"));
      this.#first.set(name, now);
    }
    const before = this.#before.get(name);
    const rate = (counter) => perSecond(before, now, counter);
    const values = {sessions: now.sessions, rate: rate("total"), up: rate("up"), down: rate("down")};
    values.packets = rate("packets");
    this.scopes.get(name).add(at, {...values, ...more});
    this.#before.set(name, now);
  }

  #quantiles({bounds_s, counts}, uptime) {
    this.#connects.push({uptime, counts});
    while (this.#connects.length > 2 && this.#connects[1].uptime <= uptime - QUANTILE_S) this.#connects.shift();
    const grown = counts.map((one, bucket) => one - (this.#connects[0].counts[bucket] ?? 0));
    return {p50: quantile(bounds_s, grown, 0.5), p99: quantile(bounds_s, grown, 0.99)};
  }
}

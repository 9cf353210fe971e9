// What is to be made of the status: in which condition a backend is, and what an operator should look at. Pure
// functions.

import {coarse, count, plural, span} from "./format.js";

/** Close reasons that mean that a client was not served; those that an operator asks for are not among them. */
const UNSERVED = ["connect_failed", "connect_timeout", "no_backend", "queue_full", "queue_timeout", "rate_limited",
  "proxy_header_error", "resource_limit", "internal_error"];
const LATE_S = 1;
const NAMED_MAX = 4; // in one sentence
const TURNED_AWAY = "no usable backend: new clients are turned away";

export const words = (text) => text.replaceAll("_", " ");

/**
 * One word for a backend, the worst that holds: `kind` is down, ejected, unknown, drain, maint, idle (healthy, but
 * passed over), standby (asked after others) or up; `pip` the form of its mark; `why` a sentence, or nothing.
 */
export function condition(backend) {
  const admin = backend.admin_state === "ready" ? backend.agent.admin_state : backend.admin_state;
  if (admin !== "ready") {
    const why = backend.admin_state === "ready" ? "its agent says so" : "";
    return {kind: admin, pip: "idle", why};
  }
  const health = backend.fleet_health ?? backend.health;
  if (health === "down") {
    const elsewhere = backend.health !== "down";
    return {kind: "down", pip: "down", why: elsewhere ? "most nodes of the fleet see it down" : downReason(backend)};
  }
  const said = backend.agent;
  if (said.health === "down") return {kind: "down", pip: "down", why: `its agent says down: ${said.remark}`};
  if (backend.ejected) return {kind: "ejected", pip: "down", why: "connects failed or were reset"};
  if (health === "unknown") return {kind: "unknown", pip: "unknown", why: "not decided yet"};
  if (!backend.usable) return {kind: "idle", pip: "idle", why: backend.passed_over};
  if (backend.standby) return {kind: "standby", pip: "idle", why: backend.standby};
  return {kind: "up", pip: "up", why: backend.slow ? `slow: ${backend.slow}` : ""};
}

export function checkText(check) {
  return check.ok ? "" : `${check.step}: ${check.reason}`;
}

function downReason({last_check, resolved, passed_over}) {
  if (resolved && !resolved.address) return passed_over;
  return last_check && !last_check.ok ? checkText(last_check) : "";
}

export const isProblem = (kind) => kind === "down" || kind === "ejected";

function listed(names) {
  const more = names.length - NAMED_MAX;
  return names.slice(0, NAMED_MAX).join(", ") + (more > 0 ? `, and ${more} more` : "");
}

/** Those with the same reason and about the same time together; no names where one reason holds for the whole pool. */
function downText(backends, all, now) {
  const since = (one) => `${condition(one).why || "no reason was given"}, for ${coarse(now - one.health_since)}`;
  const groups = [...Map.groupBy(backends, since)];
  const number = `${backends.length} of ${plural(all, "backend")} down`;
  if (groups.length === 1 && backends.length === all && all > NAMED_MAX) return `${number} (${groups[0][0]})`;
  return `${number}: ${listed(groups.map(([text, ones]) => `${listed(ones.map((one) => one.id))} (${text})`))}`;
}

function parkedText(one) {
  return `${one.id} (${condition(one).kind}, ${plural(one.sessions_active, "session")} left)`;
}

function* ofPool(pool, now) {
  const problem = (kind, level, text) => ({key: `${kind}\n${pool.name}`, level, pool: pool.name, text, part: 0});
  const all = pool.backends.length;
  const by = Map.groupBy(pool.backends, (one) => condition(one).kind);
  const down = by.has("down") ? downText(by.get("down"), all, now) : "";
  if (!pool.usable) yield problem("none", "outage", [TURNED_AWAY, down].filter(Boolean).join(". "));
  else if (down) yield {...problem("down", "error", down), part: by.get("down").length / all};
  const ejected = by.get("ejected")?.map((one) => one.id);
  if (ejected) yield problem("ejected", "warning", `ejected after failures of real traffic: ${listed(ejected)}`);
  const slow = by.get("up")?.filter((one) => one.slow).map((one) => `${one.id} (${one.slow})`) ?? [];
  if (slow.length) yield problem("slow", "warning", `slow: ${listed(slow)}`);
  const waiting = pool.waiting && plural(pool.waiting, "client");
  if (waiting) yield problem("waiting", "warning", `${waiting} waiting: every backend is at max_sessions`);
  const {discovery, policy, policy_error} = pool;
  if (discovery?.error) yield problem("discovery", "warning", `discovery by ${discovery.type}: ${discovery.error}`);
  if (policy_error) yield problem("policy", "warning", `${policy} failed, it serves in turn: ${policy_error}`);
  const parked = [...(by.get("drain") ?? []), ...(by.get("maint") ?? [])];
  if (parked.length) yield problem("parked", "note", `taken out on purpose: ${listed(parked.map(parkedText))}`);
}

/** Reasons for which sessions of a listener were not served in the last minute, the most frequent first. */
export function unserved(samples) {
  return UNSERVED.map((reason) => [reason, samples.growth(reason)])
    .filter(([, number]) => number > 0).sort((a, b) => b[1] - a[1]);
}

export function unservedText(reasons) {
  return reasons.map(([reason, number]) => `${words(reason)} ${count(number)}`).join(", ");
}

/** When what is left ends at the latest. */
const untilText = (drain) => (drain && !drain.over ? `, for ${span(drain.remaining_s)} at most` : "");

function* ofListener(listener, samples) {
  const left = plural(listener.sessions_active, "session");
  const {name} = listener;
  const problem = (kind, level, text) => ({key: `${kind}\n${name}`, level, text: `listener ${name} ${text}`});
  const {drain} = listener;
  if (drain) yield problem("drain", "note", `is being drained: it accepts nobody, ${left} left${untilText(drain)}`);
  if (listener.refusing) yield problem("refusing", "outage", `refuses clients: ${listener.refusing}`);
  const reasons = unserved(samples);
  const total = reasons.reduce((sum, [, number]) => sum + number, 0);
  const text = `has ${plural(total, "client")} not served in the last minute (${unservedText(reasons)})`;
  if (total) yield problem("unserved", "warning", text);
}

function* ofProcess(status, store) {
  const problem = (key, level, text) => ({key, level, text});
  const left = (one) => `${plural(one.sessions_active, "session")} left`;
  const {state, drain, predecessor, health_lag_s} = status;
  const rest = left(status) + untilText(drain);
  if (state !== "running") yield problem("state", "warning", `the process is ${state}: ${rest}`);
  if (predecessor) {
    const text = `process ${predecessor.pid}, which this one replaced, has ${left(predecessor)}`;
    yield problem("predecessor", "note", text);
  }
  if (status.fleet?.error) yield problem("fleet", "warning", `fleet: ${status.fleet.error}`);
  if (status.fleet?.draining) yield problem("drained", "note", "this node is drained by its fleet: /readyz says 503");
  if (health_lag_s > LATE_S) {
    yield problem("late", "warning", `health checks are ${span(health_lag_s)} late: this process is short of CPU`);
  }
  if (status.workers.some((one) => store.worker(one.worker).growth("pauses") > 0)) {
    yield problem("pauses", "outage", "accepting paused in the last minute: out of file descriptors or memory");
  }
  for (const listener of status.listeners) yield* ofListener(listener, store.listener(listener.name));
}

const LEVELS = ["outage", "error", "warning", "note"]; // the worst first

/**
 * All that an operator should look at: {key, level, pool?, text}. Outages, in which clients are turned away, come
 * first; of errors those in which a larger part of a pool is down. `now` is the server's clock.
 */
export function problems(status, store, now) {
  const found = [...ofProcess(status, store), ...status.pools.flatMap((pool) => [...ofPool(pool, now)])];
  const rank = ({level}) => LEVELS.indexOf(level);
  return found.sort((a, b) => rank(a) - rank(b) || (b.part ?? 0) - (a.part ?? 0));
}

/** How many there are of each level, in words. */
export function counted(found) {
  const by = Map.groupBy(found, ({level}) => level);
  return LEVELS.filter((level) => by.has(level)).map((level) => plural(by.get(level).length, level)).join(", ");
}

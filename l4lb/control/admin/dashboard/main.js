// The dashboard: asks for the status about every second, hears the events, and draws what changed. `/` serves it.

import {Poller, getHistory, token, whoAmI} from "./api.js";
import {TokenForm, announce} from "./dialogs.js";
import {byId, choices, setAttribute, setHidden, setText} from "./dom.js";
import {count, latency, plural, rate, sizeRate, span, time} from "./format.js";
import {problems} from "./judge.js";
import {Plot} from "./plot.js";
import {Pools} from "./pools.js";
import {Selection} from "./selection.js";
import {Store} from "./store.js";
import {EventStream} from "./stream.js";
import {startTheme} from "./theme.js";
import {Attention} from "./sections/attention.js";
import {Bans} from "./sections/bans.js";
import {Bulk} from "./sections/bulk.js";
import {Configuration} from "./sections/configuration.js";
import {Feed} from "./sections/events.js";
import {Fleet} from "./sections/fleet.js";
import {Listeners, Workers} from "./sections/listeners.js";
import {SessionList} from "./sections/sessions.js";
import {Sources} from "./sections/sources.js";

const HIDDEN_MS = 60_000; // a page that nobody looks at for so long gives its stream of events back
const OURS = document.querySelector("meta[name=l4lb-version]").content;
const TITLE = "l4lb";
const CONNECTS = "Connect time";
const PASSING = new Set([0, 401, 503]); // failures that may be over a moment later: no answer, no token, too busy

const store = new Store();
const plot = (title, lines, text, base) => new Plot({title, lines, text, base, pointed});
const connects = plot(CONNECTS, {p50: "median", p99: "99 %"}, latency, 0); // counted for the process as a whole
const plots = [
  plot("Sessions", {sessions: "active"}, count, 1000),
  plot("New sessions", {rate: "accepted"}, rate, 1000),
  plot("Throughput", {down: "down", up: "up"}, sizeRate, 1024),
  connects,
];
const selection = new Selection(draw);
const pools = new Pools({place: byId("pool-list"), none: byId("none"), store, redraw: draw, selection});
const bulk = new Bulk(selection);
const attention = new Attention((pool) => pools.reveal(pool), draw);
const listeners = new Listeners(byId("listeners"), store);
const workers = new Workers(byId("workers"), store);
const fleet = new Fleet(byId("fleet-nodes"), draw);
const bans = new Bans(draw);
const sessions = new SessionList();
const sources = new Sources((source) => bans.propose(source));
const configuration = new Configuration();
const feed = new Feed(store);
const form = new TokenForm(useToken);
const poller = new Poller(heard, failed);
const stream = new EventStream(news, streaming);

let skew = 0;
let asked = 0; // when the status that is shown was asked for, by performance.now()
let lostAt = null; // since when nothing answers, in our seconds
let options = new Map();
let drawn = false;
let recalled = new Set(); // the scopes whose past was asked for
let knownFor = null; // the process and the token for which it was asked who we are

const clock = () => Date.now() / 1000;

function pointed(at) {
  setText(byId("pointed"), at === null ? "" : `at ${time(at)}`);
  for (const plot of plots) plot.point(at);
}

function heard(status, theirs, began) {
  skew = theirs;
  asked = began;
  const before = store.status;
  const replaced = store.add(status, clock());
  if (replaced) tell(`${status.pid} answers where ${before.pid} did`);
  if (lostAt !== null) {
    stream.close(); // it is opened again below, and does not wait for its turn
    if (before) announce("l4lb answers again.");
  }
  lostAt = null;
  form.hide();
  setHidden(byId("page"), false);
  setHidden(byId("forget"), !token.get());
  setText(byId("banner"), `This page is of version ${OURS}, and ${status.version} runs now: reload the page.`);
  setHidden(byId("banner"), status.version === OURS);
  if (!stream.open && !document.hidden) stream.run();
  askWho(`${status.pid} ${token.get()}`);
  draw();
}

/** What the process remembers of a scope: asked for once, when its plots are shown. */
async function recall(name) {
  if (recalled.has(name)) return;
  recalled.add(name);
  try {
    store.addPast(await getHistory(name), skew);
    draw();
  } catch (error) {
    if (PASSING.has(error.status)) recalled.delete(name); // with a later status; otherwise there is none
  }
}

/** What only those may do who may change something is not shown to others. */
async function askWho(asking) {
  if (asking === knownFor) return;
  knownFor = asking;
  try {
    const {by, read_only} = await whoAmI();
    document.body.classList.toggle("read-only", read_only);
    setText(byId("who"), read_only ? `${by}: for reading alone` : "");
  } catch {
    knownFor = null; // with the next status
  }
}

function news(events) {
  feed.add(events, skew);
  bans.hear(events);
  configuration.hear(events);
}

/** While nothing answers at all the banner says enough. */
function streaming(said) {
  setText(byId("events-state"), lostAt === null ? said : "");
}

function tell(text) {
  feed.add([{kind: "process_replaced", time: clock() + skew, level: "warning", reason: text}], skew);
}

function failed(error) {
  if (error.wantsToken) {
    stream.close();
    lostAt = null;
    setHidden(byId("banner"), true);
    setHidden(byId("page"), true);
    form.show(error.token && error.token === token.get() ? "That token is not the right one." : "");
    live("locked", "token needed");
    setText(byId("process"), "The state is for those who have the token.");
    return;
  }
  if (lostAt === null) {
    lostAt = clock();
    announce("No answer from l4lb.");
  }
  const shown = store.status ? ` What is shown is of ${time(lostAt)}.` : "";
  const since = `${error.status ? "No status" : "Disconnected"} since ${time(lostAt)} (${span(clock() - lostAt)})`;
  lost(`${since}: ${error.message}. Trying again each second.${shown}`);
}

/** What is shown is not what is: said in the banner, the tab and the colours. */
function lost(text) {
  setText(byId("banner"), text);
  setHidden(byId("banner"), false);
  live("lost", "disconnected");
  document.title = `disconnected – ${TITLE}`;
  icon(true);
  document.body.classList.add("stale");
}

function live(state, text) {
  setAttribute(byId("live"), "data-state", state);
  setText(byId("live-text"), text);
}

function icon(alert) {
  setAttribute(byId("icon"), "href", alert ? "dashboard/icon-alert.svg" : "dashboard/icon.svg");
}

/** What the tab shows is drawn hidden or not; the rest waits until somebody looks. */
function draw() {
  const {status} = store;
  if (status === null) return;
  const now = clock() + skew;
  const found = problems(status, store, now);
  if (lostAt === null) drawTab(status, found);
  if (document.hidden && drawn) return;
  drawn = true;
  setText(byId("process"), facts(status).join(" · "));
  attention.draw(found, status);
  drawPlots(status);
  pools.draw(status, now, asked);
  bulk.draw(status);
  listeners.draw(status.listeners);
  workers.draw(status.workers);
  fleet.draw(status, now);
  sessions.draw(status);
  sources.draw();
  feed.draw(status);
  bans.draw(status, now);
}

function facts({state, version, pid, uptime_s, snapshot_version, sessions_active}) {
  return [state, `version ${version}`, `process ${pid}`, `up ${span(uptime_s)}`, `snapshot ${snapshot_version}`,
    plural(sessions_active, "session")];
}

function drawTab(status, found) {
  const bad = found.filter(({level}) => level !== "note").length;
  const outages = found.filter(({level}) => level === "outage").length;
  const {state} = status;
  document.title = outages ? `${plural(outages, "outage")} – ${TITLE}` : bad ? `(${bad}) ${TITLE}` : TITLE;
  icon(bad > 0);
  live(state === "running" ? "live" : "draining", state === "running" ? "live" : state);
  document.body.classList.remove("stale");
}

function drawPlots(status) {
  options = choices(byId("scope"), options, status.pools, "all pools");
  recalled = new Set([...recalled].filter((name) => store.scopes.has(name))); // one that is gone may come again
  recall("");
  recall(byId("scope").value);
  const all = store.scopes.get("");
  const chosen = store.scopes.get(byId("scope").value) ?? all;
  for (const plot of plots) plot.draw(plot === connects ? all : chosen, store.marks, clock());
  setText(connects.title, chosen === all ? CONNECTS : `${CONNECTS}, all pools`);
}

function useToken(value) {
  token.set(value);
  poller.now();
}

function listen() {
  byId("plots").append(...plots.map((plot) => plot.node));
  byId("scope").addEventListener("change", draw);
  byId("find").addEventListener("input", (event) => {
    pools.text = event.target.value.trim().toLowerCase();
    draw();
  });
  byId("only").addEventListener("change", (event) => {
    pools.only = event.target.checked;
    draw();
  });
  byId("open-all").addEventListener("click", () => pools.setAll(true));
  byId("close-all").addEventListener("click", () => pools.setAll(false));
  byId("forget").addEventListener("click", () => {
    token.forget();
    poller.now();
  });
  let timer = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => stream.close(), HIDDEN_MS);
    else poller.now();
  });
}

startTheme(byId("theme"));
listen();
poller.run().catch((error) => {
  lost(`This page has a defect and shows nothing new; reload it. (${error.message})`);
  throw error;
});

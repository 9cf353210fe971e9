// The feed of events: the newest first, in words, and the few that are said aloud.

import {announce} from "../dialogs.js";
import {byId, choices, h, setAddressed, setHidden, setText} from "../dom.js";
import {span, time} from "../format.js";
import {words} from "../judge.js";

const SHOWN = 200;
const NEWS_S = 15; // what is older was not heard live, nor what was before the page, and is not said aloud
const ALOUD = new Set([ // besides warnings
  "backend_up", "backend_readmitted", "draining", "drained", "listener_draining", "listening",
  "reloaded",
]);
const MARKED = new Set(["warning", "error"]);
const APART = new Set(["kind", "time", "level", "pool", "backend", "reason"]);

function fieldText(key, value) {
  if (key.endsWith("_ms")) return `${words(key.slice(0, -3))} ${value} ms`;
  if (key.endsWith("_s")) return `${words(key.slice(0, -2))} ${span(value)}`;
  const text = value !== null && typeof value === "object" ? JSON.stringify(value) : value;
  return `${words(key)} ${text}`;
}

function about(event) {
  return [event.pool, event.backend].filter((one) => one !== undefined).join(" ");
}

function details(event) {
  const rest = Object.entries(event).filter(([key, value]) => !APART.has(key) && value !== "");
  return [event.reason, ...rest.map(([key, value]) => fieldText(key, value))].filter(Boolean).join(" · ");
}

function sentence(event) {
  return [words(event.kind), about(event), event.reason].filter(Boolean).join(" ");
}

function entry(event) {
  const level = MARKED.has(event.level) ? event.level : "info";
  const named = h("span.about");
  setAddressed(named, about(event));
  return h(`li.${level}`, {},
    h("time", {datetime: new Date(event.time * 1000).toISOString()}, time(event.time)),
    h("span.level", {}, h("span.unseen", {}, level === "info" ? "" : `${level}: `), words(event.kind)),
    named, h("span.details", {}, details(event)));
}

/** Which events a choice of levels lets through. `by` is there when somebody asked for what happened. */
const LEVELS = {
  all: () => true,
  warning: ({level}) => MARKED.has(level),
  error: ({level}) => level === "error",
  changes: ({by}) => by !== undefined,
};

export class Feed {
  #list = byId("events");
  #level = byId("event-level");
  #pool = byId("event-pool");
  #find = byId("event-text");
  #options = new Map();
  #entries = []; // {event, node, text}, the newest first
  #store;
  #opened = Date.now() / 1000;

  constructor(store) {
    this.#store = store;
    for (const one of [this.#level, this.#pool]) one.addEventListener("change", () => this.#filter());
    this.#find.addEventListener("input", () => this.#filter());
  }

  /** The pools that may be chosen. */
  draw({pools}) {
    const chosen = this.#pool.value;
    this.#options = choices(this.#pool, this.#options, pools, "all pools");
    if (this.#pool.value !== chosen) this.#filter(); // the one that was chosen is gone
  }

  /** `skew`: how far the server's clock is ahead of ours, in seconds. */
  add(events, skew) {
    const now = Date.now() / 1000;
    for (const event of events) {
      const node = entry(event);
      this.#entries.unshift({event, node, text: node.textContent.toLowerCase()});
      this.#list.prepend(node);
      const at = event.time - skew;
      const marked = MARKED.has(event.level);
      if (marked) this.#store.marks.push({at, level: event.level});
      const news = at > Math.max(now - NEWS_S, this.#opened);
      if (news && (marked || ALOUD.has(event.kind))) announce(sentence(event), marked);
    }
    for (const {node} of this.#entries.splice(SHOWN)) node.remove();
    this.#filter();
  }

  #filter() {
    const words = this.#find.value.toLowerCase().split(/\s+/);
    const pool = this.#pool.value;
    const fits = ({event, text}) => LEVELS[this.#level.value](event) && (!pool || event.pool === pool) &&
      words.every((word) => text.includes(word));
    let shown = 0;
    for (const one of this.#entries) {
      const fit = fits(one);
      shown += fit;
      setHidden(one.node, !fit);
    }
    const all = this.#entries.length;
    setText(byId("events-none"), all && !shown ? `None of the latest ${all} events is such a one.` : "");
  }
}

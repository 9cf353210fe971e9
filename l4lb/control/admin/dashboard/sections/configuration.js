// The configuration: whether the file says what runs, who changed what, and every key that is in use. Asked for when
// the section is opened, and again after each change.

import {getConfig, getDifferences} from "../api.js";
import {byId, h, keep, setAttribute, setHidden, setText} from "../dom.js";
import {count, plural, time} from "../format.js";
import {words} from "../judge.js";
import {Table} from "../tables.js";

const SHOWN = 200; // keys
const DIFFERENCES = 30;
const CHANGES = 50;
const CHANGED = new Set(["reloaded", "reload_failed", "backend_set", "backend_removed", "listener_draining",
  "listener_resumed", "draining", "upgraded", "banned", "unbanned"]);
const APART = new Set(["kind", "time", "level", "by"]);

/** Such as pools.web.backends[web-1].weight, as `l4lb config diff` writes it: [[path, value], ...]. */
export function flattened(value, path = "") {
  if (Array.isArray(value) && value.some((one) => one !== null && typeof one === "object")) {
    return value.flatMap((one, index) => flattened(one, `${path}[${one.id || one.address || index}]`));
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) return [[path, value]];
  const entries = Object.entries(value);
  return entries.length ? entries.flatMap(([key, one]) => flattened(one, path ? `${path}.${key}` : key)) : [[path, {}]];
}

const valueText = (value) => (value === undefined ? "–" : JSON.stringify(value));

function whatText(event) {
  const fields = Object.entries(event).filter(([key, value]) => !APART.has(key) && value !== "");
  const text = (value) => (typeof value === "object" ? valueText(value) : value);
  return fields.map(([key, value]) => `${words(key)} ${text(value)}`).join(" · ");
}

export class Configuration {
  #place = byId("configuration");
  #find = byId("config-find");
  #differences;
  #changes;
  #keys = [];
  #heard = []; // changes, the newest first
  #lines = new Map();
  #asking = false;
  #stale = false;

  constructor() {
    this.#differences = new Table(byId("config-diff"), "Where the file differs from what runs", [
      ["Key", "address", (one) => one.path],
      ["Runs with", "address", (one) => valueText(one.runs)],
      ["The file has", "address", (one) => valueText(one.file)],
    ]);
    this.#changes = new Table(byId("config-changes"), "Latest changes", [
      ["When", "", ({event}) => time(event.time)],
      ["What", "", ({event}) => words(event.kind)],
      ["Of", "wide", ({event}) => whatText(event)],
      ["By", "", ({event}) => event.by ?? "–"],
    ]);
    this.#place.addEventListener("toggle", () => this.#ask());
    this.#find.addEventListener("input", () => this.#showKeys());
    byId("config-again").addEventListener("click", () => this.#ask());
  }

  hear(events) {
    const changes = events.filter(({kind, by}) => CHANGED.has(kind) || by !== undefined);
    if (!changes.length) return;
    for (const event of changes) this.#heard.unshift({event, key: `${event.time} ${event.kind} ${whatText(event)}`});
    this.#heard.splice(CHANGES);
    this.#changes.draw(this.#heard, ({key}) => key);
    setHidden(byId("config-changes"), false);
    setText(byId("config-changed"), "");
    this.#ask();
  }

  async #ask() {
    if (!this.#place.open) return;
    this.#stale = this.#asking;
    if (this.#asking) return;
    this.#asking = true;
    setAttribute(this.#place, "aria-busy", "true");
    await Promise.all([this.#compare(), this.#list()]);
    setAttribute(this.#place, "aria-busy", null);
    this.#asking = false;
    if (this.#stale) this.#ask(); // something changed meanwhile
  }

  async #compare() {
    let found = {problems: [], differences: [], total: 0};
    let text;
    try {
      found = await getDifferences();
      text = differenceText(found);
    } catch (error) {
      text = error.status === 409 ? `Nothing to compare with: ${error.message}.` : `Not compared: ${error.message}`;
    }
    setText(byId("config-said"), text);
    setAttribute(byId("config-said"), "class", found.problems.length ? "warning" : found.total ? "changed" : "dim");
    const problems = found.problems.slice(0, DIFFERENCES).map((text) => h("li", {}, text));
    byId("config-problems").replaceChildren(...problems);
    const shown = found.differences.slice(0, DIFFERENCES);
    this.#differences.draw(shown, ({path}) => path);
    setHidden(byId("config-diff"), !shown.length);
  }

  async #list() {
    try {
      this.#keys = flattened(await getConfig()).map(([path, value]) => `${path} = ${valueText(value)}`);
      this.#showKeys();
    } catch (error) {
      setText(byId("config-more"), `No list: ${error.message}`);
    }
  }

  #showKeys() {
    const wanted = this.#find.value.toLowerCase().split(/\s+/);
    const found = this.#keys.filter((line) => wanted.every((word) => line.toLowerCase().includes(word)));
    const make = () => {
      const node = h("li");
      return {node, update: (line) => setText(node, line)};
    };
    this.#lines = keep(byId("config-keys"), this.#lines, found.slice(0, SHOWN), (line) => line, make);
    setHidden(byId("config-keys"), !found.length);
    const more = found.length - SHOWN;
    const rest = more > 0 ? `The first ${SHOWN} of ${count(found.length)} keys; find narrows them.` : "";
    setText(byId("config-more"), found.length ? rest : "No key or value has that.");
  }
}

function differenceText({file, problems, total}) {
  if (problems.length) return `A reload of ${file} would be refused:`;
  if (!total) return `${file} says what runs.`;
  const places = plural(total, "place");
  const shown = total > DIFFERENCES ? ` (l4lb config diff lists more than these ${DIFFERENCES})` : "";
  const reload = "What was changed at runtime stays in a reload, unless the file gets another value there.";
  return `${file} differs from what runs in ${places}${shown}. ${reload}`;
}

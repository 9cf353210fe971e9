// Pools and their backends. A closed pool is one line and has no rows in the document; the rows of an open one are made
// once and then only their changed texts are set.

import {Controls} from "./controls.js";
import {h, keep, setAddressed, setAttribute, setHidden, setText} from "./dom.js";
import {count, latency, ofLimit, plural, rate, sizeRate} from "./format.js";
import {checkText, condition, isProblem} from "./judge.js";
import {Pips, Strip} from "./strip.js";

const natural = new Intl.Collator("en", {numeric: true}); // web-2 before web-10
const OPEN_ROWS_MAX = 60; // so many backends in all are shown at once when the page is opened
const FAILURES = "Connects that failed and resets before the first byte, since the start; and in the last minute";
const COLUMNS = [
  ["Backend"], ["State"], ["Health, 15 min"], ["Sessions", "number"], ["New", "number"], ["Bytes up", "number"],
  ["Bytes down", "number"], ["Failures", "number", FAILURES],
  ["Check", "number"], ["Weight"], ["Admin state"],
];

/** One backend: a row of the table. */
class Row {
  #strip = new Strip();
  #cells = COLUMNS.map(([label, kind]) => h(kind ? `td.${kind}` : "td", {role: "cell", "data-label": label}));
  #name = h("span.name");
  #detail = h("span.detail");
  #state = h("span.state");
  #why = h("span.detail");
  #failures = h("span");
  #recent = h("span.recent");

  #pick = h("input.act", {type: "checkbox", onchange: ({target}) => this.#picked(target.checked)});

  constructor(changed, selection) {
    this.selection = selection;
    this.controls = new Controls(changed);
    const [name, state, strip, , , , , failures, , weight, states] = this.#cells;
    const header = h("th", {role: "rowheader", scope: "row", "data-label": "Backend"},
      this.#pick, this.#name, this.#detail);
    name.replaceWith(header);
    this.#cells[0] = header;
    state.append(this.#state, this.#why);
    strip.append(this.#strip.node);
    failures.append(this.#failures, this.#recent);
    weight.append(this.controls.weight);
    states.append(this.controls.states);
    this.node = h("tr", {role: "row"}, ...this.#cells);
  }

  update({pool, backend, samples, now, asked}) {
    const {kind, why} = condition(backend);
    setAttribute(this.node, "class", kind);
    setAddressed(this.#name, backend.id);
    setAddressed(this.#detail, describe(backend));
    setText(this.#state, kind === "idle" || kind === "standby" ? `up, ${kind}` : kind);
    setText(this.#why, kind === "drain" && backend.health === "down" ? "down too" : why);
    this.#strip.update(backend.history, now);
    this.#numbers(backend, samples);
    this.controls.update(pool, backend, asked);
    this.of = {pool: pool.name, id: backend.id};
    setAttribute(this.#pick, "aria-label", `Select ${backend.id}`);
    this.#pick.checked = this.selection.has(pool.name, backend.id);
  }

  #picked(chosen) {
    this.selection.set(this.of.pool, [this.of.id], chosen);
  }

  #numbers(backend, samples) {
    const [, , , sessions, fresh, up, down, , check] = this.#cells;
    setText(sessions, ofLimit(backend.sessions_active, backend.max_sessions));
    setText(fresh, rate(samples.rate("total")));
    setText(up, sizeRate(samples.rate("up")));
    setText(down, sizeRate(samples.rate("down")));
    const recent = samples.growth("failures");
    setText(this.#failures, count(backend.connect_failures + backend.early_resets));
    setText(this.#recent, recent > 0 ? ` +${count(recent)}` : "");
    const last = backend.last_check;
    setText(check, !last ? "–" : last.ok ? latency(last.latency_ms / 1000) : "failed");
    setAttribute(check, "title", last ? checkText(last) || `passed, ${last.step}` : null);
  }
}

function describe({id, address, resolved, zone, priority, tags}) {
  const parts = [id === address ? "" : address, resolved?.address && `at ${resolved.address}`,
    zone && `zone ${zone}`, priority ? `priority ${priority}` : "",
    ...Object.entries(tags).map(([key, value]) => `${key}=${value}`)];
  return parts.filter(Boolean).join(" · ");
}

/** One pool: its line, and its table while it is open. */
class PoolView {
  #name = h("span");
  #usable = h("span.usable");
  #pips = new Pips();
  #facts = h("span.facts");
  #flow = ["sessions", "new", "up", "down"].map((label) => ({label, value: h("b"), node: h(`span.flow.${label}`)}));
  #body = h("tbody", {role: "rowgroup"});
  #rows = new Map();
  #table = null;
  #all = null; // what its button does
  #allButton = h("button", {type: "button", onclick: () =>
    this.selection.set(this.#all.name, this.#all.ids, this.#all.chosen)});
  open = null; // what the operator chose; null: nothing yet

  constructor(id, redraw, selection) {
    this.redraw = redraw;
    this.selection = selection;
    this.button = h("button.disclose", {type: "button", onclick: () => this.toggle()}, this.#name);
    for (const {label, value, node} of this.#flow) node.append(value, ` ${label}`);
    this.place = h("div.place", {id});
    const flows = h("span.flows", {}, ...this.#flow.map((one) => one.node));
    const parts = [h("h3", {}, this.button), this.#usable, this.#pips.node, this.#facts, flows];
    this.node = h("section.pool", {}, h("div.pool-line", {}, ...parts), this.place);
  }

  toggle(open = !this.shown) {
    this.open = open;
    this.redraw();
  }

  update({pool, shown, rows, store, now, asked}) {
    this.shown = shown;
    const kinds = pool.backends.map(condition);
    setText(this.#name, pool.name);
    setAttribute(this.button, "aria-expanded", String(shown));
    setAttribute(this.button, "aria-controls", shown ? this.place.id : null);
    setText(this.#usable, `${pool.usable} of ${pool.backends.length} usable`);
    const hurt = kinds.some(({kind}) => isProblem(kind));
    setAttribute(this.node, "class", ["pool", hurt && "hurt", pool.usable === 0 && "dead"].filter(Boolean).join(" "));
    this.#pips.update(kinds.map(({pip}) => pip));
    const series = store.scopes.get(pool.name);
    const waiting = pool.waiting ? `${plural(pool.waiting, "client")} waiting` : "";
    const packets = pool.in_kernel ? `in the kernel, ${rate(series.last("packets"))} packets` : "";
    const found = pool.discovery ? `discovery by ${pool.discovery.type}` : "";
    setText(this.#facts, [pool.policy, found, waiting, packets].filter(Boolean).join(" · "));
    const bytes = [series.last("up"), series.last("down")].map(sizeRate);
    const values = [count(pool.sessions_active), rate(series.last("rate")), ...bytes];
    this.#flow.forEach(({value}, index) => setText(value, values[index]));
    this.#fill(pool, shown ? rows : null, store, now, asked);
  }

  /** `rows` null: closed, and nothing of it is kept. */
  #fill(pool, rows, store, now, asked) {
    if (rows === null) {
      if (this.#table) this.place.replaceChildren();
      this.#table = null;
      this.#rows = keep(this.#body, this.#rows, [], (one) => one, null);
      return;
    }
    if (!this.#table) this.place.append((this.#table = this.#frame(pool.name)));
    const samples = (backend) => store.backend(pool.name, backend.id);
    const items = rows.map((backend) => ({pool, backend, samples: samples(backend), now, asked}));
    const make = () => new Row(this.redraw, this.selection);
    this.#rows = keep(this.#body, this.#rows, items, ({backend}) => backend.id, make);
    this.#offerAll(pool.name, rows.map(({id}) => id));
  }

  /** Those that are shown, which a filter may have made fewer. */
  #offerAll(name, ids) {
    const all = ids.every((id) => this.selection.has(name, id));
    this.#all = {name, ids, chosen: !all};
    setText(this.#allButton, all ? "Select none" : `Select all ${ids.length}`);
    setAttribute(this.#allButton, "aria-label", `${all ? "Select none" : `Select all ${ids.length}`} of pool ${name}`);
  }

  #frame(name) {
    const heads = COLUMNS.map(([label, kind, title]) =>
      h(kind ? `th.${kind}` : "th", {role: "columnheader", scope: "col", title}, label));
    const head = h("thead", {role: "rowgroup"}, h("tr", {role: "row"}, ...heads));
    const table = h("table", {role: "table", "aria-label": `Backends of pool ${name}`}, head, this.#body);
    return h("div", {}, h("p.pick.act", {}, this.#allButton), h("div.scroll", {}, table));
  }
}

function found(text, pool, backend) {
  const {kind} = condition(backend);
  const {id, address, zone, admin_state, tags} = backend;
  const hay = [pool.name, id, address, zone, kind, admin_state, ...Object.values(tags)];
  return text.split(/\s+/).every((word) => hay.some((one) => one.toLowerCase().includes(word)));
}

/** The list of pools: which are shown, and which of their backends. */
export class Pools {
  #views = new Map();
  #ids = 0;
  #store;
  #redraw;
  #selection;
  text = "";
  only = false;

  /** `selection` is of the backends that are chosen. */
  constructor({place, none, store, redraw, selection}) {
    this.#selection = selection;
    this.place = place;
    this.none = none;
    this.#store = store;
    this.#redraw = redraw;
  }

  draw(status, now, asked) {
    const few = status.pools.reduce((sum, pool) => sum + pool.backends.length, 0) <= OPEN_ROWS_MAX;
    const items = [];
    for (const pool of status.pools) {
      const rows = this.#matching(pool);
      if (rows === null) continue;
      const chosen = this.#views.get(pool.name)?.open ?? null;
      const shown = chosen ?? (few || this.text !== "" || this.only);
      items.push({pool, shown, rows, store: this.#store, now, asked});
    }
    const make = () => new PoolView(`pool-${this.#ids++}`, this.#redraw, this.#selection);
    this.#views = keep(this.place, this.#views, items, ({pool}) => pool.name, make);
    setHidden(this.none, items.length > 0);
  }

  /** The backends to show; null when nothing of the pool is wanted. */
  #matching(pool) {
    pool.backends.sort((a, b) => natural.compare(a.id, b.id));
    if (!this.text && !this.only) return pool.backends;
    const named = pool.name.toLowerCase().includes(this.text);
    const wanted = (one) => !this.only || isProblem(condition(one).kind);
    const rows = pool.backends.filter((one) => wanted(one) && (named || found(this.text, pool, one)));
    return rows.length || (named && !(this.only && pool.usable)) ? rows : null;
  }

  setAll(open) {
    for (const view of this.#views.values()) view.open = open;
    this.#redraw();
  }

  /** Opens the pool and goes there. */
  reveal(name) {
    const view = this.#views.get(name);
    if (!view) return;
    view.toggle(true);
    view.button.focus({preventScroll: true});
    view.node.scrollIntoView({block: "start"});
  }
}

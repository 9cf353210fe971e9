// Pools and their backends. A closed pool is one line and has no rows in the document; the rows of an open one are made
// once and then only their changed texts are set.

import {h, keep, setAttribute, setHidden, setText} from "./dom.js";
import {count, plural, rate, sizeRate} from "./format.js";
import {condition, isProblem} from "./judge.js";
import {Row, columnsOf} from "./rows.js";
import {Pips} from "./strip.js";

const natural = new Intl.Collator("en", {numeric: true}); // web-2 before web-10
const OPEN_ROWS_MAX = 60; // so many backends in all are shown at once when the page is opened

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
  #timed = false; // whether it says how long backends take
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
    const timed = pool.backends.some((one) => one.latency);
    if (!this.#table || timed !== this.#timed) {
      this.#rows = keep(this.#body, this.#rows, [], (one) => one, null);
      this.#table = this.#frame(pool.name, timed);
      this.place.replaceChildren(this.#table);
      this.#timed = timed;
    }
    const samples = (backend) => store.backend(pool.name, backend.id);
    const items = rows.map((backend) => ({pool, backend, samples: samples(backend), now, asked}));
    const make = () => new Row(this.redraw, this.selection, timed);
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

  #frame(name, timed) {
    const heads = columnsOf(timed).map(([key, label, kind, title]) =>
      h(`th.of-${key}${kind ? `.${kind}` : ""}`, {role: "columnheader", scope: "col", title}, label));
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

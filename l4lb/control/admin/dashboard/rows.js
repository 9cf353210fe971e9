// A backend as a row of its pool's table.

import {Controls} from "./controls.js";
import {h, setAddressed, setAttribute, setFacts, setText} from "./dom.js";
import {count, latency, ofLimit, rate, sizeRate} from "./format.js";
import {checkText, condition} from "./judge.js";
import {Strip} from "./strip.js";

const FAILURES = "Connects that failed and resets before the first byte, since the start; and in the last minute";
const TIMES = "Until its first bytes came, median and 99 % of the latest minute; below that, until it accepted, median";
// [key, label, kind, title]; `kind` is a class of the cells
const COLUMNS = [
  ["name", "Backend"], ["state", "State"], ["strip", "Health, 15 min"], ["sessions", "Sessions", "number"],
  ["fresh", "New", "number"], ["up", "Bytes up", "number"], ["down", "Bytes down", "number"],
  ["times", "First byte", "number", TIMES], ["failures", "Failures", "number", FAILURES], ["check", "Check", "number"],
  ["weight", "Weight"], ["states", "Admin state"],
];

/** `timed`: also how long it takes. */
export const columnsOf = (timed) => COLUMNS.filter(([key]) => timed || key !== "times");

const both = ({p50_s, p99_s}) => (p50_s === null ? "–" : `${latency(p50_s)} / ${latency(p99_s)}`);

/** Median and 99 % of a backend's times: the first line, the second, and what is told of it all on demand. */
function timesText(times) {
  if (!times) return ["–", "", null];
  const {connect, first_byte, session} = times;
  const below = connect.count ? `connect ${latency(connect.p50_s)}` : "";
  const whole = `Median / 99 % of the latest minute: connect ${both(connect)}, first byte ${both(first_byte)}`;
  return [both(first_byte), below, `${whole}, whole session ${both(session)}`];
}

/** One backend: a row of the table. */
export class Row {
  #strip = new Strip();
  #cells;
  #name = h("span.name");
  #detail = h("span.detail");
  #state = h("span.state");
  #why = h("span.detail");
  #failures = h("span");
  #recent = h("span.recent");
  #first = h("span");
  #connect = h("span.detail");
  #pick = h("input.act", {type: "checkbox", onchange: ({target}) => this.#picked(target.checked)});

  /** `timed`: with a cell for how long it takes. */
  constructor(changed, selection, timed) {
    this.selection = selection;
    this.controls = new Controls(changed);
    const cells = columnsOf(timed).map(([key, label, kind]) => {
      const tag = key === "name" ? "th" : "td";
      const attributes = {role: key === "name" ? "rowheader" : "cell", scope: key === "name" ? "row" : null};
      return [key, h(kind ? `${tag}.${kind}` : tag, {...attributes, "data-label": label})];
    });
    this.#cells = Object.fromEntries(cells);
    const {name, state, strip, times, failures, weight, states} = this.#cells;
    name.append(this.#pick, this.#name, this.#detail);
    state.append(this.#state, this.#why);
    strip.append(this.#strip.node);
    times?.append(this.#first, this.#connect);
    failures.append(this.#failures, this.#recent);
    weight.append(this.controls.weight);
    states.append(this.controls.states);
    this.node = h("tr", {role: "row"}, ...cells.map(([, cell]) => cell));
  }

  update({pool, backend, samples, now, asked}) {
    const {kind, why} = condition(backend);
    setAttribute(this.node, "class", backend.slow ? `${kind} slow` : kind);
    setAddressed(this.#name, backend.id);
    setFacts(this.#detail, facts(backend));
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
    const {sessions, fresh, up, down, times, check} = this.#cells;
    setText(sessions, ofLimit(backend.sessions_active, backend.max_sessions));
    setText(fresh, rate(samples.rate("total")));
    setText(up, sizeRate(samples.rate("up")));
    setText(down, sizeRate(samples.rate("down")));
    const recent = samples.growth("failures");
    setText(this.#failures, count(backend.connect_failures + backend.early_resets));
    setText(this.#recent, recent > 0 ? ` +${count(recent)}` : "");
    if (times) {
      const [first, connect, title] = timesText(backend.latency);
      setText(this.#first, first);
      setText(this.#connect, connect);
      setAttribute(times, "title", title);
    }
    const last = backend.last_check;
    setText(check, !last ? "–" : last.ok ? latency(last.latency_ms / 1000) : "failed");
    setAttribute(check, "title", last ? checkText(last) || `passed, ${last.step}` : null);
  }
}

function facts({id, address, resolved, zone, priority, tags}) {
  const parts = [id === address ? "" : address, resolved?.address && `at ${resolved.address}`,
    zone && `zone ${zone}`, priority ? `priority ${priority}` : "",
    ...Object.entries(tags).map(([key, value]) => `${key}=${value}`)];
  return parts.filter(Boolean);
}

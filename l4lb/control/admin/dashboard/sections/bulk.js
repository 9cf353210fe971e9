// What is done to several backends at once: a bar that is there while some are selected. Before anything is done it
// says what would come of it, pool by pool.

import {putBackend} from "../api.js";
import {announce, complain, confirmed} from "../dialogs.js";
import {byId, setAttribute, setHidden, setText} from "../dom.js";
import {plural} from "../format.js";
import {words} from "../judge.js";

const AT_ONCE = 4; // requests
const NAMED_MAX = 8; // pools, in the question
const REASONS_MAX = 3;
const YES = {ready: "Set them to ready", drain: "Drain them", maint: "Set them to maint"};

/** Whether `value` keeps new sessions away from a backend. */
const closes = (key, value) => (key === "weight" ? value === 0 : value !== "ready");

function title(number, key, value) {
  const all = plural(number, "backend");
  if (key === "weight") return `Set the weight of ${all} to ${value}?`;
  return value === "drain" ? `Drain ${all}?` : `Set ${all} to ${value}?`;
}

function consequence(key, value) {
  if (closes(key, value)) return "They get no new session; those that they have go on.";
  return key === "weight" ? "Their part of new sessions changes." : "They get new sessions while they are healthy.";
}

/** What becomes of a pool whose `backends` are closed: {name, text, outage}. */
function closed({pool, backends}) {
  const touched = new Set(backends.map(({id}) => id));
  const left = pool.backends.filter((one) => one.usable && !touched.has(one.id)).length;
  const sessions = plural(backends.reduce((sum, one) => sum + one.sessions_active, 0), "session");
  const text = `${some({pool, backends})} with ${sessions}; ${plural(left, "usable backend")} left for new clients`;
  return {name: pool.name, text, outage: pool.usable > 0 && left === 0};
}

function some({pool, backends}) {
  return `${pool.name}: ${backends.length} of ${plural(pool.backends.length, "backend")}`;
}

function outageText(names) {
  const more = names.length > NAMED_MAX ? " and more" : "";
  const pools = names.length === 1 ? "pool" : "pools";
  const which = names.slice(0, NAMED_MAX).join(", ") + more;
  return names.length ? `No usable backend is left in ${pools} ${which}: new clients will be turned away.` : "";
}

function question(groups, number, key, value) {
  const outcomes = closes(key, value) ? groups.map(closed) : groups.map((one) => ({text: some(one)}));
  const items = outcomes.slice(0, NAMED_MAX).map(({text}) => text);
  if (outcomes.length > NAMED_MAX) items.push(`and ${outcomes.length - NAMED_MAX} more pools`);
  const warning = outageText(outcomes.filter(({outage}) => outage).map(({name}) => name));
  const yes = YES[value] ?? "Set them";
  return {title: title(number, key, value), text: consequence(key, value), items, warning, yes};
}

export class Bulk {
  #bar = byId("bulk");
  #weight = byId("bulk-weight");
  #selection;
  #groups = [];
  #keys = ""; // which those are

  constructor(selection) {
    this.#selection = selection;
    for (const state of ["ready", "drain", "maint"]) {
      byId(`bulk-${state}`).addEventListener("click", () => this.#ask("admin_state", state));
    }
    this.#bar.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask("weight", this.#weight.valueAsNumber);
    });
    byId("bulk-clear").addEventListener("click", () => {
      selection.clear();
      byId("pools").focus();
    });
  }

  draw(status) {
    this.#groups = this.#selection.of(status);
    const number = this.#groups.reduce((sum, {backends}) => sum + backends.length, 0);
    setHidden(this.#bar, !number);
    const pools = this.#groups.length > 1 ? ` in ${this.#groups.length} pools` : "";
    const keys = this.#groups.flatMap(({pool, backends}) => backends.map(({id}) => `${pool.name}\n${id}`)).join("\n");
    if (keys !== this.#keys) setText(byId("bulk-said"), ""); // it was said of others
    this.#keys = keys;
    setText(byId("bulk-count"), `${plural(number, "backend")} selected${pools}`);
  }

  async #ask(key, value) {
    const changing = ({pool, backends}) => ({pool, backends: backends.filter((one) => one[key] !== value)});
    const groups = this.#groups.map(changing).filter(({backends}) => backends.length);
    const wanted = groups.flatMap(({pool, backends}) => backends.map(({id}) => [pool.name, id]));
    if (!wanted.length) {
      this.#tell(`All that are selected have ${words(key)} ${value} already.`);
      return;
    }
    if (!(await confirmed(question(groups, wanted.length, key, value)))) return;
    setAttribute(this.#bar, "aria-busy", "true");
    const failures = await this.#apply(wanted, {[key]: value});
    setAttribute(this.#bar, "aria-busy", null);
    const done = wanted.length - failures.length;
    if (done) this.#tell(`${plural(done, "backend")}: ${words(key)} ${value}`);
    if (!failures.length) return;
    const reasons = [...new Set(failures)].slice(0, REASONS_MAX).join("; ");
    complain(`${failures.length} of ${plural(wanted.length, "backend")} were not changed: ${reasons}`);
  }

  #tell(text) {
    setText(byId("bulk-said"), text);
    announce(text);
  }

  /** Returns why those failed that did. */
  async #apply(wanted, settings) {
    const failures = [];
    const rest = [...wanted];
    const one = async () => {
      for (let next = rest.shift(); next; next = rest.shift()) {
        await putBackend(...next, settings).catch((error) => failures.push(error.message));
      }
    };
    await Promise.all(Array.from({length: AT_ONCE}, one));
    return failures;
  }
}

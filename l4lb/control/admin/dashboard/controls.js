// What an operator changes of a backend: admin state and weight. A change is shown at once, marked as under way, and is
// taken back, with the reason in words, when the API refuses it.

import {putBackend} from "./api.js";
import {announce, complain, confirmed} from "./dialogs.js";
import {h, setAttribute, setHidden, setText} from "./dom.js";
import {plural} from "./format.js";
import {words} from "./judge.js";

const STATES = ["ready", "drain", "maint"];
const TITLES = {
  ready: "Gets new sessions while it is healthy",
  drain: "Gets no new session; those that it has go on",
  maint: "Gets no new session, whatever its health; those that it has go on",
};
const WEIGHT_MAX = 65535;

function otherUsable(pool, backend) {
  return pool.backends.filter((one) => one.usable && one.id !== backend.id).length;
}

/** What is to be confirmed before `backend` stops getting sessions, and what comes of it. */
function question(title, yes, pool, backend) {
  const others = otherUsable(pool, backend);
  const left = backend.sessions_active;
  const stay = left ? `Its ${plural(left, "session")} ${left === 1 ? "goes" : "go"} on.` : "It has no session now.";
  const heirs = others === 1 ? "the other usable backend" : `the ${others} other usable backends`;
  return {
    title,
    yes,
    text: others ? `${stay} New ones go to ${heirs} of the pool.` : stay,
    warning: others ? "" : "No other backend of this pool is usable: new clients will be turned away.",
  };
}

/** Of one backend. `changed` is called to draw again, when something is asked for or answered. */
export class Controls {
  #pool;
  #backend;
  #changed;
  #pending = new Map(); // by key: {value, answered}, when, or Infinity
  #buttons;
  #input;
  #set;
  #toolbar;
  #form;
  #state = h("span.only-read");
  #number = h("span.only-read");

  constructor(changed) {
    this.#changed = changed;
    this.#buttons = STATES.map((state) => {
      const attributes = {type: "button", title: TITLES[state], "data-state": state};
      return h("button", {...attributes, onclick: () => this.#setState(state)}, state);
    });
    this.#toolbar = h("div.states.act", {role: "toolbar", onkeydown: (event) => this.#move(event)}, ...this.#buttons);
    this.states = h("div", {}, this.#toolbar, this.#state);
    this.#input = h("input.weight", {type: "number", min: 0, max: WEIGHT_MAX, step: 1, required: true,
      oninput: () => this.#edited(), onkeydown: (event) => event.key === "Escape" && this.#revert()});
    this.#set = h("button", {type: "submit", hidden: true}, "Set");
    this.ramp = h("span.ramp"); // while it starts slowly
    this.#form = h("form.weight.act", {onsubmit: (event) => this.#submit(event)}, this.#input, this.#set);
    this.weight = h("div", {}, this.#form, this.#number, this.ramp);
  }

  /** `asked` is when the status was asked for that `backend` is of. */
  update(pool, backend, asked) {
    this.#pool = pool;
    this.#backend = backend;
    this.#settle(asked);
    const state = this.#wanted("admin_state");
    const within = this.#buttons.includes(document.activeElement);
    for (const button of this.#buttons) {
      const pressed = button.dataset.state === state;
      setAttribute(button, "aria-pressed", String(pressed));
      setAttribute(button, "aria-label", `${button.dataset.state} ${backend.id}`);
      if (!within) button.tabIndex = pressed ? 0 : -1;
    }
    setAttribute(this.#toolbar, "aria-label", `Admin state of ${backend.id}`);
    setAttribute(this.#toolbar, "aria-busy", this.#pending.has("admin_state") ? "true" : null);
    setAttribute(this.#input, "aria-label", `Weight of ${backend.id}`);
    setAttribute(this.#form, "aria-busy", this.#pending.has("weight") ? "true" : null);
    setText(this.#state, state);
    setText(this.#number, `${backend.weight} `);
    if (this.#set.hidden) this.#show(this.#wanted("weight"));
    const part = Math.abs(backend.effective_weight - backend.weight) > 0.005 && backend.usable;
    setText(this.ramp, part ? `now ${+backend.effective_weight.toFixed(2)}` : "");
    setHidden(this.ramp, !part);
  }

  get #name() {
    return `${this.#backend.id} in pool ${this.#pool.name}`;
  }

  #wanted(key) {
    return this.#pending.get(key)?.value ?? this.#backend[key];
  }

  /** One stop of the tab key for the three; arrows move between them, as in every toolbar. */
  #move(event) {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    const at = this.#buttons.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = this.#buttons[(at + step + STATES.length) % STATES.length];
    for (const button of this.#buttons) button.tabIndex = button === next ? 0 : -1;
    next.focus();
  }

  #show(weight) {
    if (this.#input.value !== String(weight)) this.#input.value = weight;
  }

  #edited() {
    setHidden(this.#set, this.#input.value === String(this.#wanted("weight")));
  }

  #revert() {
    setHidden(this.#set, true);
    this.#show(this.#wanted("weight"));
  }

  async #setState(state) {
    if (state === this.#wanted("admin_state")) return;
    const stops = this.#backend.admin_state === "ready" && state !== "ready";
    const title = state === "drain" ? `Drain ${this.#name}?` : `Set ${this.#name} to ${state}?`;
    const yes = state === "drain" ? "Drain" : `Set to ${state}`;
    if (stops && !(await confirmed(question(title, yes, this.#pool, this.#backend)))) return;
    await this.#apply("admin_state", state);
  }

  async #submit(event) {
    event.preventDefault();
    const weight = this.#input.valueAsNumber;
    if (weight === this.#wanted("weight")) return;
    const stops = weight === 0 && this.#backend.weight > 0;
    const title = `Set the weight of ${this.#name} to 0?`;
    if (stops && !(await confirmed(question(title, "Set to 0", this.#pool, this.#backend)))) {
      this.#revert();
      return;
    }
    setHidden(this.#set, true);
    this.#input.focus();
    await this.#apply("weight", weight);
  }

  async #apply(key, value) {
    const mine = {value, answered: Infinity};
    this.#pending.set(key, mine);
    this.#changed();
    try {
      await putBackend(this.#pool.name, this.#backend.id, {[key]: value});
      mine.answered = performance.now();
      announce(`${this.#name}: ${words(key)} ${value}`);
    } catch (error) {
      if (this.#pending.get(key) === mine) this.#pending.delete(key);
      complain(`${this.#name} was not changed to ${words(key)} ${value}: ${error.message}`);
    }
    this.#changed();
  }

  /** A status that was asked for after the answer shows what is; an earlier one may still show what was. */
  #settle(asked) {
    for (const [key, {answered}] of this.#pending) if (asked > answered) this.#pending.delete(key);
  }
}

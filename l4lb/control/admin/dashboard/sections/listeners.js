// Listeners, and the workers that serve them.

import {drainListener, getConfig, resumeListener} from "../api.js";
import {announce, complain, confirmed} from "../dialogs.js";
import {h, setAttribute, setText} from "../dom.js";
import {count, ofLimit, plural, rate, sizeRate, span} from "../format.js";
import {unserved, unservedText} from "../judge.js";
import {Table} from "../tables.js";

/** The mode, and by which devices packets are seen; `not`: what was tried there before. */
function engineText({mode, devices}) {
  const texts = devices.map(({device, way, tried}) => `${device} by ${way}${tried ? ` (not ${tried})` : ""}`);
  return `kernel, ${mode}: ${texts.join(", ")}`;
}

/** Up and down; where backends answer directly, nobody here sees what goes down. */
function eachWay(samples, traffic, unit, text) {
  const down = traffic[`${unit}_down`] === null ? "–" : text(samples.rate(`${unit}_down`));
  return `${text(samples.rate(`${unit}_up`))} / ${down}`;
}

function addressText({drain, refusing, addresses}) {
  if (drain) return drain.over ? "drained" : `draining, ${span(drain.remaining_s)} left`;
  return refusing ? `${addresses.join(", ")} (refuses clients)` : addresses.join(", ");
}

/** How long its sessions have, in words. */
async function timeout() {
  try {
    return span((await getConfig()).global.drain_timeout);
  } catch {
    return "drain_timeout";
  }
}

async function mayDrain({name, sessions_active}) {
  const left = sessions_active
    ? `Its ${plural(sessions_active, "session")} may go on for ${await timeout()}; what is left then is reset.`
    : "It has no session now.";
  const title = `Drain listener ${name}?`;
  const warning = "Until it is resumed, clients that come to its addresses are refused.";
  return confirmed({title, text: `It accepts nobody from now on. ${left}`, warning, yes: "Drain"});
}

async function drainOrResume(listener, button) {
  const {name, drain} = listener;
  if (!drain && !(await mayDrain(listener))) return;
  setAttribute(button, "aria-busy", "true");
  try {
    await (drain ? resumeListener(name) : drainListener(name));
    announce(drain ? `Listener ${name} accepts again.` : `Listener ${name} drains.`);
  } catch (error) {
    complain(`Listener ${name} was not ${drain ? "resumed" : "drained"}: ${error.message}`);
  }
  setAttribute(button, "aria-busy", null);
}

function drainButton() {
  let of;
  const button = h("button", {type: "button", onclick: () => drainOrResume(of, button)});
  const update = (listener) => {
    of = listener;
    const verb = listener.drain ? "resume" : "drain";
    setText(button, verb);
    setAttribute(button, "aria-label", `${verb} listener ${listener.name}`);
  };
  return {node: button, update};
}

export class Listeners {
  #table = null;
  #engines = false; // whether the table has columns for what the kernel forwards
  #place;
  #store;

  constructor(place, store) {
    this.#place = place;
    this.#store = store;
  }

  draw(listeners) {
    const engines = listeners.some((one) => one.in_kernel);
    if (!this.#table || engines !== this.#engines) {
      this.#place.replaceChildren();
      this.#table = new Table(this.#place, "Listeners", this.#columns(engines));
      this.#engines = engines;
    }
    this.#table.draw(listeners, (one) => one.name);
  }

  #columns(engines) {
    const samples = (one) => this.#store.listener(one.name);
    const traffic = (unit, text) => (one) =>
      one.in_kernel ? eachWay(samples(one), one.in_kernel.traffic, unit, text) : "–";
    return [
      ["Listener", "", (one) => one.name],
      ["Protocol", "", (one) => one.protocol],
      engines && ["Engine", "engine", (one) => (one.in_kernel ? engineText(one.in_kernel) : one.engine)],
      ["Addresses", "address", addressText],
      ["Pool", "", (one) => one.pool],
      ["Sessions", "number", (one) => ofLimit(one.sessions_active, one.max_sessions)],
      ["New", "number", (one) => rate(samples(one).rate("total"))],
      ["Total", "number", (one) => count(one.sessions_total)],
      engines && ["Packets up / down", "number.pair", traffic("packets", rate)],
      engines && ["Bytes up / down", "number.pair", traffic("bytes", sizeRate)],
      ["Not served in the last minute", "", (one) => unservedText(unserved(samples(one))) || "none"],
      ["Drain or resume", "act", null, drainButton],
    ].filter(Boolean);
  }
}

export class Workers {
  #table;

  constructor(place, store) {
    const percent = (share) => (Number.isFinite(share) ? `${Math.round(100 * share)} %` : "–");
    this.#table = new Table(place, "Workers", [
      ["Worker", "", (one) => String(one.worker)],
      ["Busy", "number", (one) => percent(store.worker(one.worker).rate("busy"))],
      ["Sessions", "number", (one) => count(one.sessions_active)],
      ["Handed over", "number", (one) => count(one.handed_over)],
      ["Pauses", "number", (one) => count(one.accept_pauses)],
    ]);
  }

  draw(workers) {
    this.#table.draw(workers, (one) => one.worker);
  }
}

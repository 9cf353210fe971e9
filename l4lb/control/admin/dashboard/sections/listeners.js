// Listeners, and the workers that serve them.

import {count, ofLimit, rate, sizeRate} from "../format.js";
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
  if (drain) return "draining";
  return refusing ? `${addresses.join(", ")} (refuses clients)` : addresses.join(", ");
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

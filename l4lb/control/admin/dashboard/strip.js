// Two small pictures of health. Both tell states by form first and by colour second: up is a low quiet line, down a bar
// of full height, unknown a row of dots.

import {setAttribute, svg} from "./dom.js";
import {coarse} from "./format.js";

export const WINDOW_S = 900;
const WIDTH = 120;
const HEIGHT = 14;
const KEPT = 20; // changes that the API keeps: with so many, nothing is known of what was before the first
const DOT = (x) => `M${x.toFixed(1)} 7h1.5v1.5h-1.5z`;
const SHAPES = {
  up: (x, width) => `M${x} 10h${width}v2h-${width}z`,
  down: (x, width) => `M${x} 1h${width}v12h-${width}z`,
  unknown: (x, width) => Array.from({length: Math.ceil(width / 4)}, (_, dot) => DOT(x + 4 * dot)).join(""),
};

/** One path for each of the shapes, with a class of its own. */
function pathsFor(shapes, prefix) {
  return Object.fromEntries(Object.keys(shapes).map((name) => [name, svg("path", {class: `${prefix}-${name}`})]));
}

function stretches(history, now) {
  const from = (at) => Math.max(at, now - WINDOW_S);
  const all = history.map(({at, health}, index) => ({health, from: from(at), to: history[index + 1]?.at ?? now}));
  return all.filter((one) => one.to > one.from);
}

function described(history, now) {
  const last = history.at(-1);
  const downs = history.filter(({at, health}) => health === "down" && at > now - WINDOW_S).length;
  const times = downs ? `; went down ${downs === 1 ? "once" : `${downs} times`} in the last 15 min` : "";
  const cut = history.length >= KEPT ? "; older changes are not kept" : "";
  return `${last.health} for ${coarse(now - last.at)}${times}${cut}`;
}

/** The health of a backend over the last 15 minutes, from what the API remembers. */
export class Strip {
  #paths = pathsFor(SHAPES, "is");
  #drawn = "";

  constructor() {
    const box = {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none"};
    const ground = svg("path", {class: "ground", d: `M0 13.5h${WIDTH}`});
    this.node = svg("svg", {class: "strip", role: "img", ...box}, ground, ...Object.values(this.#paths));
  }

  update(history, now) {
    if (!history.length) return;
    const key = `${history.length} ${history.at(-1).at} ${Math.floor(now / 10)}`; // moves by a tenth of a unit a second
    if (key === this.#drawn) return;
    this.#drawn = key;
    const found = {up: "", down: "", unknown: ""};
    const x = (at) => WIDTH * (1 - (now - at) / WINDOW_S);
    for (const {health, from, to} of stretches(history, now)) {
      const width = Math.max(x(to) - x(from), health === "down" ? 1.5 : 0.5);
      found[health] += SHAPES[health](Math.min(x(from), WIDTH - width).toFixed(1) * 1, width.toFixed(1));
    }
    for (const [health, path] of Object.entries(this.#paths)) setAttribute(path, "d", found[health]);
    setAttribute(this.node, "aria-label", described(history, now));
  }
}

const PIP = 6;
const PIPS = {
  up: (x) => `M${x} 8h4v4h-4z`,
  idle: (x) => `M${x + 0.5} 8.5h3v3h-3z`,
  unknown: (x) => `M${x + 1} 9h2v2h-2z`,
  down: (x) => `M${x} 1h4v11h-4z`,
};

/** One mark a backend, in their order: what a closed pool shows of them. Text beside it says the same. */
export class Pips {
  #paths = pathsFor(PIPS, "pip");

  constructor() {
    const box = {height: 13, preserveAspectRatio: "none"};
    this.node = svg("svg", {class: "pips", "aria-hidden": "true", ...box}, ...Object.values(this.#paths));
  }

  update(kinds) {
    const found = {up: "", idle: "", unknown: "", down: ""};
    kinds.forEach((kind, index) => (found[kind] += PIPS[kind](PIP * index)));
    for (const [kind, path] of Object.entries(this.#paths)) setAttribute(path, "d", found[kind]);
    setAttribute(this.node, "width", PIP * kinds.length);
    setAttribute(this.node, "viewBox", `0 0 ${PIP * kinds.length} 13`); // squeezed when there are very many
  }
}

// What needs attention, in words, the worst first: the page begins with it. However much is wrong, it leaves room for
// the plots: the rest of a long list is there on demand.

import {byId, h, keep, setAddressed, setAttribute, setHidden, setText} from "../dom.js";
import {plural} from "../format.js";
import {counted} from "../judge.js";

const SHOWN = 6;
const SHOWN_NARROW = 3; // where a problem takes several lines
const narrow = matchMedia("(max-width: 47rem)");

export class Attention {
  #place = byId("problems");
  #more = byId("more-problems");
  #views = new Map();
  #whole = false;
  #reveal;

  /** `reveal` is called with the name of a pool to show; `redraw` when more or less is wanted. */
  constructor(reveal, redraw) {
    this.#reveal = reveal;
    this.#more.addEventListener("click", () => {
      this.#whole = !this.#whole;
      redraw();
    });
    narrow.addEventListener("change", redraw);
  }

  draw(problems, status) {
    const most = narrow.matches ? SHOWN_NARROW : SHOWN;
    const long = problems.length > most + 1; // a line that says "one more" might as well be that one
    const shown = long && !this.#whole ? problems.slice(0, most) : problems;
    setText(byId("problem-counts"), counted(problems));
    setText(byId("calm"), problems.length ? "" : calmText(status));
    setAttribute(byId("attention"), "class", `attention ${problems[0]?.level ?? "fine"}`);
    this.#views = keep(this.#place, this.#views, shown, ({key}) => key, (problem) => this.#entry(problem));
    setHidden(this.#more, !long);
    setAttribute(this.#more, "aria-expanded", String(this.#whole));
    const rest = problems.slice(most);
    setText(this.#more, this.#whole ? "Show the worst alone" : `and ${rest.length} more: ${counted(rest)}`);
  }

  #entry({level, pool}) {
    const text = h("span.text");
    const show = {type: "button", title: `Show pool ${pool}`, onclick: () => this.#reveal(pool)};
    const name = pool === undefined ? [] : [h("button.pool-name", show, pool)];
    const node = h(`li.${level}`, {}, h("span.level", {}, level), ...name, text);
    return {node, update: (problem) => setAddressed(text, problem.text)};
  }
}

function calmText({pools}) {
  const backends = pools.reduce((sum, pool) => sum + pool.backends.length, 0);
  const usable = pools.reduce((sum, pool) => sum + pool.usable, 0);
  return `Nothing. ${usable} of ${backends} backends in ${plural(pools.length, "pool")} are usable.`;
}

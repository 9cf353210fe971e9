// The heaviest sources of clients, of listeners that count them, asked for while the list is open.

import {listSources} from "../api.js";
import {byId, h, setAttribute, setHidden, setText} from "../dom.js";
import {count, plural, rate, size} from "../format.js";
import {Table} from "../tables.js";

const SHOWN = 20;
const AGAIN_MS = 2000;
const NONE = "No source is known: listeners with limits in per_source alone count them.";

export class Sources {
  #place = byId("sources");
  #by = byId("source-order");
  #table;
  #askedAt = -Infinity; // by performance.now()
  #asking = false;

  /** `ban` is called with a source, {source, listener}, that is to be kept out. */
  constructor(ban) {
    this.#table = new Table(byId("source-table"), "Heaviest sources", [
      ["Source", "address", (one) => one.source],
      ["Listener", "", (one) => one.listener],
      ["Sessions", "number", (one) => count(one.sessions_active)],
      ["New", "number", (one) => rate(one.session_rate)],
      ["Total", "number", (one) => count(one.sessions_total)],
      ["Bytes up", "number", (one) => size(one.bytes_up)],
      ["Bytes down", "number", (one) => size(one.bytes_down)],
      ["Over a limit", "number", (one) => count(one.limited)],
      ["Ban", "act", null, () => {
        let of;
        const button = h("button", {type: "button", onclick: () => ban(of)}, "ban …");
        const update = (source) => {
          of = source;
          setAttribute(button, "aria-label", `Ban ${source.source} …`);
        };
        return {node: button, update};
      }],
    ]);
    this.#place.addEventListener("toggle", () => this.#ask());
    this.#by.addEventListener("change", () => this.#ask());
  }

  /** Called about every second. */
  draw() {
    if (performance.now() - this.#askedAt >= AGAIN_MS) this.#ask();
  }

  async #ask() {
    if (!this.#place.open || this.#asking) return;
    this.#asking = true;
    this.#askedAt = performance.now();
    const by = this.#by.value;
    try {
      const {list, total} = await listSources(by, SHOWN);
      this.#table.draw(list, ({source, listener}) => `${source} ${listener}`);
      setHidden(byId("source-table"), !list.length);
      const some = total > list.length ? `The ${count(list.length)} heaviest of ${plural(total, "source")}.` : "";
      setText(byId("source-count"), list.length ? some : NONE);
    } catch (error) {
      setText(byId("source-count"), `No list: ${error.message}`);
    } finally {
      this.#asking = false;
    }
    if (by !== this.#by.value) this.#ask(); // chosen meanwhile
  }
}

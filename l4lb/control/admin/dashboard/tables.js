// Tables that are made once, and then only their changed texts are set.

import {h, keep, setAddressed} from "./dom.js";

/** `columns`: [label, kind, text(item)]. */
export class Table {
  #columns;
  #views = new Map();
  #body = h("tbody", {role: "rowgroup"});

  constructor(place, label, columns) {
    this.#columns = columns;
    const heads = columns.map(([name, kind]) =>
      h(kind ? `th.${kind}` : "th", {role: "columnheader", scope: "col"}, name));
    const head = h("thead", {role: "rowgroup"}, h("tr", {role: "row"}, ...heads));
    place.append(h("div.scroll", {}, h("table", {role: "table", "aria-label": label}, head, this.#body)));
  }

  draw(items, keyOf) {
    this.#views = keep(this.#body, this.#views, items, keyOf, () => this.#row());
  }

  #row() {
    const cells = this.#columns.map(([label, kind], index) => {
      const attributes = {role: index ? "cell" : "rowheader", scope: index ? null : "row", "data-label": label};
      return h(`${index ? "td" : "th"}${kind ? `.${kind}` : ""}`, attributes);
    });
    const update = (item) => this.#columns.forEach(([, , text], index) => setAddressed(cells[index], text(item)));
    return {node: h("tr", {role: "row"}, ...cells), update};
  }
}

// Tables that are made once, and then only their changed texts are set.

import {h, keep, setAddressed} from "./dom.js";

/**
 * `columns`: [label, kind, text(item)], or [label, kind, null, make] with `make()` for what a cell holds instead of a
 * text: {node, update(item)}. The label of a column of buttons is for screen readers alone: its kind is "act".
 */
export class Table {
  #columns;
  #views = new Map();
  #body = h("tbody", {role: "rowgroup"});

  constructor(place, label, columns) {
    this.#columns = columns;
    const heads = columns.map(([name, kind]) =>
      h(kind ? `th.${kind}` : "th", {role: "columnheader", scope: "col"},
        kind === "act" ? h("span.unseen", {}, name) : name));
    const head = h("thead", {role: "rowgroup"}, h("tr", {role: "row"}, ...heads));
    place.append(h("div.scroll", {}, h("table", {role: "table", "aria-label": label}, head, this.#body)));
  }

  draw(items, keyOf) {
    this.#views = keep(this.#body, this.#views, items, keyOf, () => this.#row());
  }

  #row() {
    const cells = this.#columns.map(([label, kind, text, make], index) => {
      const attributes = {role: index ? "cell" : "rowheader", scope: index ? null : "row", "data-label": label};
      const cell = h(`${index ? "td" : "th"}${kind ? `.${kind}` : ""}`, attributes);
      const view = make?.();
      if (view) cell.append(view.node);
      return {cell, update: view ? view.update : (item) => setAddressed(cell, text(item))};
    });
    const update = (item) => cells.forEach((one) => one.update(item));
    return {node: h("tr", {role: "row"}, ...cells.map(({cell}) => cell)), update};
  }
}

// A plot: lines over the last five minutes as SVG, so that it is sharp on every screen and takes its colours from the
// style sheet. Lines differ by dashes as well as by colour; the legend tells the values, now or where the pointer is.

import {h, setAttribute, setText, svg} from "./dom.js";
import {KEPT_S} from "./store.js";

const HEIGHT = 116;
const LEFT = 54;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 20;
const GAP_S = 7; // without a sample for so long the line is interrupted
const MINUTES = [5, 4, 3, 2, 1, 0];
const MINUTE_PX = 52; // so wide at least that labels have room

/** At most four steps of 1, 2 or 5 from 0, in steps of `base` (1000 or 1024) to the largest unit: [0, ..., top]. */
export function linearTicks(largest, base) {
  const unit = largest > 0 ? base ** Math.max(0, Math.floor(Math.log(largest) / Math.log(base))) : 1;
  const wanted = Math.max(largest, 1) / unit / 3;
  const power = 10 ** Math.floor(Math.log10(wanted));
  const step = [1, 2, 5, 10].find((one) => one * power >= wanted * 0.999) * power * unit;
  const top = Math.max(1, Math.ceil(largest / step)) * step;
  return Array.from({length: Math.round(top / step) + 1}, (_, index) => index * step);
}

/** Powers of ten around what is to be shown, at least two decades. */
export function logTicks(smallest, largest) {
  const low = Math.floor(Math.log10(smallest) + 1e-9);
  const high = Math.max(low + 2, Math.ceil(Math.log10(largest) - 1e-9));
  return Array.from({length: high - low + 1}, (_, index) => 10 ** (low + index));
}

export class Plot {
  #width = 0;
  #shown = null;
  #pointed = null;
  #lines;
  #grid = svg("g", {class: "gridlines"});
  #marks = svg("g", {class: "marks"});
  #cursor = svg("line", {class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden"});
  #none = svg("text", {class: "nothing", y: HEIGHT / 2, "text-anchor": "middle"});

  /**
   * `lines`: labels by the series' columns, two at most; `text` makes text of a value; `base` is of the ticks: 1000,
   * 1024, or 0 for powers of ten; `pointed` hears the time at the pointer, or null.
   */
  constructor({title, lines, text, base, pointed}) {
    this.text = text;
    this.base = base;
    this.#lines = Object.entries(lines).map(([key, label], index) => ({
      key,
      label,
      path: svg("path", {class: `line series-${index}`}),
      value: h("b.value", {}, "–"),
      sample: svg("svg", {class: "sample", width: 18, height: 8, "aria-hidden": "true"},
        svg("path", {class: `line series-${index}`, d: "M0 4H18"})),
    }));
    const paths = this.#lines.map((line) => line.path);
    const parts = [this.#grid, this.#marks, this.#none, ...paths, this.#cursor];
    this.drawing = svg("svg", {height: HEIGHT, "aria-hidden": "true"}, ...parts);
    this.title = h("h3", {}, title);
    this.node = h("figure.plot", {}, h("figcaption", {}, this.title, this.#legend()), this.drawing);
    this.drawing.addEventListener("pointermove", (event) => pointed(this.#timeAt(event)));
    this.drawing.addEventListener("pointerleave", () => pointed(null));
    new ResizeObserver(([entry]) => this.#resize(Math.floor(entry.contentRect.width))).observe(this.node);
  }

  #legend() {
    const entries = this.#lines.map((line) =>
      h("span.entry", {}, line.sample, h("span", {}, line.label), line.value));
    return h("span.legend", {}, ...entries);
  }

  #resize(width) {
    if (width === this.#width || width <= 0) return;
    this.#width = width;
    setAttribute(this.drawing, "width", width);
    setAttribute(this.drawing, "viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#redraw();
  }

  #x(time) {
    const inner = this.#width - LEFT - RIGHT;
    return LEFT + inner * (1 - (this.#shown.now - time) / KEPT_S);
  }

  #timeAt(event) {
    if (!this.#shown) return null;
    const inner = this.#width - LEFT - RIGHT;
    const x = event.clientX - this.drawing.getBoundingClientRect().left;
    return x < LEFT - 4 ? null : this.#shown.now - (1 - (x - LEFT) / inner) * KEPT_S;
  }

  /** Where the pointer is, on this plot or another: a time, or null. */
  point(time) {
    this.#pointed = time;
    this.#redraw();
  }

  draw(series, marks, now) {
    this.#shown = {series, marks, now};
    this.#redraw();
  }

  #redraw() {
    if (!this.#shown || !this.#width) return;
    const {series, now} = this.#shown;
    const columns = this.#lines.map((line) => series.columns[line.key] ?? []);
    const finite = columns.flat().filter(Number.isFinite);
    const ticks = this.#ticks(finite);
    const y = this.#scale(ticks);
    this.#drawGrid(ticks, y);
    this.#lines.forEach(({path}, index) => setAttribute(path, "d", this.#path(series.times, columns[index], now, y)));
    setText(this.#none, finite.length ? "" : "nothing yet");
    setAttribute(this.#none, "x", (LEFT + this.#width - RIGHT) / 2);
    this.#drawMarks();
    this.#tell(series, columns);
  }

  #ticks(finite) {
    const largest = finite.reduce((most, one) => Math.max(most, one), 0);
    if (this.base) return linearTicks(largest, this.base);
    if (!finite.length) return logTicks(1e-4, 1e-2);
    return logTicks(finite.reduce((least, one) => Math.min(least, one), largest), largest);
  }

  #scale(ticks) {
    const map = this.base ? (value) => value : Math.log10;
    const low = map(ticks[0]);
    const high = map(ticks.at(-1));
    return (value) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * (map(value) - low)) / (high - low);
  }

  #drawGrid(ticks, y) {
    const key = `${this.#width} ${ticks.join(" ")}`;
    if (this.gridKey === key) return;
    this.gridKey = key;
    const across = ticks.flatMap((tick, index) => {
      const at = Math.round(y(tick)) + 0.5;
      return [
        svg("line", {x1: LEFT, x2: this.#width - RIGHT, y1: at, y2: at, class: index ? "" : "axis"}),
        svg("text", {x: LEFT - 6, y: at + 3.5, "text-anchor": "end"}, this.text(tick)),
      ];
    });
    const inner = this.#width - LEFT - RIGHT;
    const along = MINUTES.filter((minute) => minute % 5 === 0 || inner / 5 > MINUTE_PX).map((minute) => {
      const anchor = {0: "end", 5: "start"}[minute] ?? "middle";
      const label = {0: "now", 5: "−5 min"}[minute] ?? `−${minute}`;
      return svg("text", {x: LEFT + inner * (1 - minute / 5), y: HEIGHT - 5, "text-anchor": anchor}, label);
    });
    this.#grid.replaceChildren(...across, ...along);
  }

  #path(times, column, now, y) {
    let path = "";
    let before = NaN;
    for (let i = 0; i < times.length; i++) {
      if (times[i] < now - KEPT_S || !Number.isFinite(column[i])) continue;
      const joined = i > 0 && Number.isFinite(column[i - 1]) && times[i] - before < GAP_S;
      path += `${joined ? "L" : "M"}${this.#x(times[i]).toFixed(1)} ${y(column[i]).toFixed(1)}${joined ? "" : "h.01"}`;
      before = times[i];
    }
    return path;
  }

  /** Below the axis: when something happened that may explain the lines. */
  #drawMarks() {
    const {marks, now} = this.#shown;
    const at = HEIGHT - BOTTOM + 1;
    const shapes = marks.filter((mark) => mark.at > now - KEPT_S).map((mark) => {
      const x = this.#x(mark.at);
      return svg("path", {class: mark.level, d: `M${(x - 3.5).toFixed(1)} ${at + 6}h7l-3.5 -6z`});
    });
    this.#marks.replaceChildren(...shapes);
  }

  /** The legend's values: the latest, or those nearest to the pointer. */
  #tell(series, columns) {
    let index = series.times.length - 1;
    if (this.#pointed !== null) {
      const later = series.times.findIndex((time) => time >= this.#pointed);
      if (later >= 0) index = later;
    }
    this.#lines.forEach((line, number) => setText(line.value, this.text(columns[number][index] ?? NaN)));
    setAttribute(this.#cursor, "visibility", this.#pointed === null ? "hidden" : "visible");
    if (this.#pointed !== null && index >= 0) {
      for (const end of ["x1", "x2"]) setAttribute(this.#cursor, end, Math.round(this.#x(series.times[index])) + 0.5);
    }
  }
}

// The nodes of the fleet that this process belongs to, as it knows them; there is no such section without a fleet.

import {getFleet} from "../api.js";
import {byId, setHidden, setText} from "../dom.js";
import {count, plural, span} from "../format.js";
import {Table} from "../tables.js";

const AGAIN_MS = 2000;

/** The pools whose tables differ from this node's, where both go by the same generation. */
export function differing(node, own) {
  if (!own || node.generation !== own.generation) return [];
  return Object.keys(node.digests).filter((pool) => pool in own.digests && node.digests[pool] !== own.digests[pool]);
}

function tablesText(node, own) {
  if (node === own) return "this node's";
  if (!own || node.generation !== own.generation) return "of another generation";
  const pools = differing(node, own);
  return pools.length ? `differ: ${pools.join(", ")}` : "the same";
}

function generationText({generation, newest, error}) {
  if (error) return `${generation}, not ${newest}: ${error}`;
  return generation < newest ? `${generation}, not yet ${newest}` : String(generation); // 0: it has not heard yet
}

function usableText({backends}) {
  const pools = Object.values(backends);
  const sum = (key) => pools.reduce((total, one) => total + one[key], 0);
  return `${sum("usable")} of ${sum("total")}`;
}

export class Fleet {
  #fleet = null;
  #asking = false;
  #askedAt = -Infinity; // by performance.now()
  #changed;
  #now = 0;
  #table;

  /** `changed` is called to draw again, when the answer has come. */
  constructor(place, changed) {
    this.#changed = changed;
    const own = () => this.#fleet?.nodes.find(({node}) => node === this.#fleet.node);
    this.#table = new Table(place, "Nodes of the fleet", [
      ["Node", "", (one) => (one === own() ? `${one.node} (this one)` : one.node)],
      ["State", "", (one) => (one.draining ? `${one.state}, draining` : one.state)],
      ["Generation", "", generationText],
      ["Tables", "", (one) => tablesText(one, own())],
      ["Sessions", "number", (one) => count(one.sessions_active)],
      ["Backends usable", "number", usableText],
      ["Version", "", (one) => one.version],
      ["Up for", "number", (one) => span(Math.max(0, this.#now - one.started))],
    ]);
  }

  /** `now` is the server's clock. */
  draw({fleet}, now) {
    setHidden(byId("fleet"), fleet === null);
    if (fleet === null) return;
    this.#now = now;
    this.#ask();
    const nodes = this.#fleet?.nodes ?? [];
    const away = fleet.connected ? "" : ", as they were when etcd last answered";
    const share = fleet.share ? `, limits divided by ${fleet.share.nodes}` : "";
    const facts = `${fleet.prefix}: generation ${fleet.newest}, ${plural(nodes.length, "node")}`;
    setText(byId("fleet-facts"), facts + away + share);
    this.#table.draw(nodes, ({node}) => node);
    const broken = Object.entries(this.#fleet?.broken ?? {}).map(([key, reason]) => `${key}: ${reason}`);
    setText(byId("fleet-broken"), broken.length ? `Keys that cannot be read: ${broken.join("; ")}` : "");
  }

  async #ask() {
    if (this.#asking || performance.now() - this.#askedAt < AGAIN_MS) return;
    this.#asking = true;
    this.#askedAt = performance.now();
    try {
      this.#fleet = await getFleet();
      this.#changed();
    } catch {
      // asked for again with a later status; what is wrong the page says elsewhere
    } finally {
      this.#asking = false;
    }
  }
}

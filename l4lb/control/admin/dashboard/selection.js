// The backends that are selected, for what is done to several at once. They stay selected while their pool is closed or
// filtered away.

const keyOf = (pool, id) => `${pool}\n${id}`;

export class Selection {
  #chosen = new Set();
  #changed;

  /** `changed` is called to draw again. */
  constructor(changed) {
    this.#changed = changed;
  }

  has(pool, id) {
    return this.#chosen.has(keyOf(pool, id));
  }

  set(pool, ids, chosen) {
    for (const id of ids) {
      if (chosen) this.#chosen.add(keyOf(pool, id));
      else this.#chosen.delete(keyOf(pool, id));
    }
    this.#changed();
  }

  clear() {
    this.#chosen.clear();
    this.#changed();
  }

  /** By pool, as the status has them: [{pool, backends}, ...]. Those that are gone are forgotten. */
  of({pools}) {
    if (!this.#chosen.size) return [];
    const chosen = (pool) => pool.backends.filter(({id}) => this.has(pool.name, id));
    const found = pools.map((pool) => ({pool, backends: chosen(pool)})).filter(({backends}) => backends.length);
    this.#chosen = new Set(found.flatMap(({pool, backends}) => backends.map(({id}) => keyOf(pool.name, id))));
    return found;
  }
}

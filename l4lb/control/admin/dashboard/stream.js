// The stream of events.

import {ask, pause} from "./api.js";

const RECENT = 200;
const RETRY_MS_MAX = 10000;

/** The events in `text`, which ends between two of them, as objects. */
function parsed(text) {
  const data = text.split("\n\n").map((block) => block.split("\n").find((line) => line.startsWith("data: ")));
  return data.filter(Boolean).map((line) => JSON.parse(line.slice(6)));
}

/**
 * The stream of events, opened again when it ends. EventSource cannot send a token, so it is read by hand. Each time
 * the latest events come first: those that were heard before are left out.
 */
export class EventStream {
  #heard;
  #state;
  #seen = new Set();
  #abort = null;

  constructor(heard, state) {
    this.#heard = heard;
    this.#state = state;
  }

  get open() {
    return this.#abort !== null;
  }

  close() {
    this.#abort?.abort();
    this.#abort = null;
  }

  async run() {
    if (this.open) return;
    const abort = (this.#abort = new AbortController());
    for (let wait = 1000; !abort.signal.aborted; wait = Math.min(2 * wait, RETRY_MS_MAX)) {
      try {
        await this.#read(abort.signal);
        wait = 1000;
        this.#state("no stream; trying again");
      } catch (error) {
        if (abort.signal.aborted) return;
        this.#state(error.status === 409 ? "too many readers: no live events here" : "no stream; trying again");
      }
      await pause(wait);
    }
  }

  async #read(signal) {
    const response = await ask(`v1/events?last=${RECENT}`, {signal});
    this.#state("");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const {done, value} = await reader.read();
      if (done) return;
      text += value;
      const end = text.lastIndexOf("\n\n");
      if (end < 0) continue;
      this.#tell(parsed(text.slice(0, end)));
      text = text.slice(end + 2);
    }
  }

  #tell(events) {
    const fresh = events.filter((event) => !this.#seen.has(JSON.stringify(event)));
    for (const event of fresh) this.#seen.add(JSON.stringify(event));
    if (this.#seen.size > 4 * RECENT) this.#seen = new Set([...this.#seen].slice(-2 * RECENT));
    if (fresh.length) this.#heard(fresh);
  }
}

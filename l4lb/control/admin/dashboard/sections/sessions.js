// The sessions that there are: listed when somebody asks, since every worker has to look for them, and ended one by one
// or all that match.

import {endSession, endSessions, listSessions} from "../api.js";
import {announce, complain, confirmed} from "../dialogs.js";
import {byId, choices, h, setAttribute, setHidden, setText} from "../dom.js";
import {count, plural, size, span, time} from "../format.js";
import {Table} from "../tables.js";

const SHOWN = 100;
const FIELDS = ["pool", "backend", "source", "listener"];
const NAMES = {pool: "pool", backend: "backend", source: "client", listener: "listener"};
const IN_KERNEL = "The kernel forwards it: it cannot be ended from here. Ban the client, or drain the backend.";

function filterText(wanted) {
  const given = FIELDS.filter((key) => wanted[key] !== "");
  return given.map((key) => `${NAMES[key]} ${wanted[key]}`).join(", ");
}

function tagText({tags}) {
  return Object.entries(tags).map(([key, value]) => `${key}=${value}`).join(" ");
}

export class SessionList {
  #place = byId("sessions");
  #end = byId("end-sessions");
  #table;
  #options = {pool: new Map(), listener: new Map()};
  #found = null; // {wanted, list, total, at}: what is shown
  #asking = 0; // the number of the latest question

  constructor() {
    this.#table = new Table(byId("session-table"), "Sessions", [
      ["Client", "address", (one) => one.client],
      ["Listener", "", (one) => one.listener],
      ["Pool", "", (one) => one.pool],
      ["Backend", "address", (one) => one.backend || "–"],
      ["State", "", (one) => [one.state, tagText(one)].filter(Boolean).join(" · ")],
      ["Age", "number", (one) => (one.age_s === null ? "–" : span(one.age_s))],
      ["Idle", "number", (one) => span(one.idle_s)],
      ["Bytes up", "number", (one) => size(one.bytes_up ?? NaN)],
      ["Bytes down", "number", (one) => size(one.bytes_down ?? NaN)],
      ["End", "act", null, () => this.#button()],
    ]);
    this.#place.addEventListener("toggle", () => this.#place.open && this.ask());
    byId("session-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    this.#end.addEventListener("click", () => this.#endAll());
  }

  /** The names that may be chosen. */
  draw({pools, listeners}) {
    this.#options.pool = choices(byId("session-pool"), this.#options.pool, pools, "all pools");
    this.#options.listener = choices(byId("session-listener"), this.#options.listener, listeners, "all listeners");
  }

  #wanted() {
    return Object.fromEntries(FIELDS.map((key) => [key, byId(`session-${key}`).value.trim()]));
  }

  async ask() {
    const mine = ++this.#asking;
    const wanted = this.#wanted();
    setAttribute(this.#place, "aria-busy", "true");
    let said = "";
    let found = null;
    try {
      found = {wanted, ...(await listSessions(wanted, SHOWN)), at: Date.now() / 1000};
    } catch (error) {
      said = `No list: ${error.message}`;
    }
    if (mine !== this.#asking) return;
    setAttribute(this.#place, "aria-busy", null);
    this.#found = found;
    this.#show(said);
  }

  #show(failure) {
    const {list, total, at, wanted} = this.#found ?? {list: [], total: 0};
    this.#table.draw(list, ({id}) => id);
    setHidden(byId("session-table"), !list.length);
    const filter = wanted ? filterText(wanted) : "";
    const which = filter ? ` of ${filter}` : "";
    const shown = total > list.length ? `, ${count(list.length)} of them shown` : "";
    setText(byId("session-count"), failure || `${plural(total, "session")}${which} at ${time(at)}${shown}.`);
    setHidden(this.#end, !list.length || !filter);
    setText(this.#end, `End all ${count(total)}`);
  }

  #button() {
    let of;
    const button = h("button", {type: "button", onclick: () => this.#endOne(of, button)}, "end");
    const update = (session) => {
      of = session;
      const kernel = session.engine === "kernel";
      button.disabled = kernel;
      setAttribute(button, "title", kernel ? IN_KERNEL : null);
      setAttribute(button, "aria-label", `End the session of ${session.client}`);
    };
    return {node: button, update};
  }

  /** Asks again, and takes the focus from what is gone to the title. */
  async #again() {
    await this.ask();
    if (document.activeElement === document.body) byId("session-title").focus();
  }

  async #endOne(session, button) {
    const {client, backend, id} = session;
    const asked = await confirmed({
      title: `End the session of ${client}?`,
      text: `It is reset at both ends${backend ? `, at ${backend} too` : ""}; the client may come again at once.`,
      yes: "End it",
    });
    if (!asked) return;
    setAttribute(button, "aria-busy", "true");
    try {
      await endSession(id);
      announce(`The session of ${client} is ended.`);
    } catch (error) {
      complain(`The session of ${client} is not ended: ${error.message}`);
    }
    setAttribute(button, "aria-busy", null);
    await this.#again();
  }

  async #endAll() {
    const {wanted, total, at} = this.#found;
    const filter = filterText(wanted);
    const asked = await confirmed({
      title: `End all sessions of ${filter}?`,
      text: `${plural(total, "session")} matched at ${time(at)}; all that match now are reset at both ends. ` +
        "Their clients may come again at once.",
      warning: "What they transfer is lost.",
      yes: "End all",
    });
    if (!asked) return;
    try {
      const {sessions, flows_left} = await endSessions(wanted);
      const left = flows_left ? `; ${plural(flows_left, "flow")} in the kernel cannot be ended` : "";
      setText(byId("session-said"), `${plural(sessions, "session")} of ${filter} ended${left}.`);
      announce(byId("session-said").textContent);
    } catch (error) {
      complain(`The sessions of ${filter} are not ended: ${error.message}`);
    }
    await this.#again();
  }
}

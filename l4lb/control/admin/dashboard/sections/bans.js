// Who is kept out at runtime: the list, which is asked for when there is news of it, and a form for one more.

import {listBans, putBan, removeBan} from "../api.js";
import {announce, complain, confirmed} from "../dialogs.js";
import {byId, choices, h, keep, setAttribute, setHidden, setText} from "../dom.js";
import {plural, span} from "../format.js";

const SHOWN = 100;
const NEWS = new Set(["banned", "unbanned", "ban_over"]);
const keyOf = (ban) => `${ban.cidr} ${ban.listener ?? ""}`;

export class Bans {
  #bans = [];
  #count = 0; // as the status says
  #stale = true;
  #asking = false;
  #views = new Map();
  #options = new Map();
  #changed;

  /** `changed` is called to draw again, when the list has come. */
  constructor(changed) {
    this.#changed = changed;
    byId("ban-form").addEventListener("submit", (event) => this.#submit(event));
  }

  hear(events) {
    if (events.some(({kind}) => NEWS.has(kind))) this.#stale = true;
  }

  /** `now` is the server's clock. */
  draw({bans, listeners}, now) {
    if (bans !== this.#count) this.#stale = true;
    this.#count = bans;
    if (this.#stale && !this.#asking) this.#ask();
    this.#options = choices(byId("ban-listener"), this.#options, listeners, "all listeners");
    const shown = this.#bans.slice(0, SHOWN);
    setHidden(byId("ban-table"), !shown.length);
    this.#views = keep(byId("ban-rows"), this.#views, shown, keyOf, (ban) => this.#row(ban, now));
    for (const view of this.#views.values()) view.tick(now);
    const more = this.#bans.length - shown.length;
    setText(byId("ban-more"), more > 0 ? `And ${more} more: l4lb ban list shows them all.` : "");
  }

  /** Fills the form, so that only its button is left to press. */
  propose({source, listener}) {
    byId("ban-cidr").value = source;
    byId("ban-listener").value = listener;
    byId("ban-form").scrollIntoView({block: "center"});
    byId("ban-reason").focus({preventScroll: true});
  }

  async #ask() {
    this.#asking = true;
    this.#stale = false;
    try {
      this.#bans = await listBans();
      this.#changed();
    } catch {
      this.#stale = true; // asked for again with the next status; what is wrong the page says elsewhere
    } finally {
      this.#asking = false;
    }
  }

  #row(ban) {
    let of = ban;
    const ends = h("td.number", {role: "cell", "data-label": "Ends in"});
    const reason = h("td", {role: "cell", "data-label": "Reason"});
    const remove = h("button", {type: "button", "aria-label": `Remove the ban of ${ban.cidr}`,
      onclick: () => this.#remove(of, remove)}, "remove");
    const node = h("tr", {role: "row"},
      h("th.address", {role: "rowheader", scope: "row", "data-label": "Client"}, ban.cidr),
      h("td", {role: "cell", "data-label": "Listener"}, ban.listener ?? "all"),
      ends, reason, h("td.act", {role: "cell", "data-label": ""}, remove));
    const update = (next) => {
      of = next;
      setText(reason, next.reason || "–");
    };
    const tick = (now) => setText(ends, of.until === null ? "never" : span(Math.max(0, of.until - now)));
    return {node, update, tick};
  }

  async #remove(ban, button) {
    setAttribute(button, "aria-busy", "true");
    try {
      await removeBan(ban.cidr, ban.listener ?? "");
      announce(`The ban of ${ban.cidr} is removed.`);
    } catch (error) {
      complain(`The ban of ${ban.cidr} is not removed: ${error.message}`);
    }
    setAttribute(button, "aria-busy", null);
    this.#stale = true;
    this.#changed();
  }

  async #submit(event) {
    event.preventDefault();
    const cidr = byId("ban-cidr").value.trim();
    const time = byId("ban-for").value.trim();
    const listener = byId("ban-listener").value;
    const where = listener ? `At listener ${listener}` : "At all listeners";
    const asked = await confirmed({
      title: `Ban ${cidr}${time ? ` for ${time}` : ""}?`,
      text: `${where} its clients are refused, and the sessions that they have end.`,
      warning: time ? "" : "It has no end: it holds until somebody removes it.",
      yes: "Ban",
    });
    if (!asked) return;
    const settings = {listener, reason: byId("ban-reason").value.trim(), ...(time ? {for: time} : {})};
    try {
      const ban = await putBan(cidr, settings);
      announce(`${ban.cidr} is banned, ${plural(ban.sessions_ended, "session")} ended.`);
      byId("ban-form").reset();
      byId("ban-cidr").focus();
    } catch (error) {
      complain(`${cidr} is not banned: ${error.message}`);
    }
    this.#stale = true;
    this.#changed();
  }
}

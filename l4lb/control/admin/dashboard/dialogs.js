// What the page asks and tells: the confirmation before something destructive, messages of what failed, the token.

import {byId, h, setText} from "./dom.js";

const TOGETHER_MS = 300;
const SAID_MAX = 3; // at once: of a hundred failures the list is on the page
let toSay = [];
let questions = 0;

/**
 * Says it to screen readers, once, without moving the focus; what comes at about the same time is said together, what
 * is `urgent` first.
 */
export function announce(text, urgent = false) {
  if (!toSay.length) {
    byId("said").textContent = ""; // the same text again is said again
    setTimeout(say, TOGETHER_MS);
  }
  if (urgent) toSay.unshift(text);
  else toSay.push(text);
}

function say() {
  const more = toSay.length - SAID_MAX;
  byId("said").textContent = toSay.slice(0, SAID_MAX).join(". ") + (more > 0 ? `. And ${more} more` : "");
  toSay = [];
}

/**
 * True when the operator agrees. Escape and Cancel do not; the focus returns to where it was. `items`: a list below the
 * text.
 */
export function confirmed({title, text, items = [], warning = "", yes}) {
  const dialog = byId("confirm");
  const before = document.activeElement;
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-items").replaceChildren(...items.map((one) => h("li", {}, one)));
  byId("confirm-items").hidden = !items.length;
  byId("confirm-warning").textContent = warning;
  byId("confirm-warning").hidden = !warning;
  byId("confirm-yes").textContent = yes;
  byId("confirm-yes").classList.toggle("danger", Boolean(warning));
  dialog.returnValue = "no";
  dialog.showModal();
  (warning ? byId("confirm-no") : byId("confirm-yes")).focus();
  const mine = ++questions;
  return new Promise((resolve) => {
    dialog.addEventListener("close", function over() {
      if (mine === questions && dialog.open) return; // of the question before: the event comes late
      dialog.removeEventListener("close", over);
      if (mine === questions) before?.focus();
      resolve(mine === questions && dialog.returnValue === "yes");
    });
  });
}

/** A failure in words, which stays until it is dismissed. */
export function complain(text) {
  const dismiss = {type: "button", "aria-label": "Dismiss this message", onclick: () => message.remove()};
  const message = h("div.message", {role: "alert"}, h("p", {}, text), h("button", dismiss, "Dismiss"));
  byId("messages").append(message);
  while (byId("messages").children.length > 4) byId("messages").firstChild.remove();
}

/** Shows the form for the token, with what was wrong with the last one; `used` gets what is entered. */
export class TokenForm {
  #place = byId("ask");

  constructor(used) {
    byId("ask-form").addEventListener("submit", (event) => {
      event.preventDefault();
      used(byId("token").value.trim());
      byId("token").value = "";
    });
  }

  show(error) {
    setText(byId("ask-error"), error);
    if (!this.#place.hidden) return;
    this.#place.hidden = false;
    byId("token").focus();
  }

  hide() {
    this.#place.hidden = true;
  }
}

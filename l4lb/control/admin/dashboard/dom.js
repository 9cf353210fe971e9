// Making and changing elements. Nothing here parses HTML: text is always text. What has not changed is not touched, so
// that a tick of the page costs what changed and not what is there.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** h("td.number", {title: "x"}, "text", child) */
export function h(selector, attributes = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  return fill(element, attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** `key` keeps what was set last on the node itself: reading it back from the DOM would cost more. */
function changed(node, key, value) {
  const last = (node.last ??= {});
  if (last[key] === value) return false;
  last[key] = value;
  return true;
}

export function setText(node, text) {
  if (changed(node, "text", text)) node.textContent = text;
}

const ADDRESS = /([^\s,()]+)(:\d{1,5}(?:-\d{1,5})?)(?![\w:.])/g;

function addressed(text) {
  const parts = [];
  let end = 0;
  for (const {0: whole, 1: host, 2: port, index} of text.matchAll(ADDRESS)) {
    parts.push(text.slice(end, index), h("span.whole", {}, host, h("wbr"), h("span.port", {}, port)));
    end = index + whole.length;
  }
  return [...parts, text.slice(end)];
}

/** Text with addresses in it: a line may end before a port, and not within it. What is copied is the text. */
export function setAddressed(node, text) {
  if (changed(node, "text", text)) node.replaceChildren(...addressed(text));
}

/** Facts beside each other: a line ends between two of them where it can. */
export function setFacts(node, facts) {
  if (!changed(node, "text", facts.join(" · "))) return;
  const last = facts.length - 1;
  const parts = facts.map((one, index) => h("span.fact", {}, ...addressed(one), index < last ? " ·" : ""));
  node.replaceChildren(...parts.flatMap((part, index) => (index ? [" ", part] : [part])));
}

/** null or false removes it. */
export function setAttribute(node, name, value) {
  if (!changed(node, name, value)) return;
  if (value === null || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : value);
}

export function setHidden(node, hidden) {
  if (changed(node, "hidden", hidden)) node.hidden = hidden;
}

/**
 * Make `parent` hold one node for each item, in their order: kept by `keyOf`, made by `make(item)`, which returns
 * {node, update(item)}. Returns the views by key. Nodes that stay are moved only when they stand in the wrong place:
 * moving loses the focus.
 */
export function keep(parent, views, items, keyOf, make) {
  const kept = new Map();
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    const view = views.get(key) ?? make(item);
    views.delete(key);
    kept.set(key, view);
    view.update(item);
    if (view.node === place) place = place.nextSibling;
    else parent.insertBefore(view.node, place);
  }
  for (const view of views.values()) view.node.remove();
  return kept;
}

/** Makes `select` offer the names of `items`, and `all` of them, which is ""; `views` are those of the last time. */
export function choices(select, views, items, all) {
  return keep(select, views, [{name: ""}, ...items], ({name}) => name, ({name}) =>
    ({node: h("option", {value: name}, name || all), update() {}}));
}

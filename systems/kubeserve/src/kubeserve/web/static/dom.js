// Elements. Whatever the API says becomes text, never markup.

export const element = (id) => document.getElementById(id);

/**
 * Makes an element; `on…` are listeners, true and false switch an attribute.
 * @param {string} tag @param {Record<string, any>} [attributes]
 * @param {...(Node|string|number|null|undefined|false)} children
 */
export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      made.addEventListener(name.slice(2), value);
    } else if (value !== false && value !== null && value !== undefined) {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/**
 * Shows what `draw` gives, unless it is as before: what has the focus keeps it, and nothing flickers.
 * @param {Element} place @param {any} what @param {() => Node[]} draw
 */
export function show(place, what, draw) {
  const now = JSON.stringify(what);
  if (place.dataset.shown !== now) {
    const focused = place.contains(document.activeElement) ? document.activeElement?.id : "";
    place.replaceChildren(...draw());
    place.dataset.shown = now;
    focused && element(focused)?.focus();
  }
}

/** Sets a text only where it differs, so that a screen reader says it once. */
export function say(place, text) {
  if (place.textContent !== text) {
    place.textContent = text;
  }
}

const WORKING = ["receiving", "scanning", "building", "checking", "pending", "starting", "stopping"];
const BAD = ["rejected", "failed", "degraded"];
const GOOD = ["ready"];

/** A badge of a state, with a colour and the word. @param {string} state */
export function badge(state) {
  const kinds = { working: WORKING, bad: BAD, good: GOOD };
  const kind = Object.keys(kinds).find((each) => kinds[each].includes(state)) ?? "calm";
  return h("span", { class: `badge ${kind}`, "data-state": state }, state);
}

/** A button of a row; `what` is told to a screen reader beside its text. */
export function button(text, what, act, kind = "quiet") {
  return h("button", { type: "button", class: `${kind} small`, "aria-label": `${text}: ${what}`, onclick: act }, text);
}

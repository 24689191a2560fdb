// A question before what cannot be taken back.
import { element } from "./dom.js";

/** @type {Promise<boolean>} */
let former = Promise.resolve(false);

/**
 * Asks; gives whether the answer is yes. Escape and Cancel are no. One question at a time.
 * @param {string} title @param {string} text @param {string} yes
 */
export function ask(title, text, yes) {
  former = former.then(() => show(title, text, yes)); // that a dialog was closed is told later: it must not answer the next
  return former;
}

/** @param {string} title @param {string} text @param {string} yes @returns {Promise<boolean>} */
function show(title, text, yes) {
  const dialog = /** @type {HTMLDialogElement} */ (element("question"));
  element("question-title").textContent = title;
  element("question-text").textContent = text;
  element("question-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((answer) => {
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true });
  });
}

// A question before what cannot be taken back.
import { element } from "./dom.js";

/**
 * Asks; gives whether the answer is yes. Escape and Cancel are no.
 * @param {string} title @param {string} text @param {string} yes
 */
export function ask(title, text, yes) {
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

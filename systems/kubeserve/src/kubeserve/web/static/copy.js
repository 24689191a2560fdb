// Copies a text.
import { h } from "./dom.js";

/** A button that copies what `text` gives. @param {string} what @param {() => string} text */
export function copier(what, text) {
  const button = h("button", { type: "button", class: "quiet small copy", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copied(text())) ? "Copied" : "Select it, and copy";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return byHand(text); // of a page without HTTPS
  }
}

function byHand(text) {
  const field = h("textarea", { class: "unseen", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

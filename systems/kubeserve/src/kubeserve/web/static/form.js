// Forms: what the API refuses is told beside its field.
import { element } from "./dom.js";

/**
 * Calls `act` with the form's values when it is submitted. Faults are shown by field, other refusals above the button.
 * @param {HTMLFormElement} form @param {(values: Record<string, string>) => Promise<any>} act
 */
export function onSubmit(form, act) {
  const buttons = [...form.querySelectorAll("button:not([type=button])")];
  buttons.forEach((button) => { button.disabled = false; });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (buttons.some((button) => button.disabled)) {
      return;
    }
    clear(form);
    buttons.forEach((button) => { button.disabled = true; });
    try {
      await act(Object.fromEntries(new FormData(form)));
    } catch (error) {
      refused(form, error);
    } finally {
      buttons.forEach((button) => { button.disabled = false; });
    }
  });
}

/** Takes what was told of a former attempt away. @param {HTMLFormElement} form */
function clear(form) {
  form.querySelectorAll(".fault").forEach((place) => { place.textContent = ""; });
  form.querySelectorAll("[aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));
}

function refused(form, error) {
  if (error.status === undefined) {
    throw error;
  }
  const untold = [];
  let first = null;
  for (const { field, message } of error.faults) {
    const place = form.querySelector(`[data-fault="${CSS.escape(field)}"]`);
    if (!place) {
      untold.push(field ? `${field}: ${message}` : message);
      continue;
    }
    place.textContent = message;
    const input = form.elements[field];
    input?.setAttribute("aria-invalid", "true");
    input?.closest("details")?.setAttribute("open", "");
    first ??= input;
  }
  const place = form.querySelector(".refused");
  place.textContent = error.faults.length ? untold.join("; ") : error.message;
  first?.focus();
}

/** Does what a button asks for; a refusal is shown above. @param {() => Promise<any>} act */
export async function attempt(act, place = element("refused")) {
  place.textContent = "";
  try {
    return await act();
  } catch (error) {
    if (error.status === undefined) {
      throw error;
    }
    place.textContent = error.message;
    place.scrollIntoView({ block: "nearest" });
    return undefined;
  }
}

/** Numbers of the form of how a deployment runs. @param {Record<string, string>} values */
export function specOf(values) {
  const { minimum, maximum, idle, memory, timeout, concurrency } = values;
  const numbers = { minimum: +minimum, maximum: +maximum, idle: +idle, timeout: +timeout, concurrency: +concurrency };
  return { ...numbers, memory: Math.round(+memory * 2 ** 20) };
}

// A form made from a model's signature, and what it answers.
import { answered } from "./api.js";
import { element, h, say } from "./dom.js";
import { onSubmit } from "./form.js";

const MOST = 64; // inputs; more are given as JSON
const PATIENCE = 700_000;
const LOOK = 1000;

export class Trial {
  #version = "";
  #inputs = null;

  /** @param {string} deployment its id @param {() => string} state of it now @param {(rows?: any[]) => void} asked called afterwards, with rows that were answered */
  constructor(deployment, state, asked) {
    onSubmit(element("try"), async (values) => {
      const instances = this.#inputs ? [this.#inputs.map((port) => valueOf(port, values[`input ${port.name}`]))] : rows(values.rows);
      const slept = state() === "asleep";
      const began = performance.now();
      element("answer").hidden = false;
      element("answer").replaceChildren(h("p", { class: "hint" }, slept ? "It is asleep, and wakes …" : "Asking …"));
      try {
        const given = await predicted(deployment, instances);
        const ms = performance.now() - began;
        draw(given, ms, slept);
        asked(instances);
      } catch (error) {
        element("answer").hidden = true;
        asked();
        throw placed(error, this.#inputs);
      }
    });
  }

  /** Makes the form for a version, once. @param {any} version */
  show(version) {
    if (this.#version === version.id) {
      return;
    }
    this.#version = version.id;
    const { kind, inputs, example } = version.signature ?? { kind: "tabular", inputs: [] };
    const simple = kind === "tabular" && inputs.length > 0 && inputs.length <= MOST;
    this.#inputs = simple ? inputs : null;
    element("inputs").replaceChildren(...(simple ? inputs.map((port, at) => field(port, at, example)) : [area(inputs, example)]));
  }
}

/** @param {any} port @param {number} at its place @param {any} example a row of the version's sample.json, if it has one */
function field(port, at, example) {
  const id = `input-${at}`;
  const number = !["BYTES", "any", "BOOL"].includes(port.datatype);
  const input = h("input", { id, name: `input ${port.name}`, "aria-describedby": `${id}-fault`, autocomplete: "off",
    value: begun(port, Array.isArray(example) ? example[at] : example?.[port.name]), inputmode: number ? "decimal" : "text" });
  return h("div", { class: "field" }, h("label", { for: id }, port.name, " ", h("span", { class: "hint" }, port.datatype)), input,
    h("p", { class: "fault", id: `${id}-fault`, "data-fault": `input ${port.name}` }));
}

function begun(port, value) {
  if (["string", "number", "boolean"].includes(typeof value)) {
    return String(value);
  }
  return port.datatype === "BYTES" || value === null ? "" : port.datatype === "BOOL" ? "false" : "0";
}

function area(inputs, example) {
  const row = example ?? (inputs.length ? inputs.map(() => 0) : [0]);
  const text = h("textarea", { id: "rows", name: "rows", rows: 6, spellcheck: "false", "aria-describedby": "rows-fault" }, JSON.stringify([row]));
  return h("div", { class: "field" }, h("label", { for: "rows" }, "Rows, as JSON"), text,
    h("p", { class: "fault", id: "rows-fault", "data-fault": "rows" }));
}

/** What a person wrote, as the model takes it; text where it is no number, so that the model says what it wants. */
function valueOf(port, text) {
  if (port.datatype === "BYTES") {
    return text;
  }
  const told = text.trim().replace(",", ".");
  if (port.datatype === "BOOL" || told === "true" || told === "false") {
    return told === "true" || told === "1";
  }
  if (told === "") {
    return null;
  }
  return Number.isFinite(Number(told)) ? Number(told) : text;
}

/** The refusal with its faults at the fields of this form; an API that names none of them is read. */
function placed(error, inputs) {
  const told = error.faults?.length ? error.faults : error.status === 422 ? [{ field: "", message: error.message }] : [];
  const faults = told.map((fault) => {
    const message = fault.message.replace(/^\[.*?\] /, "");
    if (!inputs) {
      return { field: "rows", message };
    }
    const name = inputNamed(inputs, fault.field, message);
    return { field: name === undefined ? "" : `input ${name}`, message: message.replace(/^row 0:? /, "") };
  });
  return Object.assign(error, { faults });
}

/** The longest first: one name may be the end of another. */
function inputNamed(inputs, field, message) {
  const names = inputs.map((port) => port.name).sort((one, other) => other.length - one.length);
  return names.find((name) => field === name || field === `instances.0.${name}`)
    ?? names.find((name) => [`row 0: ${name} `, `row 0 lacks ${name}`].some((start) => message.startsWith(start)))
    ?? names.find((name) => message.startsWith("row 0: the model does not accept ") && message.includes(` as ${name} (`));
}

function rows(text) {
  try {
    const given = JSON.parse(text);
    return Array.isArray(given) ? given : (given.instances ?? [given]);
  } catch (error) {
    const fault = { field: "rows", message: `This is not JSON: ${error.message}` };
    throw Object.assign(new Error(fault.message), { status: 400, code: "bad_json", faults: [fault] });
  }
}

/** Asks; an answer that takes longer than a call is looked for until it is there. */
async function predicted(deployment, instances) {
  let { status, told } = await answered("POST", `/predict/${deployment}`, { instances }, PATIENCE);
  while (status === 202) {
    const why = told.reason ? `: ${told.reason}` : "";
    say(element("answer"), `No answer yet, the deployment is ${told.deployment_state}${why}`);
    await new Promise((done) => { setTimeout(done, LOOK); });
    ({ status, told } = await answered("GET", `/predictions/${told.id}`));
  }
  return told;
}

function draw(given, ms, slept) {
  const time = ms < 10 ? ms.toFixed(1) : Math.round(ms);
  const { predictions } = given;
  const text = predictions.length === 1 ? JSON.stringify(predictions[0]) : JSON.stringify(predictions, null, 2);
  element("answer").replaceChildren(
    h("p", { class: "label" }, given.predictions.length === 1 ? "Prediction" : `${given.predictions.length} predictions`),
    h("pre", { id: "prediction" }, text),
    h("p", { class: "hint" }, h("span", { id: "took" }, slept ? `asleep → woke in ${time} ms` : `${time} ms`),
      ` · ${given.model} ${given.version} · revision ${given.revision}`));
}

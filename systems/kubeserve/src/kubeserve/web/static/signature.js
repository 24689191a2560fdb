// What a model takes and gives, as tables; and the walls of its sandbox.
import { h } from "./dom.js";

const MOST = 100;
const KINDS = { BYTES: "text", BOOL: "true or false", any: "number or text" };

const kindOf = (port) => (KINDS[port.datatype] ?? (port.datatype.includes("INT") ? "whole number" : "number"));
const shapeOf = (port) => (port.shape ? ` [${port.shape.map((size) => (size < 0 ? "any" : size)).join(" × ")}]` : "");

/** @param {any} signature */
export function signatureTable(signature) {
  const { inputs, outputs, classes } = signature;
  const parts = [
    inputs.length ? ports("Takes", inputs) : h("p", {}, "The model does not tell what it takes: rows are given as JSON."),
    ports("Gives", outputs),
  ];
  if (classes) {
    const shown = classes.slice(0, MOST).map(String).join(", ");
    parts.push(h("p", {}, h("span", { class: "hint" }, "Classes: "), shown, classes.length > MOST && " …"));
  }
  return parts;
}

function ports(title, all) {
  const rows = all.slice(0, MOST).map((port) => h("tr", {},
    h("th", { scope: "row" }, port.name), h("td", {}, kindOf(port) + shapeOf(port)), h("td", {}, h("code", {}, port.datatype))));
  const more = all.length > MOST && h("p", { class: "hint" }, `and ${all.length - MOST} more`);
  const head = h("thead", {}, h("tr", {}, ...["Name", "Kind", "Datatype"].map((text) => h("th", { scope: "col" }, text))));
  return h("div", { class: "scroll" }, h("table", {}, h("caption", {}, title), head, h("tbody", {}, ...rows)), more);
}

/** The level of walls as terms and their values. @param {Record<string, any>} level */
export function levelFacts(level) {
  const facts = [
    ["Landlock (files)", level.landlock ? `ABI ${level.landlock}` : "not here", Boolean(level.landlock)],
    ["seccomp (system calls)", level.seccomp ? "on" : "not here", level.seccomp],
    ["Limits of resources", level.rlimits ? "on" : "not here", level.rlimits],
    ["Namespaces", level.namespaces?.join(", ") || "not here", level.namespaces?.length > 0],
    ["Scratch", level.scratch === "tmpfs" ? "in memory, its own" : "a directory", true],
    ["Runs as", level.uid === "own" ? "a user of its own" : "the platform's user", true],
  ];
  return facts.map(([name, value, good]) => h("div", { class: good ? "" : "away" }, h("dt", {}, name), h("dd", {}, value)));
}

// The steps of a version's proof, with the seconds of each and why it ended where it did.
import { element, h, say } from "./dom.js";
import { seconds } from "./words.js";

const STEPS = [
  ["received", "Received", ["receiving"]],
  ["hashed", "Hashed", []],
  ["identified", "Identified", ["scanning"]],
  ["scanned", "Imports found", []],
  ["environment", "Environment", ["building"]],
  ["loaded", "Loaded", ["checking"]],
  ["predicted", "Sample prediction", []],
];
const MARKS = { done: "✓", rejected: "✕", failed: "!", running: "", waiting: "" };
const SAID = { done: "done", rejected: "rejected", failed: "failed", running: "running", waiting: "waits" };
const began = new Map();

/** Shows how far a version has come. */
export function showSteps(version) {
  const steps = version.steps.filter((step) => step.name === "interrupted").map((step) => ({ ...step, title: "Interrupted" }));
  for (const [name, title, states] of STEPS) {
    const found = version.steps.findLast((step) => step.name === name);
    const outcome = states.includes(version.state) ? "running" : "waiting";
    steps.push({ detail: "", seconds: null, outcome, ...found, name, title });
  }
  const ready = ["ready", "archived"].includes(version.state);
  steps.push({ name: "ready", title: "Ready", outcome: ready ? "done" : "waiting", detail: "", seconds: null });
  const list = element("steps");
  if (list.children.length !== steps.length) {
    list.replaceChildren(...steps.map(() => h("li", {},
      h("span", { class: "mark", "aria-hidden": "true" }), h("strong"), h("span", { class: "time" }),
      h("span", { class: "unseen" }), h("p"))));
  }
  steps.forEach((step, at) => draw(list.children[at], step, version.attempt));
  const last = steps.findLast((step) => step.outcome !== "waiting");
  say(element("step-told"), last ? `${last.title}: ${SAID[last.outcome]}. ${last.detail}` : "");
}

function draw(row, step, attempt) {
  const [mark, title, time, said, detail] = row.children;
  const key = `${attempt} ${step.name}`;
  if (step.outcome === "running" && !began.has(key)) {
    began.set(key, performance.now());
  }
  row.className = step.outcome;
  row.dataset.step = step.name;
  row.dataset.began = step.outcome === "running" ? began.get(key) : "";
  say(mark, MARKS[step.outcome]);
  say(title, step.title);
  say(said, ` (${SAID[step.outcome]})`);
  say(detail, step.detail);
  if (step.outcome !== "running") {
    say(time, step.seconds === null ? "" : seconds(step.seconds));
  }
}

// A step that runs counts its seconds by itself.
setInterval(() => {
  for (const row of element("steps").querySelectorAll(".running")) {
    say(row.querySelector(".time"), seconds((performance.now() - Number(row.dataset.began)) / 1000));
  }
}, 100);

// The revisions of a deployment: which one answers, and the way back to another.
import { all, call } from "./api.js";
import { button, element, h, show } from "./dom.js";
import { attempt, onSubmit, specOf } from "./form.js";
import { ask } from "./question.js";
import { since } from "./words.js";

const FIELDS = ["minimum", "maximum", "idle", "timeout", "concurrency"];
let versions = [];
let filled = 0;

/** Shows them; `now` is called after a change. */
export async function showRevisions(deployment, now) {
  const known = new Set(versions.map((version) => version.id));
  if (deployment.revisions.some((revision) => !known.has(revision.version_id))) {
    await loadVersions(deployment);
  }
  const { revisions, active_revision: active, target_revision: target } = deployment;
  const rows = () => revisions.toReversed().map((revision) => row(deployment, revision, now));
  show(element("revisions"), [revisions, active, target, revisions.map((each) => since(each.created_at))], rows);
  if (filled !== target && !element("revise").open) {
    fill(deployment);
  }
}

async function loadVersions(deployment) {
  versions = await all(`/models/${deployment.model_id}/versions`);
  const ready = versions.filter((version) => version.state === "ready").reverse();
  element("revise-version").replaceChildren(...ready.map((version) => new Option(version.tag, version.id)));
}

/** Fills the form in with how it runs now. */
function fill({ revisions, target_revision: target }) {
  const now = revisions.find((revision) => revision.number === target);
  filled = target;
  FIELDS.forEach((name) => { element(`revise-${name}`).value = now[name]; });
  element("revise-memory").value = now.memory / 2 ** 20;
  element("revise-version").value = now.version_id;
}

function row(deployment, revision, now) {
  const { number, version_id: version, minimum, maximum, memory } = revision;
  const tag = versions.find((each) => each.id === version)?.tag ?? "a version that was deleted";
  const { active_revision: active, target_revision: target } = deployment;
  const mark = number === active ? h("span", { class: "badge good" }, "answers")
    : number === target && deployment.desired === "running" ? h("span", { class: "badge working" }, "comes up") : null;
  const facts = `${minimum} to ${maximum} replicas of ${Math.round(memory / 2 ** 20)} MiB · ${since(revision.created_at)}`;
  return h("li", {}, h("div", { class: "what" },
    h("strong", {}, `${number}`), " ", h("a", { href: `/versions/${version}` }, tag), " ", mark, h("p", { class: "hint" }, facts)),
    number !== target && button("Roll back", `to revision ${number}`, () => rollBack(deployment, number, now)));
}

async function rollBack({ id, name }, revision, now) {
  if (await ask(`Roll back to revision ${revision}?`, `${name} answers with it as soon as it is up.`, "Roll back")) {
    await attempt(() => call("POST", `/deployments/${id}/rollback`, { revision }));
    await now();
  }
}

/** Makes the form deploy a new revision. @param {string} id */
export function onRevise(id, now) {
  element("revise").addEventListener("toggle", async () => {
    if (element("revise").open) {
      const deployment = await call("GET", `/deployments/${id}`);
      await loadVersions(deployment);
      fill(deployment);
    }
  });
  onSubmit(element("revise-form"), async (values) => {
    await call("PATCH", `/deployments/${id}`, { ...specOf(values), version_id: values.version_id });
    element("revise").open = false;
    await now();
  });
}

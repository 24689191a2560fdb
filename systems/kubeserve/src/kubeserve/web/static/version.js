// A version: its upload, its proof as it goes, what it takes, and how to deploy it.
import "./who.js";
import { all, call, shown, url } from "./api.js";
import { badge, element, h, say, show } from "./dom.js";
import { attempt, onSubmit, specOf } from "./form.js";
import { follow, gone, stream } from "./live.js";
import { ask } from "./question.js";
import { levelFacts, signatureTable } from "./signature.js";
import { showSteps } from "./stepper.js";
import { Upload } from "./upload.js";
import { bytes } from "./words.js";

const id = shown();
let version = { tag: "", state: "", model_id: "" };
let stop = () => {};
const upload = new Upload(id, () => watch());

function draw(now) {
  version = now;
  say(element("tag"), now.tag);
  document.title = `${now.tag} is ${now.state} · KubeServe`;
  show(element("badge"), now.state, () => [badge(now.state)]);
  const explained = !["ready", "receiving"].includes(now.state);
  say(element("reason"), explained ? now.state_reason : "");
  element("reason").classList.toggle("bad", ["rejected", "failed"].includes(now.state));
  element("retry").hidden = now.state !== "failed" || now.files.length === 0;
  element("archive").hidden = element("deploy").hidden = now.state !== "ready";
  upload.follow(now);
  showSteps(now);
  element("signature").hidden = !now.signature;
  now.signature && show(element("signature-table"), now.signature, () => signatureTable(now.signature));
  element("walls").hidden = !now.level;
  now.level && show(element("level"), now.level, () => levelFacts(now.level));
  const files = now.files.filter((file) => file.sha256);
  element("files-card").hidden = files.length === 0;
  show(element("file-list"), files, () => files.map((file) => fileRow(file, now.format)));
}

function fileRow(file, format) {
  const facts = [bytes(file.size), !["requirements.txt", "sample.json"].includes(file.name) && format].filter(Boolean).join(" · ");
  return h("li", {}, h("div", { class: "what" }, h("strong", {}, file.name), h("span", { class: "hint" }, ` ${facts}`),
    h("p", { class: "hash" }, `SHA-256 ${file.sha256}`)));
}

/** Follows it until it has come to its end. */
function watch() {
  stop();
  stop = stream(url(`/versions/${id}/steps`), "version", draw, ({ state }) => {
    state === "deleted" ? gone("the version was deleted") : named();
  });
}

/** Names what belongs to it: its model, and the deployments of that. */
async function named() {
  const [model, deployments] = await Promise.all([call("GET", `/models/${version.model_id}`), all("/deployments")]);
  say(element("model"), model.name);
  element("model").href = `/models/${model.id}`;
  element("deploy-name").value ||= model.name;
  const its = deployments.filter((deployment) => deployment.model_id === model.id);
  show(element("existing"), its, () => its.map((deployment) => h("li", {}, h("div", { class: "what" },
    h("a", { href: `/deployments/${deployment.id}` }, deployment.name), " ", badge(deployment.state),
    h("p", { class: "hint" }, `runs ${deployment.version}`)),
    h("button", { type: "button", class: "quiet small", onclick: () => revise(deployment) }, "Deploy there"))));
}

function revise(deployment) {
  return attempt(async () => {
    await call("PATCH", `/deployments/${deployment.id}`, { version_id: id });
    location.assign(`/deployments/${deployment.id}`);
  });
}

follow(async () => {
  draw(await call("GET", `/versions/${id}`));
  await named();
  watch();
  return false; // from now on it is told
}, 2000);
element("retry").addEventListener("click", () => attempt(async () => {
  draw(await call("POST", `/versions/${id}/retry`));
  watch();
}));
element("archive").addEventListener("click", async () => {
  if (await ask(`Archive ${version.tag}?`, "What runs goes on; nothing new is deployed from it.", "Archive it")) {
    await attempt(async () => draw(await call("POST", `/versions/${id}/archive`)));
  }
});
element("delete").addEventListener("click", async () => {
  if (await ask(`Delete ${version.tag}?`, "Its files and its proof go with it, for good.", "Delete the version")) {
    await attempt(async () => {
      await call("DELETE", `/versions/${id}`);
      location.assign(`/models/${version.model_id}`);
    });
  }
});
onSubmit(element("deploy-form"), async (values) => {
  const body = { ...specOf(values), name: values.name.trim(), version_id: id };
  const deployment = await call("POST", "/deployments", body);
  location.assign(`/deployments/${deployment.id}`);
});

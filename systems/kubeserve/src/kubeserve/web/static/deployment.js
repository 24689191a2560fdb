// A deployment: how it stands, how to call it, its revisions, events, logs and keys.
import "./who.js";
import { call, shown } from "./api.js";
import { command, needs } from "./command.js";
import { copier } from "./copy.js";
import { badge, element, h, say, show } from "./dom.js";
import { attempt } from "./form.js";
import { followLogs, showEvents } from "./history.js";
import { showKeys } from "./keys.js";
import { follow } from "./live.js";
import { ask } from "./question.js";
import { onRevise, showRevisions } from "./revisions.js";
import { Trial } from "./trial.js";
import { onLimit, showUsage } from "./usage.js";

const id = shown();
const WORDS = {
  asleep: "Nothing runs. The next call wakes it.",
  starting: "The model is being started.",
  pending: "It is about to start.",
};
let deployment = { state: "", name: "", desired: "" };
let version = { id: "" };
let key = "";
let tried = null;

async function look() {
  const now = await call("GET", `/deployments/${id}`);
  draw(now);
  const number = now.active_revision ?? now.target_revision;
  const answers = now.revisions.find((revision) => revision.number === number)?.version_id;
  if (answers && answers !== version.id) {
    version = await call("GET", `/versions/${answers}`);
    trial.show(version);
    tried = null;
  }
  await Promise.all([showRevisions(now, refresh), showEvents(id)]);
}

function draw(now) {
  deployment = now;
  document.title = `${now.name} is ${now.state} · KubeServe`;
  say(element("name"), now.name);
  show(element("badge"), now.state, () => [badge(now.state)]);
  say(element("reason"), now.state_reason || WORDS[now.state] || "");
  element("reason").classList.toggle("bad", ["failed", "degraded"].includes(now.state));
  const stopped = now.desired === "stopped";
  element("start").hidden = now.desired === "deleted" || !(stopped || now.state === "failed");
  element("start").textContent = stopped ? "Start" : "Try again";
  element("stop").hidden = now.desired !== "running";
  element("delete").disabled = now.desired === "deleted";
  const facts = [["Model", h("a", { href: `/models/${now.model_id}` }, now.model)], ["Version", now.version],
    ["Revision", now.active_revision ?? `${now.target_revision}${stopped ? "" : " (comes up)"}`], ["Replicas", String(now.replicas)],
    ...(now.requests_per_minute ? [["Limit", `${now.requests_per_minute.toLocaleString()} a minute`]] : [])];
  show(element("facts"), [now.requests_per_minute, now.model, now.version, now.active_revision, now.target_revision, now.replicas, stopped],
    () => facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  say(element("url"), now.url);
  const text = command(now.curl, tried, key);
  say(element("curl"), text);
  say(element("curl-hint"), `${needs(text)}${key && " The key in it is shown this once: keep it to yourself."}`.trim());
}

async function wish(method, path) {
  await attempt(async () => draw(await call(method, `/deployments/${id}${path}`)));
  await refresh();
}

const trial = new Trial(id, () => deployment.state, (rows) => {
  tried = rows ?? tried;
  draw(deployment);
  refresh();
});
const refresh = follow(look, 1000);
const makeKey = showKeys(id, (text) => {
  key = text;
  element("with-key").hidden = true;
  draw(deployment);
});
onRevise(id, refresh);
showUsage(id);
onLimit(id, () => deployment.requests_per_minute, refresh);
followLogs(id);
element("url").after(copier("the URL", () => element("url").textContent));
element("curl").after(copier("the command", () => element("curl").textContent));
element("with-key").addEventListener("click", () => attempt(() => makeKey("from the page")));
element("start").addEventListener("click", () => wish("POST", "/start"));
element("stop").addEventListener("click", async () => {
  if (await ask(`Stop ${deployment.name}?`, "Calls that run may end; new ones are refused until it is started.", "Stop it")) {
    await wish("POST", "/stop");
  }
});
element("delete").addEventListener("click", async () => {
  if (await ask(`Delete ${deployment.name}?`, "Its URL, its keys, its queue and its logs go with it, for good.", "Delete the deployment")) {
    await attempt(async () => {
      await call("DELETE", `/deployments/${id}`);
      location.assign("/deployments");
    });
  }
});
const graphs = element("graphs");
if (graphs) {
  const theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const src = `${graphs.dataset.url}?${new URLSearchParams({ "var-deployment": id, theme, kiosk: "" })}`;
  const sandbox = "allow-scripts allow-same-origin allow-forms";
  graphs.append(h("iframe", { src, sandbox, title: "Graphs of this deployment", referrerpolicy: "no-referrer" }));
}

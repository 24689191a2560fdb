// All deployments, live.
import "./who.js";
import { all } from "./api.js";
import { badge, element, h, show } from "./dom.js";
import { follow } from "./live.js";
import { since } from "./words.js";

async function look() {
  const found = (await all("/deployments")).reverse();
  element("empty").hidden = found.length > 0;
  show(element("deployments"), found.map((each) => [each, since(each.updated_at)]), () => found.map(card));
}

function card(deployment) {
  const { id, name, model, version, state, state_reason: why, replicas, updated_at: at } = deployment;
  const runs = `${replicas} ${replicas === 1 ? "replica" : "replicas"}`;
  return h("li", { class: "card" },
    h("h2", {}, h("a", { href: `/deployments/${id}`, id: `deployment-${id}` }, name)),
    h("p", { class: "newest" }, badge(state), h("span", { class: "hint" }, ` ${since(at)} · ${runs}`)),
    h("p", { class: "hint" }, `${model} ${version}`),
    why && h("p", { class: ["failed", "degraded"].includes(state) ? "why" : "hint" }, why));
}

follow(look, 2000);

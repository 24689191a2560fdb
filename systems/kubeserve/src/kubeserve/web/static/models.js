// The hub: every model with its newest version, whose badge follows by itself.
import "./who.js";
import { all, call } from "./api.js";
import { badge, element, h, show } from "./dom.js";
import { onSubmit } from "./form.js";
import { follow } from "./live.js";
import { since } from "./words.js";

let first = true;

async function look() {
  const models = (await all("/models")).reverse();
  element("empty").hidden = models.length > 0;
  if (first && models.length === 0) {
    element("new").open = true;
  }
  first = false;
  show(element("models"), models.map((each) => [each, each.newest && since(each.newest.updated_at)]), () => models.map(card));
}

function card({ id, name, description, newest, versions }) {
  return h("li", { class: "card" },
    h("h2", {}, h("a", { href: `/models/${id}`, id: `model-${id}` }, name)),
    description && h("p", { class: "clipped" }, description),
    newest
      ? h("p", { class: "newest" }, badge(newest.state), " ", h("a", { href: `/versions/${newest.id}` }, newest.tag),
        h("span", { class: "hint" }, ` ${since(newest.updated_at)} · ${versions} ${versions === 1 ? "version" : "versions"}`))
      : h("p", { class: "hint" }, "no versions yet"),
    newest && ["rejected", "failed"].includes(newest.state) && h("p", { class: "why" }, newest.state_reason));
}

follow(look, 2000);
onSubmit(element("create"), async ({ name, description }) => {
  const model = await call("POST", "/models", { name: name.trim(), description });
  location.assign(`/models/${model.id}`);
});

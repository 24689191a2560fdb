// A model: its versions and aliases.
import "./who.js";
import { all, call, shown } from "./api.js";
import { badge, button, element, h, say, show } from "./dom.js";
import { attempt, onSubmit } from "./form.js";
import { follow } from "./live.js";
import { ask } from "./question.js";
import { bytes, since } from "./words.js";

const id = shown();
let model = { name: "" };
let versions = [];

async function look() {
  const [found, its, aliases] = await Promise.all([
    call("GET", `/models/${id}`), all(`/models/${id}/versions`), call("GET", `/models/${id}/aliases`),
  ]);
  [model, versions] = [found, its];
  document.title = `${model.name} · KubeServe`;
  say(element("name"), model.name);
  say(element("description"), model.description);
  element("no-versions").hidden = its.length > 0;
  show(element("versions"), its.map((each) => [each, since(each.created_at)]), () => its.toReversed().map(row));
  show(element("aliases"), [aliases, its.map((each) => each.tag)], () => aliases.map(aliasRow));
  const ready = its.filter((version) => version.state === "ready");
  show(element("alias-version"), ready.map((each) => each.id), () => ready.toReversed().map((each) => new Option(each.tag, each.id)));
  element("alias").hidden = ready.length === 0;
  element("no-alias").hidden = ready.length > 0;
  const tag = element("tag");
  tag.placeholder = nextTag();
}

/** The tag behind the last one: v1, v2 … */
function nextTag() {
  let number = versions.length + 1;
  while (versions.some((version) => version.tag === `v${number}`)) {
    number += 1;
  }
  return `v${number}`;
}

function row(version) {
  const size = version.files.reduce((sum, file) => sum + file.size, 0);
  const facts = [version.format, size && bytes(size), since(version.created_at)].filter(Boolean).join(" · ");
  return h("li", {},
    h("div", { class: "what" },
      h("a", { href: `/versions/${version.id}`, id: `version-${version.id}` }, version.tag), " ", badge(version.state),
      h("p", { class: "hint" }, version.state === "ready" ? facts : `${version.state_reason || "…"} · ${facts}`)),
    button("Delete", version.tag, () => remove(version), "danger quiet"));
}

function aliasRow(alias) {
  const tag = versions.find((version) => version.id === alias.version_id)?.tag ?? "";
  return h("li", {},
    h("div", { class: "what" }, h("strong", {}, alias.name), " → ", h("a", { href: `/versions/${alias.version_id}` }, tag),
      h("p", { class: "hint" }, since(alias.updated_at))),
    button("Remove", alias.name, () => attempt(async () => {
      await call("DELETE", `/models/${id}/aliases/${encodeURIComponent(alias.name)}`);
      await now();
    })));
}

async function remove(version) {
  if (await ask(`Delete ${version.tag}?`, "Its files and its proof go with it, for good.", "Delete the version")) {
    await attempt(() => call("DELETE", `/versions/${version.id}`));
    await now();
  }
}

const now = follow(look, 2000);
onSubmit(element("create"), async ({ tag }) => {
  const version = await call("POST", `/models/${id}/versions`, { tag: tag.trim() || nextTag() });
  location.assign(`/versions/${version.id}`);
});
onSubmit(element("alias"), async ({ name, version_id }) => {
  await call("PUT", `/models/${id}/aliases/${encodeURIComponent(name.trim())}`, { version_id });
  element("alias").reset();
  await now();
});
element("delete").addEventListener("click", async () => {
  const text = `Its ${versions.length} versions and their files go with it, for good.`;
  if (await ask(`Delete ${model.name}?`, text, "Delete the model")) {
    await attempt(async () => {
      await call("DELETE", `/models/${id}`);
      location.assign("/");
    });
  }
});

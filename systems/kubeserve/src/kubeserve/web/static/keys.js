// API keys: those for everything, or those of one deployment.
import { call } from "./api.js";
import { copier } from "./copy.js";
import { button, element, h, show } from "./dom.js";
import { onSubmit } from "./form.js";
import { follow } from "./live.js";
import { ask } from "./question.js";
import { since, when } from "./words.js";

/**
 * Shows keys and makes new ones. `made` is told the text of a new one, which is shown once.
 * @param {string|null} deployment null: for all, and all are listed @param {(text: string) => void} [made]
 */
export function showKeys(deployment, made = () => {}) {
  const now = follow(async () => {
    const keys = (await call("GET", "/keys")).filter((key) => !deployment || key.deployment_id === deployment);
    show(element("keys"), keys.map((key) => [key, since(key.created_at)]), () => keys.reverse().map((key) => row(key, !deployment, now)));
  }, 5000);
  async function make(name, more = {}) {
    const key = await call("POST", "/keys", { name, deployment_id: deployment, ...more });
    const note = element("key-made");
    note.replaceChildren(h("strong", {}, `${key.name}: `), "copy this key now; it is not shown again. ", h("code", { id: "key-text" }, key.key), " ",
      copier("the key", () => key.key));
    note.hidden = false;
    made(key.key);
    await now();
  }
  onSubmit(element("make-key"), async ({ name, requests_per_minute: most, days }) => {
    const ends = days ? new Date(Date.now() + days * 86_400_000).toISOString() : null;
    await make(name.trim(), { requests_per_minute: most === "" ? null : Number(most), expires_at: ends });
    element("make-key").reset();
  });
  return make;
}

function row(key, scoped, now) {
  const expired = key.expires_at && Date.parse(key.expires_at) < Date.now();
  const away = key.revoked_at ? `revoked ${since(key.revoked_at)}` : expired ? "expired" : "";
  const most = key.requests_per_minute;
  const scope = key.deployment_id
    ? h("a", { href: `/deployments/${key.deployment_id}` }, key.deployment ?? "one deployment")
    : "everything";
  return h("li", { class: away ? "away" : "" },
    h("div", { class: "what" }, h("strong", {}, key.name), " ", h("code", {}, `${key.prefix}…`),
      h("p", { class: "hint" }, `made ${since(key.created_at)}`, scoped && " · for ", scoped && scope, most && ` · ${most} a minute`,
        away ? ` · ${away}` : key.expires_at && ` · until ${when(key.expires_at)}`)),
    !away && button("Revoke", key.name, async () => {
      if (await ask(`Revoke ${key.name}?`, "Whoever calls with it is refused from now on.", "Revoke the key")) {
        await call("DELETE", `/keys/${key.id}`);
        await now();
      }
    }, "danger quiet"));
}

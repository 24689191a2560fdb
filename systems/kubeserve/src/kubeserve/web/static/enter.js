// Log in, or register and log in.
import { call } from "./api.js";
import { element } from "./dom.js";
import { onSubmit } from "./form.js";

const form = element("enter");
const next = new URLSearchParams(location.search).get("next");
if (next) {
  element("other").search = `?next=${encodeURIComponent(next)}`;
}

onSubmit(form, async ({ email, password }) => {
  if (form.dataset.act === "register") {
    await call("POST", "/auth/register", { email, password });
  }
  await call("POST", "/auth/login", { email, password, cookie: true });
  location.assign(ours(next));
});

/** A path of this site, whatever the address says. */
function ours(path) {
  const url = new URL(path || "/", location.origin);
  return url.origin === location.origin && !url.pathname.startsWith("//") ? url.pathname : "/";
}

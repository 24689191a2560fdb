// What the page does: it shows the site that its address names, and follows it.
import { onSubmit } from "/form.js";
import { drawShown, refresh, refreshSites, show } from "/site.js";

const EVERY_MS = 2000;
const SITES_EVERY_MS = 10000;
const FIRST = "site-001"; // where there is none yet
const element = (id) => document.getElementById(id);
const address = new URLSearchParams(location.search);

for (const name of ["from", "to"]) {
  element(name).value = address.get(name) ?? "";
}
const sites = await refreshSites();
element("site_id").value = address.get("site") || sites[0] || FIRST;
await show(element("site_id").value);

onSubmit(show);
new ResizeObserver(drawShown).observe(element("chart"));
const whileSeen = (act) => () => document.hidden || act();
document.addEventListener("visibilitychange", whileSeen(refresh));
setInterval(whileSeen(refresh), EVERY_MS);
setInterval(whileSeen(refreshSites), SITES_EVERY_MS);

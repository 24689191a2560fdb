// Chart and table of one site: a page of its readings, which follows what is stored.
import { call } from "/api.js";
import { draw } from "/chart.js";
import { Legend } from "/legend.js";

const PAGE = 500;
const MOST_SITES = 1000;
const WHEN = { dateStyle: "short", timeStyle: "medium" };
const element = (id) => document.getElementById(id);
const byName = new Intl.Collator([], { numeric: true }).compare;
const legend = new Legend(element("legend"), () => drawShown());

let site = "";
let newer = []; // cursors of the pages before the one that is shown
let cursor = "";
let answer = { readings: [], next: null, unit: "" };
let asked = 0;

// Shows the newest readings of a site.
export async function show(name) {
  if (name !== site) {
    site = name;
    legend.clear();
  }
  await page("", []);
}

export async function refresh() {
  const number = ++asked;
  let found;
  try {
    found = await call(`/api/sites/${encodeURIComponent(site)}/readings?${query()}`);
  } catch (error) {
    if (number === asked) {
      element("shown-fault").textContent = error.message;
      element("live").textContent = "Not live";
    }
    return;
  }
  if (number !== asked) {
    return; // a later question has been asked meanwhile
  }
  element("shown-fault").textContent = "";
  element("live").textContent = `Live, as of ${new Date().toLocaleTimeString()}`;
  element("newer").hidden = newer.length === 0;
  element("older").hidden = found.next === null;
  if (JSON.stringify(found) !== JSON.stringify(answer)) {
    answer = found;
    render();
  }
}

// Offers the sites that there are, and the one that is shown.
export async function refreshSites() {
  const { sites, count } = await call(`/api/sites?limit=${MOST_SITES}`).catch(() => ({ sites: null }));
  if (sites) {
    const more = `Listed are the ${sites.length} sites with the newest readings, of ${count}.`;
    element("more-sites").textContent = count > sites.length ? more : "";
    offer(sites);
  }
  return sites ?? [];
}

function offer(sites) {
  const select = element("shown");
  const names = [...new Set(site ? [...sites, site] : sites)].sort(byName);
  if (String(names) !== String([...select.options].map((option) => option.value))) {
    select.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  select.value = site;
}

async function page(at, before) {
  [cursor, newer] = [at, before];
  if (![...element("shown").options].some((option) => option.value === site)) {
    offer([...element("shown").options].map((option) => option.value));
  }
  element("shown").value = site;
  const wanted = new URLSearchParams({ site });
  ["from", "to"].filter((name) => time(name)).forEach((name) => wanted.set(name, element(name).value));
  history.replaceState(null, "", `?${wanted}`);
  element("period-fault").textContent = time("from") > time("to") && time("to") ? "From is later than to." : "";
  element("any-time").hidden = !time("from") && !time("to");
  await refresh();
}

function query() {
  const wanted = new URLSearchParams({ limit: PAGE });
  ["from", "to"].filter((name) => time(name)).forEach((name) => wanted.set(name, time(name)));
  if (cursor) {
    wanted.set("cursor", cursor);
  }
  return wanted;
}

function time(name) {
  const text = element(name).value;
  return text ? new Date(text).toISOString() : "";
}

function render() {
  const { readings, unit } = answer;
  element("power").textContent = `Power (${unit})`;
  element("unit").textContent = ` (${unit})`;
  element("rows").replaceChildren(...readings.map(row));
  element("none").hidden = readings.length > 0;
  const times = [readings.at(-1), readings[0]].map((each) => each && new Date(each.timestamp).toLocaleString([], WHEN));
  element("period").textContent = readings.length ? `${readings.length} readings, ${times[0]} to ${times[1]}` : "";
  legend.show([...new Set(readings.map((each) => each.device_id))].sort(byName));
  drawShown();
}

function row(reading) {
  const row = document.createElement("tr");
  const when = new Date(reading.timestamp).toLocaleString([], WHEN);
  for (const text of [when, reading.device_id, String(reading.power_reading)]) {
    row.insertCell().textContent = text;
  }
  row.cells[0].title = reading.timestamp;
  row.cells[2].className = "number";
  return row;
}

export function drawShown() {
  const drawn = answer.readings.filter((each) => legend.draws(each.device_id));
  draw(element("chart"), drawn, answer.unit, legend.look);
}

element("shown").addEventListener("change", () => show(element("shown").value));
for (const name of ["from", "to"]) {
  element(name).addEventListener("change", () => page("", []));
}
element("any-time").addEventListener("click", () => {
  element("from").value = element("to").value = "";
  page("", []);
});
element("older").addEventListener("click", () => page(answer.next, [...newer, cursor]));
element("newer").addEventListener("click", () => page(newer.at(-1), newer.slice(0, -1)));

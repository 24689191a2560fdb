// The form, and the table and chart of one site, which follow what is stored.
import { draw } from "/chart.js";

const EVERY_MS = 2000;
const PAGE = 50;
const element = (id) => document.getElementById(id);
const WHEN = { dateStyle: "short", timeStyle: "medium" };
const FIELDS = ["site_id", "device_id", "power_reading", "timestamp"];

let site = new URLSearchParams(location.search).get("site") ?? element("shown").value;
let limit = PAGE;
let asked = 0;

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout(10000), ...options });
  } catch {
    throw { message: "The server does not answer. Is the network there?", faults: [] };
  }
  const answer = await response.json().catch(() => ({ error: `The server answers ${response.status}.` }));
  if (!response.ok) {
    throw { message: answer.error, faults: answer.faults ?? [] };
  }
  return answer;
}

function reading() {
  const text = element("power_reading").value.trim().replace(",", ".");
  const time = element("timestamp").value;
  return {
    site_id: element("site_id").value.trim(),
    device_id: element("device_id").value.trim(),
    power_reading: text === "" || Number.isNaN(Number(text)) ? text : Number(text),
    timestamp: (time ? new Date(time) : new Date()).toISOString(),
  };
}

function tell(faults, otherwise) {
  for (const field of FIELDS) {
    const message = faults.filter((fault) => fault.field === field).map((fault) => fault.message).join("; ");
    element(`${field}-fault`).textContent = message;
    element(field).setAttribute("aria-invalid", message !== "");
  }
  element("refused").textContent = faults.length ? "" : otherwise;
  const first = FIELDS.find((field) => faults.some((fault) => fault.field === field));
  if (first) {
    element(first).focus();
  }
}

async function submit(event) {
  event.preventDefault();
  const button = event.submitter ?? event.target.querySelector("button");
  const given = reading();
  button.disabled = true;
  element("submitted").textContent = "";
  try {
    await call("/api/readings", { method: "POST", body: JSON.stringify(given) });
    tell([], "");
    element("submitted").textContent = `Accepted: ${given.power_reading} from ${given.device_id}.`;
    element("power_reading").value = "";
    element("power_reading").focus();
    await show(given.site_id);
  } catch (error) {
    tell(error.faults ?? [], error.message);
  } finally {
    button.disabled = false;
  }
}

async function show(name) {
  if (name !== site) {
    site = name;
    limit = PAGE;
    history.replaceState(null, "", `?site=${encodeURIComponent(site)}`);
  }
  element("shown").value = site;
  await refresh();
}

async function refresh() {
  const number = ++asked;
  let answer;
  try {
    answer = await call(`/api/sites/${encodeURIComponent(site)}/readings?limit=${limit}`);
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
  fill(answer);
  draw(element("chart"), element("legend"), answer.readings);
}

function fill(answer) {
  const rows = answer.readings.map((each) => {
    const row = document.createElement("tr");
    for (const text of [new Date(each.timestamp).toLocaleString([], WHEN), each.device_id, String(each.power_reading)]) {
      row.insertCell().textContent = text;
    }
    row.cells[0].title = each.timestamp;
    row.cells[2].className = "number";
    return row;
  });
  element("rows").replaceChildren(...rows);
  element("none").hidden = rows.length > 0;
  element("older").hidden = answer.next === null || limit >= 1000;
}

element("submit").addEventListener("submit", submit);
element("show").addEventListener("submit", (event) => {
  event.preventDefault();
  show(element("shown").value.trim());
});
element("older").addEventListener("click", () => {
  limit = Math.min(1000, limit * 2);
  refresh();
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());
new ResizeObserver(() => refresh()).observe(element("chart"));
setInterval(() => document.hidden || refresh(), EVERY_MS);
element("shown").value = element("site_id").value = site;
refresh();

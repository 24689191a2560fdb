// The form that submits a reading.
import { call } from "/api.js";

const FIELDS = ["site_id", "device_id", "power_reading", "timestamp"];
const element = (id) => document.getElementById(id);

// Submits what is filled in; `accepted` is told the site of it.
export function onSubmit(accepted) {
  element("submit").addEventListener("submit", (event) => submit(event, accepted));
}

async function submit(event, accepted) {
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
    await accepted(given.site_id);
  } catch (error) {
    tell(error.faults ?? [], error.message);
  } finally {
    button.disabled = false;
  }
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

// What happened to a deployment, and what its models write.
import { call, url } from "./api.js";
import { element, h } from "./dom.js";
import { stream } from "./live.js";
import { when } from "./words.js";

const MOST_LINES = 2000;
const MOST_EVENTS = 200;
const WORDS = { revised: "new revision", rolled_back: "rolled back", state: "became" };
let after = 0;

/** Adds what has happened since; the newest first. @param {string} id */
export async function showEvents(id) {
  for (const event of await call("GET", `/deployments/${id}/events?after=${after}&limit=1000`)) {
    after = event.id;
    element("events").prepend(row(event));
  }
  while (element("events").children.length > MOST_EVENTS) {
    element("events").lastElementChild.remove();
  }
}

function row({ at, action, actor, detail }) {
  return h("li", { class: actor === "platform" ? "" : "own" },
    h("time", { datetime: at }, when(at)),
    h("div", {}, h("strong", {}, words(action, detail)), detail.reason && h("p", {}, detail.reason)));
}

function words(action, { to, from, revision, requests_per_minute: limit }) {
  if (action === "limited") {
    return limit === null ? "limit removed" : `limited to ${limit.toLocaleString()} a minute`;
  }
  const what = revision ?? (action === "rolled_back" ? `${from} → ${to}` : to ?? "");
  return `${WORDS[action] ?? action} ${what}`;
}

/** Lets the button show and hide the logs. @param {string} id */
export function followLogs(id) {
  const [button, place] = [element("logs-button"), element("logs")];
  let stop = null;
  button.addEventListener("click", () => {
    place.hidden = stop !== null;
    stop ? stop() : place.replaceChildren();
    stop = stop ? null : stream(url(`/deployments/${id}/logs`), "log", ({ line }) => add(place, line));
    button.textContent = stop ? "Hide the logs" : "Follow the logs";
    button.setAttribute("aria-expanded", String(stop !== null));
  });
}

/** Adds a line; the end stays in view where it was. */
function add(place, line) {
  const end = place.scrollTop + place.clientHeight >= place.scrollHeight - 8;
  place.append(`${line}\n`);
  while (place.childNodes.length > MOST_LINES) {
    place.firstChild.remove();
  }
  if (end) {
    place.scrollTop = place.scrollHeight;
  }
}

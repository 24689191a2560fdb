// What a deployment uses, and how often it may be asked.
import { call } from "./api.js";
import { area, bars } from "./chart.js";
import { element, h, show } from "./dom.js";
import { onSubmit } from "./form.js";
import { follow } from "./live.js";
import { seconds } from "./words.js";

const SPANS = { hour: [3600, 60], day: [86_400, 900], week: [7 * 86_400, 7200] }; // seconds, and those of a step
const percent = (share) => `${Math.round(100 * share)} %`;
const number = (value) => value.toLocaleString([], { maximumFractionDigits: value < 10 ? 1 : 0 });

/** Shows it, live. @param {string} id */
export function showUsage(id) {
  let steps = [];
  const look = follow(async () => {
    const [span, step] = SPANS[element("usage-span").value];
    const from = new Date(Date.now() - (span - step) * 1000).toISOString();
    const told = await call("GET", `/deployments/${id}/usage?${new URLSearchParams({ from, step })}`);
    steps = filled(told);
    total(told.total);
    show(element("chart-calls"), [told, element("chart-calls").clientWidth], () => draw(steps, step));
  }, 5000);
  element("usage-span").addEventListener("change", look);
  new ResizeObserver(look).observe(element("chart-calls"));
}

/** One of each step, those in which nothing was used, too. */
function filled({ begin, end, step, points }) {
  const used = new Map(points.map((point) => [Date.parse(point.at), point]));
  const none = { predictions: 0, errors: 0, busy_seconds: 0, replica_seconds: 0 };
  const count = Math.round((Date.parse(end) - Date.parse(begin)) / 1000 / step);
  return Array.from({ length: count }, (_, place) => {
    const at = Date.parse(begin) + place * step * 1000;
    return { ...(used.get(at) ?? none), at };
  });
}

function draw(steps, step) {
  const passed = (at) => Math.max(Math.min(60, step), Math.min(step, (Date.now() - at) / 1000)); // the last step goes on
  const calls = steps.map(({ at, predictions, errors }) => ({ at, value: (60 * predictions) / passed(at), bad: (60 * errors) / passed(at) }));
  const busy = steps.map(({ at, busy_seconds: some, replica_seconds: all }) => ({ at, value: all ? Math.min(1, some / all) : null }));
  const replicas = steps.map(({ at, replica_seconds: all }) => ({ at, value: all / passed(at) }));
  area(element("chart-busy"), busy, percent, 1);
  area(element("chart-replicas"), replicas, number);
  return bars(element("chart-calls"), calls, number);
}

function total({ predictions, errors, rows, busy_seconds: busy, replica_seconds: replicas }) {
  const facts = [["Calls", predictions.toLocaleString()], ["Errors", errors.toLocaleString()], ["Rows", rows.toLocaleString()],
    ["Model", predictions ? seconds(busy) : "0 s"], ["Replicas", replicas ? seconds(replicas) : "0 s"]];
  show(element("usage-total"), facts, () => facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** Lets the form set the limit; `now` is called then. @param {string} id @param {() => number|null} limit */
export function onLimit(id, limit, now) {
  const field = element("limit-number");
  element("limit").addEventListener("toggle", () => { field.value = limit() ?? ""; });
  onSubmit(element("limit-form"), async ({ requests_per_minute: most }) => {
    await call("PUT", `/deployments/${id}/limit`, { requests_per_minute: most === "" ? null : Number(most) });
    element("limit").open = false;
    await now();
  });
}
